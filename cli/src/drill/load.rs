//! The load of a drill: idempotent writers, one a partition, each record numbered.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use ottla_client::{
    Client, Delivered, Outcome, ProduceError, Producer, ProducerConfig, ProducerRecord,
};
use ottla_model::{Instant, PartitionIndex};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::scene::Scene;

/// How large each record is made, in bytes.
const RECORD_BYTES: usize = 100;
/// Records of one partition that may be unacknowledged; then its writer waits.
const OUTSTANDING_MAX: usize = 20_000;
/// How long after it was sent a record is given up. Longer than any round.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// A record's value: who wrote it, to which partition, and its number there.
pub fn encode(run: u64, partition: usize, sequence: u64) -> Bytes {
    let mut text = format!("{run:016x} {partition} {sequence} ");
    while text.len() < RECORD_BYTES {
        text.push('.');
    }
    Bytes::from(text)
}

/// The number of a record of this run and partition; `None` for any other.
pub fn decode(run: u64, partition: usize, value: Option<&[u8]>) -> Option<u64> {
    let text = std::str::from_utf8(value?).ok()?;
    let mut parts = text.split(' ');
    let run_matches = u64::from_str_radix(parts.next()?, 16) == Ok(run);
    let partition_matches = parts.next()?.parse() == Ok(partition);
    let sequence = parts.next()?.parse().ok()?;
    (run_matches && partition_matches).then_some(sequence)
}

/// What is written.
#[derive(Debug, Clone)]
pub struct Load {
    pub run: u64,
    pub topic: String,
    pub partitions: usize,
    /// Records per second over all partitions.
    pub rate: u32,
}

/// Running writers.
pub struct Writers {
    stop: watch::Sender<()>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Starts to write.
    pub fn start(client: &Client, load: &Load, scene: &Scene) -> Writers {
        let producer = client.producer(ProducerConfig {
            linger: Duration::ZERO,
            delivery_timeout: DELIVERY_TIMEOUT,
            ..ProducerConfig::default()
        });
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        for partition in 0..load.partitions {
            let writer = Writer {
                producer: producer.clone(),
                load: load.clone(),
                partition,
                scene: scene.clone(),
            };
            tasks.spawn(writer.run(stopped.clone()));
        }
        Writers { stop, tasks }
    }

    /// Stops writing and waits until every record has its outcome.
    pub async fn stop(mut self) {
        self.stop.send_replace(());
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Writer {
    producer: Producer,
    load: Load,
    partition: usize,
    scene: Scene,
}

impl Writer {
    async fn run(self, mut stopped: watch::Receiver<()>) {
        let partitions = u32::try_from(self.load.partitions).unwrap_or(u32::MAX);
        let mut ticks = interval(Duration::from_secs(1) * partitions / self.load.rate.max(1));
        // After a pause the load goes on as before instead of making up for it at once.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outstanding = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some((sequence, sent_at, result)) = outstanding.next() => {
                    self.note(sequence, sent_at, result);
                }
                _ = stopped.changed() => break,
                _ = ticks.tick(), if outstanding.len() < OUTSTANDING_MAX => {
                    let sequence = self.scene.next_sequence(self.partition);
                    let sent_at = self.scene.now();
                    match self.producer.send(self.record(sequence)).await {
                        Ok(delivery) => outstanding.push(async move {
                            (sequence, sent_at, delivery.await)
                        }),
                        Err(error) => self.note(sequence, sent_at, Err(error)),
                    }
                }
            }
        }
        while let Some((sequence, sent_at, result)) = outstanding.next().await {
            self.note(sequence, sent_at, result);
        }
    }

    fn record(&self, sequence: u64) -> ProducerRecord {
        let index = i32::try_from(self.partition).unwrap_or(i32::MAX);
        ProducerRecord {
            partition: Some(PartitionIndex(index)),
            ..ProducerRecord::new(
                self.load.topic.clone(),
                encode(self.load.run, self.partition, sequence),
            )
        }
    }

    fn note(&self, sequence: u64, sent_at: Instant, result: Result<Delivered, ProduceError>) {
        match result {
            Ok(delivered) => {
                let offset = Some(delivered.offset.0).filter(|offset| *offset >= 0);
                self.scene
                    .acknowledged(self.partition, sequence, offset, sent_at);
            }
            Err(error) => {
                let definite = error.outcome == Outcome::Definite;
                self.scene
                    .given_up(self.partition, sequence, definite, error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_recognised_only_by_its_own_run_and_partition() {
        let value = encode(7, 3, 42);
        assert_eq!(value.len(), RECORD_BYTES);
        assert_eq!(decode(7, 3, Some(&value)), Some(42));
        assert_eq!(decode(8, 3, Some(&value)), None);
        assert_eq!(decode(7, 2, Some(&value)), None);
        assert_eq!(decode(7, 3, Some(b"else")), None);
        assert_eq!(decode(7, 3, None), None);
    }
}
