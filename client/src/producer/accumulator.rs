//! Collects records into one open batch per partition, and says which batches are ready: full,
//! lingered long enough, or flushed. Picks the partition of records without key: it stays with one
//! until its batch is closed (KIP-480). Knows nothing of brokers or sequences.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use ottla_model::batch::{BatchBuilder, BuildError, NewRecord};
use ottla_model::compression::Compression;
use ottla_model::{ErrorCode, Instant, PartitionIndex, TopicId, TopicIdPartition};

use super::completion::Completion;
use crate::error::ProduceError;

/// What records are told that nobody will send any more.
pub(super) const DROPPED: &str = "the producer was dropped before the record was acknowledged";

/// How many partitions are tried at random for one that serves before all are looked at.
const PARTITION_GUESSES: usize = 16;

/// A batch whose records are known and whose sequence is not.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub number: u64,
    pub builder: BatchBuilder,
    pub created: Instant,
    pub completion: Arc<Completion>,
    /// What its records take of the producer's buffer, in bytes.
    pub reserved: usize,
    closed: bool,
}

#[cfg(test)]
impl PendingBatch {
    pub(super) fn closed(
        number: u64,
        builder: BatchBuilder,
        created: Instant,
        completion: Arc<Completion>,
        reserved: usize,
    ) -> PendingBatch {
        PendingBatch {
            number,
            builder,
            created,
            completion,
            reserved,
            closed: true,
        }
    }
}

/// Where a record was put.
#[derive(Debug)]
pub(super) struct Appended {
    pub completion: Arc<Completion>,
    pub index: u32,
    /// Whether the sender has something new to do or to wait for.
    pub wake: bool,
}

#[derive(Debug)]
pub(super) struct Accumulator {
    linger: Duration,
    batch_bytes: usize,
    compression: Compression,
    /// Looked into several times for each record, by keys that nobody hostile chooses.
    partitions: HashMap<TopicIdPartition, VecDeque<PendingBatch>, RandomState>,
    /// Partitions that have a closed batch the sender has not been told of.
    ready: BTreeSet<TopicIdPartition>,
    /// When the open batches have lingered long enough.
    lingering: BTreeSet<(Instant, TopicIdPartition)>,
    sticky: BTreeMap<TopicId, PartitionIndex>,
    /// Whether a batch was closed for want of room that the sender has not been woken for.
    closed_for_room: bool,
    /// How large the batch was that was closed last: the next ones are likely to be.
    usual_bytes: usize,
    /// All batches that are not complete, sent ones among them.
    incomplete: BTreeMap<u64, Arc<Completion>>,
    next_number: u64,
    random: u64,
}

impl Accumulator {
    pub(super) fn new(
        linger: Duration,
        batch_bytes: usize,
        compression: Compression,
        seed: u64,
    ) -> Accumulator {
        Accumulator {
            linger,
            batch_bytes,
            compression,
            partitions: HashMap::default(),
            ready: BTreeSet::new(),
            lingering: BTreeSet::new(),
            sticky: BTreeMap::new(),
            closed_for_room: false,
            usual_bytes: 0,
            incomplete: BTreeMap::new(),
            next_number: 0,
            random: seed | 1,
        }
    }

    /// The partition for a record without key that takes `reserved` bytes: one of the topic's
    /// `count` that `serves`. A batch that has no room for it is closed, and another partition
    /// takes it: it would be alone in the next batch of this one (KIP-480, "onNewBatch").
    pub(super) fn sticky_partition(
        &mut self,
        topic: TopicId,
        reserved: usize,
        count: i32,
        serves: impl Fn(PartitionIndex) -> bool,
    ) -> Option<PartitionIndex> {
        if let Some(index) = self
            .sticky
            .get(&topic)
            .copied()
            .filter(|index| serves(*index))
        {
            let partition = TopicIdPartition::new(topic, index);
            if self.has_room(partition, reserved) || !self.close_open(partition) {
                return Some(index);
            }
            self.closed_for_room = true;
        }
        let index = self.any_partition(count, serves)?;
        self.sticky.insert(topic, index);
        Some(index)
    }

    /// One of `count` partitions that serves, each as likely as any other while most do. A topic
    /// may have thousands, and one is picked for each batch: they are not looked through as long
    /// as a guess may do.
    fn any_partition(
        &mut self,
        count: i32,
        serves: impl Fn(PartitionIndex) -> bool,
    ) -> Option<PartitionIndex> {
        let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
        let serves = |index: &PartitionIndex| serves(*index);
        let mut guesses = std::iter::repeat_with(|| self.next_random() % count)
            .map(|index| PartitionIndex(index as i32))
            .take(PARTITION_GUESSES);
        if let Some(index) = guesses.find(serves) {
            return Some(index);
        }
        let from = self.next_random() % count;
        (from..count)
            .chain(0..from)
            .map(|index| PartitionIndex(index as i32))
            .find(serves)
    }

    /// Adds a record that takes `reserved` bytes of the buffer. The time is asked for only when a
    /// batch is opened.
    pub(super) fn append(
        &mut self,
        now: impl FnOnce() -> Instant,
        to: TopicIdPartition,
        record: &NewRecord<'_>,
        reserved: usize,
    ) -> Result<Appended, BuildError> {
        let mut wake = self.closed_for_room;
        if !self.has_room(to, reserved) {
            self.close_open(to);
            self.open(now(), to);
            wake = true;
        }
        let open = self.partitions.get_mut(&to).and_then(VecDeque::back_mut);
        let Some(batch) = open else {
            return Err(BuildError::Empty);
        };
        let index = batch.builder.record_count() as u32;
        if let Err(error) = batch.builder.push(record) {
            self.drop_if_empty(to);
            return Err(error);
        }
        self.closed_for_room = false;
        batch.reserved += reserved;
        let completion = Arc::clone(&batch.completion);
        if batch.builder.uncompressed_bytes() >= self.batch_bytes {
            wake |= self.close_open(to);
        }
        Ok(Appended {
            completion,
            index,
            wake,
        })
    }

    /// Closes what has lingered, and takes the partitions that became ready since the last call.
    pub(super) fn take_ready(&mut self, now: Instant) -> BTreeSet<TopicIdPartition> {
        while let Some((at, partition)) = self.lingering.first().copied()
            && at <= now
        {
            // Not closed yet: while the partition cannot send, the batch may grow on.
            self.lingering.remove(&(at, partition));
            self.ready.insert(partition);
        }
        std::mem::take(&mut self.ready)
    }

    /// When the next open batch will have lingered long enough.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lingering.first().map(|(at, _)| *at)
    }

    /// Takes a partition's oldest batch if it is ready.
    pub(super) fn take(&mut self, now: Instant, from: TopicIdPartition) -> Option<PendingBatch> {
        let due = self.linger;
        let front = self.partitions.get(&from)?.front()?;
        if !front.closed && front.created + due > now {
            return None;
        }
        self.pop_front(from)
    }

    /// Takes batches created before `before`: too old to be sent.
    pub(super) fn take_expired(
        &mut self,
        before: Instant,
    ) -> Vec<(TopicIdPartition, PendingBatch)> {
        let old = |queue: &VecDeque<PendingBatch>| {
            queue.front().is_some_and(|batch| batch.created <= before)
        };
        let found: BTreeSet<_> = self
            .partitions
            .iter()
            .filter(|(_, q)| old(q))
            .map(|(p, _)| *p)
            .collect();
        let mut expired = Vec::new();
        for partition in found {
            while self.partitions.get(&partition).is_some_and(old)
                && let Some(batch) = self.pop_front(partition)
            {
                expired.push((partition, batch));
            }
        }
        expired
    }

    /// Closes every open batch and returns all batches that are not complete.
    pub(super) fn flush(&mut self) -> Vec<Arc<Completion>> {
        let open: Vec<_> = self.partitions.keys().copied().collect();
        for partition in open {
            self.close_open(partition);
        }
        self.incomplete.values().cloned().collect()
    }

    /// Whether every batch is complete.
    pub(super) fn is_drained(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Forgets a batch that is complete.
    pub(super) fn on_complete(&mut self, number: u64) {
        self.incomplete.remove(&number);
    }

    /// Whether a record that takes `reserved` bytes goes into the batch that is open.
    fn has_room(&self, partition: TopicIdPartition, reserved: usize) -> bool {
        let open = self.partitions.get(&partition).and_then(VecDeque::back);
        open.is_some_and(|batch| {
            !batch.closed && batch.builder.uncompressed_bytes() + reserved <= self.batch_bytes
        })
    }

    fn open(&mut self, now: Instant, to: TopicIdPartition) {
        let number = self.next_number;
        self.next_number += 1;
        let completion = Completion::new(to.partition);
        self.incomplete.insert(number, Arc::clone(&completion));
        self.lingering.insert((now + self.linger, to));
        self.partitions
            .entry(to)
            .or_default()
            .push_back(PendingBatch {
                number,
                builder: BatchBuilder::with_room(self.compression, self.usual_bytes),
                created: now,
                completion,
                reserved: 0,
                closed: false,
            });
    }

    /// Closes a partition's open batch. True if there was one.
    fn close_open(&mut self, of: TopicIdPartition) -> bool {
        let Some(batch) = self.partitions.get_mut(&of).and_then(VecDeque::back_mut) else {
            return false;
        };
        if batch.closed || batch.builder.is_empty() {
            return false;
        }
        batch.closed = true;
        self.usual_bytes = batch.builder.uncompressed_bytes().min(self.batch_bytes);
        let lingers = (batch.created + self.linger, of);
        self.lingering.remove(&lingers);
        self.unstick(of);
        self.ready.insert(of);
        true
    }

    fn pop_front(&mut self, from: TopicIdPartition) -> Option<PendingBatch> {
        let queue = self.partitions.get_mut(&from)?;
        let batch = queue.pop_front()?;
        if queue.is_empty() {
            self.partitions.remove(&from);
        }
        if !batch.closed {
            self.usual_bytes = batch.builder.uncompressed_bytes().min(self.batch_bytes);
            self.lingering.remove(&(batch.created + self.linger, from));
            self.unstick(from);
        }
        Some(batch)
    }

    fn unstick(&mut self, from: TopicIdPartition) {
        if self.sticky.get(&from.topic) == Some(&from.partition) {
            self.sticky.remove(&from.topic);
        }
    }

    /// Drops a batch that was opened for a record which then was refused.
    fn drop_if_empty(&mut self, of: TopicIdPartition) {
        let back = self.partitions.get(&of).and_then(VecDeque::back);
        if back.is_none_or(|batch| !batch.builder.is_empty()) {
            return;
        }
        if let Some(queue) = self.partitions.get_mut(&of)
            && let Some(batch) = queue.pop_back()
        {
            self.lingering.remove(&(batch.created + self.linger, of));
            self.incomplete.remove(&batch.number);
            if queue.is_empty() {
                self.partitions.remove(&of);
            }
        }
    }

    /// xorshift64: only spreads load, so nothing better is needed.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Drop for Accumulator {
    fn drop(&mut self) {
        for batch in self.partitions.values().flatten() {
            let count = batch.builder.record_count() as u32;
            let error = ProduceError::definite(ErrorCode::NetworkException, DROPPED);
            batch.completion.complete(0, count, Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LINGER: Duration = Duration::from_millis(5);

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn partition(index: i32) -> TopicIdPartition {
        TopicIdPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(index))
    }

    fn accumulator(batch_bytes: usize) -> Accumulator {
        Accumulator::new(LINGER, batch_bytes, Compression::None, 42)
    }

    fn append(acc: &mut Accumulator, now: Instant, index: i32, bytes: usize) -> Appended {
        let value = vec![b'x'; bytes];
        let record = NewRecord {
            value: Some(&value),
            ..NewRecord::default()
        };
        acc.append(|| now, partition(index), &record, bytes + 20)
            .unwrap()
    }

    #[test]
    fn a_batch_lingers_and_is_then_ready() {
        let mut acc = accumulator(10_000);
        assert!(append(&mut acc, at(0), 0, 10).wake);
        assert!(!append(&mut acc, at(1), 0, 10).wake);
        assert_eq!(acc.next_deadline(), Some(at(5)));
        assert!(acc.take_ready(at(4)).is_empty());
        assert!(acc.take(at(4), partition(0)).is_none());
        assert_eq!(acc.take_ready(at(5)), BTreeSet::from([partition(0)]));
        assert_eq!(
            acc.take(at(5), partition(0))
                .unwrap()
                .builder
                .record_count(),
            2
        );
        assert!(acc.take(at(5), partition(0)).is_none());
    }

    #[test]
    fn a_full_batch_is_ready_at_once_and_the_next_record_opens_another() {
        let mut acc = accumulator(200);
        append(&mut acc, at(0), 0, 100);
        assert!(append(&mut acc, at(0), 0, 100).wake);
        assert_eq!(acc.take_ready(at(0)).len(), 1);
        assert_eq!(
            acc.take(at(0), partition(0))
                .unwrap()
                .builder
                .record_count(),
            1
        );
        assert!(acc.take(at(0), partition(0)).is_none());
    }

    #[test]
    fn a_batch_that_cannot_be_sent_yet_grows_beyond_its_linger() {
        let mut acc = accumulator(10_000);
        append(&mut acc, at(0), 0, 10);
        assert_eq!(acc.take_ready(at(5)).len(), 1);
        append(&mut acc, at(9), 0, 10);
        assert_eq!(
            acc.take(at(9), partition(0))
                .unwrap()
                .builder
                .record_count(),
            2
        );
    }

    #[test]
    fn records_without_key_stay_with_a_partition_until_its_batch_is_closed() {
        let mut acc = accumulator(10_000);
        let topic = partition(0).topic;
        let first = acc.sticky_partition(topic, 30, 64, |_| true).unwrap();
        append(&mut acc, at(0), first.0, 10);
        assert_eq!(acc.sticky_partition(topic, 30, 64, |_| true), Some(first));
        acc.take_ready(at(5));
        acc.take(at(5), partition(first.0)).unwrap();
        assert_ne!(acc.sticky_partition(topic, 30, 64, |_| true), Some(first));
    }

    #[test]
    fn records_without_key_go_to_partitions_that_serve_and_to_all_of_them() {
        let mut acc = accumulator(10_000);
        let topic = partition(0).topic;
        let picked = |acc: &mut Accumulator, serves: fn(i32) -> bool| {
            let served = |index: PartitionIndex| serves(index.0);
            let pick = |_| acc.any_partition(1_000, served).map(|index| index.0);
            (0..20_000).map(pick).collect::<BTreeSet<_>>()
        };
        let all: BTreeSet<_> = (0..1_000).map(Some).collect();
        assert_eq!(picked(&mut acc, |_| true), all);
        let odd: BTreeSet<_> = (0..1_000)
            .filter(|index| index % 2 == 1)
            .map(Some)
            .collect();
        assert_eq!(picked(&mut acc, |index| index % 2 == 1), odd);
        assert_eq!(
            picked(&mut acc, |index| index == 777),
            BTreeSet::from([Some(777)])
        );
        assert_eq!(picked(&mut acc, |_| false), BTreeSet::from([None]));
        assert_eq!(acc.sticky_partition(topic, 30, 0, |_| true), None);
        assert_eq!(acc.sticky_partition(topic, 30, 1_000, |_| false), None);
    }

    #[test]
    fn a_record_without_key_never_opens_a_second_batch_where_the_first_has_no_room_for_it() {
        let mut acc = accumulator(200);
        let topic = partition(0).topic;
        let mut closed = 0;
        for _ in 0..100 {
            let to = acc.sticky_partition(topic, 70, 64, |_| true).unwrap();
            closed += usize::from(append(&mut acc, at(0), to.0, 50).wake);
        }
        let ready = acc.take_ready(at(5));
        let mut counts = Vec::new();
        for partition in ready {
            while let Some(batch) = acc.take(at(5), partition) {
                counts.push(batch.builder.record_count());
            }
        }
        assert!(counts.iter().all(|count| *count == 2), "{counts:?}");
        assert_eq!((counts.len(), closed), (50, 50));
    }

    #[test]
    fn the_sender_is_woken_for_a_batch_that_was_closed_for_want_of_room() {
        let mut acc = accumulator(200);
        let topic = partition(0).topic;
        append(&mut acc, at(0), 1, 10);
        acc.sticky_partition(topic, 70, 2, |index| index.0 == 0);
        append(&mut acc, at(0), 0, 50);
        // The one that takes over has a batch with room already, which by itself wakes nobody.
        let asked_first = Cell::new(true);
        let then_the_other = |index: PartitionIndex| asked_first.replace(false) || index.0 == 1;
        let to = acc.sticky_partition(topic, 190, 2, then_the_other);
        assert_eq!(to, Some(PartitionIndex(1)));
        assert!(append(&mut acc, at(0), 1, 10).wake);
        assert_eq!(acc.take_ready(at(0)), BTreeSet::from([partition(0)]));
    }

    #[test]
    fn a_flush_makes_everything_ready_and_waits_for_sent_batches_too() {
        let mut acc = accumulator(10_000);
        append(&mut acc, at(0), 0, 10);
        acc.flush();
        let sent = acc.take(at(0), partition(0)).unwrap();
        append(&mut acc, at(0), 1, 10);
        assert_eq!(acc.flush().len(), 2);
        acc.on_complete(sent.number);
        assert_eq!(acc.flush().len(), 1);
    }

    #[test]
    fn old_batches_expire_in_order() {
        let mut acc = accumulator(50);
        append(&mut acc, at(0), 0, 40);
        append(&mut acc, at(3), 0, 40);
        append(&mut acc, at(9), 0, 40);
        let expired = acc.take_expired(at(3));
        let created: Vec<_> = expired.iter().map(|(_, batch)| batch.created).collect();
        assert_eq!(created, [at(0), at(3)]);
    }
}
