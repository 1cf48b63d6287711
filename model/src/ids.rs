//! Identities and epochs. Each is its own type, so that swapped arguments do not compile.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// A text that is not 22 characters of unpadded URL-safe base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an id: expected 22 characters of URL-safe base64")]
pub struct ParseIdError {
    text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// An id that no object has.
            pub const ZERO: $name = $name([0; 16]);

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(bytes)
            }

            /// The id with these bytes, if there are exactly sixteen.
            pub fn from_slice(bytes: &[u8]) -> Option<$name> {
                Some($name(bytes.try_into().ok()?))
            }

            /// A random (version 4) UUID made from the caller's randomness.
            pub fn from_random(random: u128) -> $name {
                let mut bytes = random.to_be_bytes();
                bytes[6] = (bytes[6] & 0x0f) | 0x40;
                bytes[8] = (bytes[8] & 0x3f) | 0x80;
                $name(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<$name, ParseIdError> {
                URL_SAFE_NO_PAD
                    .decode(text)
                    .ok()
                    .and_then(|bytes| $name::from_slice(&bytes))
                    .ok_or_else(|| ParseIdError { text: text.to_owned() })
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<$name, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

uuid_id!(
    /// Identifies a topic for its whole life. A topic deleted and created again under the same
    /// name has another id (KIP-516).
    TopicId
);
uuid_id!(
    /// Identifies a cluster; made once, through the metadata log, when the cluster is founded.
    ClusterId
);
uuid_id!(
    /// Identifies a node's data directory. A replaced disk is a new directory and so, for the
    /// quorum, a new voter (KIP-853).
    DirectoryId
);
uuid_id!(
    /// Identifies one run of a broker process.
    IncarnationId
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<$name, Self::Err> {
                text.parse().map($name)
            }
        }

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0 + 1)
            }
        }
    };
}

number!(
    /// Identifies a node (a broker, a controller or both) within its cluster. Never reused for
    /// another machine while the old one may return.
    NodeId, i32
);
number!(
    /// Names one registration of a broker: the metadata offset of its registration record.
    /// Requests with an older epoch are refused (KIP-380).
    BrokerEpoch, i64
);
number!(
    /// Counts the leaderships of a partition. Rises with every leadership change (KIP-101).
    LeaderEpoch, i32
);
number!(
    /// Counts the changes of a partition's metadata. Rises with every change (KIP-497).
    PartitionEpoch, i32
);
number!(
    /// The index of a partition within its topic.
    PartitionIndex, i32
);
number!(
    /// Identifies an idempotent producer (KIP-98).
    ProducerId, i64
);
number!(
    /// Fences earlier instances of the same producer (KIP-98).
    ProducerEpoch, i16
);

impl ProducerId {
    /// The producer id of a batch that is not idempotent.
    pub const NONE: ProducerId = ProducerId(-1);
}

impl ProducerEpoch {
    /// The producer epoch of a batch that is not idempotent.
    pub const NONE: ProducerEpoch = ProducerEpoch(-1);
}

impl LeaderEpoch {
    /// The epoch of a log that holds no record.
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);
}

/// One partition of one topic, by id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicIdPartition {
    pub topic: TopicId,
    pub partition: PartitionIndex,
}

impl TopicIdPartition {
    pub const fn new(topic: TopicId, partition: PartitionIndex) -> TopicIdPartition {
        TopicIdPartition { topic, partition }
    }
}

impl fmt::Display for TopicIdPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl FromStr for TopicIdPartition {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<TopicIdPartition, ParseIdError> {
        let unknown = || ParseIdError {
            text: text.to_owned(),
        };
        // An id may itself contain the sign between the two.
        let (topic, partition) = text.rsplit_once('-').ok_or_else(unknown)?;
        let partition = partition.parse().map_err(|_| unknown())?;
        Ok(TopicIdPartition::new(topic.parse()?, partition))
    }
}

impl fmt::Debug for TopicIdPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_of_a_topic_id_reads_back_from_its_text() {
        for byte in [0, 0xfb, 0xff] {
            let id = TopicIdPartition::new(TopicId::from_bytes([byte; 16]), PartitionIndex(12));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "-1",
            "all",
            "AAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAA-x",
        ] {
            assert!(text.parse::<TopicIdPartition>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_survives_text() {
        let id = TopicId::from_random(0x1234_5678_9abc_def0_1122_3344_5566_7788);
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_text_of_another_length_is_no_id() {
        for text in [
            "",
            "abc",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAA!",
        ] {
            assert!(text.parse::<TopicId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_random_id_is_a_version_4_uuid() {
        let bytes = *ClusterId::from_random(u128::MAX).as_bytes();
        assert_eq!(bytes[6] >> 4, 4);
        assert_eq!(bytes[8] >> 6, 2);
    }
}
