//! Who a broker's directory belongs to: written once, checked at every start.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use ottla_model::{BrokerEpoch, ClusterId, DirectoryId, NodeId};
use serde::{Deserialize, Serialize};

/// The file in a broker's directory.
const IDENTITY_FILE: &str = "identity.json";
/// The layout of the directory. Raised when an older broker could not read it.
const FORMAT_VERSION: u32 = 2;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerIdentity {
    pub format_version: u32,
    pub node_id: NodeId,
    pub directory_id: DirectoryId,
    /// `None` until the broker first heard from its cluster.
    pub cluster_id: Option<ClusterId>,
    /// The last broker epoch that was granted, noted before anything was done under it, so that an
    /// older copy of the directory is told from the directory. `None` before the first, and until
    /// the next one if the file was written by a build that did not note it (format version 1).
    #[serde(default)]
    pub last_broker_epoch: Option<BrokerEpoch>,
}

/// Why a directory cannot be used by this broker.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{} is missing although the directory holds a broker's data; restore it, or empty the \
         directory to have its data copied from the other replicas", path.display()
    )]
    Missing { path: PathBuf },
    #[error(
        "{} is damaged ({reason}); restore it, or empty the directory to have its data copied from \
         the other replicas", path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{} belongs to node {found}, but this node is {wanted}; correct node.id or data_dir",
        path.display()
    )]
    OtherNode {
        path: PathBuf,
        found: NodeId,
        wanted: NodeId,
    },
    #[error(
        "{} has format version {found}; this program knows up to {FORMAT_VERSION}: use a newer one",
        path.display()
    )]
    Format { path: PathBuf, found: u32 },
}

impl BrokerIdentity {
    /// Reads the identity of a directory, or gives a new directory one, with the caller's
    /// randomness.
    pub fn open(dir: &Path, node: NodeId, random: u128) -> Result<BrokerIdentity, IdentityError> {
        let path = dir.join(IDENTITY_FILE);
        let io = |source| IdentityError::Io {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(|source| IdentityError::Io {
            path: dir.to_path_buf(),
            source,
        })?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // A new identity for old data would give stale records to the new replica.
                let is_temporary = |entry: std::fs::DirEntry| entry.path() == temporary_name(&path);
                let mut entries = std::fs::read_dir(dir).map_err(io)?;
                if entries.any(|entry| !entry.is_ok_and(is_temporary)) {
                    return Err(IdentityError::Missing { path });
                }
                let identity = BrokerIdentity {
                    format_version: FORMAT_VERSION,
                    node_id: node,
                    directory_id: DirectoryId::from_random(random),
                    cluster_id: None,
                    last_broker_epoch: None,
                };
                identity.save(dir).map_err(io)?;
                return Ok(identity);
            }
            Err(error) => return Err(io(error)),
        };
        let identity: BrokerIdentity =
            serde_json::from_slice(&bytes).map_err(|error| IdentityError::Damaged {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        if identity.format_version > FORMAT_VERSION {
            return Err(IdentityError::Format {
                path,
                found: identity.format_version,
            });
        }
        if identity.node_id != node {
            return Err(IdentityError::OtherNode {
                path,
                found: identity.node_id,
                wanted: node,
            });
        }
        Ok(identity)
    }

    /// Writes the identity, durably. Where there is no room for a second file, over the one that is
    /// there: a broker must start on a full disk, and so few bytes lie in one sector.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        let path = dir.join(IDENTITY_FILE);
        let current = BrokerIdentity {
            format_version: FORMAT_VERSION,
            ..self.clone()
        };
        let text = serde_json::to_string_pretty(&current).map_err(std::io::Error::other)?;
        match replace(&path, &text) {
            Err(error) if is_want_of_room(&error) && path.exists() => overwrite(&path, &text),
            replaced => replaced,
        }
    }
}

/// Temporary name, sync, rename, directory sync.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = temporary_name(path);
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn is_want_of_room(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

/// Without a moment at which the file is longer than it was or will be, blanks make up for what the
/// old text has more; JSON does not mind them.
fn overwrite(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len() as usize;
    file.write_all(format!("{text:length$}").as_bytes())?;
    file.sync_all()
}

/// The file while it is written.
fn temporary_name(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_identity_and_refuses_another_node() {
        let dir = tempfile::tempdir().unwrap();
        let made = BrokerIdentity::open(dir.path(), NodeId(4), 7).unwrap();
        assert_eq!(
            BrokerIdentity::open(dir.path(), NodeId(4), 8).unwrap(),
            made
        );
        let refused = BrokerIdentity::open(dir.path(), NodeId(5), 9)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("belongs to node 4") && refused.contains("data_dir"),
            "{refused}"
        );
    }

    #[test]
    fn a_directory_that_lost_its_identity_is_refused_and_one_that_never_had_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("identity.tmp"), "{").unwrap();
        BrokerIdentity::open(dir.path(), NodeId(1), 1).unwrap();
        std::fs::remove_file(dir.path().join(IDENTITY_FILE)).unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let refused = BrokerIdentity::open(dir.path(), NodeId(1), 2).unwrap_err();
        assert!(
            matches!(refused, IdentityError::Missing { .. }),
            "{refused}"
        );
    }

    #[test]
    fn an_identity_that_is_written_over_a_longer_or_shorter_one_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(IDENTITY_FILE);
        let made = BrokerIdentity::open(dir.path(), NodeId(1), 7).unwrap();
        for epoch in [Some(BrokerEpoch(1_234_567)), None, Some(BrokerEpoch(9))] {
            let noted = BrokerIdentity {
                last_broker_epoch: epoch,
                ..made.clone()
            };
            overwrite(&path, &serde_json::to_string_pretty(&noted).unwrap()).unwrap();
            let read = BrokerIdentity::open(dir.path(), NodeId(1), 7).unwrap();
            assert_eq!(read.last_broker_epoch, epoch);
        }
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [&b"{"[..], b"{\xff}"] {
            std::fs::write(dir.path().join(IDENTITY_FILE), bytes).unwrap();
            let refused = BrokerIdentity::open(dir.path(), NodeId(1), 1)
                .unwrap_err()
                .to_string();
            assert!(
                refused.contains(IDENTITY_FILE) && refused.contains("damaged"),
                "{refused}"
            );
        }
    }
}
