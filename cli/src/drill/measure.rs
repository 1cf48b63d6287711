//! What one round of a drill measures. Pure: events with their times in, durations out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_model::Instant;
use ottla_proto::v1::ClusterView;
use serde::{Serialize, Serializer};

use super::Target;

/// The longest time, over several partitions, between two events of one.
#[derive(Debug, Clone)]
pub struct PauseMeter {
    last: Vec<Instant>,
    longest: Duration,
}

impl PauseMeter {
    pub fn new(partitions: usize, now: Instant) -> PauseMeter {
        PauseMeter {
            last: vec![now; partitions],
            longest: Duration::ZERO,
        }
    }

    /// Notes an event of a partition.
    pub fn event(&mut self, partition: usize, now: Instant) {
        let last = &mut self.last[partition];
        self.longest = self.longest.max(now.since(*last));
        *last = now.max(*last);
    }

    /// Forgets the longest pause, but not the pauses that are under way.
    pub fn begin(&mut self) {
        self.longest = Duration::ZERO;
    }

    /// The longest pause since [`PauseMeter::begin`], those under way included.
    pub fn longest(&self, now: Instant) -> Duration {
        let open = self.last.iter().map(|last| now.since(*last)).max();
        self.longest.max(open.unwrap_or_default())
    }
}

/// The cluster as one broker tells it, kept current from what it pushes.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    active_controller: Option<i32>,
    fenced: BTreeSet<i32>,
    leaders: BTreeMap<usize, Option<i32>>,
}

impl Observer {
    /// Takes in a change. `topic` is the drill's topic; the others are passed over.
    pub fn apply(&mut self, topic: &str, change: &ClusterView) {
        self.active_controller = change.active_controller_id;
        for broker in &change.brokers {
            if broker.fenced {
                self.fenced.insert(broker.node_id);
            } else {
                self.fenced.remove(&broker.node_id);
            }
        }
        for view in change.topics.iter().filter(|view| view.name == topic) {
            for partition in &view.partitions {
                if let Ok(index) = usize::try_from(partition.partition) {
                    self.leaders.insert(index, partition.leader_id);
                }
            }
        }
    }
}

/// A round under way: something was killed, and what follows is timed from then.
#[derive(Debug)]
pub struct RoundWatch {
    target: Target,
    victim: i32,
    killed_at: Instant,
    /// When the victim was surely dead: only records sent after it count as acknowledged anew.
    dead_at: Option<Instant>,
    /// The partitions that the victim led and whose next acknowledgement is awaited.
    awaited: BTreeSet<usize>,
    affected: BTreeSet<usize>,
    detected: Option<Duration>,
    elected: Option<Duration>,
    first_acknowledged: Option<Duration>,
}

impl RoundWatch {
    /// Begins a round just before the kill. `affected` are the partitions the victim leads.
    pub fn new(
        target: Target,
        victim: i32,
        killed_at: Instant,
        affected: BTreeSet<usize>,
    ) -> RoundWatch {
        RoundWatch {
            target,
            victim,
            killed_at,
            dead_at: None,
            awaited: affected.clone(),
            affected,
            detected: None,
            elected: None,
            first_acknowledged: None,
        }
    }

    /// The victim is surely dead.
    pub fn died(&mut self, now: Instant) {
        assert!(
            self.killed_at <= now,
            "{:?} is after {now:?}",
            self.killed_at
        );
        self.dead_at = Some(now);
    }

    pub fn victim(&self) -> i32 {
        self.victim
    }

    /// Looks at what a surviving broker knows at `now`. The first to know counts.
    pub fn observe(&mut self, observer: &Observer, now: Instant) {
        let (detected, elected) = match self.target {
            Target::Controller => {
                let moved = observer.active_controller != Some(self.victim);
                (moved, moved && observer.active_controller.is_some())
            }
            Target::Broker => {
                let leaders = self.affected.iter().map(|p| observer.leaders.get(p));
                let left = |leader: Option<&Option<i32>>| leader != Some(&Some(self.victim));
                let led = |leader: Option<&Option<i32>>| {
                    leader.is_some_and(|leader| leader.is_some_and(|id| id != self.victim))
                };
                (
                    observer.fenced.contains(&self.victim) || leaders.clone().any(left),
                    leaders.clone().all(led),
                )
            }
        };
        let since = now.since(self.killed_at);
        if detected {
            self.detected.get_or_insert(since);
        }
        if elected {
            self.elected.get_or_insert(since);
        }
    }

    /// Notes an acknowledgement of a record sent at `sent_at`.
    pub fn acknowledged(&mut self, partition: usize, sent_at: Instant, now: Instant) {
        let after_death = self.dead_at.is_some_and(|dead_at| sent_at >= dead_at);
        if !after_death || !self.awaited.remove(&partition) {
            return;
        }
        if self.awaited.is_empty() {
            self.first_acknowledged = Some(now.since(self.killed_at));
        }
    }

    /// Whether everything that the round waits for, health apart, has happened.
    pub fn is_complete(&self) -> bool {
        self.dead_at.is_some() && self.has_recovered()
    }

    fn has_recovered(&self) -> bool {
        self.detected.is_some() && self.elected.is_some() && self.awaited.is_empty()
    }

    /// What has not happened yet, in words.
    pub fn missing(&self) -> String {
        let mut missing = Vec::new();
        if self.detected.is_none() {
            missing.push("nobody noticed the death".to_owned());
        }
        if self.elected.is_none() {
            missing.push("no new leaders were elected".to_owned());
        }
        if !self.awaited.is_empty() {
            let partitions: Vec<usize> = self.awaited.iter().copied().collect();
            let partitions = crate::output::joined(&partitions);
            missing.push(format!("partitions {partitions} acknowledge nothing"));
        }
        missing.join(", ")
    }

    /// The round's result, once the cluster is healthy again.
    pub fn finish(&self, number: u32, felt: Felt, healthy_at: Instant) -> Round {
        Round {
            round: number,
            victim: self.victim,
            affected_partitions: self.affected.len(),
            detected: self.detected,
            elected: self.elected,
            first_acknowledged: self.first_acknowledged,
            write_pause: felt.write_pause,
            read_pause: felt.read_pause,
            healthy: healthy_at.since(self.killed_at),
        }
    }
}

/// What writers and readers felt during a round: their longest pauses in any partition.
#[derive(Debug, Clone, Copy)]
pub struct Felt {
    pub write_pause: Duration,
    pub read_pause: Duration,
}

/// The result of a round. Times count from the kill, except the pauses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Round {
    pub round: u32,
    /// The node that was killed.
    pub victim: i32,
    /// How many of the drill's partitions it led.
    pub affected_partitions: usize,
    /// Until a surviving broker knew that the victim was gone.
    #[serde(rename = "detected_ms", serialize_with = "optional_milliseconds")]
    pub detected: Option<Duration>,
    /// Until a surviving broker knew the new active controller, or all new leaders.
    #[serde(rename = "elected_ms", serialize_with = "optional_milliseconds")]
    pub elected: Option<Duration>,
    /// Until each affected partition had acknowledged a record sent after the kill; absent if
    /// none was affected.
    #[serde(
        rename = "first_acknowledged_ms",
        serialize_with = "optional_milliseconds"
    )]
    pub first_acknowledged: Option<Duration>,
    #[serde(rename = "write_pause_ms", serialize_with = "milliseconds")]
    pub write_pause: Duration,
    #[serde(rename = "read_pause_ms", serialize_with = "milliseconds")]
    pub read_pause: Duration,
    /// Until every replica was in sync again, the victim restarted.
    #[serde(rename = "healthy_ms", serialize_with = "milliseconds")]
    pub healthy: Duration,
}

impl Round {
    /// The time an objective is about: until writes went on, or, where the kill affected no
    /// partition, until the new controller was active.
    pub fn objective(&self) -> Option<Duration> {
        self.first_acknowledged.or(self.elected)
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

fn optional_milliseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

/// Percentiles of one measurement over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spread {
    #[serde(rename = "p50_ms", serialize_with = "milliseconds")]
    pub p50: Duration,
    #[serde(rename = "p99_ms", serialize_with = "milliseconds")]
    pub p99: Duration,
    #[serde(rename = "max_ms", serialize_with = "milliseconds")]
    pub max: Duration,
}

impl Spread {
    /// The spread of some durations by nearest rank: with few rounds p99 is the largest.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Option<Spread> {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied()
        };
        Some(Spread {
            p50: rank(50)?,
            p99: rank(99)?,
            max: *sorted.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use ottla_proto::v1::{BrokerView, PartitionView, TopicView};

    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant(milliseconds * 1_000_000)
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn change(active: Option<i32>, fenced: &[i32], leaders: &[(i32, Option<i32>)]) -> ClusterView {
        let partition = |(partition, leader_id): &(i32, Option<i32>)| PartitionView {
            partition: *partition,
            leader_id: *leader_id,
            ..PartitionView::default()
        };
        let broker = |node_id: &i32| BrokerView {
            node_id: *node_id,
            fenced: true,
            ..BrokerView::default()
        };
        ClusterView {
            active_controller_id: active,
            brokers: fenced.iter().map(broker).collect(),
            topics: vec![TopicView {
                name: "drill".to_owned(),
                partitions: leaders.iter().map(partition).collect(),
                ..TopicView::default()
            }],
            ..ClusterView::default()
        }
    }

    #[test]
    fn the_longest_pause_spans_the_start_of_a_round_and_counts_while_it_lasts() {
        let mut meter = PauseMeter::new(2, at(0));
        meter.event(0, at(500));
        meter.event(1, at(900));
        meter.begin();
        meter.event(0, at(1_000));
        assert_eq!(
            meter.longest(at(1_000)),
            ms(500),
            "0 paused from 500 to 1,000"
        );
        assert_eq!(meter.longest(at(1_700)), ms(800), "1 has paused since 900");
    }

    #[test]
    fn a_broker_round_is_elected_when_every_affected_partition_has_another_leader() {
        let mut round = RoundWatch::new(Target::Broker, 2, at(100), [0, 1].into());
        let mut observer = Observer::default();
        observer.apply(
            "drill",
            &change(Some(1), &[], &[(0, Some(2)), (1, Some(2))]),
        );
        round.observe(&observer, at(110));
        assert_eq!(round.detected, None);
        observer.apply("drill", &change(Some(1), &[2], &[(0, Some(3))]));
        round.observe(&observer, at(120));
        assert_eq!((round.detected, round.elected), (Some(ms(20)), None));
        observer.apply("drill", &change(Some(1), &[], &[(1, Some(3))]));
        round.observe(&observer, at(130));
        round.observe(&observer, at(140));
        assert_eq!(
            (round.detected, round.elected),
            (Some(ms(20)), Some(ms(30)))
        );
        assert!(!round.is_complete());
    }

    #[test]
    fn acknowledgements_of_records_sent_before_the_death_do_not_count() {
        let mut round = RoundWatch::new(Target::Broker, 2, at(100), [0, 1].into());
        round.acknowledged(0, at(101), at(102));
        round.died(at(105));
        round.acknowledged(0, at(99), at(106));
        round.acknowledged(0, at(104), at(106));
        round.acknowledged(0, at(106), at(200));
        round.acknowledged(1, at(106), at(300));
        assert_eq!(
            round.first_acknowledged,
            Some(ms(200)),
            "the slowest partition counts"
        );
    }

    #[test]
    fn a_controller_round_tells_that_it_is_gone_from_who_came() {
        let mut round = RoundWatch::new(Target::Controller, 1, at(0), BTreeSet::new());
        let mut observer = Observer::default();
        observer.apply("drill", &change(Some(1), &[], &[]));
        round.observe(&observer, at(10));
        observer.apply("drill", &change(None, &[], &[]));
        round.observe(&observer, at(20));
        observer.apply("drill", &change(Some(3), &[], &[]));
        round.observe(&observer, at(30));
        assert!(!round.is_complete(), "the kill is under way");
        round.died(at(31));
        assert!(round.is_complete());
        let felt = Felt {
            write_pause: ms(1),
            read_pause: ms(2),
        };
        let result = round.finish(1, felt, at(500));
        assert_eq!(
            (result.detected, result.elected),
            (Some(ms(20)), Some(ms(30)))
        );
        assert_eq!(result.objective(), Some(ms(30)));
    }

    #[test]
    fn a_spread_is_by_nearest_rank() {
        let spread = Spread::of((1..=100).map(ms)).unwrap();
        assert_eq!(
            (spread.p50, spread.p99, spread.max),
            (ms(50), ms(99), ms(100))
        );
        assert_eq!(Spread::of([ms(7)]).map(|s| s.p99), Some(ms(7)));
        assert_eq!(Spread::of([]), None);
    }
}
