//! Writers: each a producer on a thread of its own, at a fixed rate or as fast as it is let.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use ottla_client::{
    Client, ClientConfig, DeliveryFuture, Producer, ProducerConfig, ProducerRecord,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::clock::{Clock, Pacer};
use super::meter::Meter;
use super::payload::{Keys, Payload};
use super::schedule::Schedule;
use super::worker::Gate;

/// Records whose outcome one task awaits. They are consecutive, so they share a batch or two, and
/// awaiting them in turn makes no latency shorter than it was.
const CHUNK_RECORDS: usize = 128;

/// At full speed the clock is read once for so many records: it would be a tenth of the work.
const RECORDS_PER_LOOK: u64 = 8;

/// What is written.
#[derive(Debug, Clone)]
pub struct Writing {
    pub record_bytes: usize,
    /// How many different keys the records have; `None`: no keys.
    pub keys: Option<u64>,
    /// Records of all writers; `None`: as many as the time allows.
    pub records: Option<u64>,
    pub duration: Option<Duration>,
    /// Records a second of all writers; `None`: as fast as possible.
    pub rate: Option<f64>,
    pub writers: u32,
    pub producer: ProducerConfig,
}

/// What a writer shares with the run.
#[derive(Debug, Clone)]
pub struct Shared {
    pub topic: Arc<str>,
    /// Marks the records of the run, where a consumer has to know them.
    pub run: Option<u64>,
    pub meter: Arc<Mutex<Meter>>,
    /// Records handed to the producers.
    pub sent: Arc<AtomicU64>,
    pub stop: Arc<AtomicBool>,
}

/// Runs the writer of that number.
pub async fn write(
    client: ClientConfig,
    writing: Writing,
    writer: u32,
    shared: Shared,
    gate: Gate,
) -> anyhow::Result<()> {
    let client = Client::connect(client).await?;
    let mut writer = Writer {
        producer: client.producer(writing.producer.clone()),
        payload: Payload::new(writing.record_bytes, seed(writer)),
        keys: writing.keys.map(|count| Keys::new(count, seed(writer))),
        quota: quota(writing.records, writing.writers, writer),
        end: writing.duration.unwrap_or(Duration::MAX),
        schedule: writing
            .rate
            .map(|rate| Schedule::new(rate, writing.writers, writer)),
        shared,
        sent: 0,
        outcomes: JoinSet::new(),
    };
    let Some(clock) = gate.pass().await else {
        return Ok(());
    };
    let written = writer.write(clock).await;
    writer.producer.close().await;
    while writer.outcomes.join_next().await.is_some() {}
    written
}

/// Writers send different values, the same ones in every run.
fn seed(writer: u32) -> u64 {
    0x9e37_79b9 + u64::from(writer)
}

/// How many of the records one writer sends: as even as it goes.
fn quota(records: Option<u64>, writers: u32, writer: u32) -> u64 {
    let Some(records) = records else {
        return u64::MAX;
    };
    let (writers, writer) = (u64::from(writers), u64::from(writer));
    records / writers + u64::from(writer < records % writers)
}

struct Writer {
    producer: Producer,
    payload: Payload,
    keys: Option<Keys>,
    quota: u64,
    end: Duration,
    schedule: Option<Schedule>,
    shared: Shared,
    sent: u64,
    outcomes: JoinSet<()>,
}

impl Writer {
    async fn write(&mut self, clock: Clock) -> anyhow::Result<()> {
        match self.schedule {
            Some(schedule) => self.write_on_schedule(clock, schedule).await,
            None => self.write_at_once(clock).await,
        }
    }

    async fn write_on_schedule(&mut self, clock: Clock, schedule: Schedule) -> anyhow::Result<()> {
        let stop = Arc::clone(&self.shared.stop);
        let pacer = Pacer::start(clock, schedule, self.end, stop)?;
        while let Some(due) = pacer.more_than(self.sent).await {
            let until = due.min(self.quota);
            while self.sent < until && !self.is_stopped() {
                let count = (until - self.sent).min(CHUNK_RECORDS as u64);
                let first = self.sent;
                self.send_chunk(clock, count, |number| schedule.due(first + number))
                    .await?;
            }
            if self.sent >= self.quota || self.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    async fn write_at_once(&mut self, clock: Clock) -> anyhow::Result<()> {
        while self.sent < self.quota && clock.now() < self.end && !self.is_stopped() {
            let count = (self.quota - self.sent).min(CHUNK_RECORDS as u64);
            let mut now = Duration::ZERO;
            let due = |number| {
                if number % RECORDS_PER_LOOK == 0 {
                    now = clock.now();
                }
                now
            };
            self.send_chunk(clock, count, due).await?;
            // The producer's own work is done on this thread, too.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    async fn send_chunk(
        &mut self,
        clock: Clock,
        count: u64,
        mut due: impl FnMut(u64) -> Duration,
    ) -> anyhow::Result<()> {
        let mut chunk = Vec::with_capacity(CHUNK_RECORDS);
        let mut sent = Ok(());
        for number in 0..count {
            let due = due(number);
            let value = match self.shared.run {
                Some(run) => self.payload.stamped(run, due),
                None => self.payload.value(),
            };
            let bytes = value.len();
            let mut record = ProducerRecord::new(Arc::clone(&self.shared.topic), value);
            if let Some(keys) = &mut self.keys {
                record = record.with_key(keys.key());
            }
            match self.producer.send(record).await {
                Ok(delivery) => chunk.push((due, bytes, delivery)),
                Err(error) => {
                    sent = Err(error.into());
                    break;
                }
            }
        }
        self.sent += chunk.len() as u64;
        self.shared
            .sent
            .fetch_add(chunk.len() as u64, Ordering::Relaxed);
        while self.outcomes.try_join_next().is_some() {}
        let meter = Arc::clone(&self.shared.meter);
        self.outcomes.spawn(settle(chunk, clock, meter));
        sent
    }
}

/// Waits for the outcomes. Those that are there at the same time came at the same time: the clock
/// is read, and the meter taken, once for all of them.
async fn settle(
    chunk: Vec<(Duration, usize, DeliveryFuture)>,
    clock: Clock,
    meter: Arc<Mutex<Meter>>,
) {
    let mut chunk = chunk.into_iter();
    let mut awaited = chunk.next();
    while let Some((due, bytes, delivery)) = awaited.take() {
        let mut known = Some((due, bytes, delivery.await));
        let now = clock.now();
        let mut meter = meter.lock();
        while let Some((due, bytes, result)) = known.take() {
            match result {
                Ok(_) => meter.done(due, now, bytes),
                Err(error) => meter.failed(due, || error.to_string()),
            }
            if let Some((due, bytes, mut delivery)) = chunk.next() {
                match (&mut delivery).now_or_never() {
                    Some(result) => known = Some((due, bytes, result)),
                    None => awaited = Some((due, bytes, delivery)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_share_the_records_to_the_last_one() {
        let shares: Vec<u64> = (0..3).map(|writer| quota(Some(11), 3, writer)).collect();
        assert_eq!(shares, [4, 4, 3]);
        assert_eq!(quota(None, 3, 1), u64::MAX);
        assert_eq!(quota(Some(1), 3, 2), 0);
    }
}
