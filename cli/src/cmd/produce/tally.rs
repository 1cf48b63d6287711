//! How many records were produced, and what is said and exited with where some were not.

use ottla_client::Outcome;

use super::AcksArg;
use super::failure::Failure;
use crate::exit::{CommandError, Exit, exit_for_code};
use crate::output::counted;

/// What came of the records so far.
#[derive(Debug)]
pub struct Tally {
    pub acks: AcksArg,
    /// Those that the producer took.
    pub sent: u64,
    pub bytes: u64,
    /// Those that are written as far as `acks` asks for.
    pub done: u64,
    pub failed: u64,
    /// Those of the input that were never sent.
    pub refused: u64,
}

impl Tally {
    pub fn new(acks: AcksArg) -> Tally {
        Tally {
            acks,
            sent: 0,
            bytes: 0,
            done: 0,
            failed: 0,
            refused: 0,
        }
    }

    /// What is known of a record that did not fail. Without acknowledgements, that it was sent.
    pub fn done_word(&self) -> &'static str {
        match self.acks {
            AcksArg::None => "sent",
            AcksArg::All | AcksArg::Leader => "acknowledged",
        }
    }

    /// The failure of a record with what came of all. One behind good ones leaves the input partly
    /// produced.
    pub fn blame_record(&self, failure: Failure) -> CommandError {
        // That the topic is missing is said of no record.
        if self.sent == 0 && exit_for_code(failure.error.code) == Exit::NotFound {
            return CommandError::from(failure.error);
        }
        let first = failure.number;
        let doubts = self.doubts(&failure);
        let error = self.blame(failure.told());
        match doubts.as_str() {
            "" => error,
            doubts => error.advised(format!(
                "{doubts}: sent again from record {first} on, some may be there twice"
            )),
        }
    }

    /// What of the input may be written from the first record on that failed.
    fn doubts(&self, failure: &Failure) -> String {
        let mut doubts = Vec::new();
        if failure.error.outcome == Outcome::Indefinite {
            doubts.push("what is not acknowledged may be written all the same".to_owned());
        }
        // Those of other partitions, or of batches that were under way.
        let behind = (self.done + 1).saturating_sub(failure.number);
        if behind > 0 && !failure.is_for_a_key() {
            doubts.push(format!(
                "{} behind it {}",
                counted(behind, "record"),
                match behind {
                    1 => format!("is {}", self.done_word()),
                    _ => format!("are {}", self.done_word()),
                }
            ));
        }
        doubts.join(", and ")
    }

    /// The error with what came of the records.
    pub fn blame(&self, error: CommandError) -> CommandError {
        let exit = match self.done > 0 && self.failed + self.refused > 0 {
            true => Exit::Partly,
            false => error.exit,
        };
        match self.account() {
            Some(account) => CommandError::new(exit, anyhow::anyhow!("{account}; {error}")),
            None => error,
        }
    }

    /// What came of the records so far; nothing if there was none before the first that failed.
    fn account(&self) -> Option<String> {
        let all = counted(self.sent + self.refused, "record");
        let done = self.done_word();
        (self.sent > 0).then(|| match self.done == self.sent + self.refused {
            true => format!("{all} {done}"),
            false => format!("{} of {all} {done}", self.done),
        })
    }
}

#[cfg(test)]
mod tests {
    use ottla_client::ProduceError;
    use ottla_model::ErrorCode;

    use super::*;
    use crate::format::MalformedRecord;

    fn tally(sent: u64, done: u64, failed: u64, refused: u64) -> Tally {
        Tally {
            sent,
            done,
            failed,
            refused,
            ..Tally::new(AcksArg::All)
        }
    }

    fn deleted(number: u64) -> Failure {
        Failure {
            number,
            has_key: false,
            error: ProduceError {
                code: ErrorCode::UnknownTopicOrPartition,
                outcome: Outcome::Definite,
                message: "the topic is gone".to_owned(),
            },
        }
    }

    #[test]
    fn whatever_fails_behind_good_records_leaves_the_input_partly_produced() {
        let malformed = || CommandError::from(MalformedRecord::TooLong { number: 4 });
        assert_eq!(tally(0, 0, 0, 1).blame(malformed()).exit, Exit::Failure);
        let partly = tally(3, 3, 0, 1).blame(malformed());
        assert_eq!(partly.exit, Exit::Partly);
        let text = partly.to_string();
        assert!(
            text.starts_with("3 of 4 records acknowledged; record 4 is"),
            "{text}"
        );
        for tally in [tally(3, 2, 1, 0), tally(2, 2, 0, 1)] {
            let partly = tally.blame_record(deleted(3));
            assert_eq!(partly.exit, Exit::Partly);
            let text = "2 of 3 records acknowledged; record 3: the topic is gone";
            assert_eq!(partly.to_string(), text);
        }
        let stopped = CommandError::from(anyhow::anyhow!("stopped"));
        let other = tally(3, 3, 0, 0).blame(stopped);
        assert_eq!(other.exit, Exit::Failure);
        assert!(
            other
                .to_string()
                .starts_with("3 records acknowledged; stopped")
        );
    }

    #[test]
    fn where_no_record_is_written_the_exit_code_is_that_of_the_failure() {
        let none = tally(2, 0, 2, 0).blame_record(deleted(1));
        assert_eq!(none.exit, Exit::NotFound);
        let text = "0 of 2 records acknowledged; record 1: the topic is gone";
        assert_eq!(none.to_string(), text);
        let missing = tally(0, 0, 0, 1).blame_record(deleted(1));
        assert_eq!(missing.to_string(), "the topic is gone");
    }

    #[test]
    fn what_may_be_there_twice_is_told() {
        let text = tally(5, 3, 2, 0).blame_record(deleted(2)).to_string();
        let told = "; 2 records behind it are acknowledged: sent again from record 2 on, some may";
        assert!(text.contains(told), "{text}");
        let none = tally(5, 3, 2, 0).blame_record(deleted(4)).to_string();
        assert!(!none.contains("twice"), "{none}");
        let mut late = deleted(3);
        late.error.outcome = Outcome::Indefinite;
        let text = tally(5, 3, 2, 0).blame_record(late).to_string();
        let told = "; what is not acknowledged may be written all the same, and 1 record behind it \
                    is acknowledged: sent again from record 3 on";
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn what_nobody_acknowledges_is_only_sent() {
        let tally = Tally {
            acks: AcksArg::None,
            ..tally(3, 2, 1, 0)
        };
        let text = tally.blame_record(deleted(2)).to_string();
        assert!(
            text.starts_with("2 of 3 records sent; record 2: "),
            "{text}"
        );
    }
}
