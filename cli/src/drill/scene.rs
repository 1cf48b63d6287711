//! What the writers, the reader and the watchers of a drill share: where each notes what it saw,
//! with the time it saw it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ottla_client::v1::ClusterView;
use ottla_model::Instant;

use super::Target;
use super::audit::{Ledger, ReadBack, Seen};
use super::measure::{Felt, Observer, PauseMeter, RoundWatch};

/// The shared state of a drill. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scene {
    origin: std::time::Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    live: ReadBack,
    writes: PauseMeter,
    reads: PauseMeter,
    round: Option<RoundWatch>,
    refusals: u64,
    /// The last reason for which a record was given up.
    last_refusal: Option<String>,
}

impl Scene {
    pub fn new(partitions: usize) -> Scene {
        Scene {
            origin: std::time::Instant::now(),
            state: Arc::new(Mutex::new(State {
                ledger: Ledger::new(partitions),
                live: ReadBack::new(partitions),
                writes: PauseMeter::new(partitions, Instant::ZERO),
                reads: PauseMeter::new(partitions, Instant::ZERO),
                round: None,
                refusals: 0,
                last_refusal: None,
            })),
        }
    }

    /// The drill's clock.
    pub fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// Nothing panics while it holds the lock for longer than a note, so a poisoned one is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next sequence number of a partition; its record is about to be sent.
    pub fn next_sequence(&self, partition: usize) -> u64 {
        self.state().ledger.next_sequence(partition)
    }

    /// A record sent at `sent_at` was acknowledged just now.
    pub fn acknowledged(
        &self,
        partition: usize,
        sequence: u64,
        offset: Option<i64>,
        sent_at: Instant,
    ) {
        let now = self.now();
        let mut state = self.state();
        state.ledger.acknowledge(partition, sequence, offset);
        state.writes.event(partition, now);
        if let Some(round) = &mut state.round {
            round.acknowledged(partition, sent_at, now);
        }
    }

    /// A record was given up; `definite` if it is surely not in the log.
    pub fn given_up(&self, partition: usize, sequence: u64, definite: bool, reason: String) {
        let mut state = self.state();
        state.refusals += 1;
        state.last_refusal = Some(reason);
        if definite {
            state.ledger.refuse(partition, sequence);
        }
    }

    /// The reader saw a record just now.
    pub fn read(&self, partition: usize, seen: Seen) {
        let now = self.now();
        let mut state = self.state();
        state.live.see(partition, seen);
        state.reads.event(partition, now);
    }

    /// A broker told of the cluster just now.
    pub fn observed(&self, by: i32, topic: &str, observer: &mut Observer, change: &ClusterView) {
        let now = self.now();
        observer.apply(topic, change);
        let mut state = self.state();
        // What the victim itself still managed to tell does not count.
        if let Some(round) = state.round.as_mut().filter(|round| round.victim() != by) {
            round.observe(observer, now);
        }
    }

    /// Begins a round just before the kill.
    pub fn begin_round(&self, target: Target, victim: i32, affected: BTreeSet<usize>) {
        let now = self.now();
        let mut state = self.state();
        state.writes.begin();
        state.reads.begin();
        state.round = Some(RoundWatch::new(target, victim, now, affected));
    }

    /// The victim is surely dead.
    pub fn victim_died(&self) {
        let now = self.now();
        if let Some(round) = &mut self.state().round {
            round.died(now);
        }
    }

    /// What the round still waits for; `None` if for nothing.
    pub fn round_misses(&self) -> Option<String> {
        let state = self.state();
        let round = state.round.as_ref()?;
        (!round.is_complete()).then(|| round.missing())
    }

    /// Ends the round: its measurements, and the longest pauses until now.
    pub fn end_round(&self) -> Option<(RoundWatch, Felt, Instant)> {
        let now = self.now();
        let mut state = self.state();
        let felt = Felt {
            write_pause: state.writes.longest(now),
            read_pause: state.reads.longest(now),
        };
        state.round.take().map(|round| (round, felt, now))
    }

    /// Whether every partition has acknowledged something and been read from.
    pub fn is_flowing(&self) -> bool {
        let state = self.state();
        state.ledger.every_partition_acknowledged() && state.live.every_partition_read()
    }

    pub fn acknowledged_records(&self) -> u64 {
        self.state().ledger.acknowledged()
    }

    /// How many records were given up, and why the last one was.
    pub fn refusals(&self) -> (u64, Option<String>) {
        let state = self.state();
        (state.refusals, state.last_refusal.clone())
    }

    /// What was written, and what the reader saw.
    pub fn books(&self) -> (Ledger, ReadBack) {
        let state = self.state();
        (state.ledger.clone(), state.live.clone())
    }
}
