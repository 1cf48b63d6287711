//! Topic settings: Kafka's names, meanings and defaults, each checked where it enters.

use crate::limits::{BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, REPLICATION_FACTOR_MAX};

/// Which setting, with everything a person may ask about it.
#[derive(Debug, Clone, Copy)]
pub struct TopicConfigKey {
    pub name: &'static str,
    /// The built-in default, as text. Empty where the default depends on the topic.
    pub default: &'static str,
    pub doc: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Integer {
        min: i64,
        max: i64,
    },
    Boolean,
    OneOf(&'static [&'static str]),
    /// A fraction from 0 to 1.
    Ratio,
    CleanupPolicy,
}

/// A setting that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicConfigError {
    #[error("there is no topic setting '{name}'; known are: {}", known_names())]
    UnknownName { name: String },
    #[error("the topic setting {name} cannot be '{value}': {expected}")]
    BadValue {
        name: &'static str,
        value: String,
        expected: String,
    },
}

/// Every topic setting.
pub const TOPIC_CONFIGS: &[TopicConfigKey] = &[
    TopicConfigKey {
        name: "cleanup.policy",
        default: "delete",
        doc: "What happens to old segments: delete them, compact them to the last record of each \
              key, or both (compact,delete).",
        kind: Kind::CleanupPolicy,
    },
    TopicConfigKey {
        name: "compression.type",
        default: "producer",
        doc: "Batches are kept as the producer compressed them.",
        kind: Kind::OneOf(&["producer"]),
    },
    TopicConfigKey {
        name: "delete.retention.ms",
        default: "86400000",
        doc: "How long compaction keeps a tombstone after it has first seen it, in milliseconds. \
              Longer than any consumer or replica stays away.",
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "max.compaction.lag.ms",
        default: "9223372036854775807",
        doc: "A record is compacted at the latest after this time, in milliseconds, however little \
              there is to compact.",
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "max.message.bytes",
        default: const_str_batch_bytes(),
        doc: "The largest record batch accepted, in bytes.",
        kind: Kind::Integer {
            min: 0,
            max: BATCH_BYTES_MAX as i64,
        },
    },
    TopicConfigKey {
        name: "message.timestamp.after.max.ms",
        default: "3600000",
        doc: "How far ahead of the broker's clock a record's timestamp may be, in milliseconds; \
              not looked at with LogAppendTime.",
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "message.timestamp.before.max.ms",
        default: "9223372036854775807",
        doc: "How far behind the broker's clock a record's timestamp may be, in milliseconds; not \
              looked at with LogAppendTime.",
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "message.timestamp.type",
        default: "CreateTime",
        doc: "Whether a record carries its producer's time or the time of its append.",
        kind: Kind::OneOf(&["CreateTime", "LogAppendTime"]),
    },
    TopicConfigKey {
        name: "min.cleanable.dirty.ratio",
        default: "0.5",
        doc: "A partition is compacted when this part of it has not been compacted yet, from 0 to 1.",
        kind: Kind::Ratio,
    },
    TopicConfigKey {
        name: "min.compaction.lag.ms",
        default: "0",
        doc: "A record stays uncompacted for at least this time, in milliseconds.",
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "min.insync.replicas",
        default: "",
        doc: "The fewest in-sync replicas with which a write is accepted; by default a majority of \
              the replicas, so that with two of them one stopped broker already stops writes. \
              Counts as the number of replicas where it is more.",
        kind: Kind::Integer {
            min: 1,
            max: REPLICATION_FACTOR_MAX as i64,
        },
    },
    TopicConfigKey {
        name: "retention.bytes",
        default: "-1",
        doc: "Old segments are deleted while a partition is larger than this, in bytes; -1 keeps \
              all.",
        kind: Kind::Integer {
            min: -1,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "retention.ms",
        default: "604800000",
        doc: "Segments are deleted when their newest record is older than this, in milliseconds; \
              -1 keeps all.",
        kind: Kind::Integer {
            min: -1,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "segment.bytes",
        default: "1073741824",
        doc: "A new segment file is started when this size would be passed, in bytes.",
        kind: Kind::Integer {
            min: 1024,
            max: i32::MAX as i64,
        },
    },
    TopicConfigKey {
        name: "segment.ms",
        default: "604800000",
        doc: "A new segment file is started when the current one is older than this, in \
              milliseconds.",
        kind: Kind::Integer {
            min: 1,
            max: i64::MAX,
        },
    },
    TopicConfigKey {
        name: "unclean.leader.election.enable",
        default: "false",
        doc: "Whether a replica that is not in sync may lead when no other is left, losing records.",
        kind: Kind::Boolean,
    },
];

const fn const_str_batch_bytes() -> &'static str {
    const { assert!(BATCH_BYTES_DEFAULT == 1_048_588) };
    "1048588"
}

fn known_names() -> String {
    TOPIC_CONFIGS
        .iter()
        .map(|key| key.name)
        .collect::<Vec<_>>()
        .join(", ")
}

impl TopicConfigKey {
    pub fn find(name: &str) -> Option<&'static TopicConfigKey> {
        TOPIC_CONFIGS.iter().find(|key| key.name == name)
    }

    fn check(&'static self, value: &str) -> Result<(), TopicConfigError> {
        let bad = |expected: String| {
            Err(TopicConfigError::BadValue {
                name: self.name,
                value: value.to_owned(),
                expected,
            })
        };
        match self.kind {
            Kind::Integer { min, max } => match value.parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                _ => bad(format!("expected a whole number from {min} to {max}")),
            },
            Kind::Boolean if matches!(value, "true" | "false") => Ok(()),
            Kind::Boolean => bad("expected true or false".to_owned()),
            Kind::OneOf(allowed) if allowed.contains(&value) => Ok(()),
            Kind::OneOf(allowed) => bad(format!("expected {}", allowed.join(" or "))),
            Kind::Ratio => match value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
                _ => bad("expected a number from 0 to 1".to_owned()),
            },
            Kind::CleanupPolicy if CleanupPolicy::parse(value).is_some() => Ok(()),
            Kind::CleanupPolicy => bad("expected delete, compact or compact,delete".to_owned()),
        }
    }
}

/// Checks a setting's name and value.
pub fn check_topic_config(name: &str, value: &str) -> Result<(), TopicConfigError> {
    TopicConfigKey::find(name)
        .ok_or_else(|| TopicConfigError::UnknownName {
            name: name.to_owned(),
        })?
        .check(value)
}

/// When a record's timestamp is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// What happens to old segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    pub delete: bool,
    pub compact: bool,
}

impl CleanupPolicy {
    /// `delete`, `compact`, or both with a comma between, in any order.
    fn parse(value: &str) -> Option<CleanupPolicy> {
        let mut policy = CleanupPolicy {
            delete: false,
            compact: false,
        };
        for part in value.split(',') {
            match part.trim() {
                "delete" => policy.delete = true,
                "compact" => policy.compact = true,
                _ => return None,
            }
        }
        Some(policy)
    }
}

impl Default for CleanupPolicy {
    fn default() -> CleanupPolicy {
        CleanupPolicy {
            delete: true,
            compact: false,
        }
    }
}

/// A topic's effective settings, resolved over the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    pub cleanup: CleanupPolicy,
    pub delete_retention_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub max_message_bytes: usize,
    /// `min.cleanable.dirty.ratio`, in thousandths.
    pub min_cleanable_dirty_permille: u32,
    pub min_compaction_lag_ms: i64,
    pub timestamp_type: TimestampType,
    /// How far ahead of the clock a producer's timestamp may be, in milliseconds.
    pub timestamp_after_max_ms: i64,
    /// How far behind the clock a producer's timestamp may be, in milliseconds.
    pub timestamp_before_max_ms: i64,
    /// As set for the topic; see [`TopicConfig::min_insync_replicas_for`].
    pub min_insync_replicas: Option<usize>,
    /// `None` keeps all.
    pub retention_bytes: Option<u64>,
    /// `None` keeps all.
    pub retention_ms: Option<i64>,
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub unclean_leader_election: bool,
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            cleanup: CleanupPolicy::default(),
            delete_retention_ms: 86_400_000,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_permille: 500,
            min_compaction_lag_ms: 0,
            max_message_bytes: BATCH_BYTES_DEFAULT,
            timestamp_type: TimestampType::CreateTime,
            timestamp_after_max_ms: 3_600_000,
            timestamp_before_max_ms: i64::MAX,
            min_insync_replicas: None,
            retention_bytes: None,
            retention_ms: Some(604_800_000),
            segment_bytes: 1 << 30,
            segment_ms: 604_800_000,
            unclean_leader_election: false,
        }
    }
}

impl TopicConfig {
    /// The settings given by these overrides. Values were checked when they were written; one
    /// that no longer parses is passed over in favour of the default.
    pub fn resolve<'a>(overrides: impl IntoIterator<Item = (&'a str, &'a str)>) -> TopicConfig {
        let mut config = TopicConfig::default();
        for (name, value) in overrides {
            if check_topic_config(name, value).is_ok() {
                config.set(name, value);
            }
        }
        config
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = value.parse::<i64>().unwrap_or(0);
        let unsigned = u64::try_from(number).ok();
        match name {
            "cleanup.policy" => self.cleanup = CleanupPolicy::parse(value).unwrap_or_default(),
            "delete.retention.ms" => self.delete_retention_ms = number,
            "max.compaction.lag.ms" => self.max_compaction_lag_ms = number,
            "min.cleanable.dirty.ratio" => {
                let ratio = value.parse::<f64>().unwrap_or(0.5);
                self.min_cleanable_dirty_permille = (ratio * 1_000.0).round() as u32;
            }
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = number,
            "max.message.bytes" => self.max_message_bytes = unsigned.unwrap_or(0) as usize,
            "message.timestamp.after.max.ms" => self.timestamp_after_max_ms = number,
            "message.timestamp.before.max.ms" => self.timestamp_before_max_ms = number,
            "message.timestamp.type" if value == "LogAppendTime" => {
                self.timestamp_type = TimestampType::LogAppendTime;
            }
            "message.timestamp.type" => self.timestamp_type = TimestampType::CreateTime,
            "min.insync.replicas" => self.min_insync_replicas = unsigned.map(|n| n as usize),
            "retention.bytes" => self.retention_bytes = unsigned,
            "retention.ms" => self.retention_ms = unsigned.map(|_| number),
            "segment.bytes" => self.segment_bytes = unsigned.unwrap_or(1 << 30),
            "segment.ms" => self.segment_ms = number,
            "unclean.leader.election.enable" => self.unclean_leader_election = value == "true",
            _ => {}
        }
    }

    /// The fewest in-sync replicas for a partition with this many replicas: the topic's setting
    /// or a majority, and never more than there are replicas.
    pub fn min_insync_replicas_for(&self, replicas: usize) -> usize {
        self.min_insync_replicas
            .unwrap_or(replicas / 2 + 1)
            .min(replicas.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_effective_ones() {
        let documented = TOPIC_CONFIGS.iter().map(|key| (key.name, key.default));
        let set = documented.filter(|(_, value)| !value.is_empty());
        assert_eq!(TopicConfig::resolve(set), TopicConfig::default());
    }

    #[test]
    fn min_insync_replicas_is_a_majority_unless_set_and_never_above_the_replicas() {
        let default = TopicConfig::default();
        assert_eq!(
            [1, 2, 3, 5].map(|n| default.min_insync_replicas_for(n)),
            [1, 2, 2, 3]
        );
        let three = TopicConfig::resolve([("min.insync.replicas", "3")]);
        assert_eq!(
            [1, 3, 5].map(|n| three.min_insync_replicas_for(n)),
            [1, 3, 3]
        );
    }

    #[test]
    fn a_refusal_says_what_is_expected() {
        let text = |name, value| check_topic_config(name, value).unwrap_err().to_string();
        assert!(text("retention.hours", "1").contains("retention.ms"));
        assert!(text("retention.ms", "soon").contains("whole number"));
        assert!(text("segment.bytes", "1").contains("1024"));
        assert!(check_topic_config("retention.ms", "-1").is_ok());
        assert!(text("cleanup.policy", "compress").contains("compact,delete"));
        assert!(text("min.cleanable.dirty.ratio", "1.5").contains("0 to 1"));
        assert!(check_topic_config("min.cleanable.dirty.ratio", "NaN").is_err());
    }

    #[test]
    fn a_topic_may_delete_compact_or_do_both() {
        let policy = |value| {
            let cleanup = TopicConfig::resolve([("cleanup.policy", value)]).cleanup;
            (cleanup.delete, cleanup.compact)
        };
        assert_eq!(policy("delete"), (true, false));
        assert_eq!(policy("compact"), (false, true));
        assert_eq!(policy("compact,delete"), (true, true));
        assert_eq!(policy("delete, compact"), (true, true));
        let ratio = TopicConfig::resolve([("min.cleanable.dirty.ratio", "0.125")]);
        assert_eq!(ratio.min_cleanable_dirty_permille, 125);
    }
}
