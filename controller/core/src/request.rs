//! What the active controller can be asked, and what it answers.

use ottla_metadata::{Cause, Endpoint};
use ottla_model::error::ApiError;
use ottla_model::name::TopicName;
use ottla_model::{
    BrokerEpoch, ClusterId, DirectoryId, IncarnationId, LeaderEpoch, NodeId, PartitionEpoch,
    ProducerId, TopicId, TopicIdPartition,
};

/// A request for a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Founds the cluster; asked once every configured controller is present and empty.
    Found {
        cluster_id: ClusterId,
    },
    /// Says that this controller decides from here on; asked first when it became active.
    Activate {
        controller: NodeId,
        activation_id: u64,
    },
    RegisterController(RegisterController),
    RegisterBroker(RegisterBroker),
    /// Fences a broker at once: a probe said that its process is gone, or a person asked.
    Fence {
        broker: NodeId,
        broker_epoch: BrokerEpoch,
        cause: Cause,
    },
    /// Unfences a broker that has applied its own registration and is ready.
    Unfence {
        broker: NodeId,
        broker_epoch: BrokerEpoch,
    },
    /// Moves leaders off a broker that wants to stop. May be asked again, for leaders that could
    /// not be moved before.
    BeginControlledShutdown {
        broker: NodeId,
        broker_epoch: BrokerEpoch,
    },
    UnregisterBroker(UnregisterBroker),
    CreateTopic(CreateTopic),
    AlterTopic(AlterTopic),
    CreatePartitions(CreatePartitions),
    DeleteTopic(DeleteTopic),
    /// Gives leadership back to preferred replicas: of these partitions, or of all.
    ElectLeaders {
        partitions: Option<Vec<TopicIdPartition>>,
    },
    AlterPartitions(AlterPartitions),
    ReportDamage(ReportDamage),
    /// Gives a broker its next block of producer ids (KIP-730).
    AllocateProducerIds {
        broker: NodeId,
        broker_epoch: BrokerEpoch,
    },
}

/// A controller says where it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterController {
    pub controller: NodeId,
    pub directory: DirectoryId,
    pub internal_endpoint: Endpoint,
    pub version: String,
}

/// A broker process announces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterBroker {
    /// The cluster that the broker's directory belongs to.
    pub cluster_id: ClusterId,
    pub broker: NodeId,
    pub incarnation: IncarnationId,
    pub directory: DirectoryId,
    pub client_endpoint: Endpoint,
    pub internal_endpoint: Endpoint,
    pub rack: Option<String>,
    pub version: String,
    /// The epoch with which the broker last stopped cleanly. Told for people; it decides nothing,
    /// because a broker syncs before it acknowledges, so a crash loses nothing committed as long
    /// as the directory is the same.
    pub previous_broker_epoch: Option<BrokerEpoch>,
    /// The last epoch that this directory was granted, noted before anything was done under it. If
    /// the broker was ever unfenced under a later one, the directory is an older copy.
    pub last_broker_epoch: Option<BrokerEpoch>,
}

/// A broker is to leave the cluster for good (Kafka's UnregisterBroker, KIP-631).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnregisterBroker {
    pub broker: NodeId,
    /// Even if partitions list it as a replica.
    pub force: bool,
}

/// A topic is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTopic {
    pub name: TopicName,
    pub partitions: Option<i32>,
    pub replication_factor: Option<i16>,
    /// The replicas of each partition, where the caller chooses them.
    pub assignments: Vec<Vec<NodeId>>,
    pub configs: Vec<(String, String)>,
    /// Only check; change nothing.
    pub validate_only: bool,
}

/// A topic's settings are to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterTopic {
    pub name: TopicName,
    pub set: Vec<(String, String)>,
    /// Settings to be returned to their defaults.
    pub unset: Vec<String>,
    pub validate_only: bool,
}

/// A topic is to have more partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePartitions {
    pub name: TopicName,
    /// How many partitions there are to be afterwards.
    pub total: i32,
    /// The replicas of each new partition, where the caller chooses them.
    pub assignments: Vec<Vec<NodeId>>,
    pub validate_only: bool,
}

/// A topic is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteTopic {
    pub name: TopicName,
    /// If given, the topic of that name must have this id.
    pub topic: Option<TopicId>,
}

/// A leader proposes new in-sync replicas (AlterPartition v3, KIP-497 and KIP-903).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterPartitions {
    pub broker: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub changes: Vec<AlterPartition>,
}

/// A broker found stored data damaged and set it aside: what these replicas held is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportDamage {
    pub broker: NodeId,
    pub broker_epoch: BrokerEpoch,
    /// `None` means every replica of the broker.
    pub partitions: Option<Vec<TopicIdPartition>>,
}

/// The proposal for one partition: a compare-and-set on its epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterPartition {
    pub id: TopicIdPartition,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// The replicas to be in sync, each with the broker epoch the leader knows it by.
    pub isr: Vec<(NodeId, BrokerEpoch)>,
}

/// The answer to a request. True once the records of its decision are committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Done,
    BrokerRegistered {
        broker_epoch: BrokerEpoch,
        /// The epoch under which the broker served last, if its directory is an older copy that
        /// knows nothing of it. Its replicas have left every ISR and refill.
        outdated: Option<BrokerEpoch>,
    },
    /// With `validate_only`, what would have been created.
    TopicCreated {
        topic: TopicId,
        partitions: i32,
        replication_factor: i16,
    },
    TopicDeleted {
        topic: TopicId,
    },
    /// One answer per proposal, in order.
    PartitionsAltered(Vec<Result<(), ApiError>>),
    /// The ids from `first` on, `count` of them.
    ProducerIds {
        first: ProducerId,
        count: i64,
    },
    /// How many leaders moved.
    Elected(i32),
}
