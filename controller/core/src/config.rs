//! The settings of the decisions.

use std::time::Duration;

/// Settings of the active controller's decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// A broker not heard of for this long is fenced.
    pub session_timeout: Duration,
    /// How often leaderless partitions are looked at again and leadership returns to preferred
    /// replicas.
    pub preferred_leader_interval: Duration,
    /// The pause before the next pass when a pass left leaders to be moved.
    pub preferred_leader_pause: Duration,
    /// The most leaders that one pass moves.
    pub leader_changes_per_pass: usize,
    /// The partitions of a topic that does not say.
    pub default_partitions: i32,
    /// The replicas of a topic that does not say; fewer where there are fewer brokers.
    pub default_replication_factor: i16,
}

impl Default for ControllerConfig {
    fn default() -> ControllerConfig {
        ControllerConfig {
            session_timeout: Duration::from_secs(3),
            preferred_leader_interval: Duration::from_secs(5),
            preferred_leader_pause: Duration::from_millis(200),
            leader_changes_per_pass: 500,
            default_partitions: 1,
            default_replication_factor: 3,
        }
    }
}
