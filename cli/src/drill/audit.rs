//! The audit of a drill: whether what was acknowledged is there, once, and in order. Pure; knows
//! nothing of how records were written or read.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// How many examples of each violation are kept.
const EXAMPLES_MAX: usize = 5;

/// What was written: each partition's records carry sequence numbers from 0, without gaps, in the
/// order they were sent.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    partitions: Vec<Written>,
}

#[derive(Debug, Clone, Default)]
struct Written {
    sent: u64,
    /// Sequence number to offset, where the acknowledgement told it.
    acknowledged: BTreeMap<u64, Option<i64>>,
    /// Records of which the cluster said that they are surely not appended.
    refused: BTreeSet<u64>,
}

/// What a reader saw of each partition, in the order it saw it.
#[derive(Debug, Clone, Default)]
pub struct ReadBack {
    partitions: Vec<Vec<Seen>>,
}

/// One record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub offset: i64,
    /// `None` for a record that the drill did not write.
    pub sequence: Option<u64>,
}

impl Ledger {
    pub fn new(partitions: usize) -> Ledger {
        Ledger {
            partitions: vec![Written::default(); partitions],
        }
    }

    /// Takes the next sequence number of a partition; the record is about to be sent.
    pub fn next_sequence(&mut self, partition: usize) -> u64 {
        let written = &mut self.partitions[partition];
        written.sent += 1;
        written.sent - 1
    }

    /// Notes an acknowledgement, with the offset if it told one.
    pub fn acknowledge(&mut self, partition: usize, sequence: u64, offset: Option<i64>) {
        let written = &mut self.partitions[partition];
        assert!(
            sequence < written.sent,
            "sequence {sequence} was acknowledged, but only {} were sent",
            written.sent
        );
        written.acknowledged.insert(sequence, offset);
    }

    /// Notes a definite refusal: the record is surely not in the log.
    pub fn refuse(&mut self, partition: usize, sequence: u64) {
        self.partitions[partition].refused.insert(sequence);
    }

    pub fn every_partition_acknowledged(&self) -> bool {
        self.partitions
            .iter()
            .all(|written| !written.acknowledged.is_empty())
    }

    pub fn acknowledged(&self) -> u64 {
        let counts = self.partitions.iter().map(|p| p.acknowledged.len() as u64);
        counts.sum()
    }
}

impl ReadBack {
    pub fn new(partitions: usize) -> ReadBack {
        ReadBack {
            partitions: vec![Vec::new(); partitions],
        }
    }

    /// Notes a record, in the order of reading.
    pub fn see(&mut self, partition: usize, seen: Seen) {
        self.partitions[partition].push(seen);
    }

    pub fn every_partition_read(&self) -> bool {
        self.partitions.iter().all(|seen| !seen.is_empty())
    }

    pub fn records(&self) -> u64 {
        self.partitions.iter().map(|seen| seen.len() as u64).sum()
    }
}

/// What the audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    pub sent: u64,
    pub acknowledged: u64,
    pub read: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once.
    pub duplicated: u64,
    /// Behind a record that was sent after it.
    pub reordered: u64,
    /// Acknowledged at another offset than it is at.
    pub misplaced: u64,
    /// There without having been sent, or although the cluster had refused it for good.
    pub unexpected: u64,
    /// Offsets at which the reader during the drill saw another record than the final read did.
    pub changed: u64,
    /// A few of the violations, in words.
    pub examples: Vec<String>,
}

impl AuditReport {
    /// Whether nothing that was promised was broken.
    pub fn is_clean(&self) -> bool {
        self.violations().iter().all(|(_, count)| *count == 0)
    }

    /// Each kind of violation and how often it was found.
    pub fn violations(&self) -> [(&'static str, u64); 6] {
        [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("out of order", self.reordered),
            ("misplaced", self.misplaced),
            ("unexpected", self.unexpected),
            ("changed", self.changed),
        ]
    }
}

/// Compares what was written with a full read from the beginning (`last`), and that with what a
/// reader saw during the drill (`live`).
pub fn audit(ledger: &Ledger, last: &ReadBack, live: &ReadBack) -> AuditReport {
    assert_eq!(
        ledger.partitions.len(),
        last.partitions.len(),
        "both sides of an audit have the same partitions"
    );
    let mut report = AuditReport {
        sent: ledger.partitions.iter().map(|p| p.sent).sum(),
        acknowledged: ledger.acknowledged(),
        read: last.records(),
        ..AuditReport::default()
    };
    for (partition, (written, seen)) in ledger.partitions.iter().zip(&last.partitions).enumerate() {
        let mut auditor = Auditor {
            partition,
            report: &mut report,
        };
        auditor.read_in_order(written, seen);
        auditor.acknowledged_is_there(written, seen);
        if let Some(live) = live.partitions.get(partition) {
            auditor.live_reader_agrees(seen, live);
        }
    }
    report
}

struct Auditor<'a> {
    partition: usize,
    report: &'a mut AuditReport,
}

impl Auditor<'_> {
    /// Counts duplicates, records out of order and records that nobody sent.
    fn read_in_order(&mut self, written: &Written, seen: &[Seen]) {
        let mut first_at: BTreeMap<u64, i64> = BTreeMap::new();
        let mut highest: Option<u64> = None;
        for record in seen {
            let offset = record.offset;
            let Some(sequence) = record.sequence.filter(|s| *s < written.sent) else {
                self.report.unexpected += 1;
                self.example(format!(
                    "offset {offset} holds a record that was never sent"
                ));
                continue;
            };
            if written.refused.contains(&sequence) {
                self.report.unexpected += 1;
                self.example(format!(
                    "{sequence} was refused for good, yet is at offset {offset}"
                ));
            }
            if let Some(first) = first_at.insert(sequence, offset) {
                self.report.duplicated += 1;
                self.example(format!(
                    "{sequence} is at offset {first} and again at {offset}"
                ));
            } else if let Some(highest) = highest.filter(|highest| *highest > sequence) {
                self.report.reordered += 1;
                self.example(format!(
                    "{sequence} at offset {offset} comes after {highest}"
                ));
            }
            highest = highest.max(Some(sequence));
        }
    }

    /// Counts acknowledged records that are missing, or not where the acknowledgement said.
    fn acknowledged_is_there(&mut self, written: &Written, seen: &[Seen]) {
        let mut places: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        for record in seen {
            if let Some(sequence) = record.sequence {
                places.entry(sequence).or_default().push(record.offset);
            }
        }
        for (sequence, offset) in &written.acknowledged {
            let said = match offset {
                Some(offset) => format!("acknowledged at offset {offset}"),
                None => "acknowledged".to_owned(),
            };
            match places.get(sequence) {
                None => {
                    self.report.lost += 1;
                    self.example(format!("{sequence}, {said}, is gone"));
                }
                Some(found) if offset.is_some_and(|offset| !found.contains(&offset)) => {
                    self.report.misplaced += 1;
                    self.example(format!("{sequence}, {said}, is at {found:?}"));
                }
                Some(_) => {}
            }
        }
    }

    /// Counts offsets whose record changed after the live reader had consumed it.
    fn live_reader_agrees(&mut self, last: &[Seen], live: &[Seen]) {
        let now: BTreeMap<i64, Option<u64>> = last
            .iter()
            .map(|record| (record.offset, record.sequence))
            .collect();
        for record in live {
            if now.get(&record.offset) != Some(&record.sequence) {
                self.report.changed += 1;
                let offset = record.offset;
                self.example(format!(
                    "offset {offset} was consumed and then changed or vanished"
                ));
            }
        }
    }

    fn example(&mut self, text: String) {
        if self.report.examples.len() < EXAMPLES_MAX {
            let partition = self.partition;
            self.report
                .examples
                .push(format!("partition {partition}: {text}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger of one partition whose `sent` records were all acknowledged at their own number.
    fn written(sent: u64) -> Ledger {
        let mut ledger = Ledger::new(1);
        for offset in 0..sent {
            let sequence = ledger.next_sequence(0);
            ledger.acknowledge(0, sequence, Some(offset as i64));
        }
        ledger
    }

    fn read(sequences: &[u64]) -> ReadBack {
        let mut read = ReadBack::new(1);
        for (offset, sequence) in sequences.iter().enumerate() {
            read.see(
                0,
                Seen {
                    offset: offset as i64,
                    sequence: Some(*sequence),
                },
            );
        }
        read
    }

    #[test]
    fn a_faithful_log_passes() {
        let report = audit(&written(3), &read(&[0, 1, 2]), &read(&[0, 1]));
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.sent, report.acknowledged, report.read), (3, 3, 3));
    }

    #[test]
    fn a_lost_acknowledged_record_is_found() {
        let report = audit(&written(3), &read(&[0, 1]), &read(&[]));
        assert_eq!(report.lost, 1);
        assert!(!report.is_clean());
        assert!(report.examples[0].starts_with("partition 0: 2, acknowledged at offset 2"));
    }

    #[test]
    fn a_record_that_was_never_acknowledged_may_be_there_or_not() {
        let mut ledger = written(2);
        ledger.next_sequence(0);
        assert!(audit(&ledger, &read(&[0, 1]), &read(&[])).is_clean());
        assert!(audit(&ledger, &read(&[0, 1, 2]), &read(&[])).is_clean());
    }

    #[test]
    fn a_duplicate_is_found_and_is_not_called_reordered() {
        let report = audit(&written(3), &read(&[0, 1, 2, 1]), &read(&[]));
        assert_eq!(
            (report.duplicated, report.reordered, report.lost),
            (1, 0, 0)
        );
        assert!(!report.is_clean());
    }

    #[test]
    fn a_reordering_is_found() {
        let report = audit(&written(3), &read(&[1, 0, 2]), &read(&[]));
        assert_eq!(
            (report.reordered, report.duplicated, report.lost),
            (1, 0, 0)
        );
        // 0 and 1 swapped places, so neither is where its acknowledgement said.
        assert_eq!(report.misplaced, 2);
        assert!(!report.is_clean());
    }

    #[test]
    fn a_record_that_nobody_sent_is_found() {
        let mut back = read(&[0]);
        back.see(
            0,
            Seen {
                offset: 1,
                sequence: Some(9),
            },
        );
        back.see(
            0,
            Seen {
                offset: 2,
                sequence: None,
            },
        );
        let report = audit(&written(1), &back, &read(&[]));
        assert_eq!(report.unexpected, 2);
        assert!(!report.is_clean());
    }

    #[test]
    fn a_record_that_was_refused_for_good_must_not_appear() {
        let mut ledger = written(1);
        let sequence = ledger.next_sequence(0);
        ledger.refuse(0, sequence);
        assert!(audit(&ledger, &read(&[0]), &read(&[])).is_clean());
        assert_eq!(audit(&ledger, &read(&[0, 1]), &read(&[])).unexpected, 1);
    }

    #[test]
    fn an_acknowledgement_without_offset_still_promises_the_record() {
        let mut ledger = Ledger::new(1);
        let sequence = ledger.next_sequence(0);
        ledger.acknowledge(0, sequence, None);
        assert!(audit(&ledger, &read(&[0]), &read(&[])).is_clean());
        assert_eq!(audit(&ledger, &read(&[]), &read(&[])).lost, 1);
    }

    #[test]
    fn an_offset_that_changed_after_it_was_consumed_is_found() {
        let mut ledger = Ledger::new(1);
        ledger.next_sequence(0);
        ledger.next_sequence(0);
        // Nothing was acknowledged, yet a consumer had seen 1 at offset 0.
        let report = audit(&ledger, &read(&[0]), &read(&[1]));
        assert_eq!((report.changed, report.lost), (1, 0));
        assert!(!report.is_clean());
    }
}
