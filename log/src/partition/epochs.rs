//! Where each leader epoch begins in a log (KIP-101).

use ottla_model::{LeaderEpoch, Offset};

/// The first offset of each leader epoch, both ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Epochs(Vec<(LeaderEpoch, Offset)>);

impl Epochs {
    pub fn from_entries(entries: Vec<(LeaderEpoch, Offset)>) -> Epochs {
        Epochs(entries)
    }

    pub fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.0
    }

    pub fn last(&self) -> LeaderEpoch {
        self.0.last().map_or(LeaderEpoch::NONE, |(epoch, _)| *epoch)
    }

    /// The epoch that the batch at this offset was written in.
    pub fn at(&self, offset: Offset) -> LeaderEpoch {
        let behind = self.0.partition_point(|(_, start)| *start <= offset);
        behind
            .checked_sub(1)
            .map_or(LeaderEpoch::NONE, |index| self.0[index].0)
    }

    /// Notes a batch. Batches of one epoch only mark its first offset.
    pub fn note(&mut self, epoch: LeaderEpoch, base: Offset) {
        if epoch > self.last() {
            self.0.push((epoch, base));
        }
    }

    /// The log was cut: nothing at or above `to` is left.
    pub fn cut(&mut self, to: Offset) {
        self.0.retain(|(_, start)| *start < to);
    }

    /// The log now starts at `log_start`: the epoch that reaches over it starts there.
    pub fn trim(&mut self, log_start: Offset) {
        let below = self.0.partition_point(|(_, start)| *start <= log_start);
        if below > 0 {
            self.0.drain(..below - 1);
            self.0[0].1 = log_start;
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> Epochs {
        let entry = |(epoch, start): &(i32, i64)| (LeaderEpoch(*epoch), Offset(*start));
        Epochs::from_entries(entries.iter().map(entry).collect())
    }

    #[test]
    fn an_epoch_begins_with_its_first_batch() {
        let mut noted = Epochs::default();
        for (epoch, base) in [(-1, 0), (0, 3), (0, 5), (4, 9), (4, 12)] {
            noted.note(LeaderEpoch(epoch), Offset(base));
        }
        assert_eq!(noted, epochs(&[(0, 3), (4, 9)]));
        assert_eq!(noted.last(), LeaderEpoch(4));
    }

    #[test]
    fn epochs_that_are_cut_off_are_forgotten() {
        let mut cut = epochs(&[(0, 0), (1, 5), (3, 10)]);
        cut.cut(Offset(10));
        assert_eq!(cut, epochs(&[(0, 0), (1, 5)]));
        cut.cut(Offset(6));
        assert_eq!(cut, epochs(&[(0, 0), (1, 5)]));
    }

    #[test]
    fn the_epoch_over_the_log_start_begins_there() {
        let mut trimmed = epochs(&[(0, 0), (1, 5), (3, 10)]);
        trimmed.trim(Offset(7));
        assert_eq!(trimmed, epochs(&[(1, 7), (3, 10)]));
        trimmed.trim(Offset(10));
        assert_eq!(trimmed, epochs(&[(3, 10)]));
    }
}
