//! When which replica's core wants to be ticked. A broker may have tens of thousands of replicas
//! that want nothing, so they are not asked: each sets an alarm. What a core wants changes with
//! nearly every record and mostly to a later time, so an alarm that is set stays, and is set anew
//! once it has gone off.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ottla_model::{Instant, TopicIdPartition};
use parking_lot::Mutex;

/// The alarms of all replicas of a broker.
#[derive(Debug, Default)]
pub struct Alarms {
    queue: Mutex<BinaryHeap<Reverse<(Instant, TopicIdPartition)>>>,
}

impl Alarms {
    pub fn set(&self, at: Instant, id: TopicIdPartition) {
        self.queue.lock().push(Reverse((at, id)));
    }

    /// Takes those that go off by now, with what they were set for.
    pub fn due(&self, now: Instant) -> Vec<(Instant, TopicIdPartition)> {
        let mut due = Vec::new();
        let mut queue = self.queue.lock();
        while let Some(first) = queue.peek_mut()
            && first.0.0 <= now
        {
            due.push(std::collections::binary_heap::PeekMut::pop(first).0);
        }
        due
    }
}

/// The alarm of one replica.
#[derive(Debug, Default)]
pub struct Alarm {
    wanted: Option<Instant>,
    set: Option<Instant>,
}

/// What to do about an alarm that has gone off.
#[derive(Debug, PartialEq, Eq)]
pub enum Rung {
    Tick,
    /// To be set again, for then.
    Again(Instant),
    /// Another one is set, or none is wanted any more.
    Nothing,
}

impl Alarm {
    /// The core wants its next tick then. Returns what an alarm is to be set for.
    pub fn want(&mut self, wanted: Option<Instant>) -> Option<Instant> {
        self.wanted = wanted;
        let earlier = wanted.filter(|wanted| self.set.is_none_or(|set| *wanted < set));
        self.set = earlier.or(self.set);
        earlier
    }

    /// The alarm that was set for `at` has gone off.
    pub fn rings(&mut self, at: Instant, now: Instant) -> Rung {
        if self.set != Some(at) {
            return Rung::Nothing;
        }
        self.set = None;
        match self.wanted {
            Some(wanted) if wanted <= now => Rung::Tick,
            wanted => self.want(wanted).map_or(Rung::Nothing, Rung::Again),
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{PartitionIndex, TopicId};

    use super::*;

    const fn at(number: u64) -> Option<Instant> {
        Some(Instant(number))
    }

    #[test]
    fn an_alarm_is_set_once_and_again_where_more_time_is_wanted_by_then() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.want(None), None);
        assert_eq!(alarm.want(at(10)), at(10));
        assert_eq!(alarm.want(at(20)), None);
        assert_eq!(
            alarm.rings(Instant(10), Instant(11)),
            Rung::Again(Instant(20))
        );
        assert_eq!(alarm.rings(Instant(20), Instant(20)), Rung::Tick);
        // The tick may lead to another.
        assert_eq!(alarm.want(at(30)), at(30));
        assert_eq!(alarm.want(None), None);
        assert_eq!(alarm.rings(Instant(30), Instant(30)), Rung::Nothing);
        assert_eq!(alarm.want(at(40)), at(40));
    }

    #[test]
    fn an_earlier_alarm_takes_the_place_of_one_that_is_set() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.want(at(20)), at(20));
        assert_eq!(alarm.want(at(10)), at(10));
        assert_eq!(alarm.want(at(15)), None);
        assert_eq!(
            alarm.rings(Instant(10), Instant(10)),
            Rung::Again(Instant(15))
        );
        assert_eq!(alarm.rings(Instant(15), Instant(16)), Rung::Tick);
        assert_eq!(alarm.rings(Instant(20), Instant(20)), Rung::Nothing);
    }

    #[test]
    fn alarms_go_off_in_order_when_it_is_time() {
        let id = |n| TopicIdPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(n));
        let alarms = Alarms::default();
        for (time, n) in [(30, 1), (10, 2), (20, 3), (10, 4)] {
            alarms.set(Instant(time), id(n));
        }
        assert_eq!(alarms.due(Instant(9)), []);
        let due: Vec<_> = alarms.due(Instant(20)).iter().map(|due| due.1).collect();
        assert_eq!(due, [id(2), id(4), id(3)]);
        assert_eq!(alarms.due(Instant(100)), [(Instant(30), id(1))]);
    }
}
