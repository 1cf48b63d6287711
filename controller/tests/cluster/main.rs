//! Controllers as a cluster sees them: three nodes on loopback ports in one process, each with
//! runtimes of its own, killed by dropping them.

mod founding;
mod harness;
mod sessions;
mod takeover;
mod watching;
