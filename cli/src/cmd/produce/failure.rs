//! A record of the input that was not written, and why. Pure.

use ottla_client::ProduceError;
use ottla_model::ErrorCode;

use crate::exit::CommandError;

/// A record that was not written.
#[derive(Debug)]
pub struct Failure {
    /// The record's number in the input, from 1.
    pub number: u64,
    pub has_key: bool,
    pub error: ProduceError,
}

impl Failure {
    /// Whether this one is to be told rather than another: the first of the input, except that a
    /// whole batch is refused for the records in it that have no key.
    pub fn is_told_before(&self, other: &Failure) -> bool {
        let rank = |it: &Failure| (it.is_for_a_key() && it.has_key, it.number);
        rank(self) < rank(other)
    }

    /// Whether it, or another of its batch, lacks the key that its topic asks for. The code stands
    /// for other faults of a record too.
    pub fn is_for_a_key(&self) -> bool {
        self.error.code == ErrorCode::InvalidRecord && self.error.message.contains("has no key")
    }

    /// The failure in words. The broker counts within the batch, which nobody sees here.
    pub fn told(self) -> CommandError {
        let number = self.number;
        let is_for_a_key = self.is_for_a_key();
        let error = CommandError::from(self.error);
        if !is_for_a_key {
            return error.context(format!("record {number}"));
        }
        let reason = anyhow::anyhow!(
            "record {number} has no key, but the topic is compacted: every record needs one"
        );
        CommandError::new(error.exit, reason).advised(
            "give one to all with --key, or to each with %k in --format, where an empty key is none",
        )
    }
}

#[cfg(test)]
mod tests {
    use ottla_client::Outcome;

    use super::*;

    fn failure(number: u64, has_key: bool, message: &str) -> Failure {
        Failure {
            number,
            has_key,
            error: ProduceError {
                code: ErrorCode::InvalidRecord,
                outcome: Outcome::Definite,
                message: message.to_owned(),
            },
        }
    }

    #[test]
    fn of_a_batch_the_record_is_told_that_lacks_its_key() {
        let refusal = "record 2 of the batch has no key";
        let beside = failure(1, true, refusal);
        let keyless = failure(3, false, refusal);
        assert!(keyless.is_told_before(&beside) && !beside.is_told_before(&keyless));
        assert!(keyless.is_told_before(&failure(4, false, refusal)));
        let told = keyless.told().to_string();
        assert!(told.starts_with("record 3 has no key, "), "{told}");
        assert!(told.contains("--key"), "{told}");
    }

    #[test]
    fn of_other_faults_the_first_is_told_as_it_is() {
        let first = failure(1, true, "it is malformed");
        assert!(first.is_told_before(&failure(2, false, "it is malformed")));
        assert_eq!(first.told().to_string(), "record 1: it is malformed");
    }
}
