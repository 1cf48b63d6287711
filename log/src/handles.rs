//! Open files and loaded indexes of segments, both bounded: what was not used for longest is let
//! go and opened again when it is needed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{IoContext as _, LogError};
use crate::segment::SparseIndex;

/// Values by key, each with a weight, bounded by their sum. When it is exceeded, an eighth goes.
#[derive(Debug)]
struct Bounded<T> {
    values: HashMap<u64, (T, usize, u64)>,
    weight: usize,
    limit: usize,
    uses: u64,
}

impl<T: Clone> Bounded<T> {
    fn new(limit: usize) -> Bounded<T> {
        Bounded {
            values: HashMap::new(),
            weight: 0,
            limit,
            uses: 0,
        }
    }

    fn get(&mut self, key: u64) -> Option<T> {
        self.uses += 1;
        let (value, _, used) = self.values.get_mut(&key)?;
        *used = self.uses;
        Some(value.clone())
    }

    /// Returns what has to go for it, to be dropped by the caller outside its lock.
    fn put(&mut self, key: u64, value: T, weight: usize) -> Vec<T> {
        self.uses += 1;
        let mut gone = Vec::from_iter(self.remove(key));
        self.weight += weight;
        self.values.insert(key, (value, weight, self.uses));
        if self.weight > self.limit {
            let mut by_age: Vec<_> = self.values.iter().map(|(k, v)| (v.2, *k)).collect();
            by_age.sort_unstable();
            for (_, key) in by_age {
                if self.weight <= self.limit - self.limit / 8 {
                    break;
                }
                gone.extend(self.remove(key));
            }
        }
        gone
    }

    fn remove(&mut self, key: u64) -> Option<T> {
        let (value, weight, _) = self.values.remove(&key)?;
        self.weight -= weight;
        Some(value)
    }
}

/// Open segment files and indexes, by the serial of their segment.
#[derive(Debug)]
pub(crate) struct Handles {
    disk: Arc<dyn Disk>,
    files: Mutex<Bounded<Arc<dyn DiskFile>>>,
    indexes: Mutex<Bounded<Arc<SparseIndex>>>,
}

impl Handles {
    pub fn new(disk: Arc<dyn Disk>, files_max: usize, index_bytes_max: usize) -> Handles {
        Handles {
            disk,
            files: Mutex::new(Bounded::new(files_max)),
            indexes: Mutex::new(Bounded::new(index_bytes_max)),
        }
    }

    /// The open file of a segment.
    pub fn file(
        &self,
        serial: u64,
        path: &Path,
        mode: OpenMode,
    ) -> Result<Arc<dyn DiskFile>, LogError> {
        if mode != OpenMode::CreateEmpty
            && let Some(file) = self.files.lock().get(serial)
        {
            return Ok(file);
        }
        let file = self.disk.open(path, mode).or_log("open", path)?;
        // Reads are large as they are. The system would read megabytes ahead of a cold reader, and
        // the journal's writes would wait behind them.
        file.no_read_ahead();
        let gone = self.files.lock().put(serial, file.clone(), 1);
        drop(gone);
        Ok(file)
    }

    /// The file of a segment, if it is open.
    pub fn open_file(&self, serial: u64) -> Option<Arc<dyn DiskFile>> {
        self.files.lock().get(serial)
    }

    pub fn index(&self, serial: u64) -> Option<Arc<SparseIndex>> {
        self.indexes.lock().get(serial)
    }

    pub fn keep_index(&self, serial: u64, index: Arc<SparseIndex>) {
        let weight = index.memory_bytes();
        let gone = self.indexes.lock().put(serial, index, weight);
        drop(gone);
    }

    /// Lets go of a segment that is no more, or that has changed.
    pub fn forget(&self, serial: u64) {
        let file = self.files.lock().remove(serial);
        let index = self.indexes.lock().remove(serial);
        drop((file, index));
    }

    /// Segment files open now.
    pub fn open_files(&self) -> usize {
        self.files.lock().values.len()
    }
}
