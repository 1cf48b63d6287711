//! What appends to a write-ahead log cost: groups of frames, each written and synced, over files
//! that are recycled, as a broker's journal does. Prints a row of a table for each size of groups.
//!
//! `cargo run --release -p ottla-log --example wal_cost -- DIR`

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_log::{Disk, RealDisk, Wal, WalConfig, WalPosition};

const GROUPS: [usize; 5] = [512, 4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// A group is made of frames with so many bytes at most.
const FRAME: usize = 16 << 10;
/// The payloads rotate through so much memory that no cache holds it.
const SOURCE_BYTES: usize = 128 << 20;
/// What is kept of the log, in bytes; the files before are recycled.
const LIVE_BYTES: u64 = 64 << 20;
/// So much is written before measuring, so that all files have been written to.
const FIRST_BYTES: u64 = 256 << 20;
const ONE_MEASUREMENT: Duration = Duration::from_secs(2);

type Failure = Box<dyn Error + Send + Sync>;

/// Seconds that this thread has run, in the kernel too.
fn thread_cpu() -> Result<f64, Failure> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().ok_or("an empty schedstat")?;
    Ok(nanos.parse::<f64>()? / 1e9)
}

fn commit(wal: &mut Wal, group: &[Bytes]) -> Result<WalPosition, Failure> {
    let frames: Vec<&[Bytes]> = group.iter().map(std::slice::from_ref).collect();
    let first = wal.append(&frames)?;
    wal.sync()?;
    if wal.live_bytes() > LIVE_BYTES {
        wal.trim(first)?;
    }
    Ok(first)
}

fn measure(wal: &mut Wal, groups: &[Vec<Bytes>]) -> Result<(), Failure> {
    let mut millis = Vec::new();
    let mut bytes = 0;
    let cpu = thread_cpu()?;
    let began = Instant::now();
    for group in groups.iter().cycle() {
        if began.elapsed() >= ONE_MEASUREMENT {
            break;
        }
        let group_began = Instant::now();
        commit(wal, group)?;
        millis.push(group_began.elapsed().as_secs_f64() * 1e3);
        bytes += group.iter().map(Bytes::len).sum::<usize>();
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = thread_cpu()? - cpu;
    millis.sort_by(f64::total_cmp);
    let at = |permille: usize| millis[(millis.len() * permille / 1000).min(millis.len() - 1)];
    println!(
        "| {} B | {:.1} | {:.2} | {:.2} | {:.2} |",
        groups[0].iter().map(Bytes::len).sum::<usize>(),
        bytes as f64 / 1e6 / seconds,
        at(500),
        at(990),
        cpu / (bytes as f64 / 1e9)
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let dir = std::env::args_os().nth(1).ok_or("usage: wal_cost DIR")?;
    let dir = Path::new(&dir).join("wal_cost");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let config = WalConfig {
        spare_files: 6,
        ..WalConfig::new(7)
    };
    let (mut wal, _) = Wal::open(disk.clone(), &dir, config)?;
    wal.prepare_ahead(disk)?;
    let source = Bytes::from((0..SOURCE_BYTES).map(|at| at as u8).collect::<Vec<u8>>());
    let groups_of = |bytes: usize| -> Vec<Vec<Bytes>> {
        let starts = (0..SOURCE_BYTES / bytes).map(|number| number * bytes);
        let frames = |start: usize| {
            (start..start + bytes)
                .step_by(FRAME)
                .map(|at| source.slice(at..(at + FRAME).min(start + bytes)))
                .collect()
        };
        starts.map(frames).collect()
    };
    let first = groups_of(1 << 20);
    for group in first.iter().cycle() {
        commit(&mut wal, group)?;
        if wal.end().0 > FIRST_BYTES {
            break;
        }
    }
    println!("| group | MB/s | p50 ms | p99 ms | CPU s/GB of the appending thread |");
    println!("|---|---|---|---|---|");
    for bytes in GROUPS {
        measure(&mut wal, &groups_of(bytes))?;
    }
    drop(wal);
    fs::remove_dir_all(&dir)?;
    Ok(())
}
