//! Controllers as a cluster sees them: three nodes on loopback ports in one process, each with
//! runtimes of its own, killed by dropping them.

// A test that cannot go on says so by panicking, in its helpers too.
#![allow(clippy::unwrap_used)]

mod founding;
mod harness;
mod replacing;
mod sessions;
mod takeover;
mod watching;
