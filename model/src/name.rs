//! Names of topics, checked once where they enter.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::TOPIC_NAME_BYTES_MAX;

/// A valid topic name: 1 to 249 of the characters `a-z A-Z 0-9 . _ -`, and neither `.` nor `..`
/// (Kafka's rule).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(String);

/// Why a text is no topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    #[error("a topic name must not be empty")]
    Empty,
    #[error("a topic name must not be '.' or '..'")]
    Dots,
    #[error("the topic name has {length} bytes; at most {TOPIC_NAME_BYTES_MAX} are allowed")]
    TooLong { length: usize },
    #[error(
        "the topic name has the character {character:?} at byte {position}; only letters, digits, '.', '_' and '-' are allowed"
    )]
    Character { character: char, position: usize },
    #[error("topic names that begin with '__' are reserved for the topics that Ottla itself keeps")]
    Reserved,
}

impl TopicName {
    /// Checks a text against the rule for topic names.
    pub fn new(text: impl Into<String>) -> Result<TopicName, TopicNameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if text == "." || text == ".." {
            return Err(TopicNameError::Dots);
        }
        if text.len() > TOPIC_NAME_BYTES_MAX {
            return Err(TopicNameError::TooLong { length: text.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some((position, character)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
            return Err(TopicNameError::Character {
                character,
                position,
            });
        }
        Ok(TopicName(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with `.` and `_` made equal. Two topics whose keys are equal would share a metric
    /// name, so Kafka refuses the second one.
    pub fn collision_key(&self) -> String {
        self.0.replace('.', "_")
    }

    /// Whether this is a topic that Ottla itself keeps (`__…`).
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }

    /// Refuses a name that only Ottla itself may give to a new topic. Stricter than Kafka, which
    /// lets anybody create `__` topics and hides some of them: a topic that its owner does not
    /// see in the list is lost to him.
    pub fn check_not_reserved(&self) -> Result<(), TopicNameError> {
        match self.is_internal() {
            true => Err(TopicNameError::Reserved),
            false => Ok(()),
        }
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicNameError;

    fn try_from(text: String) -> Result<TopicName, TopicNameError> {
        TopicName::new(text)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rule_decides() {
        assert!(TopicName::new("orders.v1_a-B9").is_ok());
        assert!(TopicName::new("a".repeat(249)).is_ok());
        assert_eq!(TopicName::new(""), Err(TopicNameError::Empty));
        assert_eq!(TopicName::new(".."), Err(TopicNameError::Dots));
        assert_eq!(
            TopicName::new("a".repeat(250)),
            Err(TopicNameError::TooLong { length: 250 })
        );
        assert_eq!(
            TopicName::new("a b"),
            Err(TopicNameError::Character {
                character: ' ',
                position: 1
            })
        );
    }

    #[test]
    fn names_with_two_leading_underscores_are_reserved() {
        let check = |text| TopicName::new(text).unwrap().check_not_reserved();
        assert_eq!(check("__offsets"), Err(TopicNameError::Reserved));
        assert_eq!(check("_a"), Ok(()));
        assert_eq!(check("a__b"), Ok(()));
    }

    #[test]
    fn dots_and_underscores_collide() {
        let key = |text| TopicName::new(text).map(|name| name.collision_key());
        assert_eq!(key("a.b"), key("a_b"));
    }
}
