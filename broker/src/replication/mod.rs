//! Replication between brokers: the leader's end of a stream (`follower_link`), the follower's end
//! (`leader_link`), and the set of streams that this broker keeps to leaders (`leader_links`).
//! What may be sent, and what an acknowledgement means, is decided in the partition's core.

mod follower_link;
mod leader_link;
mod leader_links;
mod message;

pub use follower_link::{FollowerLink, StreamNumber};
pub use leader_link::Durable;
pub use leader_links::{LeaderLinkContext, LeaderLinks};
