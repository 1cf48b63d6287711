//! Compares the ways to make a group of a journal's frames durable: through the page cache and past
//! it. Writes over files that were filled before, as a write-ahead log does with the files that it
//! recycles, and prints a table. Checksums and the log itself are left out.
//!
//! `cargo run --release -p ottla-log --example write_methods -- DIR`

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::ops::AddAssign;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ottla_log::disk::{DiskFile, OpenMode};
use ottla_log::{Disk as _, RealDisk};

const FILE_BYTES: usize = 32 * 1024 * 1024;
const FILES: usize = 6;
const BLOCK: usize = 4096;
const GROUPS: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// A group is written as frames of so many bytes at most, each behind a header.
const FRAME: usize = 16 << 10;
const HEADER: [u8; 40] = [7; 40];
/// The payloads rotate through so much memory that no cache holds it.
const SOURCE_BYTES: usize = 128 << 20;
const ROUNDS: usize = 5;
const ONE_MEASUREMENT: Duration = Duration::from_millis(600);
const TICKS_PER_SECOND: f64 = 100.0;
/// A measurement counts if the machine was idle so long before and after it.
const CALM: Duration = Duration::from_millis(100);
const CALM_CPU: f64 = 0.02;
/// Looks for a calm moment, and measurements that were disturbed, before one is taken as it is.
const LOOKS_MAX: usize = 600;
const RETRIES_MAX: usize = 10;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Cached,
    CachedStarted,
    Direct,
    DirectSynced,
}

const METHODS: [Method; 4] = [
    Method::Cached,
    Method::CachedStarted,
    Method::Direct,
    Method::DirectSynced,
];

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Cached => "page cache, fdatasync",
            Method::CachedStarted => "page cache, sync_file_range, fdatasync",
            Method::Direct => "O_DIRECT, fdatasync",
            Method::DirectSynced => "O_DIRECT and O_DSYNC",
        }
    }

    fn path(self, dir: &Path, number: usize) -> PathBuf {
        dir.join(format!("{self:?}.{number}"))
    }
}

enum Target {
    Cached {
        file: Arc<dyn DiskFile>,
        start: bool,
    },
    Direct {
        file: File,
        sync: bool,
    },
}

impl Target {
    fn open(method: Method, path: &Path) -> io::Result<Target> {
        let direct = |flags| {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(flags).open(path)
        };
        Ok(match method {
            Method::Cached | Method::CachedStarted => Target::Cached {
                file: RealDisk.open(path, OpenMode::Existing)?,
                start: method == Method::CachedStarted,
            },
            Method::Direct => Target::Direct {
                file: direct(libc::O_DIRECT)?,
                sync: true,
            },
            Method::DirectSynced => Target::Direct {
                file: direct(libc::O_DIRECT | libc::O_DSYNC)?,
                sync: false,
            },
        })
    }
}

/// Memory that begins at a block's boundary, and holds what is not yet a whole block of the file.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Buffer {
    fn new(bytes: usize) -> Buffer {
        let memory = vec![0; bytes + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Buffer {
            memory,
            start,
            filled: 0,
        }
    }

    fn push(&mut self, part: &[u8]) {
        let at = self.start + self.filled;
        self.memory[at..at + part.len()].copy_from_slice(part);
        self.filled += part.len();
    }

    /// Writes the whole blocks up to the end of what is filled, at the block that holds `end` less
    /// that; keeps the last of them if it is not full.
    fn write(&mut self, file: &File, end: usize) -> io::Result<()> {
        let whole = self.filled.next_multiple_of(BLOCK);
        let memory = &mut self.memory[self.start..];
        memory[self.filled..whole].fill(0);
        file.write_all_at(&memory[..whole], (end - self.filled) as u64)?;
        let kept = self.filled % BLOCK;
        memory.copy_within(self.filled - kept..self.filled, 0);
        self.filled = kept;
        Ok(())
    }
}

#[derive(Debug, Default, Clone)]
struct Sample {
    bytes: usize,
    /// Of all threads together, divided by their number when a measurement ends.
    seconds: f64,
    /// Of this process's threads, and of the whole machine.
    cpu: f64,
    machine_cpu: f64,
    millis: Vec<f64>,
}

impl AddAssign for Sample {
    fn add_assign(&mut self, other: Sample) {
        self.bytes += other.bytes;
        self.seconds += other.seconds;
        self.cpu += other.cpu;
        self.machine_cpu += other.machine_cpu;
        self.millis.extend(other.millis);
    }
}

impl Sample {
    fn millis_at(&self, share: f64) -> f64 {
        let mut sorted = self.millis.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len() as f64 * share) as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Seconds that this thread has run, in the kernel too.
fn thread_cpu() -> Result<f64, Failure> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().ok_or("an empty schedstat")?;
    Ok(nanos.parse::<f64>()? / 1e9)
}

/// Seconds that all CPUs have been busy: user, nice, system, interrupts.
fn machine_cpu() -> Result<f64, Failure> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = text
        .split_whitespace()
        .skip(1)
        .take(7)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let busy = [0, 1, 2, 5, 6].iter().map(|&at| fields[at]).sum::<f64>();
    Ok(busy / TICKS_PER_SECOND)
}

/// Writes groups, one after the other, for the time of one measurement.
fn write_groups(paths: &[PathBuf], method: Method, payloads: &[&[u8]]) -> Result<Sample, Failure> {
    let targets = paths.iter().map(|path| Target::open(method, path));
    let targets = targets.collect::<io::Result<Vec<_>>>()?;
    let group: usize = payloads[0].len() + payloads[0].len().div_ceil(FRAME) * HEADER.len();
    let mut buffer = Buffer::new(group + 2 * BLOCK);
    let (mut file, mut at) = (0, 0);
    let mut sample = Sample::default();
    let cpu = thread_cpu()?;
    let began = Instant::now();
    for payload in payloads.iter().cycle() {
        if began.elapsed() >= ONE_MEASUREMENT {
            break;
        }
        if at + group + BLOCK > FILE_BYTES {
            (file, at) = ((file + 1) % targets.len(), 0);
            buffer.filled = 0;
        }
        let frames = payload.chunks(FRAME);
        let parts = frames.flat_map(|frame| [IoSlice::new(&HEADER), IoSlice::new(frame)]);
        let group_began = Instant::now();
        match &targets[file] {
            Target::Cached { file, start } => {
                let parts: Vec<IoSlice<'_>> = parts.collect();
                file.write_at(&parts, at as u64)?;
                if *start {
                    file.start_write_back(at as u64, group as u64)?;
                }
                file.sync_data()?;
            }
            Target::Direct { file, sync } => {
                parts.for_each(|part| buffer.push(&part));
                buffer.write(file, at + group)?;
                if *sync {
                    file.sync_data()?;
                }
            }
        }
        let millis = group_began.elapsed().as_secs_f64() * 1e3;
        sample.millis.push(millis);
        sample.bytes += group;
        at += group;
    }
    sample.seconds = began.elapsed().as_secs_f64();
    sample.cpu = thread_cpu()? - cpu;
    Ok(sample)
}

fn measure(
    dir: &Path,
    method: Method,
    threads: usize,
    payloads: &[&[u8]],
) -> Result<Sample, Failure> {
    let busy = machine_cpu()?;
    let mut sample = thread::scope(|scope| {
        let share = payloads.len() / threads;
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers = (thread..FILES).step_by(threads);
                let paths: Vec<PathBuf> = numbers.map(|n| method.path(dir, n)).collect();
                let own = &payloads[thread * share..(thread + 1) * share];
                scope.spawn(move || write_groups(&paths, method, own))
            })
            .collect();
        let mut all = Sample::default();
        for thread in running {
            all += thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok::<_, Failure>(all)
    })?;
    sample.seconds /= threads as f64;
    sample.machine_cpu = machine_cpu()? - busy;
    Ok(sample)
}

fn is_calm() -> Result<bool, Failure> {
    let busy = machine_cpu()?;
    thread::sleep(CALM);
    Ok(machine_cpu()? - busy <= CALM_CPU)
}

/// Measures while nothing else runs, as far as that can be had.
fn measure_calmly(
    dir: &Path,
    method: Method,
    threads: usize,
    payloads: &[&[u8]],
) -> Result<Sample, Failure> {
    for _ in 0..RETRIES_MAX {
        let mut looks = 0;
        while !is_calm()? && looks < LOOKS_MAX {
            looks += 1;
        }
        let sample = measure(dir, method, threads, payloads)?;
        if is_calm()? {
            return Ok(sample);
        }
    }
    eprintln!("the machine is not calm; what follows is disturbed");
    measure(dir, method, threads, payloads)
}

fn print(group: usize, threads: usize, method: Method, sample: &Sample) {
    let gigabytes = sample.bytes as f64 / 1e9;
    println!(
        "| {threads} | {} KiB | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
        group >> 10,
        method.name(),
        gigabytes * 1e3 / sample.seconds,
        sample.millis_at(0.5),
        sample.millis_at(0.99),
        sample.cpu / gigabytes,
        sample.machine_cpu / gigabytes,
    );
}

fn main() -> Result<(), Failure> {
    let dir = std::env::args_os()
        .nth(1)
        .ok_or("usage: write_methods DIR")?;
    let dir = Path::new(&dir).join("write_methods");
    fs::create_dir_all(&dir)?;
    let fill = vec![1; FILE_BYTES];
    for method in METHODS {
        for number in 0..FILES {
            let mut file = File::create(method.path(&dir, number))?;
            file.write_all(&fill)?;
            file.sync_all()?;
        }
    }
    let source: Vec<u8> = (0..SOURCE_BYTES).map(|at| at as u8).collect();
    println!(
        "| files in flight | group | method | MB/s | p50 ms | p99 ms | own CPU s/GB | machine's CPU s/GB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for threads in [1, 2] {
        for group in GROUPS {
            let payloads: Vec<&[u8]> = source.chunks_exact(group).collect();
            let mut samples = vec![Sample::default(); METHODS.len()];
            // One after the other in every round, so that what else the machine does hits all.
            for _ in 0..ROUNDS {
                for (method, sample) in METHODS.iter().zip(&mut samples) {
                    *sample += measure_calmly(&dir, *method, threads, &payloads)?;
                }
            }
            for (method, sample) in METHODS.iter().zip(&samples) {
                print(group, threads, *method, sample);
            }
        }
    }
    fs::remove_dir_all(&dir)?;
    Ok(())
}
