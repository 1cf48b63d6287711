//! How long an append waits when the write-ahead log goes on to another file. To be run by hand,
//! on the file system in question:
//!
//! ```text
//! cargo test --release -p ottla-log --test roll_latency -- --ignored --nocapture
//! ```
//!
//! `OTTLA_BENCH_DIR` names another place than the one for temporary files; with `OTTLA_BENCH_BUSY`
//! other files are written there at the same time.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_log::{Disk, Preparing, RealDisk, Wal, WalConfig};

const FILE_BYTES: u64 = 64 * 1024 * 1024;
const APPEND_BYTES: usize = 256 * 1024;
/// Each is a log of its own, so that every roll goes on to a new file.
const ROUNDS: usize = 4;
const ROLLS: usize = 5;
/// Appends come at this rate, about 32 MiB in a second.
const PACE: Duration = Duration::from_millis(8);

struct Waits {
    rolling: Vec<Duration>,
    others: Vec<Duration>,
}

fn append_over_rolls(dir: &Path, preparing: Preparing, waits: &mut Waits) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let config = WalConfig {
        file_bytes: FILE_BYTES,
        preparing,
        ..WalConfig::new(7)
    };
    let (mut wal, _) = Wal::open(disk.clone(), dir, config).unwrap();
    wal.prepare_ahead(disk).unwrap();
    let payload = Bytes::from(vec![7; APPEND_BYTES]);
    let per_file = FILE_BYTES / (APPEND_BYTES as u64 + 40);
    let mut next = Instant::now();
    for number in 0..per_file * (ROLLS as u64 + 1) {
        next += PACE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        wal.append(&[std::slice::from_ref(&payload)]).unwrap();
        wal.sync().unwrap();
        let rolled = number > 0 && number % per_file == 0;
        let waited = if rolled {
            &mut waits.rolling
        } else {
            &mut waits.others
        };
        waited.push(begun.elapsed());
    }
}

/// Writes other files beside the log through the page cache and syncs them, as segments are.
fn keep_busy(root: &Path, done: &AtomicBool) {
    let dir = tempfile::tempdir_in(root).unwrap();
    let bytes = vec![1; 1024 * 1024];
    for number in 0u64.. {
        let path = dir.path().join((number % 8).to_string());
        let mut file = std::fs::File::create(path).unwrap();
        for _ in 0..32 {
            if done.load(Ordering::Relaxed) {
                return;
            }
            file.write_all(&bytes).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        file.sync_data().unwrap();
    }
}

fn tell(what: &str, waits: &mut [Duration]) {
    waits.sort_unstable();
    let at = |permille: usize| waits[(waits.len() * permille / 1000).min(waits.len() - 1)];
    println!(
        "  {what:<12} {:>5}: p50 {:>9.2?}  p99 {:>9.2?}  p99.9 {:>9.2?}  max {:>9.2?}",
        waits.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
}

#[test]
#[ignore = "takes minutes, and says something only where nothing else runs"]
fn appends_wait_so_long_for_the_next_file() {
    let root = std::env::var_os("OTTLA_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let modes = [Preparing::WhenNeeded, Preparing::InBackground];
    let mut all = modes.map(|mode| {
        let waits = Waits {
            rolling: Vec::new(),
            others: Vec::new(),
        };
        (mode, waits)
    });
    let done = Arc::new(AtomicBool::new(false));
    let busy = std::env::var_os("OTTLA_BENCH_BUSY").map(|_| {
        let (root, done) = (root.clone(), done.clone());
        std::thread::spawn(move || keep_busy(&root, &done))
    });
    for _ in 0..ROUNDS {
        for (mode, waits) in &mut all {
            let dir = tempfile::tempdir_in(&root).unwrap();
            append_over_rolls(dir.path(), *mode, waits);
        }
    }
    done.store(true, Ordering::Relaxed);
    if let Some(busy) = busy {
        busy.join().unwrap();
    }
    for (mode, waits) in &mut all {
        println!("{mode:?}");
        tell("with a roll", &mut waits.rolling);
        tell("others", &mut waits.others);
    }
}
