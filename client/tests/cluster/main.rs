//! The client over real sockets, against an in-memory cluster whose failures can be ordered.

mod admin;
mod consumer;
mod fake;
mod producer;
