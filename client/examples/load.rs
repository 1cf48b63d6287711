//! Produces at full speed or at a fixed rate, and prints what came of it. The figures in
//! `docs/benchmarks.md` were taken with it.
//!
//!     cargo run --release --example load -- BOOTSTRAP TOPIC RECORD_BYTES SECONDS [MB_PER_SECOND]
//!
//! At a fixed rate, latency counts from the moment at which a record was due, not from the one at
//! which it could be sent, so that a stall is not left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use ottla_client::{Client, ClientConfig, ProducerConfig, ProducerRecord};
use parking_lot::Mutex;

/// How often a fixed-rate run looks at what is due.
const PACE: Duration = Duration::from_millis(1);

struct Load {
    bootstrap: String,
    topic: String,
    record_bytes: usize,
    duration: Duration,
    /// Records a second; `None` is as fast as possible.
    rate: Option<f64>,
}

fn arguments() -> Option<Load> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let record_bytes = arguments.get(2)?.parse().ok()?;
    let megabytes = arguments.get(4).and_then(|text| text.parse::<f64>().ok());
    Some(Load {
        bootstrap: arguments.first()?.clone(),
        topic: arguments.get(1)?.clone(),
        record_bytes,
        duration: Duration::from_secs(arguments.get(3)?.parse().ok()?),
        rate: megabytes.map(|megabytes| megabytes * 1e6 / record_bytes as f64),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let load = arguments().ok_or("usage: load BOOTSTRAP TOPIC RECORD_BYTES SECONDS [MB/S]")?;
    let bootstrap = load.bootstrap.split(',').map(str::to_owned).collect();
    let client = Client::connect(ClientConfig {
        bootstrap,
        ..ClientConfig::default()
    })
    .await?;
    let producer = client.producer(ProducerConfig::default());
    let value = Bytes::from(vec![b'x'; load.record_bytes]);
    let latencies = Arc::new(Mutex::new(Histogram::<u64>::new_with_max(120_000_000, 3)?));
    let began = Instant::now();
    let mut sent: u64 = 0;
    while began.elapsed() < load.duration {
        let due = match load.rate {
            Some(rate) => (began.elapsed().as_secs_f64() * rate) as u64,
            None => sent + 1_000,
        };
        while sent < due {
            let intended = match load.rate {
                Some(rate) => began + Duration::from_secs_f64(sent as f64 / rate),
                None => Instant::now(),
            };
            let delivery = producer
                .send(ProducerRecord::new(&load.topic, value.clone()))
                .await?;
            sent += 1;
            let latencies = Arc::clone(&latencies);
            tokio::spawn(async move {
                if delivery.await.is_ok() {
                    let micros = intended.elapsed().as_micros() as u64;
                    latencies.lock().saturating_record(micros);
                }
            });
        }
        if load.rate.is_some() {
            tokio::time::sleep(PACE).await;
        }
    }
    producer.flush().await;
    let elapsed = began.elapsed().as_secs_f64();
    // The last deliveries' tasks still have to note theirs.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let latencies = latencies.lock();
    let acknowledged = latencies.len();
    let at = |percentile: f64| latencies.value_at_percentile(percentile) as f64 / 1_000.0;
    println!(
        "{acknowledged} of {sent} records of {} bytes acknowledged in {elapsed:.2} s: {:.0} \
         records/s, {:.1} MB/s; ms p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
        load.record_bytes,
        acknowledged as f64 / elapsed,
        acknowledged as f64 * load.record_bytes as f64 / elapsed / 1e6,
        at(50.0),
        at(99.0),
        at(99.9),
        latencies.max() as f64 / 1_000.0,
    );
    Ok(())
}
