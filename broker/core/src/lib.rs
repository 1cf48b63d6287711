//! The rules of one partition replica: who may write, when a record is committed, who is in sync,
//! where two logs diverge. Pure: time comes in as an argument, work goes out as effects.
//!
//! Knows nothing of files, sockets, threads, topics' names or other partitions.

pub mod leader_epochs;
pub mod partition;
pub mod producers;

pub use leader_epochs::LeaderEpochs;
pub use partition::{
    Acks, Assignment, Effect, FetchBounds, FollowerAck, FollowerDescription, FollowerPosition,
    FollowerState, Input, LeaderData, LogState, Partition, PartitionDescription, PartitionSetup,
    Produce, ProduceAck, ProduceError, ProduceFault, ReplyId, Role, Stamp, Trim,
};
pub use producers::Producers;
