//! Tests over the whole workspace: its structure, and clusters of real processes. The tests
//! themselves are in `tests/`; here is what they share.

pub mod workspace;
