//! What to tell people about `min.insync.replicas`. Which number is in effect is the model's rule:
//! never more than there are replicas.

use ottla_model::config::TopicConfig;

use crate::args::KeyValue;

/// The setting's name.
pub const NAME: &str = "min.insync.replicas";

/// What is asked for among these settings; the last one counts.
pub fn asked(configs: &[KeyValue]) -> Option<String> {
    let asked = configs.iter().rev().find(|pair| pair.key == NAME);
    asked.map(|pair| pair.value.clone())
}

/// The number in effect for partitions with so many replicas, where it is not the one asked for.
pub fn in_effect_instead(asked: &str, replicas: usize) -> Option<usize> {
    let config = TopicConfig::resolve([(NAME, asked)]);
    let effective = config.min_insync_replicas_for(replicas);
    config
        .min_insync_replicas
        .is_some_and(|asked| asked > effective)
        .then_some(effective)
}

/// A line for whoever asked for more than there are replicas. Kafka accepts that too, and then
/// refuses writes with acks all; here the number of replicas is in effect.
pub fn warning(asked: &str, replicas: usize) -> Option<String> {
    let effective = in_effect_instead(asked, replicas)?;
    Some(format!(
        "warning: {NAME}={asked} is more than the replication factor {replicas}; {effective} is in \
         effect"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_are_replicas_is_worth_a_warning() {
        let text = warning("3", 2).unwrap();
        assert!(
            text.contains("=3") && text.contains("2 is in effect"),
            "{text}"
        );
        assert_eq!(warning("2", 2), None);
        assert_eq!(warning("1", 3), None);
        assert_eq!(warning("nonsense", 1), None);
    }

    #[test]
    fn the_last_of_several_values_counts() {
        let pair = |key: &str, value: &str| KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let pairs = [pair(NAME, "1"), pair("retention.ms", "5"), pair(NAME, "2")];
        assert_eq!(asked(&pairs).as_deref(), Some("2"));
        assert_eq!(asked(&pairs[1..2]), None);
    }
}
