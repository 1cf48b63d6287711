//! What a run reports: what was asked, what came of it, and how it went second by second. Pure.

use serde::Serialize;

use super::meter::{Latency, Stretch};
use crate::output::{Table, or_dash};

/// What was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    pub topic: String,
    pub partitions: usize,
    pub record_bytes: Option<usize>,
    pub keys: Option<u64>,
    pub producers: u32,
    pub consumers: u32,
    /// Records a second; absent if as fast as possible.
    pub rate: Option<f64>,
    pub warmup_seconds: f64,
    pub acks: Option<&'static str>,
    pub compression: Option<String>,
    pub batch_bytes: Option<usize>,
    pub linger_ms: Option<u64>,
}

impl Settings {
    /// What the records that were written count as: without acknowledgements nobody knows more than
    /// that they were sent.
    fn written_as(&self) -> &'static str {
        match self.acks {
            Some("none") => "sent",
            _ => "acknowledged",
        }
    }
}

/// What happened within about a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interval {
    pub acknowledged: Option<Stretch>,
    pub consumed: Option<Stretch>,
}

/// The result of a run. Its fields are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `produce`, `consume` or `latency`.
    pub bench: &'static str,
    #[serde(flatten)]
    pub settings: Settings,
    /// Records handed to the producers, those of the warm-up included.
    pub sent: u64,
    pub failed: u64,
    /// Why the first failed record failed.
    pub failure: Option<String>,
    /// Writing: records, and the time from when each was due to its acknowledgement.
    pub acknowledged: Option<Stretch>,
    /// Reading: records and, where the run wrote them itself, the time from when each was due
    /// until a consumer had it.
    pub consumed: Option<Stretch>,
    pub intervals: Vec<Interval>,
}

/// Milliseconds with the digits that matter.
fn ms(milliseconds: f64) -> String {
    if milliseconds < 100.0 {
        format!("{milliseconds:.2}")
    } else {
        format!("{milliseconds:.0}")
    }
}

impl Interval {
    /// One line for people.
    pub fn text(&self, settings: &Settings) -> String {
        let parts = [
            (settings.written_as(), &self.acknowledged),
            ("consumed", &self.consumed),
        ];
        let mut at = 0.0;
        let mut texts = Vec::new();
        for (name, stretch) in parts {
            let Some(stretch) = stretch else { continue };
            at = stretch.at_seconds;
            let mut text = format!(
                "{name} {:.0} records/s, {:.1} MB/s",
                stretch.records_per_second, stretch.mb_per_second
            );
            if let Some(latency) = &stretch.latency {
                text.push_str(&format!(
                    ", ms p50 {} p99 {} max {}",
                    ms(latency.p50_ms),
                    ms(latency.p99_ms),
                    ms(latency.max_ms)
                ));
            }
            if stretch.failed > 0 {
                text.push_str(&format!(", {} FAILED", stretch.failed));
            }
            texts.push(text);
        }
        format!("{at:5.1} s  {}", texts.join(" | "))
    }
}

impl Report {
    /// Whether every record that was sent was acknowledged.
    pub fn passed(&self) -> bool {
        self.failed == 0
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut table = Table::new([
            "",
            "RECORDS",
            "SECONDS",
            "RECORDS/S",
            "MB/S",
            "P50-MS",
            "P99-MS",
            "P99.9-MS",
            "P99.99-MS",
            "MAX-MS",
        ]);
        let parts = [
            (self.settings.written_as(), &self.acknowledged),
            ("consumed", &self.consumed),
        ];
        for (name, stretch) in parts {
            let Some(stretch) = stretch else { continue };
            let latency =
                |pick: fn(&Latency) -> f64| or_dash(stretch.latency.as_ref().map(|l| ms(pick(l))));
            table.row([
                name.to_owned(),
                stretch.records.to_string(),
                format!("{:.2}", stretch.seconds),
                format!("{:.0}", stretch.records_per_second),
                format!("{:.1}", stretch.mb_per_second),
                latency(|l| l.p50_ms),
                latency(|l| l.p99_ms),
                latency(|l| l.p999_ms),
                latency(|l| l.p9999_ms),
                latency(|l| l.max_ms),
            ]);
        }
        let mut text = table.render();
        if self.failed > 0 {
            let reason = self.failure.as_deref().unwrap_or("no reason is known");
            text.push_str(&format!("{} FAILED, the first: {reason}\n", self.failed));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::meter::Meter;
    use super::*;

    fn report(failed: u64) -> Report {
        let mut meter = Meter::new(Duration::ZERO);
        for number in 0..1_000 {
            let due = Duration::from_millis(number);
            meter.done(due, due + Duration::from_millis(3), 1_000);
        }
        Report {
            bench: "latency",
            settings: Settings {
                topic: "t".to_owned(),
                partitions: 12,
                record_bytes: Some(1_000),
                keys: None,
                producers: 1,
                consumers: 0,
                rate: Some(1_000.0),
                warmup_seconds: 0.0,
                acks: Some("all"),
                compression: None,
                batch_bytes: None,
                linger_ms: None,
            },
            sent: 1_000 + failed,
            failed,
            failure: (failed > 0).then(|| "no leader".to_owned()),
            acknowledged: Some(meter.total()),
            consumed: None,
            intervals: Vec::new(),
        }
    }

    #[test]
    fn the_table_has_a_line_for_what_was_measured_and_none_for_the_rest() {
        let text = report(0).text();
        assert!(text.contains("acknowledged"), "{text}");
        assert!(!text.contains("consumed"), "{text}");
        assert!(text.contains("3.00"), "{text}");
        assert!(report(0).passed());
    }

    #[test]
    fn what_nobody_acknowledges_was_sent() {
        let mut sent = report(0);
        sent.settings.acks = Some("none");
        let text = sent.text();
        assert!(
            text.contains("sent") && !text.contains("acknowledged"),
            "{text}"
        );
    }

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let failed = report(2);
        assert!(!failed.passed());
        assert!(failed.text().contains("2 FAILED, the first: no leader"));
    }

    #[test]
    fn json_carries_settings_and_latencies_under_stable_names() {
        let json = serde_json::to_value(report(0)).unwrap();
        assert_eq!(json["topic"], "t");
        assert_eq!(json["acknowledged"]["records"], 1_000);
        for field in [
            "p50_ms", "p99_ms", "p999_ms", "p9999_ms", "max_ms", "mean_ms",
        ] {
            assert!(json["acknowledged"]["latency"][field].is_f64(), "{field}");
        }
    }

    #[test]
    fn an_interval_is_one_line() {
        let mut meter = Meter::new(Duration::ZERO);
        meter.done(Duration::ZERO, Duration::from_millis(5), 1_000_000);
        let interval = Interval {
            acknowledged: meter.interval(Duration::from_secs(1)),
            consumed: None,
        };
        assert_eq!(
            interval.text(&report(0).settings),
            "  1.0 s  acknowledged 1 records/s, 1.0 MB/s, ms p50 5.00 p99 5.00 max 5.00"
        );
    }
}
