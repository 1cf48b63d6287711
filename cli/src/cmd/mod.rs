//! The commands, one file each: their options, what they ask, and what they print.

pub mod bench;
pub mod broker;
pub mod cluster;
pub mod completion;
pub mod consume;
pub mod dev;
pub mod drill;
pub mod log;
pub mod produce;
pub mod quorum;
pub mod server;
pub mod topic;
pub mod trim;
