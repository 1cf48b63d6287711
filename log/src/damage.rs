//! What was found damaged and set aside, kept on disk until whoever decides who may lead has heard
//! of it. Without it, a crash between setting a log aside and telling would leave an empty log
//! that others still count on.
//!
//! One file in `damaged` for each log, or `all` for the whole store, named after it; inside stands
//! why. The name alone counts.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;

use ottla_model::TopicIdPartition;
use parking_lot::Mutex;

use crate::disk::{Disk, OpenMode};
use crate::error::{IoContext as _, LogError};
use crate::shared::Shared;

const ALL: &str = "all";
/// The most bytes of a reason that are kept.
const REASON_BYTES_MAX: usize = 4096;

/// What a store lost: logs that are empty now although they held something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// Why every log of the store counts as lost, if so.
    pub all: Option<String>,
    /// The lost logs, each with what was found.
    pub logs: BTreeMap<TopicIdPartition, String>,
}

impl Damage {
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.logs.is_empty()
    }

    /// Whether what this log held is lost.
    pub fn concerns(&self, id: TopicIdPartition) -> bool {
        self.all.is_some() || self.logs.contains_key(&id)
    }
}

/// The notes of one store. Each change is durable when it returns.
#[derive(Debug, Default)]
pub(crate) struct DamageNotes {
    noted: Mutex<Damage>,
}

impl DamageNotes {
    /// Reads what earlier runs noted. Files that are no notes are passed over.
    pub fn load(&self, shared: &Shared) -> Result<(), LogError> {
        let dir = &shared.dirs.damaged;
        let mut noted = self.noted.lock();
        for entry in shared.disk.list(dir).or_log("list", dir)? {
            let name = entry.name.to_string_lossy();
            let why = reason(&*shared.disk, &dir.join(&entry.name));
            if name == ALL {
                noted.all = Some(why);
            } else if let Ok(id) = name.parse() {
                noted.logs.insert(id, why);
            }
        }
        Ok(())
    }

    pub fn current(&self) -> Damage {
        self.noted.lock().clone()
    }

    pub fn concerns(&self, id: TopicIdPartition) -> bool {
        self.noted.lock().concerns(id)
    }

    pub fn note(&self, shared: &Shared, id: TopicIdPartition, why: &str) -> Result<(), LogError> {
        let mut noted = self.noted.lock();
        write(shared, &id.to_string(), why)?;
        noted.logs.insert(id, why.to_owned());
        Ok(())
    }

    pub fn note_all(&self, shared: &Shared, why: &str) -> Result<(), LogError> {
        let mut noted = self.noted.lock();
        write(shared, ALL, why)?;
        noted.all = Some(why.to_owned());
        Ok(())
    }

    /// Removes the notes of `told`; what was noted since stays.
    pub fn forget(&self, shared: &Shared, told: &Damage) -> Result<(), LogError> {
        let mut noted = self.noted.lock();
        if told.all.is_some() && noted.all.is_some() {
            remove(shared, ALL)?;
        }
        for id in told.logs.keys().filter(|id| noted.logs.contains_key(id)) {
            remove(shared, &id.to_string())?;
        }
        // A note that came back with a crash would take a refilled replica out of the ISR again,
        // and with it, perhaps, the only one that is left.
        let dir = &shared.dirs.damaged;
        shared.disk.sync_dir(dir).or_log("sync", dir)?;
        if told.all.is_some() {
            noted.all = None;
        }
        noted.logs.retain(|id, _| !told.logs.contains_key(id));
        Ok(())
    }
}

fn write(shared: &Shared, name: &str, why: &str) -> Result<(), LogError> {
    let dir = &shared.dirs.damaged;
    let path = dir.join(name);
    let mut why = why.as_bytes();
    why = &why[..why.len().min(REASON_BYTES_MAX)];
    let file = shared
        .disk
        .open(&path, OpenMode::CreateEmpty)
        .or_log("create", &path)?;
    file.write_at(&[IoSlice::new(why)], 0)
        .or_log("write", &path)?;
    file.sync_data().or_log("sync", &path)?;
    shared.disk.sync_dir(dir).or_log("sync", dir)
}

fn remove(shared: &Shared, name: &str) -> Result<(), LogError> {
    let path = shared.dirs.damaged.join(name);
    match shared.disk.unlink(&path).or_log("remove", &path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// What a note says. It is for people: a note that cannot be read still counts.
fn reason(disk: &dyn Disk, path: &Path) -> String {
    let mut bytes = vec![0; REASON_BYTES_MAX];
    let read = disk
        .open(path, OpenMode::Existing)
        .and_then(|file| file.read_at(&mut bytes, 0))
        .unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}
