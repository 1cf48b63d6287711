//! The partitions that cannot be read at present: says which and why, once, and again when that
//! changes.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::PartitionIndex;
use tokio::time::Instant;

/// How long a partition may be without a leader that answers before that is worth a word: an
/// ordinary change of leader takes less.
const GRACE: Duration = Duration::from_secs(1);

/// Why a partition cannot be read.
#[derive(Debug)]
struct Cause {
    since: Instant,
    reason: String,
    told: Option<String>,
}

/// What is known of the partitions that cannot be read.
#[derive(Debug, Default)]
pub struct Unreadable {
    causes: BTreeMap<PartitionIndex, Cause>,
}

impl Unreadable {
    /// Takes what is so now. Gives the partitions that were said to be unreadable and are not any
    /// more.
    pub fn update(
        &mut self,
        now: Instant,
        reasons: &BTreeMap<PartitionIndex, String>,
    ) -> Vec<PartitionIndex> {
        let mut again = Vec::new();
        self.causes.retain(|index, cause| {
            let stays = reasons.contains_key(index);
            if !stays && cause.told.is_some() {
                again.push(*index);
            }
            stays
        });
        for (index, reason) in reasons {
            let cause = self.causes.entry(*index).or_insert_with(|| Cause {
                since: now,
                reason: String::new(),
                told: None,
            });
            cause.reason.clone_from(reason);
        }
        again
    }

    /// What is to be told now: partitions that share a reason, with it.
    pub fn news(&mut self, now: Instant) -> BTreeMap<String, Vec<PartitionIndex>> {
        let mut news: BTreeMap<String, Vec<PartitionIndex>> = BTreeMap::new();
        for (index, cause) in &mut self.causes {
            if cause.told.as_ref() == Some(&cause.reason) || now - cause.since < GRACE {
                continue;
            }
            cause.told = Some(cause.reason.clone());
            news.entry(cause.reason.clone()).or_default().push(*index);
        }
        news
    }

    pub fn reason(&self, index: PartitionIndex) -> Option<&str> {
        self.causes.get(&index).map(|cause| cause.reason.as_str())
    }

    /// Whether this partition has been unreadable for so long.
    pub fn lasts(&self, now: Instant, index: PartitionIndex, patience: Duration) -> bool {
        let cause = self.causes.get(&index);
        cause.is_some_and(|cause| now - cause.since >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_and_again_when_it_changes() {
        let (start, one) = (Instant::now(), PartitionIndex(1));
        let mut unreadable = Unreadable::default();
        let reasons = |reason: &str| BTreeMap::from([(one, reason.to_owned())]);
        let told = |unreadable: &mut Unreadable, seconds: u64| {
            let news = unreadable.news(start + Duration::from_secs(seconds));
            news.into_keys().collect::<Vec<_>>()
        };
        unreadable.update(start, &reasons("no leader"));
        assert!(told(&mut unreadable, 0).is_empty(), "it may pass");
        assert_eq!(told(&mut unreadable, 1), ["no leader"]);
        assert!(told(&mut unreadable, 2).is_empty(), "it was told");
        unreadable.update(start + Duration::from_secs(3), &reasons("refused"));
        assert_eq!(told(&mut unreadable, 3), ["refused"]);
        let patience = Duration::from_secs(30);
        assert!(!unreadable.lasts(start + Duration::from_secs(29), one, patience));
        assert!(unreadable.lasts(start + Duration::from_secs(30), one, patience));
        assert_eq!(unreadable.update(start, &BTreeMap::new()), [one]);
        assert_eq!(unreadable.reason(one), None);
    }
}
