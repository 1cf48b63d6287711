//! Metadata records, image, delta and snapshot.
