//! The controller node: quorum, liveness and its services.

pub mod feed;
pub mod history;
mod quorum;
