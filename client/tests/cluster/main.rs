//! The client over real sockets, against an in-memory cluster whose failures can be ordered.

// Helpers of tests are tests, too; the lint only knows functions marked so.
#![allow(clippy::unwrap_used)]

mod admin;
mod consumer;
mod fake;
mod producer;
