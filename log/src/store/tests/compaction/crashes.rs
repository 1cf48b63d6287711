//! The power goes at every single operation on the disk of a log that is written, compacted,
//! trimmed and aged; and at random ones of random histories.

use super::*;

/// What was asked of a log, and how far it is known to have become durable.
#[derive(Default)]
struct Witness {
    /// Every record that was ever appended, by offset. Never changes.
    appended: BTreeMap<i64, (String, Option<String>)>,
    /// Offsets that a reader found gone after a compaction or a trim that had succeeded.
    removed: BTreeSet<i64>,
    /// The log's start that was durable, and the one asked for.
    durable_start: i64,
    asked_start: i64,
    /// Everything below was durable.
    durable_end: i64,
    /// Tombstones may be gone once their time is over.
    now: i64,
    ticket: u64,
    /// The log's end by ticket.
    ends: BTreeMap<u64, i64>,
    /// The log's start by ticket.
    starts: BTreeMap<u64, i64>,
}

impl Witness {
    fn append(
        &mut self,
        log: &PartitionLog,
        records: &[(String, Option<String>)],
    ) -> Result<(), LogError> {
        let base = log.log_end().0;
        let given: Vec<Keyed<'_>> = records
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_deref()))
            .collect();
        let compression = Compression::ALL[(base % 5) as usize];
        for (offset, record) in (base..).zip(records) {
            self.appended.insert(offset, record.clone());
        }
        self.ticket += 1;
        self.ends.insert(self.ticket, base + records.len() as i64);
        log.append(self.ticket, keyed_batch(base, compression, -1, &given))
    }

    fn trim(&mut self, log: &PartitionLog, to: i64) -> Result<(), LogError> {
        self.asked_start = self.asked_start.max(to);
        self.ticket += 1;
        self.starts.insert(self.ticket, to);
        log.advance_log_start_told(self.ticket, Offset(to))
    }

    /// Takes over what the store said was durable.
    fn note_told(&mut self, told: Option<u64>) {
        let Some(told) = told else { return };
        for (_, end) in self.ends.range(..=told) {
            self.durable_end = self.durable_end.max(*end);
        }
        for (_, start) in self.starts.range(..=told) {
            self.durable_start = self.durable_start.max(*start);
        }
    }

    fn note_removed(&mut self, log: &PartitionLog) {
        let Ok(batches) = read_all(log) else { return };
        let mut there = BTreeSet::new();
        for batch in batches {
            let records = decode_records(&batch, 1 << 20).unwrap();
            there.extend(records.iter().map(|record| record.offset.0));
        }
        let gone = (0..log.log_end().0).filter(|offset| !there.contains(offset));
        self.removed.extend(gone);
    }

    /// What a restart found must be what was promised; from there it goes on.
    fn check(&mut self, log: &PartitionLog, context: &str) {
        let (start, end) = (log.log_start().0, log.log_end().0);
        assert!(
            end >= self.durable_end,
            "{context}: ends at {end}, not {}",
            self.durable_end
        );
        assert!(
            (self.durable_start..=self.asked_start).contains(&start),
            "{context}: starts at {start}, not from {} to {}",
            self.durable_start,
            self.asked_start
        );
        let found = values(log);
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        for (offset, (key, _)) in self.appended.range(..end) {
            newest.insert(key.clone(), *offset);
        }
        for (offset, key, value) in &found {
            let expected = &self.appended[offset];
            assert_eq!(
                (key, value),
                (&expected.0, &expected.1),
                "{context}: at {offset}"
            );
            assert!(
                *offset >= start,
                "{context}: {offset} is below the start {start}"
            );
            assert!(
                !self.removed.contains(offset),
                "{context}: {offset} came back"
            );
        }
        // What is kept of the producers is gone on from with all that was ever written behind it.
        let upto = log.saved_producers().map_or(end, |saved| saved.upto.0);
        for (offset, _) in self.appended.range(upto.max(start)..end) {
            assert!(
                found.iter().any(|(found, ..)| found == offset),
                "{context}: {offset} was compacted, but producers are kept up to {upto}"
            );
        }
        for (key, offset) in newest.into_iter().filter(|(_, offset)| *offset >= start) {
            let is_tombstone = self.appended[&offset].1.is_none();
            let is_there = found.iter().any(|(found, ..)| *found == offset);
            assert!(
                is_there || is_tombstone,
                "{context}: {key} at {offset} is lost"
            );
        }
        self.appended.retain(|offset, _| *offset < end);
        (self.durable_end, self.durable_start, self.asked_start) = (end, start, start);
        (self.ends, self.starts) = (BTreeMap::new(), BTreeMap::new());
        self.ticket = 0;
    }
}

fn record(n: u64) -> (String, Option<String>) {
    let value = format!("{n:0>50}");
    (format!("k{}", n * n % 7), (n % 5 != 4).then_some(value))
}

/// Writes, compacts, trims, ages, cuts nothing. An error means that the power is gone.
fn live(store: &TestStore, witness: &mut Witness, rounds: u64) -> Result<(), LogError> {
    let log = store.get_or_create(id(1), compacted_settings())?;
    let mut compactor = store.compactor();
    for round in 0..rounds {
        let first = log.log_end().0 as u64;
        for n in 0..12 {
            let records = [record(first + 2 * n), record(first + 2 * n + 1)];
            witness.append(&log, &records)?;
            if n == 0 || (n == 10 && round % 3 == 0) {
                // Without power there is nothing to keep.
                drop(log.save_producers(log.moment(), b"producers"));
            }
        }
        if !store.told.wait_for(id(1), witness.ticket) {
            return Err(LogError::Closed);
        }
        wait_for_disk_or_failure(store, &log)?;
        witness.now += 700;
        let now = TimestampMs(10_000 + witness.now);
        let done = compactor.compact(&log, now, log.log_end(), &[])?;
        if done.is_some_and(|done| done.replaced > 0) {
            witness.note_removed(&log);
        }
        match round % 3 {
            0 => {
                let to = log.log_start().0 + 5;
                witness.trim(&log, to)?;
            }
            1 => {
                let small = LogSettings {
                    retention_bytes: Some(1500),
                    ..compacted_settings()
                };
                log.set_settings(small);
                if let Some(to) = log.retained_from(now, log.log_end())? {
                    witness.trim(&log, to.0)?;
                }
                log.set_settings(compacted_settings());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Waits for a checkpoint of everything, or for the power to go.
fn wait_for_disk_or_failure(store: &TestStore, log: &PartitionLog) -> Result<(), LogError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(failure) = store.shared.failure() {
            return Err(failure.clone());
        }
        let followed = {
            let state = log.lock();
            state.physical.end == state.log_end
        };
        if followed {
            if is_checkpointed(store, log) {
                return Ok(());
            }
            store.request_checkpoint();
        }
        assert!(
            Instant::now() < deadline,
            "neither a checkpoint nor a failure"
        );
        std::thread::yield_now();
    }
}

fn power_goes_after(operations: u64, seed: u64, rounds: u64) -> bool {
    let disk = SimDisk::new();
    let mut witness = Witness::default();
    let store = try_open(&disk, quick()).unwrap();
    // The log is there before anything is at stake.
    live(&store, &mut witness, 1).unwrap();
    disk.lose_power_after(operations);
    let went = live(&store, &mut witness, rounds).is_err();
    let told = store.told.clone();
    disk.lose_power_after(0);
    drop(store);
    witness.note_told(told.ticket(id(1)));
    match seed {
        0 => disk.crash(),
        seed => disk.crash_keeping_some(seed),
    }
    let context = format!("power gone after {operations} operations, seed {seed}");
    // Again while it recovers.
    disk.lose_power_after(operations % 17);
    drop(try_open(&disk, quick()));
    disk.crash_keeping_some(seed + 1);
    let store = try_open(&disk, quick()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(
        store.damage().logs.is_empty(),
        "{context}: {:?}",
        store.damage().logs
    );
    let log = store.get(id(1)).unwrap();
    witness.check(&log, &context);
    // What goes on over it holds as well.
    live(&store, &mut witness, 2).unwrap();
    witness.note_told(store.told.ticket(id(1)));
    crash(&disk, store);
    let store = try_open(&disk, quick()).unwrap();
    assert!(
        store.damage().logs.is_empty(),
        "{context}: {:?}",
        store.damage().logs
    );
    witness.check(&store.get(id(1)).unwrap(), &context);
    went
}

#[test]
fn the_power_may_go_at_every_operation_of_a_compaction() {
    let mut operations = 0;
    while power_goes_after(operations, operations % 4, 4) {
        operations += 1;
    }
    assert!(operations > 60, "only {operations} operations were tried");
}

#[test]
fn the_power_may_go_in_the_middle_of_many_compactions() {
    for seed in 1..60 {
        power_goes_after(seed * 7 % 260, seed * 31, 6);
    }
}
