//! The cluster as this client last saw it, and the task that keeps the view current.

mod snapshot;
mod watcher;

pub use snapshot::{BrokerInfo, ClusterSnapshot, ControllerInfo, PartitionInfo, TopicInfo};
pub(crate) use watcher::{View, endpoints, first_view, spawn};
