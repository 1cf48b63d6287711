//! Snapshots as files: `snapshot-<index>-<term>.bin`, written under another name, synced, renamed,
//! the directory synced. The one before is kept, so that a damaged file costs nothing but a longer
//! replay.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use ottla_log::{Disk, disk::OpenMode};
use ottla_model::checksum::crc32c;

use super::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"OTTLACSN";
const VERSION: u32 = 1;
/// Magic, version, length of the description; then it, then the image, then the checksum.
const HEAD_BYTES: usize = 8 + 4 + 4;
const CHECKSUM_BYTES: usize = 4;
/// How many snapshots are kept.
const KEPT: usize = 2;

/// A snapshot as it is kept and sent: its description and the image's bytes.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    pub meta: SnapshotMeta,
    pub image: Bytes,
}

/// The directory that holds the snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl SnapshotDir {
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<SnapshotDir> {
        disk.create_dir_all(&dir)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent)?;
        }
        // An earlier life may have died between a snapshot's rename and this: the log must not be
        // given up for a name that the next crash takes away.
        disk.sync_dir(&dir)?;
        Ok(SnapshotDir { disk, dir })
    }

    /// The newest snapshot that is whole, and how many damaged ones were passed over.
    pub fn load(&self) -> io::Result<(Option<StoredSnapshot>, usize)> {
        let mut damaged = 0;
        for (_, _, name) in self.list()?.into_iter().rev() {
            let path = self.dir.join(&name);
            match self.read(&path) {
                Ok(snapshot) => return Ok((Some(snapshot), damaged)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(path = %path.display(), %error, "a snapshot is damaged; the one before it is used");
                    damaged += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// Makes a snapshot durable, and removes all but the newest two.
    pub fn store(&self, snapshot: &StoredSnapshot) -> io::Result<()> {
        let (index, term) = snapshot
            .meta
            .last_log_id
            .as_ref()
            .map_or((0, 0), |log_id| (log_id.index, log_id.leader_id.term));
        let path = self
            .dir
            .join(format!("snapshot-{index:020}-{term:020}.bin"));
        let temporary = self.dir.join("snapshot.tmp");
        let bytes = encode(snapshot)?;
        let file = self.disk.open(&temporary, OpenMode::CreateEmpty)?;
        file.write_at(&[IoSlice::new(&bytes)], 0)?;
        file.sync_data()?;
        self.disk.rename(&temporary, &path)?;
        self.disk.sync_dir(&self.dir)?;
        let mut all = self.list()?;
        all.truncate(all.len().saturating_sub(KEPT));
        if all.is_empty() {
            return Ok(());
        }
        for (_, _, name) in all {
            self.disk.unlink(&self.dir.join(name))?;
        }
        self.disk.sync_dir(&self.dir)
    }

    /// The log position that the oldest kept snapshot ends at; `None` with fewer than two.
    pub fn oldest_kept_index(&self) -> io::Result<Option<u64>> {
        let all = self.list()?;
        Ok((all.len() >= KEPT).then(|| all[0].0))
    }

    /// Index, term and name of each snapshot, oldest first.
    fn list(&self) -> io::Result<Vec<(u64, u64, String)>> {
        let mut found: Vec<_> = self
            .disk
            .list(&self.dir)?
            .into_iter()
            .filter_map(|entry| {
                let name = entry.name.into_string().ok()?;
                let numbers = name.strip_prefix("snapshot-")?.strip_suffix(".bin")?;
                let (index, term) = numbers.split_once('-')?;
                Some((index.parse().ok()?, term.parse().ok()?, name))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &Path) -> io::Result<StoredSnapshot> {
        let file = self.disk.open(path, OpenMode::Existing)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        decode(bytes.into())
    }
}

fn encode(snapshot: &StoredSnapshot) -> io::Result<Vec<u8>> {
    let meta = postcard::to_stdvec(&snapshot.meta).map_err(io::Error::other)?;
    let length = HEAD_BYTES + meta.len() + snapshot.image.len() + CHECKSUM_BYTES;
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&(meta.len() as u32).to_be_bytes());
    out.extend_from_slice(&meta);
    out.extend_from_slice(&snapshot.image);
    let checksum = crc32c(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    Ok(out)
}

fn decode(mut bytes: Bytes) -> io::Result<StoredSnapshot> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if bytes.len() < HEAD_BYTES + CHECKSUM_BYTES || &bytes[..8] != MAGIC {
        return Err(invalid("the file is not a controller's snapshot"));
    }
    let mut checksum = bytes.split_off(bytes.len() - CHECKSUM_BYTES);
    if checksum.get_u32() != crc32c(&bytes) {
        return Err(invalid("the file's checksum does not match its bytes"));
    }
    bytes.advance(8);
    let version = bytes.get_u32();
    if version != VERSION {
        return Err(invalid("the file's version is not one this build reads"));
    }
    let length = bytes.get_u32() as usize;
    if length > bytes.len() {
        return Err(invalid("the file's description is longer than the file"));
    }
    let meta = bytes.split_to(length);
    let meta = postcard::from_bytes(&meta)
        .map_err(|error| invalid(&format!("the file's description is damaged: {error}")))?;
    Ok(StoredSnapshot { meta, image: bytes })
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId as _;
    use ottla_log::SimDisk;

    use super::*;
    use crate::quorum::types::LogId;

    fn snapshot(index: u64) -> StoredSnapshot {
        let leader = openraft::impls::leader_id_std::LeaderId::new(4, 1);
        let meta = SnapshotMeta {
            last_log_id: Some(LogId::new(leader.to_committed(), index)),
            ..SnapshotMeta::default()
        };
        StoredSnapshot {
            meta,
            image: Bytes::from(vec![index as u8; 1_000]),
        }
    }

    fn open(disk: &SimDisk) -> SnapshotDir {
        SnapshotDir::open(Arc::new(disk.clone()), "/snapshots".into()).unwrap()
    }

    #[test]
    fn a_stored_snapshot_survives_a_crash_and_only_two_are_kept() {
        let disk = SimDisk::new();
        let dir = open(&disk);
        for index in [10, 20, 30] {
            dir.store(&snapshot(index)).unwrap();
        }
        disk.crash();
        let dir = open(&disk);
        assert_eq!(dir.oldest_kept_index().unwrap(), Some(20));
        let (loaded, damaged) = dir.load().unwrap();
        let loaded = loaded.unwrap();
        assert_eq!((loaded.image[0], damaged), (30, 0));
    }

    #[test]
    fn instead_of_a_damaged_snapshot_the_one_before_is_used() {
        let disk = SimDisk::new();
        let dir = open(&disk);
        for index in [10, 20] {
            dir.store(&snapshot(index)).unwrap();
        }
        let (_, _, newest) = dir.list().unwrap().pop().unwrap();
        let file = disk
            .open(&dir.dir.join(newest), OpenMode::Existing)
            .unwrap();
        file.write_at(&[IoSlice::new(b"X")], 500).unwrap();
        let (loaded, damaged) = dir.load().unwrap();
        assert_eq!((loaded.unwrap().image[0], damaged), (10, 1));
    }
}
