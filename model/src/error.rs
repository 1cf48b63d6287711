//! The one table of error codes. Numbers and names are Kafka's, so that both doors speak of the
//! same failures; the gRPC status of each stands in `ottla-proto`.

use std::fmt;

/// What an error says about the request that met it. Checkers and retries rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The request surely had no effect.
    Definite,
    /// The request may or may not have had its effect.
    Indefinite,
}

macro_rules! error_codes {
    ($(
        $(#[$doc:meta])*
        $variant:ident = $number:literal, $name:literal, $outcome:ident, $retriable:literal;
    )*) => {
        /// Why a request, or its part for one partition, failed.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant = $number,)*
        }

        impl ErrorCode {
            /// Every code, in ascending order of number.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// Kafka's number for this error.
            pub const fn number(self) -> i16 {
                self as i16
            }

            /// The name on the wire, in Kafka's spelling.
            pub const fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// Whether the failed request surely had no effect.
            pub const fn outcome(self) -> Outcome {
                match self { $(ErrorCode::$variant => Outcome::$outcome,)* }
            }

            /// Whether the same request may succeed later without a person's help.
            pub const fn is_retriable(self) -> bool {
                match self { $(ErrorCode::$variant => $retriable,)* }
            }

            /// The code with this number.
            pub fn from_number(number: i16) -> Option<ErrorCode> {
                match number { $($number => Some(ErrorCode::$variant),)* _ => None }
            }

            /// The code with this name.
            pub fn from_name(name: &str) -> Option<ErrorCode> {
                match name { $($name => Some(ErrorCode::$variant),)* _ => None }
            }
        }
    };
}

error_codes! {
    /// A failure that no other code describes; always logged where it arises.
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR", Indefinite, false;
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", Definite, false;
    /// A batch whose checksum or structure is wrong.
    CorruptMessage = 2, "CORRUPT_MESSAGE", Definite, true;
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", Definite, true;
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", Definite, true;
    /// The broker does not lead the partition. Also the answer to a write that was appended but
    /// not committed when leadership moved: the outcome is then unknown.
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER", Indefinite, true;
    /// The write was appended, but not acknowledged by enough replicas in time.
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", Indefinite, true;
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", Definite, false;
    NetworkException = 13, "NETWORK_EXCEPTION", Indefinite, true;
    InvalidTopic = 17, "INVALID_TOPIC_EXCEPTION", Definite, false;
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE", Definite, false;
    /// Fewer in-sync replicas than `min.insync.replicas`; nothing was appended.
    NotEnoughReplicas = 19, "NOT_ENOUGH_REPLICAS", Definite, true;
    /// The write was appended, but the in-sync replicas became too few before it was committed.
    NotEnoughReplicasAfterAppend = 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", Indefinite, true;
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS", Definite, false;
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", Definite, false;
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION", Definite, false;
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", Definite, false;
    InvalidPartitions = 37, "INVALID_PARTITIONS", Definite, false;
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR", Definite, false;
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", Definite, false;
    InvalidConfig = 40, "INVALID_CONFIG", Definite, false;
    /// The controller asked is not the active one.
    NotController = 41, "NOT_CONTROLLER", Definite, true;
    InvalidRequest = 42, "INVALID_REQUEST", Definite, false;
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", Definite, false;
    PolicyViolation = 44, "POLICY_VIOLATION", Definite, false;
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", Definite, false;
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", Definite, false;
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", Definite, false;
    /// The disk failed; the broker stops acknowledging.
    StorageError = 56, "KAFKA_STORAGE_ERROR", Indefinite, true;
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", Definite, false;
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", Definite, true;
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", Definite, true;
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", Definite, false;
    StaleBrokerEpoch = 77, "STALE_BROKER_EPOCH", Definite, false;
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE", Definite, true;
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE", Definite, true;
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE", Definite, true;
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED", Definite, false;
    /// A record that the topic cannot take, for example one without key on a compacted topic.
    InvalidRecord = 87, "INVALID_RECORD", Definite, false;
    /// Too many requests at once; try again after a pause.
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED", Definite, true;
    InvalidUpdateVersion = 95, "INVALID_UPDATE_VERSION", Definite, false;
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", Definite, true;
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION", Definite, false;
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED", Definite, false;
    InconsistentTopicId = 103, "INCONSISTENT_TOPIC_ID", Definite, true;
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID", Definite, false;
    IneligibleReplica = 107, "INELIGIBLE_REPLICA", Definite, false;
    NewLeaderElected = 108, "NEW_LEADER_ELECTED", Definite, false;
    /// No majority of controllers answers, so no decision can be made. Ottla's own code, outside
    /// Kafka's range.
    NoControllerQuorum = 1001, "NO_CONTROLLER_QUORUM", Indefinite, true;
    /// The node is starting and does not serve this yet. Ottla's own code.
    NodeStarting = 1002, "NODE_STARTING", Definite, true;
    /// The node is shutting down. Ottla's own code.
    NodeShuttingDown = 1003, "NODE_SHUTTING_DOWN", Definite, true;
    /// The broker's disk has less room than its reserve; nothing was appended. Ottla's own code.
    DiskFull = 1004, "DISK_FULL", Definite, true;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal for people: the code for programs, and a sentence that says what was wrong, where,
/// and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    /// The request field at fault, as a path (`topics[0].name`), where one is.
    pub field: Option<String>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            message: message.into(),
            field: None,
        }
    }

    /// Names the request field at fault.
    #[must_use]
    pub fn in_field(mut self, field: impl Into<String>) -> ApiError {
        self.field = Some(field.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        for pair in ErrorCode::ALL.windows(2) {
            assert!(
                pair[0].number() < pair[1].number(),
                "{} before {}",
                pair[0],
                pair[1]
            );
        }
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
            assert_eq!(ErrorCode::from_name(code.name()), Some(*code));
        }
    }
}
