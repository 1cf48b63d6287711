//! What a drill reports: its rounds, their spread, and the audit.

use std::time::Duration;

use serde::Serialize;

use super::Target;
use super::audit::AuditReport;
use super::measure::{Round, Spread};
use crate::duration::show;
use crate::output::{Table, or_dash};

/// The result of a drill.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was killed: `controller` or `broker`.
    pub target: &'static str,
    pub rounds: Vec<Round>,
    pub summary: Summary,
    pub audit: AuditReport,
    /// Records that the producer gave up; they were never acknowledged.
    pub given_up: u64,
    pub slo_ms: Option<u64>,
    /// Whether the objective was met in every round; absent without one.
    pub slo_met: Option<bool>,
}

/// How each measurement spread over the rounds; absent where no round had it.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub detected: Option<Spread>,
    pub elected: Option<Spread>,
    pub first_acknowledged: Option<Spread>,
    pub write_pause: Option<Spread>,
    pub read_pause: Option<Spread>,
    pub healthy: Option<Spread>,
}

impl Summary {
    fn of(rounds: &[Round]) -> Summary {
        let spread =
            |pick: fn(&Round) -> Option<Duration>| Spread::of(rounds.iter().filter_map(pick));
        Summary {
            detected: spread(|round| round.detected),
            elected: spread(|round| round.elected),
            first_acknowledged: spread(|round| round.first_acknowledged),
            write_pause: spread(|round| Some(round.write_pause)),
            read_pause: spread(|round| Some(round.read_pause)),
            healthy: spread(|round| Some(round.healthy)),
        }
    }
}

impl Report {
    pub fn new(
        target: Target,
        rounds: Vec<Round>,
        audit: AuditReport,
        given_up: u64,
        slo: Option<Duration>,
    ) -> Report {
        let within = |slo: Duration| {
            let met = |round: &Round| round.objective().is_some_and(|time| time <= slo);
            rounds.iter().all(met)
        };
        Report {
            target: target.name(),
            summary: Summary::of(&rounds),
            slo_ms: slo.map(|slo| u64::try_from(slo.as_millis()).unwrap_or(u64::MAX)),
            slo_met: slo.map(within),
            rounds,
            audit,
            given_up,
        }
    }

    /// Whether nothing was lost, doubled or reordered and the objective was met.
    pub fn passed(&self) -> bool {
        self.audit.is_clean() && self.slo_met.unwrap_or(true)
    }

    /// The report for people.
    pub fn text(&self) -> String {
        format!(
            "{}\n{}\n{}",
            self.rounds_text(),
            self.summary_text(),
            self.audit_text()
        )
    }

    fn rounds_text(&self) -> String {
        let mut table = Table::new([
            "ROUND",
            "KILLED",
            "LED",
            "DETECTED",
            "ELECTED",
            "FIRST-ACK",
            "WRITE-PAUSE",
            "READ-PAUSE",
            "HEALTHY",
        ]);
        for round in &self.rounds {
            let optional = |duration: Option<Duration>| or_dash(duration.map(show));
            table.row([
                round.round.to_string(),
                round.victim.to_string(),
                round.affected_partitions.to_string(),
                optional(round.detected),
                optional(round.elected),
                optional(round.first_acknowledged),
                show(round.write_pause),
                show(round.read_pause),
                show(round.healthy),
            ]);
        }
        table.render()
    }

    fn summary_text(&self) -> String {
        let mut table = Table::new(["", "P50", "P99", "MAX"]);
        let summary = &self.summary;
        for (name, spread) in [
            ("detected", summary.detected),
            ("elected", summary.elected),
            ("first ack", summary.first_acknowledged),
            ("write pause", summary.write_pause),
            ("read pause", summary.read_pause),
            ("healthy", summary.healthy),
        ] {
            if let Some(spread) = spread {
                table.row([
                    name.to_owned(),
                    show(spread.p50),
                    show(spread.p99),
                    show(spread.max),
                ]);
            }
        }
        table.render()
    }

    fn audit_text(&self) -> String {
        let audit = &self.audit;
        let mut text = format!(
            "audit: {} acknowledged, {} read back",
            audit.acknowledged, audit.read
        );
        for (name, count) in audit.violations() {
            text.push_str(&format!(", {count} {name}"));
        }
        if self.given_up > 0 {
            text.push_str(&format!("; {} never acknowledged", self.given_up));
        }
        text.push('\n');
        for example in &audit.examples {
            text.push_str(&format!("  {example}\n"));
        }
        if let (Some(slo), Some(met)) = (self.slo_ms, self.slo_met) {
            let verdict = if met { "met" } else { "EXCEEDED" };
            text.push_str(&format!("objective: {slo} ms {verdict}\n"));
        }
        text.push_str(if self.passed() {
            "passed\n"
        } else {
            "FAILED\n"
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(first_acknowledged: Option<u64>, elected: u64) -> Round {
        Round {
            round: 1,
            victim: 2,
            affected_partitions: 4,
            detected: Some(Duration::from_millis(5)),
            elected: Some(Duration::from_millis(elected)),
            first_acknowledged: first_acknowledged.map(Duration::from_millis),
            write_pause: Duration::from_millis(300),
            read_pause: Duration::from_millis(310),
            healthy: Duration::from_secs(2),
        }
    }

    fn report(rounds: Vec<Round>, audit: AuditReport, slo: Option<u64>) -> Report {
        Report::new(
            Target::Broker,
            rounds,
            audit,
            0,
            slo.map(Duration::from_millis),
        )
    }

    #[test]
    fn a_drill_passes_only_if_nothing_is_lost_and_the_objective_is_met() {
        let clean = AuditReport::default;
        assert!(report(vec![round(Some(250), 40)], clean(), None).passed());
        assert!(report(vec![round(Some(250), 40)], clean(), Some(250)).passed());
        assert!(!report(vec![round(Some(251), 40)], clean(), Some(250)).passed());
        let lost = AuditReport {
            lost: 1,
            ..AuditReport::default()
        };
        assert!(!report(vec![round(Some(1), 1)], lost, None).passed());
    }

    #[test]
    fn where_no_partition_was_affected_the_election_is_the_objective() {
        assert!(report(vec![round(None, 90)], AuditReport::default(), Some(100)).passed());
        assert!(!report(vec![round(None, 110)], AuditReport::default(), Some(100)).passed());
    }

    #[test]
    fn the_text_names_every_violation_and_the_verdict() {
        let audit = AuditReport {
            lost: 2,
            examples: vec!["partition 0: 7 is gone".to_owned()],
            ..AuditReport::default()
        };
        let text = report(vec![round(Some(250), 40)], audit, Some(100)).text();
        for expected in [
            "2 lost",
            "0 duplicated",
            "7 is gone",
            "100 ms EXCEEDED",
            "FAILED",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
