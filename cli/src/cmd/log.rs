//! `ottla log`: looks into the files of a stopped node. Needs no cluster and changes nothing.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use ottla_log::RealDisk;
use ottla_log::dump::{DumpedBatch, SegmentSummary, dump_segment, is_segment as is_named_segment};
use ottla_log::verify::{self, Finding, verify_dir};
use ottla_model::batch::decode_records;
use ottla_model::limits::BATCH_BYTES_MAX;
use serde::Serialize;

use crate::args::OutputArgs;
use crate::exit::{CommandError, CommandResult, Exit};
use crate::format::RecordView;
use crate::node;
use crate::output::{self, OutputFormat, counted, stdout_error};

/// The most bytes that one batch's records are unpacked to.
const UNPACKED_MAX: usize = 16 * BATCH_BYTES_MAX;

/// Commands under `ottla log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// List the batches of segment files; exits with 3 if one is damaged
    Dump(DumpArgs),
    /// Check a stopped broker's segments, journal and checkpoint; exits with 3 if one is damaged
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Segment files (`*.log`)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Also list the records in each batch
    #[arg(long)]
    records: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A broker's data directory, or the folder in it that holds `partitions`
    directory: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a command under `ottla log`.
pub fn run(command: &LogCommand) -> CommandResult {
    match command {
        LogCommand::Dump(args) => dump(args),
        LogCommand::Verify(args) => verify(args),
    }
}

#[derive(Debug, Serialize)]
struct BatchLine<'a> {
    file: &'a Path,
    position: u64,
    size: usize,
    base_offset: i64,
    last_offset: i64,
    records: i32,
    leader_epoch: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    compression: &'static str,
    max_timestamp_ms: i64,
    crc: u32,
    /// Absent if the batch is whole.
    damage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record_list: Option<Vec<serde_json::Value>>,
}

impl<'a> BatchLine<'a> {
    fn new(file: &'a Path, batch: &DumpedBatch) -> BatchLine<'a> {
        let header = &batch.header;
        BatchLine {
            file,
            position: batch.position,
            size: header.size,
            base_offset: header.base_offset.0,
            last_offset: header.last_offset().0,
            records: header.record_count,
            leader_epoch: header.leader_epoch.0,
            producer_id: header.producer_id.0,
            producer_epoch: header.producer_epoch.0,
            base_sequence: header.base_sequence,
            compression: header
                .attributes
                .compression()
                .map_or("unknown", |codec| codec.name()),
            max_timestamp_ms: header.max_timestamp.0,
            crc: header.crc,
            damage: batch.validity.as_ref().err().map(ToString::to_string),
            record_list: None,
        }
    }

    /// The columns, wide enough for ordinary numbers; files are long, so lines are written as
    /// they are read.
    fn text(&self) -> String {
        let state = self.damage.as_deref().unwrap_or("ok");
        format!(
            "{:>12} {:>12} {:>8} {:>6} {:>8} {:>6} {:>10} {:>7} {:08x} {:>9} {:>12}  {state}",
            self.base_offset,
            self.last_offset,
            self.records,
            self.leader_epoch,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self.compression,
            self.crc,
            self.size,
            self.position,
        )
    }
}

fn heading() -> String {
    format!(
        "{:>12} {:>12} {:>8} {:>6} {:>8} {:>6} {:>10} {:>7} {:>8} {:>9} {:>12}  {}",
        "BASE",
        "LAST",
        "COUNT",
        "EPOCH",
        "PID",
        "PEPOCH",
        "SEQ",
        "CODEC",
        "CRC",
        "SIZE",
        "POS",
        "STATE"
    )
}

fn dump(args: &DumpArgs) -> CommandResult {
    let mut damaged = false;
    for path in &args.files {
        let summary = dump_file(args, path)?;
        damaged |= summary.invalid > 0 || !is_segment(path, &summary);
        output::note(format_args!(
            "{}: {}",
            path.display(),
            verdict(path, &summary)
        ));
    }
    if damaged {
        return Err(CommandError::condition_told("a batch is damaged"));
    }
    Ok(())
}

/// Whether a file can be a segment: it begins with a batch, or has a segment's name and is empty
/// because nothing was written to it yet.
fn is_segment(path: &Path, summary: &SegmentSummary) -> bool {
    summary.batches > 0 || (summary.trailing_bytes == 0 && is_named_segment(path))
}

/// What a file turned out to be.
fn verdict(path: &Path, summary: &SegmentSummary) -> String {
    if !is_segment(path, summary) {
        return format!(
            "this is no segment file (*.log), or a damaged one: its {} do not begin with a whole \
             record batch",
            counted(summary.trailing_bytes, "byte")
        );
    }
    format!(
        "{} in {}, {} of them damaged, {} behind them",
        counted(summary.batches, "batch"),
        counted(summary.bytes, "byte"),
        summary.invalid,
        counted(summary.trailing_bytes, "byte")
    )
}

fn dump_file(args: &DumpArgs, path: &Path) -> CommandResult<SegmentSummary> {
    let file = open(path)?;
    let json = args.output.output == OutputFormat::Json;
    let mut out = output::stdout();
    if !json {
        writeln!(out, "{}", heading()).map_err(stdout_error)?;
    }
    // The visitor cannot fail, so the first failure is kept and the rest is passed over.
    let mut failure: Option<anyhow::Error> = None;
    let summary = dump_segment(&RealDisk, path, &mut |batch| {
        if failure.is_none() {
            failure = write_batch(args, path, &file, batch, &mut out).err();
        }
    })?;
    match failure {
        Some(error) => Err(error.into()),
        None => {
            out.flush().map_err(stdout_error)?;
            Ok(summary)
        }
    }
}

fn open(path: &Path) -> CommandResult<File> {
    if path.is_dir() {
        let reason = format!(
            "{} is a directory; name its segment files, or check it with `ottla log verify`",
            path.display()
        );
        return Err(CommandError::usage(reason));
    }
    File::open(path).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failure,
        };
        CommandError::new(exit, error).context(format!("cannot open {}", path.display()))
    })
}

fn write_batch(
    args: &DumpArgs,
    path: &Path,
    file: &File,
    batch: &DumpedBatch,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let mut line = BatchLine::new(path, batch);
    if args.records && batch.validity.is_ok() {
        let records = records(file, batch);
        let records = records.with_context(|| format!("cannot dump {}", path.display()))?;
        line.record_list = Some(records);
    }
    if args.output.output == OutputFormat::Json {
        serde_json::to_writer(&mut *out, &line).map_err(|error| stdout_error(error.into()))?;
        return writeln!(out).map_err(stdout_error);
    }
    writeln!(out, "{}", line.text()).map_err(stdout_error)?;
    for record in line.record_list.iter().flatten() {
        writeln!(out, "    {record}").map_err(stdout_error)?;
    }
    Ok(())
}

/// The records of a batch that is whole.
fn records(file: &File, batch: &DumpedBatch) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut bytes = vec![0; batch.header.size];
    file.read_exact_at(&mut bytes, batch.position)
        .with_context(|| format!("cannot read the batch at byte {} again", batch.position))?;
    let records = decode_records(&Bytes::from(bytes), UNPACKED_MAX)
        .with_context(|| format!("cannot unpack the batch at byte {}", batch.position))?;
    let json = |record: &ottla_model::batch::Record| {
        let view = RecordView {
            topic: "",
            partition: -1,
            offset: record.offset.0,
            timestamp_ms: record.timestamp.0,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        };
        let mut json = view.to_json();
        if let Some(object) = json.as_object_mut() {
            // A segment file does not know whose it is.
            object.remove("topic");
            object.remove("partition");
        }
        json
    };
    Ok(records.iter().map(json).collect())
}

#[derive(Debug, Serialize)]
struct Verified {
    directory: PathBuf,
    /// Without one, nothing tells how far the segments' batches must go.
    has_checkpoint: bool,
    /// What the checkpoint and the journal speak of, or if they tell nothing, what is there; of
    /// which this many segments were read.
    partitions: u64,
    segments: u64,
    bytes: u64,
    findings: Vec<Damage>,
    /// Files that the running node removed or replaced while they were checked.
    skipped: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Damage {
    path: PathBuf,
    what: String,
}

impl From<Finding> for Damage {
    fn from(Finding { path, what }: Finding) -> Damage {
        Damage { path, what }
    }
}

/// The broker's log in a directory that was named: itself, or the one within a data directory. An
/// answer about a directory without a log would sound as if it had been checked.
fn log_directory(named: &Path) -> Result<PathBuf, CommandError> {
    let candidates = ["", "log", "broker/log", "data/broker/log"].map(|below| named.join(below));
    for dir in &candidates {
        // What may not be looked at is not the same as what is not there.
        if let Err(error) = std::fs::metadata(dir.join("partitions"))
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            let what = format!(
                "cannot look into {}; run this as the node's user",
                dir.display()
            );
            return Err(CommandError::from(error).context(what));
        }
    }
    let found = candidates
        .into_iter()
        .find(|dir| dir.join("partitions").is_dir());
    found.ok_or_else(|| {
        let way_out = if let Some(log) = log_around(named) {
            format!("it is a part of one: name {}", log.display())
        } else if is_of_a_controller(named) {
            "a controller's is not checked here: it checks itself at every start".to_owned()
        } else {
            "name a node's data directory, or the folder in it that holds partitions/".to_owned()
        };
        let named = named.display();
        let reason = anyhow::anyhow!("there is no broker's log in {named}; {way_out}");
        CommandError::new(Exit::NotFound, reason)
    })
}

/// The broker's log that a directory is a part of, as `partitions` is, or a partition's.
fn log_around(named: &Path) -> Option<PathBuf> {
    let named = named.canonicalize().ok()?;
    let mut around = named.ancestors().skip(1).take(2);
    let log = around.find(|dir| dir.join("partitions").is_dir());
    log.map(Path::to_owned)
}

/// Whether a directory is, or holds, a controller's.
fn is_of_a_controller(named: &Path) -> bool {
    let candidates = ["", "controller", "data/controller"].map(|below| named.join(below));
    candidates
        .iter()
        .any(|dir| dir.join("meta.json").is_file() && dir.join("snapshots").is_dir())
}

/// The process of the node that a broker's log belongs to, if it runs. The lock is in the data
/// directory, at most two folders further up.
fn running(log: &Path) -> Option<u32> {
    let log = log.canonicalize().ok()?;
    log.ancestors().take(3).find_map(node::holder)
}

/// Checks the batches of every segment file that is there, as far as they go.
fn verify_segments(log: &Path) -> anyhow::Result<verify::Verified> {
    let mut seen = verify::Verified::default();
    for partition in entries(&log.join("partitions"))? {
        if !partition.is_dir() {
            continue;
        }
        seen.partitions += 1;
        for path in entries(&partition)? {
            if !is_named_segment(&path) {
                continue;
            }
            let mut first_at = None;
            let dumped = dump_segment(&RealDisk, &path, &mut |batch| {
                if batch.validity.is_err() {
                    first_at.get_or_insert(batch.position);
                }
            });
            let what = match dumped {
                Ok(summary) => {
                    seen.segments += 1;
                    seen.bytes += summary.bytes;
                    let Some(at) = first_at else {
                        continue;
                    };
                    verify::damaged_batches(summary.invalid, at)
                }
                Err(_) if !path.exists() => "the file is missing".to_owned(),
                Err(error) => return Err(error.into()),
            };
            seen.findings.push(Finding { path, what });
        }
    }
    Ok(seen)
}

/// What is in a directory; nothing if it went away, as that of a deleted topic does.
fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(directory)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = match read() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        listed => listed.with_context(|| format!("cannot list {}", directory.display()))?,
    };
    paths.sort_unstable();
    Ok(paths)
}

/// What is wrong in a broker's log. Without a checkpoint, or with one so damaged that it speaks of
/// no segment, all segments that are there are looked at by themselves.
fn look(directory: &Path, has_checkpoint: bool) -> anyhow::Result<verify::Verified> {
    let seen = verify_dir(&RealDisk, directory)?;
    let tells_nothing = seen.segments == 0 && !seen.findings.is_empty();
    if has_checkpoint && !tells_nothing {
        return Ok(seen);
    }
    let alone = verify_segments(directory)?;
    Ok(verify::Verified {
        findings: seen.findings.into_iter().chain(alone.findings).collect(),
        ..alone
    })
}

/// What was found in which file: a node that runs puts others in its place, in which the same may
/// seem to be wrong.
#[derive(Debug, Clone, PartialEq)]
struct Sighting {
    finding: Finding,
    file: Option<(u64, Option<SystemTime>)>,
}

fn sightings(findings: Vec<Finding>) -> Vec<Sighting> {
    let of = |finding: Finding| {
        let file = std::fs::metadata(&finding.path).ok();
        let file = file.map(|file| (file.ino(), file.created().ok()));
        Sighting { finding, file }
    };
    findings.into_iter().map(of).collect()
}

/// What is still there at a second look, and what is not: a running node deletes and compacts on
/// its own, which is no damage.
fn lasting(found: Vec<Sighting>, again: &[Sighting]) -> (Vec<Finding>, Vec<Finding>) {
    let (stays, goes): (Vec<_>, Vec<_>) = found.into_iter().partition(|seen| again.contains(seen));
    let finding = |seen: Sighting| seen.finding;
    (
        stays.into_iter().map(finding).collect(),
        goes.into_iter().map(finding).collect(),
    )
}

fn verify(args: &VerifyArgs) -> CommandResult {
    if !args.directory.is_dir() {
        let reason = anyhow::anyhow!("there is no directory {}", args.directory.display());
        return Err(CommandError::new(Exit::NotFound, reason));
    }
    let directory = log_directory(&args.directory)?;
    let process = running(&directory);
    if let Some(process) = process {
        output::note(format_args!(
            "the node runs as process {process}; files that it is writing may look torn"
        ));
    }
    let has_checkpoint = directory.join("checkpoint").is_file();
    let seen = look(&directory, has_checkpoint)?;
    if !has_checkpoint {
        output::note(format_args!(
            "{} has no checkpoint yet: its batches are checked as far as they go, but nothing \
             tells how far they must go",
            directory.display()
        ));
    }
    let runs = process.is_some() || running(&directory).is_some();
    let (findings, skipped) = match runs && !seen.findings.is_empty() {
        true => {
            let found = sightings(seen.findings);
            let again = look(&directory, has_checkpoint)?.findings;
            lasting(found, &sightings(again))
        }
        false => (seen.findings, Vec::new()),
    };
    if !skipped.is_empty() {
        output::note(format_args!(
            "skipped {} that the running node has removed or replaced",
            counted(skipped.len(), "file")
        ));
    }
    let verified = Verified {
        has_checkpoint,
        partitions: seen.partitions,
        segments: seen.segments,
        bytes: seen.bytes,
        directory,
        findings: findings.into_iter().map(Damage::from).collect(),
        skipped: skipped.into_iter().map(|finding| finding.path).collect(),
    };
    output::print(args.output.output, &verified, |verified| {
        if verified.findings.is_empty() {
            return format!(
                "{}: no damage found in {} with {} of {}\n",
                verified.directory.display(),
                counted(verified.partitions, "partition"),
                counted(verified.segments, "segment"),
                counted(verified.bytes, "byte"),
            );
        }
        let line = |damage: &Damage| format!("{}: {}\n", damage.path.display(), damage.what);
        verified.findings.iter().map(line).collect()
    })?;
    if verified.findings.is_empty() {
        Ok(())
    } else {
        Err(CommandError::condition_told("damage was found"))
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::batch::{BatchBuilder, NewRecord};
    use ottla_model::compression::Compression;

    use super::*;

    fn dumped(bytes: &[u8]) -> CommandResult {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("00000000000000000000.log");
        std::fs::write(&file, bytes).unwrap();
        dump(&DumpArgs {
            files: vec![file],
            records: false,
            output: OutputArgs {
                output: OutputFormat::Json,
            },
        })
    }

    /// Takes a few bytes, and then has no reader any more.
    struct Leaving(usize);

    impl std::io::Write for Leaving {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&NewRecord::default()).unwrap();
        builder.build().unwrap().to_vec()
    }

    #[test]
    fn a_reader_that_leaves_ends_a_dump_quietly_in_either_form() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("00000000000000000000.log");
        std::fs::write(&path, batch()).unwrap();
        let file = File::open(&path).unwrap();
        for output in [OutputFormat::Json, OutputFormat::Table] {
            let args = DumpArgs {
                files: Vec::new(),
                records: false,
                output: OutputArgs { output },
            };
            let mut left = Vec::new();
            dump_segment(&RealDisk, &path, &mut |batch| {
                left.push(write_batch(&args, &path, &file, batch, &mut Leaving(9)));
            })
            .unwrap();
            let error = CommandError::from(left.remove(0).unwrap_err());
            assert!(error.is_stdout_closed(), "{output:?}: {error}");
        }
    }

    #[test]
    fn a_checksum_is_shown_with_all_its_digits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("00000000000000000000.log");
        std::fs::write(&path, batch()).unwrap();
        let mut shown = Vec::new();
        dump_segment(&RealDisk, &path, &mut |batch| {
            let mut line = BatchLine::new(&path, batch);
            line.crc = 0xab;
            shown.push(line.text());
        })
        .unwrap();
        assert!(shown[0].contains(" 000000ab "), "{shown:?}");
    }

    #[test]
    fn without_a_checkpoint_the_segments_are_checked_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let partition = directory.path().join("broker/log/partitions/a-0");
        std::fs::create_dir_all(&partition).unwrap();
        let file = partition.join("00000000000000000000.log");
        let verified = || {
            verify(&VerifyArgs {
                directory: directory.path().to_owned(),
                output: OutputArgs {
                    output: OutputFormat::Json,
                },
            })
        };
        let mut builder = BatchBuilder::new(Compression::None);
        let record = NewRecord {
            value: Some(b"value"),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
        let mut batch = builder.build().unwrap().to_vec();
        std::fs::write(&file, &batch).unwrap();
        assert!(verified().is_ok());
        let last = batch.len() - 1;
        batch[last] ^= 1;
        std::fs::write(&file, &batch).unwrap();
        assert_eq!(verified().unwrap_err().exit, Exit::Condition);
        let _lock = node::DirectoryLock::take(directory.path()).unwrap();
        let log = directory.path().join("broker/log");
        assert_eq!(running(&log), Some(std::process::id()));
    }

    #[test]
    fn segments_of_which_no_checkpoint_speaks_are_counted_too() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path();
        let segment = batch();
        for partition in ["partitions/a-0", "partitions/a-1"] {
            std::fs::create_dir_all(log.join(partition)).unwrap();
            let file = log.join(partition).join("00000000000000000000.log");
            std::fs::write(file, &segment).unwrap();
        }
        let counted = |has_checkpoint| {
            let seen = look(log, has_checkpoint).unwrap();
            (
                seen.findings.len(),
                seen.partitions,
                seen.segments,
                seen.bytes,
            )
        };
        let bytes = 2 * segment.len() as u64;
        assert_eq!(counted(false), (0, 2, 2, bytes));
        std::fs::write(log.join("checkpoint"), "damaged").unwrap();
        assert_eq!(counted(true), (1, 2, 2, bytes));
    }

    #[test]
    fn whoever_names_a_folder_within_the_log_is_told_the_one_to_name() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().canonicalize().unwrap().join("broker/log");
        let partition = log.join("partitions/a-0");
        std::fs::create_dir_all(&partition).unwrap();
        for named in [log.join("partitions"), partition] {
            let told = log_directory(&named).unwrap_err();
            assert_eq!(told.exit, Exit::NotFound);
            let told = told.to_string();
            assert!(told.ends_with(&format!("name {}", log.display())), "{told}");
        }
    }

    #[test]
    fn what_a_running_node_removed_or_replaced_is_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        let partition = directory.path().join("partitions/t-0");
        std::fs::create_dir_all(&partition).unwrap();
        let file = partition.join("00000000000000000000.log");
        let look = || sightings(look(directory.path(), false).unwrap().findings);
        let record = NewRecord {
            value: Some(b"value"),
            ..NewRecord::default()
        };
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&record).unwrap();
        let whole = builder.build().unwrap().to_vec();
        let mut damaged = whole.clone();
        damaged[whole.len() - 1] ^= 1;
        std::fs::write(&file, &damaged).unwrap();
        let found = look();
        assert_eq!(found.len(), 1, "{found:?}");
        let told = vec![found[0].finding.clone()];
        assert_eq!(
            lasting(found.clone(), &look()),
            (told.clone(), vec![]),
            "it is damaged"
        );
        let replacement = directory.path().join("replacement");
        for bytes in [&damaged, &whole] {
            std::fs::write(&replacement, bytes).unwrap();
            std::fs::rename(&replacement, &file).unwrap();
            assert_eq!(
                lasting(found.clone(), &look()),
                (vec![], told.clone()),
                "another took its place"
            );
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(lasting(found, &look()), (vec![], told), "it was removed");
    }

    #[test]
    fn what_is_no_segment_is_not_passed_off_as_a_sound_one() {
        let error = dumped(b"[package]\nname = \"ottla\"\n").unwrap_err();
        assert_eq!(error.exit, Exit::Condition);
        assert!(dumped(b"").is_ok(), "a segment may still be empty");
        let summary = |trailing_bytes| SegmentSummary {
            trailing_bytes,
            ..SegmentSummary::default()
        };
        let said = |name: &str, bytes| verdict(Path::new(name), &summary(bytes));
        assert!(said("00000000000000000001.wal", 7).contains("no segment file (*.log)"));
        assert!(said("00000000000000000000.index", 0).contains("no segment file"));
        assert!(said("00000000000000000000.log", 0).starts_with("0 batches"));
    }

    #[test]
    fn a_controllers_directory_is_told_from_one_of_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let told = || log_directory(directory.path()).unwrap_err().to_string();
        assert!(
            told().contains("name a node's data directory"),
            "{}",
            told()
        );
        let controller = directory.path().join("controller");
        std::fs::create_dir_all(controller.join("snapshots")).unwrap();
        std::fs::write(controller.join("meta.json"), "{}").unwrap();
        assert!(
            told().contains("a controller's is not checked"),
            "{}",
            told()
        );
    }
}
