//! Readers: each a consumer on a thread of its own, either catching up with what is there or
//! following what the run's writers write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use ottla_client::{
    Client, ClientConfig, ConsumedRecord, Consumer, ConsumerConfig, OffsetSpec, StartPosition,
};
use ottla_model::{Offset, PartitionIndex};
use parking_lot::Mutex;

use super::clock::Clock;
use super::meter::Meter;
use super::payload::stamp;
use super::topic::partitions;
use super::worker::Gate;
use crate::output::counted;

/// How long a poll waits, and so how soon an end asked for is noticed.
const POLL: Duration = Duration::from_millis(100);
/// How long nothing may come before a reader gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a reader shares with the run.
#[derive(Debug, Clone)]
pub struct Shared {
    pub topic: String,
    pub readers: u32,
    pub meter: Arc<Mutex<Meter>>,
    pub stop: Arc<AtomicBool>,
}

fn size(record: &ConsumedRecord) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    length(&record.key) + length(&record.value)
}

/// The part of a topic's partitions that one of several readers reads: every n-th.
fn share(partitions: usize, readers: u32, reader: u32) -> Vec<PartitionIndex> {
    let readers = usize::try_from(readers).unwrap_or(usize::MAX);
    let first = usize::try_from(reader).unwrap_or(usize::MAX);
    (first..partitions)
        .step_by(readers)
        .filter_map(|index| i32::try_from(index).ok().map(PartitionIndex))
        .collect()
}

/// Reads everything that is in the reader's partitions when it starts.
pub async fn catch_up(
    config: ClientConfig,
    reader: u32,
    shared: Shared,
    gate: Gate,
) -> anyhow::Result<()> {
    let client = Client::connect(config).await?;
    let topic = shared.topic.as_str();
    let mine = share(partitions(&client, topic).await?, shared.readers, reader);
    let spans = spans(&client, topic, &mine).await?;
    let mut consumer = client.consumer(ConsumerConfig::default());
    let Some(clock) = gate.pass().await else {
        return Ok(());
    };
    let starts = spans.iter();
    let starts: Vec<_> = starts
        .map(|(index, (start, _))| (*index, StartPosition::Offset(*start)))
        .collect();
    if !starts.is_empty() {
        consumer.assign(topic, starts).await?;
    }
    let ends = spans.into_iter().map(|(index, (_, end))| (index, end));
    let ends = ends.collect();
    read_to(&mut consumer, ends, clock, &shared).await
}

/// The first and the next offset of each partition that holds anything.
async fn spans(
    client: &Client,
    topic: &str,
    partitions: &[PartitionIndex],
) -> anyhow::Result<BTreeMap<PartitionIndex, (Offset, Offset)>> {
    let mut found = [BTreeMap::new(), BTreeMap::new()];
    for (offsets, spec) in found
        .iter_mut()
        .zip([OffsetSpec::Earliest, OffsetSpec::Latest])
    {
        let asked = partitions.iter().map(|index| (*index, spec)).collect();
        for listed in client.admin().list_offsets(topic, asked).await? {
            offsets.insert(listed.partition, listed.offset.unwrap_or(Offset(0)));
        }
    }
    let [starts, ends] = found;
    let spans = starts.into_iter().filter_map(|(index, start)| {
        let end = *ends.get(&index)?;
        (start < end).then_some((index, (start, end)))
    });
    Ok(spans.collect())
}

async fn read_to(
    consumer: &mut Consumer,
    mut ends: BTreeMap<PartitionIndex, Offset>,
    clock: Clock,
    shared: &Shared,
) -> anyhow::Result<()> {
    let mut last = clock.now();
    while !ends.is_empty() && !shared.stop.load(Ordering::Relaxed) {
        let records = consumer.poll(POLL).await?;
        let now = clock.now();
        if records.is_empty() {
            // The last offsets of a partition need not hold records.
            ends.retain(|index, end| {
                let next = consumer.position(&shared.topic, *index);
                next.is_some_and(|next| next < *end)
            });
            if now - last > PATIENCE {
                bail!(
                    "nothing came for {PATIENCE:?}; {} unread",
                    counted(ends.len(), "partition")
                );
            }
            continue;
        }
        last = now;
        let bytes: usize = records.iter().map(size).sum();
        shared
            .meter
            .lock()
            .came(now, records.len() as u64, bytes as u64);
        for record in records {
            let next = Offset(record.offset.0 + 1);
            if ends.get(&record.partition).is_some_and(|end| next >= *end) {
                ends.remove(&record.partition);
            }
        }
    }
    Ok(())
}

/// What the followers of a run know of its writers.
#[derive(Debug, Clone)]
pub struct Tail {
    pub run: u64,
    /// How many records the writers got acknowledged, once they are done.
    pub written: Arc<AtomicU64>,
}

/// Follows the end of the reader's partitions until everything written in the run has come.
pub async fn follow(
    config: ClientConfig,
    reader: u32,
    shared: Shared,
    tail: Tail,
    gate: Gate,
) -> anyhow::Result<()> {
    let client = Client::connect(config).await?;
    let topic = shared.topic.as_str();
    let mine = share(partitions(&client, topic).await?, shared.readers, reader);
    let mut consumer = client.consumer(ConsumerConfig::default());
    let latest = mine.iter().map(|index| (*index, StartPosition::Latest));
    consumer.assign(topic, latest.collect()).await?;
    let Some(clock) = gate.pass().await else {
        return Ok(());
    };
    let mut last = clock.now();
    loop {
        let records = consumer.poll(POLL).await?;
        let now = clock.now();
        let mut meter = shared.meter.lock();
        for record in &records {
            let value = record.value.as_deref().unwrap_or_default();
            if let Some(due) = stamp(tail.run, value) {
                meter.done(due, now, size(record));
                last = now;
            }
        }
        let seen = meter.succeeded();
        drop(meter);
        if shared.stop.load(Ordering::Relaxed) || seen >= tail.written.load(Ordering::Acquire) {
            return Ok(());
        }
        if now - last > PATIENCE {
            bail!(
                "nothing came for {PATIENCE:?}; {} read",
                counted(seen, "record")
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_the_partitions_without_gap_or_overlap() {
        let mut all: Vec<i32> = (0..4)
            .flat_map(|reader| share(10, 4, reader))
            .map(|index| index.0)
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert!(share(2, 4, 3).is_empty());
    }
}
