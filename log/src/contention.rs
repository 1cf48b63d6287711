//! How much reading from the disk holds the journal up. Producers wait for the journal, so whoever
//! reads what memory does not hold leaves the disk to it when it has become slow by that.

use std::time::{Duration, Instant};

/// Parts of a new duration in what is remembered: quick to see that it has become slow, slow to
/// forget what is usual.
const RECENT_PART: f64 = 1.0 / 8.0;
const USUAL_PART: f64 = 1.0 / 64.0;
/// How many times the usual a commit may take before readers make way: hardly more than chance
/// makes it. Those who wait for commits wait for several in a row, on several nodes.
const BEARABLE: f64 = 1.1;
/// After so long without a commit nobody waits for one.
const QUIET: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How long the journal's commits take, in seconds, smoothed.
#[derive(Debug, Default)]
pub(crate) struct CommitTimes {
    /// Those beside which nobody read.
    usual: Option<f64>,
    recent: Option<f64>,
    last_at: Option<Instant>,
}

impl CommitTimes {
    /// Notes a commit that ended at `now`; `disturbed` if somebody read from the disk meanwhile.
    pub fn note(&mut self, took: Duration, disturbed: bool, now: Instant) {
        let took = took.as_secs_f64();
        let smooth = |known: Option<f64>, part: f64| match known {
            Some(known) => known + (took - known) * part,
            None => took,
        };
        self.recent = Some(smooth(self.recent, RECENT_PART));
        if !disturbed {
            self.usual = Some(smooth(self.usual, USUAL_PART));
        }
        self.last_at = Some(now);
    }

    /// How long readers should leave the disk alone after a read that took so long: the longer, the
    /// more commits are slowed, and not at all while they are bearable or there are none.
    pub fn pause_after_read(&self, took: Duration, now: Instant) -> Duration {
        let (Some(usual), Some(recent), Some(last_at)) = (self.usual, self.recent, self.last_at)
        else {
            return Duration::ZERO;
        };
        let slowed = recent / (usual * BEARABLE);
        if slowed <= 1.0 || now.saturating_duration_since(last_at) > QUIET {
            return Duration::ZERO;
        }
        took.mul_f64(slowed.min(1e3)).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(commits: &[(u32, bool)]) -> (CommitTimes, Instant) {
        let mut times = CommitTimes::default();
        let mut now = Instant::now();
        for (took, disturbed) in commits {
            now += MS * *took;
            times.note(MS * *took, *disturbed, now);
        }
        (times, now)
    }

    #[test]
    fn readers_go_on_while_commits_take_what_they_usually_take() {
        let (times, now) = after(&[(2, false), (2, true), (3, true), (2, true)]);
        assert_eq!(times.pause_after_read(MS, now), Duration::ZERO);
    }

    #[test]
    fn the_slower_commits_are_the_longer_readers_pause() {
        let mut commits = vec![(1, false); 10];
        commits.extend([(10, true); 8]);
        let (times, now) = after(&commits);
        let some = times.pause_after_read(MS, now);
        assert!(some > MS && some < MS * 8, "{some:?}");
        commits.extend([(100, true); 20]);
        let (times, now) = after(&commits);
        assert!(times.pause_after_read(MS, now) > some * 5);
        assert_eq!(times.pause_after_read(MS * 40, now), PAUSE_MAX);
    }

    #[test]
    fn nobody_pauses_for_a_journal_that_is_quiet_or_not_known_undisturbed() {
        let mut commits = vec![(1, false); 10];
        commits.extend([(50, true); 20]);
        let (times, now) = after(&commits);
        assert!(times.pause_after_read(MS, now) > Duration::ZERO);
        let later = now + QUIET + MS;
        assert_eq!(times.pause_after_read(MS, later), Duration::ZERO);
        let (times, now) = after(&[(50, true); 20]);
        assert_eq!(times.pause_after_read(MS, now), Duration::ZERO);
    }

    #[test]
    fn what_becomes_usual_is_borne_after_a_while() {
        let mut commits = vec![(1, false); 10];
        commits.extend([(20, false); 400]);
        commits.extend([(21, true); 20]);
        let (times, now) = after(&commits);
        assert_eq!(times.pause_after_read(MS, now), Duration::ZERO);
    }
}
