//! Which history of the cluster an image belongs to.

use imbl::Vector;
use ottla_model::MetadataOffset;

/// When a controller became the active one: the offset of the record that says so, and what it
/// drew. A history that has an activation is the same as every other that has it, up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activation {
    pub offset: MetadataOffset,
    pub id: u64,
}

/// How many activations an image remembers. A node that has been away for more of them is taken to
/// be of the same history.
const ACTIVATIONS_KEPT: usize = 64;

/// The latest activations of a history, oldest first.
///
/// Histories part only where the controllers come back with an older copy of their log: what they
/// decide from there on has the offsets of what they forgot. All of them were restarted for that,
/// so the first record in which two histories differ is an activation, and whoever compares the
/// last one before an offset knows whether everything before it is the same.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activations(Vector<Activation>);

impl Activations {
    pub(crate) fn push(&mut self, activation: Activation) {
        while self.0.len() >= ACTIVATIONS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(activation);
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Activation> {
        self.0.iter()
    }

    /// The last activation before `offset`; `None` if there was none, or if it is forgotten.
    pub fn before(&self, offset: MetadataOffset) -> Option<Activation> {
        let earlier = |activation: &&Activation| activation.offset < offset;
        self.0.iter().rev().find(earlier).copied()
    }

    /// Whether these are of another history than one whose last activation before `offset` is
    /// `other`. Both histories reach `offset`. Where one does not remember that far back, they
    /// count as the same.
    pub fn contradict(&self, offset: MetadataOffset, other: Option<Activation>) -> bool {
        match (self.before(offset), other) {
            (_, None) => false,
            (Some(own), Some(other)) => own != other,
            // Nothing is forgotten while there is room.
            (None, Some(_)) => self.0.len() < ACTIVATIONS_KEPT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activations(of: &[(i64, u64)]) -> Activations {
        let mut activations = Activations::default();
        for (offset, id) in of {
            activations.push(activation(*offset, *id));
        }
        activations
    }

    fn activation(offset: i64, id: u64) -> Activation {
        Activation {
            offset: MetadataOffset(offset),
            id,
        }
    }

    /// Whether a node whose copy ends at `end` finds another history in what it is told.
    fn contradict(own: &[(i64, u64)], end: i64, theirs: &[(i64, u64)]) -> bool {
        let end = MetadataOffset(end);
        activations(own).contradict(end, activations(theirs).before(end))
    }

    #[test]
    fn histories_part_at_the_activation_that_only_one_of_them_has() {
        let own = [(1, 10), (40, 11)];
        assert!(!contradict(&own, 60, &[(1, 10), (40, 11)]));
        assert!(!contradict(&own, 60, &[(1, 10), (40, 11), (60, 12)]));
        // Forgotten from 50 on, and from 30 on.
        assert!(contradict(&own, 60, &[(1, 10), (40, 11), (50, 12)]));
        assert!(contradict(&own, 60, &[(1, 10), (30, 12)]));
        // The same offset, by chance.
        assert!(contradict(&own, 60, &[(1, 10), (40, 12)]));
        // What only this node has was forgotten before anybody else became active.
        assert!(contradict(&own, 60, &[(1, 10)]));
        assert!(contradict(&[], 60, &[(1, 10)]));
        assert!(!contradict(&[], 0, &[(1, 10)]));
    }

    #[test]
    fn what_is_forgotten_contradicts_nothing() {
        let all: Vec<_> = (0..100).map(|n| (n * 10, n as u64)).collect();
        let kept = activations(&all);
        assert_eq!(kept.iter().count(), ACTIVATIONS_KEPT);
        assert_eq!(kept.before(MetadataOffset(300)), None);
        assert!(!kept.contradict(MetadataOffset(300), Some(activation(290, 7))));
        assert_eq!(kept.before(MetadataOffset(991)), Some(activation(990, 99)));
    }
}
