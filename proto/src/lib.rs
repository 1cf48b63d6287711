//! The wire: types and services generated from `ottla/v1/*.proto`, their conversions to and from
//! the model, the one table that maps error codes to gRPC statuses, and the reading of messages
//! without copies of what is large in them. Decides nothing and has no defaults.

pub mod convert;
pub mod messages;
mod rope;
pub mod status;

/// Package `ottla.v1`.
pub mod v1 {
    // Generated code answers to the `.proto` files, not to our lints.
    #![allow(clippy::all, clippy::too_many_lines, clippy::unwrap_used, missing_docs)]
    tonic::include_proto!("ottla.v1");
}

/// The compiled descriptors of the services for clients and of all that they use, for reflection.
pub const CLIENT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/client.bin"));
/// The compiled descriptors of `google.rpc`, in which the details of errors are told.
pub const ERROR_DESCRIPTORS: &[u8] = tonic_types::pb::FILE_DESCRIPTOR_SET;
