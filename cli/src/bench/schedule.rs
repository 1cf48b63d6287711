//! When each record is due, fixed before the first one is sent. Pure.
//!
//! Latency counts from here and not from when a record could be sent, so that whatever holds the
//! load up is felt by every record that it made late: nothing is left out by coordination between
//! the load and what it measures.

use std::time::Duration;

/// The moments, counted from the start of a run, at which one writer's records are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Records a second of all writers together.
    rate: f64,
    /// How many writers share the rate, and which of them this is.
    writers: u32,
    writer: u32,
}

impl Schedule {
    /// The part of a rate that one of several writers sends: every n-th record.
    ///
    /// # Panics
    /// If the rate is not positive or the writer not one of them.
    pub fn new(rate: f64, writers: u32, writer: u32) -> Schedule {
        assert!(rate > 0.0 && rate.is_finite(), "a rate of {rate}");
        assert!(writer < writers, "writer {writer} of {writers}");
        Schedule {
            rate,
            writers,
            writer,
        }
    }

    /// When this writer's record of that number is due.
    pub fn due(&self, number: u64) -> Duration {
        let overall = number * u64::from(self.writers) + u64::from(self.writer);
        Duration::from_secs_f64(overall as f64 / self.rate)
    }

    /// How many of this writer's records are due by then in a run of that length. What would be
    /// due at its very end is outside of it, so that the rate times the length is what is sent.
    pub fn due_within(&self, elapsed: Duration, length: Duration) -> u64 {
        self.due_by(elapsed.min(length.saturating_sub(Duration::from_nanos(1))))
    }

    /// How many of this writer's records are due by then.
    fn due_by(&self, elapsed: Duration) -> u64 {
        let overall = elapsed.as_secs_f64() * self.rate - f64::from(self.writer);
        if overall < 0.0 {
            return 0;
        }
        let mut count = (overall / f64::from(self.writers)) as u64;
        // Division rounds; the moments themselves decide.
        while count > 0 && self.due(count - 1) > elapsed {
            count -= 1;
        }
        while self.due(count) <= elapsed {
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_evenly_spaced_from_the_first_moment_on() {
        let schedule = Schedule::new(1_000.0, 1, 0);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(1), Duration::from_millis(1));
        assert_eq!(schedule.due_by(Duration::ZERO), 1);
        assert_eq!(schedule.due_by(Duration::from_micros(999)), 1);
        assert_eq!(schedule.due_by(Duration::from_secs(1)), 1_001);
    }

    #[test]
    fn a_stall_does_not_move_what_was_due() {
        // A load that looks only after two seconds still owes every record of them.
        let schedule = Schedule::new(500.0, 1, 0);
        assert_eq!(schedule.due_by(Duration::from_secs(2)), 1_001);
        assert_eq!(schedule.due(500), Duration::from_secs(1));
    }

    #[test]
    fn a_run_sends_its_rate_times_its_length() {
        let schedule = Schedule::new(1_000.0, 1, 0);
        let length = Duration::from_secs(3);
        assert_eq!(schedule.due_within(Duration::from_secs(1), length), 1_001);
        assert_eq!(schedule.due_within(length, length), 3_000);
        assert_eq!(schedule.due_within(Duration::MAX, length), 3_000);
    }

    #[test]
    fn writers_share_the_rate_without_gap_or_overlap() {
        let writers = 3;
        let mut moments: Vec<Duration> = (0..writers)
            .flat_map(|writer| {
                let schedule = Schedule::new(300.0, writers, writer);
                (0..10).map(move |number| schedule.due(number))
            })
            .collect();
        moments.sort();
        let all = Schedule::new(300.0, 1, 0);
        let expected: Vec<Duration> = (0..30).map(|number| all.due(number)).collect();
        assert_eq!(moments, expected);
    }

    #[test]
    fn what_is_due_by_a_moment_agrees_with_when_it_is_due() {
        for rate in [0.3, 7.0, 1_234.5, 1_000_000.0] {
            let schedule = Schedule::new(rate, 4, 2);
            for milliseconds in [0, 1, 3, 250, 1_000, 9_999] {
                let elapsed = Duration::from_millis(milliseconds);
                let count = schedule.due_by(elapsed);
                assert!(schedule.due(count) > elapsed, "{rate} {milliseconds}");
                if count > 0 {
                    assert!(schedule.due(count - 1) <= elapsed, "{rate} {milliseconds}");
                }
            }
        }
    }
}
