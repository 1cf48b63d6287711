//! The controller node: quorum, liveness and its services.
