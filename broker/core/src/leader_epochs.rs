//! The leader epochs of a log and where each begins. Decides where two logs part (KIP-101,
//! KIP-279). Knows nothing of who leads.

use ottla_model::{LeaderEpoch, Offset};

/// Leader epochs in ascending order, each with the offset of its first record. Both rise strictly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaderEpochs {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl LeaderEpochs {
    /// The epochs found in a log, in any order. An entry that contradicts a later one is dropped.
    pub fn new(entries: impl IntoIterator<Item = (LeaderEpoch, Offset)>) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in entries {
            epochs.assign(epoch, start);
        }
        epochs
    }

    /// The latest epoch, or [`LeaderEpoch::NONE`] for a log that never held a record.
    pub fn latest(&self) -> LeaderEpoch {
        self.entries
            .last()
            .map_or(LeaderEpoch::NONE, |(epoch, _)| *epoch)
    }

    /// The earliest epoch that the log still holds or, without records, was assigned.
    pub fn earliest(&self) -> Option<LeaderEpoch> {
        self.entries.first().map(|(epoch, _)| *epoch)
    }

    /// The epochs with their first offsets, ascending.
    pub fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.entries
    }

    /// Remembers that `epoch` begins at `start`. An epoch that is known already keeps its start;
    /// epochs that began at `start` or later held no record and are forgotten.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        if epoch <= self.latest() {
            return;
        }
        self.truncate_end(start);
        self.entries.push((epoch, start));
    }

    /// The largest known epoch up to `epoch`, and the offset behind its last record in a log that
    /// ends at `log_end`. For an epoch below the first known one: that epoch itself and the start
    /// of the first. `None` for an epoch above the latest, and while no epoch is known.
    pub fn end_offset_for(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let (_, first_start) = self.entries.first()?;
        if epoch > self.latest() {
            return None;
        }
        let above = self.entries.partition_point(|(known, _)| *known <= epoch);
        let end = self.entries.get(above).map_or(log_end, |(_, start)| *start);
        match above.checked_sub(1) {
            Some(floor) => Some((self.entries[floor].0, end)),
            None => Some((epoch, *first_start)),
        }
    }

    /// Forgets the epochs that begin at `to` or later: the log's end was cut there.
    pub fn truncate_end(&mut self, to: Offset) {
        let kept = self.entries.partition_point(|(_, start)| *start < to);
        self.entries.truncate(kept);
    }

    /// Follows a log whose records below `to` were dropped. The epoch that holds `to` now begins
    /// there.
    pub fn truncate_start(&mut self, to: Offset) {
        let above = self.entries.partition_point(|(_, start)| *start <= to);
        if let Some(floor) = above.checked_sub(1) {
            self.entries.drain(..floor);
            self.entries[0].1 = to;
        }
    }

    /// Forgets everything: the log restarts empty.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        LeaderEpochs::new(
            entries
                .iter()
                .map(|(epoch, start)| (LeaderEpoch(*epoch), Offset(*start))),
        )
    }

    fn end(epochs: &LeaderEpochs, epoch: i32, log_end: i64) -> Option<(i32, i64)> {
        epochs
            .end_offset_for(LeaderEpoch(epoch), Offset(log_end))
            .map(|(epoch, offset)| (epoch.0, offset.0))
    }

    #[test]
    fn the_latest_epoch_ends_at_the_log_end() {
        assert_eq!(end(&epochs(&[(1, 0), (4, 10)]), 4, 17), Some((4, 17)));
    }

    #[test]
    fn an_older_epoch_ends_where_the_next_begins() {
        let epochs = epochs(&[(1, 0), (4, 10), (6, 20)]);
        assert_eq!(end(&epochs, 1, 30), Some((1, 10)));
        assert_eq!(end(&epochs, 4, 30), Some((4, 20)));
    }

    #[test]
    fn an_unknown_epoch_is_answered_with_the_largest_below_it() {
        let epochs = epochs(&[(1, 0), (4, 10), (6, 20)]);
        assert_eq!(end(&epochs, 5, 30), Some((4, 20)));
        assert_eq!(end(&epochs, 3, 30), Some((1, 10)));
    }

    #[test]
    fn an_epoch_below_the_first_ends_where_the_first_begins() {
        assert_eq!(end(&epochs(&[(3, 5), (4, 10)]), 1, 30), Some((1, 5)));
    }

    #[test]
    fn an_epoch_above_the_latest_has_no_end() {
        assert_eq!(end(&epochs(&[(3, 5)]), 4, 30), None);
        assert_eq!(end(&epochs(&[]), 0, 0), None);
    }

    #[test]
    fn an_epoch_without_records_is_forgotten_by_the_next_at_the_same_offset() {
        let mut epochs = epochs(&[(1, 0), (2, 10)]);
        epochs.assign(LeaderEpoch(3), Offset(10));
        assert_eq!(
            epochs.entries(),
            &[(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(10))]
        );
    }

    #[test]
    fn a_known_epoch_keeps_its_start() {
        let mut epochs = epochs(&[(1, 0), (2, 10)]);
        epochs.assign(LeaderEpoch(2), Offset(15));
        assert_eq!(end(&epochs, 1, 20), Some((1, 10)));
    }

    #[test]
    fn a_dropped_start_moves_into_the_epoch_that_holds_it() {
        let mut epochs = epochs(&[(1, 0), (2, 10), (3, 20)]);
        epochs.truncate_start(Offset(15));
        assert_eq!(
            epochs.entries(),
            &[(LeaderEpoch(2), Offset(15)), (LeaderEpoch(3), Offset(20))]
        );
    }

    proptest! {
        #[test]
        fn epochs_and_starts_rise_strictly_whatever_happens(
            steps in prop::collection::vec((0..4u8, 0..12i32, 0..40i64), 0..40),
        ) {
            let mut epochs = LeaderEpochs::default();
            for (kind, epoch, offset) in steps {
                match kind {
                    0 => epochs.truncate_end(Offset(offset)),
                    1 => epochs.truncate_start(Offset(offset)),
                    _ => epochs.assign(LeaderEpoch(epoch), Offset(offset)),
                }
                for pair in epochs.entries().windows(2) {
                    prop_assert!(pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
                }
            }
        }
    }
}
