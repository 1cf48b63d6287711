//! Whether a store's files hold what its checkpoint and its journal say, offline or beside the
//! process that writes them. Changes nothing.

use std::path::{Path, PathBuf};

use ottla_model::{Offset, TopicIdPartition};

use crate::checkpoint::Checkpoint;
use crate::disk::Disk;
use crate::dump::dump_segment;
use crate::error::{IoContext as _, LogError};
use crate::partition::Physical;
use crate::recovery::{self, Fold, Folded};
use crate::segment::log_path;
use crate::shared::Dirs;

/// How often the journal is read before what another process writes meanwhile is let be.
const ATTEMPTS: usize = 10;

/// What was looked at, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    pub partitions: u64,
    pub segments: u64,
    /// The segments' bytes.
    pub bytes: u64,
    pub findings: Vec<Finding>,
}

/// Something that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    pub what: String,
}

/// Verifies the checkpoint, the journal, and of every segment what they vouch for and want: not
/// what was trimmed, cut or deleted since, done already or not. Bytes behind are no finding: the
/// journal has them.
///
/// # Errors
/// The disk does not work, or a newer version wrote what is there.
pub fn verify_dir(disk: &dyn Disk, dir: &Path) -> Result<Verified, LogError> {
    let dirs = Dirs::new(dir);
    let (fold, damage) = sum_up(disk, &dirs)?;
    let mut verification = Verification {
        disk,
        dirs: &dirs,
        knows_all: damage.is_none(),
        verified: Verified {
            findings: Vec::from_iter(damage),
            ..Verified::default()
        },
    };
    for (id, log) in &fold.logs {
        verification.take(*id, log)?;
    }
    Ok(verification.verified)
}

/// What the checkpoint and the journal say, and what is wrong with them.
///
/// The journal may be read while it is written, and then looks damaged where it goes on, lacks a
/// file, or is trimmed beyond the checkpoint that was read before. Real damage is the same at a
/// second look.
fn sum_up(disk: &dyn Disk, dirs: &Dirs) -> Result<(Fold, Option<Finding>), LogError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut fold = Fold::default();
        let Err(error) = sum_up_once(disk, dirs, &mut fold) else {
            return Ok((fold, None));
        };
        let told = error.to_string();
        let is_same = matches!(&last, Some((before, _)) if *before == told);
        match error {
            LogError::Corrupt {
                path,
                position,
                what,
            } if is_same => {
                let what = format!("at byte {position}: {what}");
                return Ok((fold, Some(Finding { path, what })));
            }
            LogError::Corrupt { .. } => {}
            error if error.is_not_found() && !is_same => {}
            error => return Err(error),
        }
        last = Some((told, fold));
    }
    Ok((last.map(|(_, fold)| fold).unwrap_or_default(), None))
}

/// Leaves in `fold` how far it came when it fails.
fn sum_up_once(disk: &dyn Disk, dirs: &Dirs, fold: &mut Fold) -> Result<(), LogError> {
    let mut serial = 0;
    let checkpoint = Checkpoint::load(disk, &dirs.root, &mut || {
        serial += 1;
        serial
    })?;
    *fold = Fold::new(checkpoint.unwrap_or_default());
    recovery::look_at_journal(disk, dirs, fold)
}

/// In words, that so many batches of a file are damaged.
pub fn damaged_batches(count: u64, first_at: u64) -> String {
    match count {
        1 => format!("the batch at byte {first_at} is damaged"),
        more => format!("{more} batches are damaged, the first of them at byte {first_at}"),
    }
}

struct Verification<'a> {
    disk: &'a dyn Disk,
    dirs: &'a Dirs,
    /// Nothing is wrong with the journal. If something is, it may have gone on to say that what is
    /// missed is not wanted any more.
    knows_all: bool,
    verified: Verified,
}

impl Verification<'_> {
    fn take(&mut self, id: TopicIdPartition, log: &Folded) -> Result<(), LogError> {
        let dir = self.dirs.of(id);
        if let Some(what) = log.damage.clone() {
            self.verified.findings.push(Finding { path: dir, what });
            return Ok(());
        }
        self.verified.partitions += 1;
        // All that is wanted of a log that is newer than the checkpoint is in the journal.
        let Some(kept) = &log.kept else {
            return Ok(());
        };
        let mut wanted = kept.clone();
        wanted.end = log.keep_end;
        let is_cut = wanted.end < kept.end;
        for (index, segment) in wanted.segments.iter().enumerate() {
            let Some(end) = wanted.wanted_end(index, log.log_start) else {
                continue;
            };
            let mut path = log_path(&dir, segment.base);
            if let Some(swap) = log.swaps.iter().rfind(|swap| swap.base() == segment.base) {
                let waiting = self.dirs.compacting.join(swap.file_name(id));
                if self.disk.exists(&waiting).or_log("look for", &waiting)? {
                    path = waiting;
                }
            }
            // The segment that the cut goes through may be shorter already, and longer again.
            let is_cut_through = is_cut && end < kept.end_of(index);
            let what = self.judge(&path, kept, index, is_cut_through.then_some(end))?;
            let finding = what.map(|what| Finding { path, what });
            self.verified.findings.extend(finding);
        }
        Ok(())
    }

    /// What is wrong with the file of the segment at `index`, of which what lies at and above
    /// `cut_at` is not wanted.
    fn judge(
        &mut self,
        path: &Path,
        log: &Physical,
        index: usize,
        cut_at: Option<Offset>,
    ) -> Result<Option<String>, LogError> {
        let segment = &log.segments[index];
        let end = log.end_of(index);
        let (mut damaged, mut first_at) = (0, None);
        let mut is_behind = false;
        let dumped = dump_segment(self.disk, path, &mut |batch| {
            is_behind |= batch.position >= segment.bytes
                || cut_at.is_some_and(|end| batch.header.base_offset >= end);
            let misplacement = log.misplacement(&batch.header, segment.base..end);
            let is_damaged = batch.validity.is_err() || misplacement.is_some();
            if is_damaged && !is_behind {
                first_at.get_or_insert(batch.position);
                damaged += 1;
            }
        });
        let summary = match dumped {
            Ok(summary) => summary,
            Err(error) if error.is_not_found() => {
                return Ok(self.knows_all.then(|| "the file is missing".to_owned()));
            }
            Err(error) => return Err(error),
        };
        self.verified.segments += 1;
        self.verified.bytes += summary.bytes;
        let is_short = self.knows_all && cut_at.is_none() && summary.bytes < segment.bytes;
        Ok(match first_at {
            None => is_short.then(|| {
                format!(
                    "its whole batches end at byte {}, but {} bytes were synced",
                    summary.bytes, segment.bytes
                )
            }),
            Some(at) => Some(damaged_batches(damaged, at)),
        })
    }
}
