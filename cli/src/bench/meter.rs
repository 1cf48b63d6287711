//! Counts and latencies of a run, in all and since the last interval line. Pure: told what happened
//! and how long it took.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency told apart, in microseconds; longer ones count as this.
const MICROS_MAX: u64 = 600_000_000;
/// The shortest interval worth a line.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Significant digits: 0.1 %.
const DIGITS: u8 = 3;

/// The spread of latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub p9999_ms: f64,
    pub max_ms: f64,
}

/// What happened in a stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stretch {
    /// Its end, from the start of the measurement.
    pub at_seconds: f64,
    pub seconds: f64,
    pub records: u64,
    pub bytes: u64,
    pub failed: u64,
    pub records_per_second: f64,
    /// Of values, in millions of bytes.
    pub mb_per_second: f64,
    pub latency: Option<Latency>,
}

#[derive(Debug)]
struct Tally {
    records: u64,
    bytes: u64,
    failed: u64,
    micros: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        let micros = Histogram::new_with_max(MICROS_MAX, DIGITS);
        Tally {
            records: 0,
            bytes: 0,
            failed: 0,
            micros: micros.expect("a valid range of latencies"),
        }
    }

    fn reset(&mut self) {
        self.records = 0;
        self.bytes = 0;
        self.failed = 0;
        self.micros.reset();
    }

    fn latency(&self) -> Option<Latency> {
        if self.micros.is_empty() {
            return None;
        }
        let at = |quantile| self.micros.value_at_quantile(quantile) as f64 / 1_000.0;
        Some(Latency {
            mean_ms: self.micros.mean() / 1_000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            p9999_ms: at(0.9999),
            max_ms: self.micros.max() as f64 / 1_000.0,
        })
    }

    fn stretch(&self, from: Duration, to: Duration) -> Stretch {
        let seconds = to.saturating_sub(from).as_secs_f64();
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        Stretch {
            at_seconds: to.as_secs_f64(),
            seconds,
            records: self.records,
            bytes: self.bytes,
            failed: self.failed,
            records_per_second: per_second(self.records as f64),
            mb_per_second: per_second(self.bytes as f64 / 1e6),
            latency: self.latency(),
        }
    }
}

/// The counts of one kind of event: acknowledgements, or arrivals at a consumer.
#[derive(Debug)]
pub struct Meter {
    all: Tally,
    lately: Tally,
    lately_since: Duration,
    /// Until when, from the start, nothing counts.
    warmup: Duration,
    /// Events before the end of the warm-up, which count nowhere.
    warmed: u64,
    last: Option<Duration>,
    failure: Option<String>,
}

impl Meter {
    /// A meter that leaves out what was due in the first `warmup`.
    pub fn new(warmup: Duration) -> Meter {
        Meter {
            all: Tally::new(),
            lately: Tally::new(),
            lately_since: warmup,
            warmup,
            warmed: 0,
            last: None,
            failure: None,
        }
    }

    /// A record that was due `due` after the start was done `done` after it. Without a latency of
    /// its own only the count rises.
    pub fn done(&mut self, due: Duration, done: Duration, bytes: usize) {
        if self.counts(due, done) {
            let micros = u64::try_from(done.saturating_sub(due).as_micros()).unwrap_or(u64::MAX);
            for tally in [&mut self.all, &mut self.lately] {
                tally.records += 1;
                tally.bytes += bytes as u64;
                tally.micros.saturating_record(micros);
            }
        }
    }

    /// So many records came at a time, with no latency to tell.
    pub fn came(&mut self, at: Duration, records: u64, bytes: u64) {
        if self.counts(at, at) {
            for tally in [&mut self.all, &mut self.lately] {
                tally.records += records;
                tally.bytes += bytes;
            }
        }
    }

    /// A record failed; the first reason is kept.
    pub fn failed(&mut self, due: Duration, reason: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(reason());
        }
        // A failure during the warm-up is one all the same.
        self.all.failed += 1;
        self.lately.failed += 1;
        self.last = self.last.max(Some(due));
    }

    fn counts(&mut self, due: Duration, done: Duration) -> bool {
        if due < self.warmup {
            self.warmed += 1;
            return false;
        }
        self.last = self.last.max(Some(done));
        true
    }

    /// Why the first failed record failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// How many records did not fail, the warm-up's included.
    pub fn succeeded(&self) -> u64 {
        self.warmed + self.all.records
    }

    /// What happened since the last interval; `None` while the run warms up, and if too little
    /// time has passed to tell a rate.
    pub fn interval(&mut self, now: Duration) -> Option<Stretch> {
        if now < self.lately_since + INTERVAL_MIN {
            return None;
        }
        let mut stretch = self.lately.stretch(self.lately_since, now);
        stretch.at_seconds = now.saturating_sub(self.warmup).as_secs_f64();
        self.lately.reset();
        self.lately_since = now;
        Some(stretch)
    }

    /// Everything from the end of the warm-up to the last event.
    pub fn total(&self) -> Stretch {
        let last = self.last.unwrap_or(self.warmup);
        let mut stretch = self.all.stretch(self.warmup, last);
        stretch.at_seconds = stretch.seconds;
        stretch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn latency_counts_from_the_moment_due() {
        let mut meter = Meter::new(Duration::ZERO);
        for number in 0..100 {
            meter.done(ms(number), ms(number + 10), 100);
        }
        // A stall makes every record that was due meanwhile late, not just the one in flight.
        for number in 100..1_100 {
            meter.done(ms(number), ms(1_100), 100);
        }
        let total = meter.total();
        assert_eq!((total.records, total.bytes), (1_100, 110_000));
        assert_eq!(total.seconds, 1.1);
        assert!((total.records_per_second - 1_000.0).abs() < 1e-6);
        let latency = total.latency.unwrap();
        assert!((latency.p50_ms - 450.0).abs() < 2.0, "{latency:?}");
        assert!((latency.max_ms - 1_000.0).abs() < 2.0, "{latency:?}");
    }

    #[test]
    fn the_warm_up_counts_nowhere_but_its_failures_do() {
        let mut meter = Meter::new(ms(1_000));
        meter.done(ms(999), ms(1_500), 100);
        meter.failed(ms(500), || "first".to_owned());
        meter.failed(ms(600), || "second".to_owned());
        meter.done(ms(1_000), ms(3_000), 100);
        let total = meter.total();
        assert_eq!((total.records, total.failed, total.seconds), (1, 2, 2.0));
        assert_eq!(meter.failure(), Some("first"));
        assert_eq!(meter.succeeded(), 2);
    }

    #[test]
    fn an_interval_holds_what_came_since_the_last() {
        let mut meter = Meter::new(ms(1_000));
        assert_eq!(meter.interval(ms(900)), None);
        meter.came(ms(1_200), 5, 500);
        let first = meter.interval(ms(2_000)).unwrap();
        assert_eq!(
            (first.at_seconds, first.seconds, first.records),
            (1.0, 1.0, 5)
        );
        assert_eq!(first.latency, None);
        meter.done(ms(2_100), ms(2_101), 100);
        let second = meter.interval(ms(2_500)).unwrap();
        assert_eq!((second.at_seconds, second.records), (1.5, 1));
        assert!((second.latency.unwrap().p99_ms - 1.0).abs() < 0.01);
        assert_eq!(meter.total().records, 6);
    }

    #[test]
    fn nothing_is_no_division_by_nothing() {
        let total = Meter::new(ms(5)).total();
        assert_eq!(total.records_per_second, 0.0);
        assert_eq!(total.latency, None);
    }
}
