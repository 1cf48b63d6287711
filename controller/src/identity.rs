//! Who this node is, kept in its directory: node id, directory id, format version and, once
//! known, the cluster. A directory is made once; its id never changes.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_log::{Disk, disk::OpenMode};
use ottla_model::checksum::crc32c;
use ottla_model::{ClusterId, DirectoryId, NodeId};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::error::StartError;

const FILE: &str = "meta.json";
/// The file while it is written.
const TEMPORARY: &str = "meta.tmp";
/// What else may be there before the file is: the lock is taken first, a write may have been cut
/// off, and history can be built again, so it tells of nothing that was lost.
const NO_STATE: [&str; 4] = ["lock", TEMPORARY, "history", "history.damaged"];
/// What a controller must not lose.
const STATE: [&str; 2] = ["log", "snapshots"];
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    format: u32,
    node_id: NodeId,
    directory_id: DirectoryId,
    cluster_id: Option<ClusterId>,
    /// Left out where it is false, so that the text of such a directory stays what it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lost_state: bool,
    /// CRC-32C of the same text with a checksum of 0.
    checksum: u32,
}

/// What a file of any format says.
#[derive(Deserialize)]
struct Head {
    format: u32,
    checksum: u32,
}

impl Head {
    /// Whether the checksum is that of the text, with a checksum of 0 in it.
    fn seals(&self, text: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(text) else {
            return false;
        };
        let claim = format!("\"checksum\": {}", self.checksum);
        let unsealed = text.replace(&claim, "\"checksum\": 0");
        crc32c(unsealed.as_bytes()) == self.checksum
    }
}

impl Stored {
    fn text(&self) -> String {
        // A struct of numbers and texts always has a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    fn sealed(mut self) -> Stored {
        self.checksum = 0;
        self.checksum = crc32c(self.text().as_bytes());
        self
    }
}

/// The identity of a directory that has none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewIdentity {
    pub directory_id: DirectoryId,
    /// See [`Identity::lost_state`].
    pub lost_state: bool,
}

impl From<DirectoryId> for NewIdentity {
    fn from(directory_id: DirectoryId) -> NewIdentity {
        NewIdentity {
            directory_id,
            lost_state: false,
        }
    }
}

/// This node's identity.
#[derive(Debug)]
pub struct Identity {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    pub node_id: NodeId,
    pub directory_id: DirectoryId,
    /// Whether this directory took the place of one that was damaged: it belonged to a cluster, so
    /// it never founds one.
    pub lost_state: bool,
    cluster_id: RwLock<Option<ClusterId>>,
}

impl Identity {
    /// Reads the identity in `dir`, or makes the one that is given.
    ///
    /// # Errors
    /// [`StartError::OtherNode`] for another node's directory, [`StartError::Damaged`] for a
    /// file that is not what was written, [`StartError::NoIdentity`] for a directory that has data
    /// but lost its identity: under a new one it would be another voter with an old voter's log.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        node_id: NodeId,
        if_new: impl Into<NewIdentity>,
    ) -> Result<Identity, StartError> {
        let path = dir.join(FILE);
        let io = |action| {
            let path = path.clone();
            move |source| StartError::Io {
                action,
                path,
                source,
            }
        };
        if disk.exists(&path).map_err(io("look for"))? {
            let stored = read(&disk, &path)?;
            if stored.node_id != node_id {
                let cluster = stored.cluster_id;
                return Err(StartError::OtherNode {
                    path,
                    found: stored.node_id,
                    of_cluster: cluster.map_or(String::new(), |id| format!(" of cluster {id}")),
                    expected: node_id,
                });
            }
            return Ok(Identity {
                disk,
                dir: dir.to_owned(),
                node_id,
                directory_id: stored.directory_id,
                lost_state: stored.lost_state,
                cluster_id: RwLock::new(stored.cluster_id),
            });
        }
        let entries = disk.list(dir).map_err(io("look for"))?;
        let has = |name: &str| entries.iter().any(|entry| entry.name == *name);
        if entries
            .iter()
            .any(|entry| !NO_STATE.iter().any(|name| entry.name == *name))
        {
            let lost_state = STATE.iter().any(|name| has(name));
            return Err(StartError::NoIdentity { path, lost_state });
        }
        let new = if_new.into();
        let identity = Identity {
            disk,
            dir: dir.to_owned(),
            node_id,
            directory_id: new.directory_id,
            lost_state: new.lost_state,
            cluster_id: RwLock::new(None),
        };
        identity.write(None).map_err(io("write"))?;
        Ok(identity)
    }

    /// The cluster that this directory belongs to; `None` until it is founded or joined.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        *self.cluster_id.read()
    }

    /// The cluster became known. It is kept in the directory, unless it was already.
    pub fn set_cluster_id(&self, cluster_id: ClusterId) -> std::io::Result<()> {
        if self.cluster_id() == Some(cluster_id) {
            return Ok(());
        }
        self.write(Some(cluster_id))?;
        *self.cluster_id.write() = Some(cluster_id);
        Ok(())
    }

    fn write(&self, cluster_id: Option<ClusterId>) -> std::io::Result<()> {
        let stored = Stored {
            format: FORMAT,
            node_id: self.node_id,
            directory_id: self.directory_id,
            cluster_id,
            lost_state: self.lost_state,
            checksum: 0,
        };
        let temporary = self.dir.join(TEMPORARY);
        let file = self.disk.open(&temporary, OpenMode::CreateEmpty)?;
        file.write_at(&[IoSlice::new(stored.sealed().text().as_bytes())], 0)?;
        file.sync_data()?;
        self.disk.rename(&temporary, &self.dir.join(FILE))?;
        self.disk.sync_dir(&self.dir)
    }
}

fn read(disk: &Arc<dyn Disk>, path: &Path) -> Result<Stored, StartError> {
    let io = |source| StartError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let damaged = |what: String| StartError::Damaged {
        path: path.to_owned(),
        what,
    };
    let file = disk.open(path, OpenMode::Existing).map_err(io)?;
    let mut bytes = vec![0; usize::try_from(file.size().map_err(io)?).unwrap_or(0)];
    let count = file.read_at(&mut bytes, 0).map_err(io)?;
    bytes.truncate(count);
    // A whole file of another format is no damage, whatever it says besides.
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if !head.seals(&bytes) {
        return Err(damaged("its checksum does not match its text".to_owned()));
    }
    if head.format != FORMAT {
        return Err(StartError::OtherFormat {
            path: path.to_owned(),
            found: head.format,
            known: FORMAT,
        });
    }
    let stored: Stored =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if stored.clone().sealed() != stored {
        return Err(damaged("its checksum does not match its text".to_owned()));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use ottla_log::SimDisk;

    use super::*;

    fn open(disk: &SimDisk, node: i32, random: u128) -> Result<Identity, StartError> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        disk.create_dir_all(Path::new("/c")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let directory = DirectoryId::from_random(random);
        Identity::open(disk, Path::new("/c"), NodeId(node), directory)
    }

    #[test]
    fn a_directory_keeps_its_id_and_its_cluster_through_a_crash() {
        let disk = SimDisk::new();
        let cluster = ClusterId::from_random(5);
        let first = open(&disk, 2, 1).unwrap();
        first.set_cluster_id(cluster).unwrap();
        disk.crash();
        let again = open(&disk, 2, 99).unwrap();
        assert_eq!(again.directory_id, DirectoryId::from_random(1));
        assert_eq!(again.cluster_id(), Some(cluster));
    }

    #[test]
    fn the_directory_of_another_node_is_refused_with_the_cluster_it_belongs_to() {
        let disk = SimDisk::new();
        let cluster = ClusterId::from_random(5);
        open(&disk, 2, 1).unwrap().set_cluster_id(cluster).unwrap();
        let message = open(&disk, 3, 1).unwrap_err().to_string();
        assert!(message.contains("node 2"), "{message}");
        assert!(message.contains(&cluster.to_string()), "{message}");
    }

    #[test]
    fn a_directory_that_lost_its_identity_is_refused_and_one_that_never_had_it_is_not() {
        let disk = SimDisk::new();
        open(&disk, 2, 1).unwrap();
        disk.unlink(Path::new("/c/meta.json")).unwrap();
        disk.open(Path::new("/c/meta.tmp"), OpenMode::Create)
            .unwrap();
        open(&disk, 2, 7).unwrap();
        disk.unlink(Path::new("/c/meta.json")).unwrap();
        disk.create_dir_all(Path::new("/c/log")).unwrap();
        let error = open(&disk, 2, 8).unwrap_err();
        assert!(matches!(error, StartError::NoIdentity { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("meta.json") && message.contains("restore"),
            "{message}"
        );
    }

    /// Going back to an older program must not cost the directory.
    #[test]
    fn a_whole_file_of_another_format_is_no_damage() {
        let disk = SimDisk::new();
        open(&disk, 2, 1).unwrap();
        let path = Path::new("/c/meta.json");
        let text = |checksum| {
            let rest = r#""node_id": 2, "unheard_of": true"#;
            format!(r#"{{"format": 9, {rest}, "checksum": {checksum}}}"#)
        };
        let write = |text: String| {
            let file = disk.open(path, OpenMode::CreateEmpty).unwrap();
            file.write_at(&[IoSlice::new(text.as_bytes())], 0).unwrap();
            open(&disk, 2, 1).unwrap_err()
        };
        let error = write(text(crc32c(text(0).as_bytes())));
        assert!(!error.is_damage(), "{error}");
        assert!(error.to_string().contains("format 9"), "{error}");
        assert!(write(text(12_345)).is_damage());
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let disk = SimDisk::new();
        open(&disk, 2, 1).unwrap();
        let file = disk
            .open(Path::new("/c/meta.json"), OpenMode::Existing)
            .unwrap();
        let mut text = vec![0; 200];
        let count = file.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8(text[..count].to_vec()).unwrap();
        let text = text.replace("\"node_id\": 2", "\"node_id\": 3");
        file.write_at(&[IoSlice::new(text.as_bytes())], 0).unwrap();
        let error = open(&disk, 3, 1).unwrap_err();
        assert!(matches!(error, StartError::Damaged { .. }), "{error}");
    }
}
