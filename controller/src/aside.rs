//! Keeps a damaged controller directory aside and makes an empty one in its place, which asks to be
//! taken into the quorum anew. A part of a log is worth nothing to a voter: what it has forgotten
//! might be a vote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_log::Disk;
use ottla_model::DirectoryId;

use crate::error::StartError;
use crate::identity::NewIdentity;

/// How many damaged directories are kept. A disk that damages more of them is not to go on with.
const KEPT_MAX: usize = 3;

/// Moves `dir` aside and makes an empty one in its place. Returns where the damaged one is kept;
/// `None` if too many are kept already, and nothing has changed.
///
/// # Errors
/// [`StartError::Io`] if it cannot be moved.
pub fn move_aside(
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    dir: &Path,
) -> Result<Option<PathBuf>, StartError> {
    for path in places(data_dir) {
        if disk.exists(&path).map_err(io("look for", &path))? {
            continue;
        }
        disk.rename(dir, &path).map_err(io("move", dir))?;
        disk.create_dir_all(dir).map_err(io("create", dir))?;
        disk.sync_dir(data_dir).map_err(io("sync", data_dir))?;
        return Ok(Some(path));
    }
    tracing::error!(
        "{KEPT_MAX} damaged directories of this controller are kept already; look at the disk"
    );
    Ok(None)
}

/// The identity of an empty directory: beside a damaged one, it is to found no cluster.
///
/// # Errors
/// [`StartError::Io`] if it cannot be seen what is there.
pub fn identity_after(
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    directory_id: DirectoryId,
) -> Result<NewIdentity, StartError> {
    let mut lost_state = false;
    for path in places(data_dir) {
        lost_state |= disk.exists(&path).map_err(io("look for", &path))?;
    }
    Ok(NewIdentity {
        directory_id,
        lost_state,
    })
}

fn places(data_dir: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=KEPT_MAX).map(move |number| data_dir.join(format!("controller-damaged-{number}")))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use ottla_log::SimDisk;
    use ottla_model::{ClusterId, NodeId};

    use super::*;
    use crate::identity::Identity;

    const DATA: &str = "/node";
    const DIR: &str = "/node/controller";

    fn open(disk: &Arc<dyn Disk>, directory: u128) -> Identity {
        let directory = DirectoryId::from_random(directory);
        let new = identity_after(disk, Path::new(DATA), directory).unwrap();
        Identity::open(Arc::clone(disk), Path::new(DIR), NodeId(2), new).unwrap()
    }

    fn move_away(disk: &Arc<dyn Disk>) -> Option<PathBuf> {
        move_aside(disk, Path::new(DATA), Path::new(DIR)).unwrap()
    }

    fn member(disk: &Arc<dyn Disk>) {
        disk.create_dir_all(Path::new(DIR)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.sync_dir(Path::new(DATA)).unwrap();
        let identity = open(disk, 1);
        assert!(!identity.lost_state);
        identity.set_cluster_id(ClusterId::from_random(5)).unwrap();
    }

    #[test]
    fn the_new_directory_has_another_id_and_founds_no_cluster() {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        member(&disk);
        let aside = move_away(&disk).unwrap();
        // Whatever is lost before the new identity is written, it is known that there was another.
        sim.crash();
        assert!(disk.exists(&aside.join("meta.json")).unwrap());
        let identity = open(&disk, 7);
        assert_eq!(identity.directory_id, DirectoryId::from_random(7));
        assert_eq!(identity.cluster_id(), None);
        assert!(identity.lost_state);
        assert!(open(&disk, 8).lost_state);
    }

    #[test]
    fn a_disk_that_damages_one_directory_after_another_is_given_up() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        member(&disk);
        for new in 0..KEPT_MAX {
            assert!(move_away(&disk).is_some());
            open(&disk, 10 + new as u128);
        }
        assert_eq!(move_away(&disk), None);
        assert!(disk.exists(&Path::new(DIR).join("meta.json")).unwrap());
    }
}
