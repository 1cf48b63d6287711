//! The wire: generated types and their conversions to and from the model.
