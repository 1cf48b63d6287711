//! The wire: types and services generated from `ottla/v1/*.proto`, their conversions to and from
//! the model, and the one table that maps error codes to gRPC statuses. Decides nothing and has no
//! defaults.

pub mod convert;
pub mod status;

/// Package `ottla.v1`.
pub mod v1 {
    // Generated code answers to the `.proto` files, not to our lints.
    #![allow(clippy::all, clippy::too_many_lines, clippy::unwrap_used, missing_docs)]
    tonic::include_proto!("ottla.v1");
}

/// The compiled descriptors of every file, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
