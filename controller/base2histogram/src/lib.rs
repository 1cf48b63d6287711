//! Stands in for the crate of this name, in which openraft counts what it does: the same types and
//! calls as far as openraft makes them.
//!
//! The original prepares tables for every precision that it offers, 25 MiB in all, when the first
//! histogram is made, whichever precision is used (ADR 0011). Here a value's bucket is computed:
//! its highest bit and the two bits behind it.

use std::fmt;
use std::marker::PhantomData;

/// Four buckets for each power of two, and one for each smaller value.
const BUCKETS: usize = 4 + 62 * 4;

/// Counts of values, exact up to 7 and within a quarter of the value above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64]>,
    total: u64,
    data: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

impl<T> Histogram<T> {
    pub fn new() -> Histogram<T> {
        Histogram {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            total: 0,
            data: PhantomData,
        }
    }

    /// Counts a value once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value several times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts[bucket_of(value)] += count;
        self.total += count;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The lowest value of the bucket below whose end lies this share of all values; 0 without any.
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return lowest_of(bucket);
            }
        }
        0
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

fn bucket_of(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let highest_bit = value.ilog2();
    let behind = (value >> (highest_bit - 2)) & 3;
    4 + (highest_bit as usize - 2) * 4 + behind as usize
}

fn lowest_of(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let (power, behind) = ((bucket - 4) / 4, (bucket - 4) % 4);
    (4 + behind as u64) << power
}

/// Where the values of a histogram lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats {
            samples,
            p10,
            p50,
            p90,
            p99,
            p99_9,
            ..
        } = self;
        write!(
            f,
            "{samples} values, p10 {p10}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}"
        )
    }
}

/// Histograms to be drawn together. Ottla draws none.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    pub fn new() -> AsciiChart<T> {
        AsciiChart { series: Vec::new() }
    }

    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> AsciiChart<T> {
        self.series.push((name.to_owned(), histogram));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        for bucket in 0..BUCKETS {
            let lowest = lowest_of(bucket);
            assert_eq!(bucket_of(lowest), bucket);
            assert!(lowest == 0 || bucket_of(lowest - 1) == bucket - 1);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_lie_within_a_quarter() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99_9, 0);
        for value in 1..=1_000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1_000);
        for (found, exact) in [(stats.p10, 100), (stats.p50, 500), (stats.p99, 990)] {
            assert!(found <= exact && found * 5 >= exact * 4, "{found} {exact}");
        }
    }
}
