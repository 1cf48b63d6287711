//! Random work, and the power going at any point of it: what was flushed is there, nothing that
//! was cut or deleted comes back, and the log is always one that the calls led to.

use super::*;

/// The state of one log after some number of calls.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    exists: bool,
    log_start: i64,
    log_end: i64,
    batches: Vec<Bytes>,
}

impl Model {
    fn none() -> Model {
        Model {
            exists: false,
            log_start: 0,
            log_end: 0,
            batches: Vec::new(),
        }
    }

    fn cut(&mut self, to: i64) {
        if to >= self.log_end {
            return;
        }
        let mut end = to;
        while let Some(last) = self.batches.last() {
            let header = BatchHeader::decode(last).unwrap();
            if header.next_offset().0 <= end {
                break;
            }
            end = end.min(header.base_offset.0);
            self.batches.pop();
        }
        if end <= self.log_start {
            self.restart(to.min(self.log_start));
        } else {
            self.log_end = end;
        }
    }

    fn restart(&mut self, at: i64) {
        self.batches.clear();
        self.log_start = at;
        self.log_end = at;
    }

    /// Batches that a reader from the log's start sees.
    fn readable(&self) -> Vec<Bytes> {
        let ends_behind =
            |batch: &&Bytes| BatchHeader::decode(batch).unwrap().next_offset().0 > self.log_start;
        self.batches.iter().filter(ends_behind).cloned().collect()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Everything a log has been, with the ticket of the last append at each point.
struct History {
    id: TopicIdPartition,
    states: Vec<Model>,
    /// States before it can no longer be what a crash leaves.
    durable: usize,
    /// For each ticket, the state it led to.
    tickets: Vec<(u64, usize)>,
}

impl History {
    fn current(&self) -> &Model {
        self.states.last().unwrap()
    }

    fn next(&mut self, change: impl FnOnce(&mut Model)) {
        let mut model = self.current().clone();
        change(&mut model);
        self.states.push(model);
    }

    fn note_flushed(&mut self, ticket: Option<u64>) {
        for (given, state) in &self.tickets {
            if ticket.is_some_and(|ticket| *given <= ticket) {
                self.durable = self.durable.max(*state);
            }
        }
    }
}

struct World {
    disk: SimDisk,
    random: Random,
    logs: Vec<History>,
    ticket: u64,
    epoch: i32,
}

impl World {
    fn new(seed: u64) -> World {
        let history = |n| History {
            id: id(n),
            states: vec![Model::none()],
            durable: 0,
            tickets: Vec::new(),
        };
        World {
            disk: SimDisk::new(),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            logs: (0..3).map(history).collect(),
            ticket: 0,
            epoch: 0,
        }
    }

    /// One call. An error means that storage is gone; the call may or may not have an effect.
    fn step(&mut self, store: &TestStore) -> Result<(), LogError> {
        let which = self.random.below(self.logs.len() as u64) as usize;
        let id = self.logs[which].id;
        let Some(log) = store.get(id) else {
            self.logs[which].next(|model| model.exists = true);
            return store.get_or_create(id, settings()).map(|_| ());
        };
        match self.random.below(40) {
            0..27 => self.append(which, &log),
            27..32 => {
                let end = log.log_end().0;
                let to = (end - self.random.below(12) as i64).max(0);
                self.logs[which].next(|model| model.cut(to));
                log.truncate(Offset(to))
            }
            32 => {
                let at = self.random.below(100) as i64;
                self.logs[which].next(|model| model.restart(at));
                log.restart_at(Offset(at))
            }
            33..36 => {
                let to = log.log_end().0 - self.random.below(20) as i64;
                self.logs[which].next(|model| model.log_start = model.log_start.max(to));
                log.advance_log_start(Offset(to))
            }
            36 => {
                self.logs[which].next(|model| *model = Model::none());
                let deleted = if self.random.below(2) == 0 {
                    store.delete(id)
                } else {
                    store.set_aside(id).map(|_| ())
                };
                if deleted.is_ok() {
                    self.logs[which].durable = self.logs[which].states.len() - 1;
                }
                deleted
            }
            37 => {
                store.request_checkpoint();
                Ok(())
            }
            _ => {
                if self.ticket > 0 && store.told.ticket(id).is_some() {
                    let last = self.logs[which].tickets.last().map(|(ticket, _)| *ticket);
                    if let Some(last) = last {
                        store.told.wait_for(id, last);
                    }
                }
                Ok(())
            }
        }
    }

    fn append(&mut self, which: usize, log: &PartitionLog) -> Result<(), LogError> {
        let mut bytes = Vec::new();
        let mut batches = Vec::new();
        let mut base = log.log_end().0;
        self.epoch += i32::from(self.random.below(8) == 0);
        for _ in 0..=self.random.below(3) {
            let count = 1 + self.random.below(4) as i64;
            let size = 20 + self.random.below(900) as usize;
            let batch = batch_at(base, self.epoch, count, size, self.ticket as i64);
            bytes.extend_from_slice(&batch);
            batches.push(batch);
            base += count;
        }
        self.ticket += 1;
        let history = &mut self.logs[which];
        history.next(|model| {
            model.batches.extend(batches);
            model.log_end = base;
        });
        let state = history.states.len() - 1;
        history.tickets.push((self.ticket, state));
        log.append(self.ticket, Bytes::from(bytes))
    }

    /// Works until the power goes or enough is done. Returns whether the store may be asked on.
    fn live(&mut self, store: &TestStore, steps: u64) {
        for _ in 0..steps {
            if self.step(store).is_err() {
                break;
            }
        }
        for history in &mut self.logs {
            history.note_flushed(store.told.ticket(history.id));
        }
    }

    /// Each log must be what it was at a point that is not before what was flushed; from there it
    /// goes on.
    fn check(&mut self, store: &TestStore, context: &str) {
        assert!(
            store.damage().logs.is_empty(),
            "{context}: {:?}",
            store.damage().logs
        );
        for history in &mut self.logs {
            let found = match store.get(history.id) {
                None => Model::none(),
                Some(log) => Model {
                    exists: true,
                    log_start: log.log_start().0,
                    log_end: log.log_end().0,
                    batches: read_all(&log).unwrap_or_else(|error| panic!("{context}: {error}")),
                },
            };
            let fits = |model: &Model| {
                model.exists == found.exists
                    && model.log_start == found.log_start
                    && model.log_end == found.log_end
                    && model.readable() == found.batches
            };
            let possible = &history.states[history.durable..];
            let Some(_) = possible.iter().rposition(fits) else {
                let show = |model: &Model| {
                    let bases: Vec<_> = model.readable().iter().map(|b| base_of(b)).collect();
                    format!(
                        "{} {}..{} {bases:?}",
                        model.exists, model.log_start, model.log_end
                    )
                };
                let possible: Vec<_> = possible.iter().map(show).collect();
                panic!(
                    "{context}: {} is {}, not one of {possible:#?}",
                    history.id,
                    show(&found)
                );
            };
            check_epochs(store, history.id, &found);
            *history = History {
                id: history.id,
                states: vec![found],
                durable: 0,
                tickets: Vec::new(),
            };
        }
    }
}

/// The epochs are those that the batches carry.
fn check_epochs(store: &TestStore, id: TopicIdPartition, found: &Model) {
    let Some(log) = store.get(id) else { return };
    let mut expected: Vec<(LeaderEpoch, Offset)> = Vec::new();
    for batch in &found.batches {
        let header = BatchHeader::decode(batch).unwrap();
        if expected
            .last()
            .is_none_or(|last| last.0 < header.leader_epoch)
        {
            let start = header.base_offset.max(Offset(found.log_start));
            expected.push((header.leader_epoch, start));
        }
    }
    if !expected.is_empty() {
        assert_eq!(log.epochs(), expected, "{id}");
    }
}

fn run(seed: u64, lives: u64) {
    let mut world = World::new(seed);
    for life in 0..lives {
        let context = format!("seed {seed}, life {life}");
        let store = open(&world.disk);
        world.check(&store, &context);
        // Sometimes the power goes in the middle, sometimes right after the last call, and
        // sometimes the process only dies, or ends in order.
        let end = world.random.below(4);
        if end < 2 {
            let after = 1 + world.random.below(150);
            world.disk.lose_power_after(after);
        }
        let steps = 20 + world.random.below(120);
        world.live(&store, steps);
        if end == 3 && world.random.below(2) == 0 {
            store.shutdown().unwrap();
            for history in &mut world.logs {
                history.durable = history.states.len() - 1;
            }
        }
        if end < 3 {
            world.disk.lose_power_after(0);
        }
        // Whatever was told until the store is gone counts.
        let told = store.told.clone();
        drop(store);
        for history in &mut world.logs {
            history.note_flushed(told.ticket(history.id));
        }
        match end {
            0 => world.disk.crash(),
            1 | 2 => {
                let seed = world.random.below(1 << 30);
                world.disk.crash_keeping_some(seed);
            }
            _ => {}
        }
        // Power may go while the store recovers, too.
        if world.random.below(3) == 0 {
            let after = world.random.below(40);
            world.disk.lose_power_after(after);
            drop(try_open(&world.disk, config()));
            let seed = world.random.below(1 << 30);
            world.disk.crash_keeping_some(seed);
        }
    }
    let store = open(&world.disk);
    world.check(&store, &format!("seed {seed}, at the end"));
}

#[test]
fn a_store_is_always_one_that_the_calls_led_to() {
    for seed in 0..100 {
        run(seed, 6);
    }
}
