//! The readers of a drill: one that follows the writers, and a full read in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use ottla_client::{Client, ConsumedRecord, Consumer, ConsumerConfig, OffsetSpec, StartPosition};
use ottla_model::{Offset, PartitionIndex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::audit::{ReadBack, Seen};
use super::load::{Load, decode};
use super::scene::Scene;
use crate::output::counted;

const POLL: Duration = Duration::from_millis(200);
/// How long a read that should find records may find none.
const PATIENCE: Duration = Duration::from_secs(30);

fn partitions(load: &Load) -> impl Iterator<Item = PartitionIndex> {
    let count = i32::try_from(load.partitions).unwrap_or(i32::MAX);
    (0..count).map(PartitionIndex)
}

async fn from_beginning(client: &Client, load: &Load) -> anyhow::Result<Consumer> {
    let mut consumer = client.consumer(ConsumerConfig::default());
    let start = partitions(load)
        .map(|index| (index, StartPosition::Earliest))
        .collect();
    consumer
        .assign(&load.topic, start)
        .await
        .context("cannot read the drill's topic")?;
    Ok(consumer)
}

/// A record as the audit sees it, with the index of its partition.
fn seen(load: &Load, record: &ConsumedRecord) -> Option<(usize, Seen)> {
    let partition = usize::try_from(record.partition.0).ok()?;
    let seen = Seen {
        offset: record.offset.0,
        sequence: decode(load.run, partition, record.value.as_deref()),
    };
    (partition < load.partitions).then_some((partition, seen))
}

/// Follows the writers until it is dropped.
pub struct Follower {
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts to read.
    pub async fn start(client: &Client, load: &Load, scene: &Scene) -> anyhow::Result<Follower> {
        let mut consumer = from_beginning(client, load).await?;
        let (load, scene) = (load.clone(), scene.clone());
        let task = tokio::spawn(async move {
            loop {
                match consumer.poll(POLL).await {
                    Ok(records) => {
                        for (partition, seen) in records.iter().filter_map(|r| seen(&load, r)) {
                            scene.read(partition, seen);
                        }
                    }
                    Err(error) => {
                        // The pause that this makes shows in the measurements.
                        tracing::warn!(%error, "the drill's reader was refused");
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        });
        Ok(Follower { task })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads everything from the beginning to the ends found now.
pub async fn read_all(client: &Client, load: &Load) -> anyhow::Result<ReadBack> {
    let latest = partitions(load)
        .map(|index| (index, OffsetSpec::Latest))
        .collect();
    let ends = client.admin().list_offsets(&load.topic, latest).await?;
    let mut open: BTreeMap<PartitionIndex, Offset> = ends
        .into_iter()
        .map(|listed| (listed.partition, listed.offset.unwrap_or(Offset::ZERO)))
        .filter(|(_, end)| *end > Offset::ZERO)
        .collect();
    let mut consumer = from_beginning(client, load).await?;
    let mut read = ReadBack::new(load.partitions);
    let mut progress = Instant::now();
    while !open.is_empty() {
        let records = consumer
            .poll(POLL)
            .await
            .context("cannot read the drill's topic back")?;
        for (partition, seen) in records.iter().filter_map(|record| seen(load, record)) {
            read.see(partition, seen);
        }
        open.retain(|index, end| {
            consumer
                .position(&load.topic, *index)
                .is_none_or(|position| position < *end)
        });
        if !records.is_empty() {
            progress = Instant::now();
        }
        anyhow::ensure!(
            progress.elapsed() < PATIENCE,
            "the read back stopped short of the end of {}",
            counted(open.len(), "partition")
        );
    }
    Ok(read)
}
