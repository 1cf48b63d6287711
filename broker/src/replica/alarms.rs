//! When which replica's core wants to be ticked. A broker may have tens of thousands of replicas
//! that want nothing, so they are not asked: each sets an alarm. What a core wants changes with
//! nearly every record and mostly to a later time, so an alarm that is set stays, and is set anew
//! once it has gone off.

use std::collections::BTreeSet;

use ottla_model::{Instant, TopicIdPartition};
use parking_lot::Mutex;

/// The alarms of all replicas of a broker, one for each at most.
#[derive(Debug, Default)]
pub struct Alarms {
    queue: Mutex<BTreeSet<(Instant, TopicIdPartition)>>,
}

impl Alarms {
    /// Sets a replica's alarm, instead of the one that was set. Called with the replica's lock
    /// held, so that alarms are set in the order in which they were wanted.
    pub fn set(&self, id: TopicIdPartition, Setting { at, instead_of }: Setting) {
        let mut queue = self.queue.lock();
        if let Some(before) = instead_of {
            queue.remove(&(before, id));
        }
        queue.insert((at, id));
    }

    /// Takes those that go off by now, with what they were set for.
    pub fn due(&self, now: Instant) -> Vec<(Instant, TopicIdPartition)> {
        let mut due = Vec::new();
        let mut queue = self.queue.lock();
        while let Some(first) = queue.first().copied()
            && first.0 <= now
        {
            queue.remove(&first);
            due.push(first);
        }
        due
    }
}

/// What a replica's alarm is to be set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub at: Instant,
    pub instead_of: Option<Instant>,
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
    /// To be set again.
    Again(Setting),
    /// Another one is set, or none is wanted any more.
    Nothing,
}

impl Alarm {
    /// The core wants its next tick then. Returns what an alarm is to be set for.
    pub fn want(&mut self, wanted: Option<Instant>) -> Option<Setting> {
        self.wanted = wanted;
        let at = wanted.filter(|wanted| self.set.is_none_or(|set| *wanted < set))?;
        let instead_of = self.set.replace(at);
        Some(Setting { at, instead_of })
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

    const fn setting(number: u64, instead_of: Option<Instant>) -> Setting {
        let at = Instant(number);
        Setting { at, instead_of }
    }

    #[test]
    fn an_alarm_is_set_once_and_again_where_more_time_is_wanted_by_then() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.want(None), None);
        assert_eq!(alarm.want(at(10)), Some(setting(10, None)));
        assert_eq!(alarm.want(at(20)), None);
        let rung = alarm.rings(Instant(10), Instant(11));
        assert_eq!(rung, Rung::Again(setting(20, None)));
        assert_eq!(alarm.rings(Instant(20), Instant(20)), Rung::Tick);
        // The tick may lead to another.
        assert_eq!(alarm.want(at(30)), Some(setting(30, None)));
        assert_eq!(alarm.want(None), None);
        assert_eq!(alarm.rings(Instant(30), Instant(30)), Rung::Nothing);
        assert_eq!(alarm.want(at(40)), Some(setting(40, None)));
    }

    #[test]
    fn an_earlier_alarm_takes_the_place_of_one_that_is_set() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.want(at(20)), Some(setting(20, None)));
        assert_eq!(alarm.want(at(10)), Some(setting(10, at(20))));
        assert_eq!(alarm.want(at(15)), None);
        let rung = alarm.rings(Instant(10), Instant(10));
        assert_eq!(rung, Rung::Again(setting(15, None)));
        assert_eq!(alarm.rings(Instant(15), Instant(16)), Rung::Tick);
        // One that was taken from the queue just before it was replaced.
        assert_eq!(alarm.rings(Instant(20), Instant(20)), Rung::Nothing);
    }

    #[test]
    fn alarms_go_off_in_order_when_it_is_time() {
        let id = |n| TopicIdPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(n));
        let alarms = Alarms::default();
        for (time, n) in [(30, 1), (10, 2), (20, 3), (10, 4)] {
            alarms.set(id(n), setting(time, None));
        }
        assert_eq!(alarms.due(Instant(9)), []);
        let due: Vec<_> = alarms.due(Instant(20)).iter().map(|due| due.1).collect();
        assert_eq!(due, [id(2), id(4), id(3)]);
        assert_eq!(alarms.due(Instant(100)), [(Instant(30), id(1))]);
    }

    /// A change of the ISR that is tried ten times a second, beside a request that may wait for
    /// half a minute, once left an alarm of that request's behind with each try.
    #[test]
    fn a_replica_that_wants_now_this_and_now_that_has_one_alarm() {
        let id = TopicIdPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0));
        let (alarms, mut alarm) = (Alarms::default(), Alarm::default());
        for now in 0..100 {
            for wanted in [30_000, now + 1] {
                if let Some(setting) = alarm.want(at(wanted)) {
                    alarms.set(id, setting);
                }
            }
            for (set_for, _) in alarms.due(Instant(now + 1)) {
                assert_eq!(alarm.rings(set_for, Instant(now + 1)), Rung::Tick);
            }
            assert!(alarms.queue.lock().len() <= 1, "at {now}");
        }
    }
}
