//! The decisions of the active controller: which records a request turns into.
//!
//! Pure: time and randomness come in as inputs, records and replies go out. Every decision is made
//! on a scratch image (everything committed and proposed); only committed records, replayed, change
//! the cluster. Knows no socket, no file, no quorum.

mod alter_partition;
mod beat;
mod broker;
mod config;
mod controller_core;
mod damage;
mod draft;
mod election;
mod fencing;
mod partition_change;
mod placement;
mod producer_ids;
mod registration;
mod request;
mod session;
mod topic;
mod topic_config;
mod unregistration;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod simulation;

pub use beat::{BeatOutcome, BeatState};
pub use config::ControllerConfig;
pub use controller_core::ControllerCore;
pub use request::{
    AlterPartition, AlterPartitions, AlterTopic, CreatePartitions, CreateTopic, DeleteTopic,
    RegisterBroker, RegisterController, Reply, ReportDamage, Request, UnregisterBroker,
};
