//! The files that a write-ahead log goes on to: prepared before they are needed, and made of files
//! that it no longer needs, so that an append has neither to create a file nor to sync a name.
//!
//! A spare has the name that it will be used under, and is handed out only once that name and the
//! file's length are durable. Names ascend in the order of use.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::files::{self, file_path};
use super::{Preparing, WalConfig, WalFile};
use crate::disk::{AlignedBuffer, Disk, OpenMode, is_want_of_room};
use crate::error::{IoContext as _, LogError};
use crate::planted::{self, Bug};

/// A new file is filled with zeros so much at a time, each of them synced: what is waiting to be
/// written must not grow so long that it holds up the syncs of appends.
const FILL_BYTES: usize = 1024 * 1024;
/// So many spares are kept in any case, and more only where room is no matter.
const KEPT_ALWAYS: usize = 2;
/// Room is no matter while so many times the spares are free.
const PLENTY: u64 = 16;
/// And rests so long after each, unless somebody waits for the file.
const FILL_PAUSE: Duration = Duration::from_millis(20);

/// The spare files of one log.
#[derive(Debug)]
pub(super) struct Spares {
    inner: Arc<Inner>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file_bytes: u64,
    /// The most that are kept.
    most: usize,
    /// One is created if there is none when it is asked for.
    ahead: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Ascending.
    ready: VecDeque<WalFile>,
    /// Not needed any more, to become spares or to go.
    retired: VecDeque<WalFile>,
    /// The highest number of a file.
    last_number: u64,
    /// One will be needed.
    wanted: bool,
    busy: bool,
    /// An append waits.
    awaited: bool,
    /// There was none to create a file with.
    no_room: bool,
    stop: bool,
    failed: Option<LogError>,
}

/// Whether a file that is not needed any more becomes a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    No,
    IfThereIsPlentyOfRoom,
    Yes,
}

enum Job {
    Retire { file: WalFile, keep: Keep },
    Create,
}

impl Spares {
    /// `ready` are the spares that are there; `last_number` is that of the last of all files.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        config: WalConfig,
        ready: VecDeque<WalFile>,
        last_number: u64,
    ) -> Spares {
        let state = State {
            ready,
            last_number,
            ..State::default()
        };
        let inner = Inner {
            disk,
            dir,
            file_bytes: config.file_bytes,
            most: config.spare_files,
            ahead: false,
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Spares {
            inner: Arc::new(inner),
            worker: None,
        }
    }

    /// The same spares, from now on prepared ahead on `disk`.
    pub fn prepared_ahead(
        &mut self,
        disk: Arc<dyn Disk>,
        preparing: Preparing,
    ) -> Result<(), LogError> {
        assert!(self.worker.is_none(), "files are prepared ahead already");
        let inner = Arc::new(Inner {
            disk,
            dir: self.inner.dir.clone(),
            file_bytes: self.inner.file_bytes,
            most: self.inner.most,
            ahead: preparing != Preparing::WhenNeeded && self.inner.most > 0,
            state: Mutex::new(std::mem::take(&mut *self.inner.state.lock())),
            changed: Condvar::new(),
        });
        self.inner = Arc::clone(&inner);
        if preparing == Preparing::InBackground {
            let dir = self.inner.dir.clone();
            let worker = thread::Builder::new()
                .name("log-spares".to_owned())
                .spawn(move || inner.run());
            self.worker = Some(worker.or_log("start a thread for", &dir)?);
        }
        Ok(())
    }

    /// Why no file can be prepared any more.
    pub fn failure(&self) -> Option<LogError> {
        self.inner.state.lock().failed.clone()
    }

    /// A file to go on to. Waits for one that is on its way; `None` if none is, with the number
    /// that one to be created has.
    pub fn take(&self) -> Result<Result<WalFile, u64>, LogError> {
        let mut state = self.inner.state.lock();
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if let Some(file) = state.ready.pop_front() {
                state.wanted = false;
                return Ok(Ok(file));
            }
            let on_its_way = state.busy || self.inner.has_job(&state);
            if self.worker.is_none() || !on_its_way {
                return Ok(Err(state.last_number + 1));
            }
            state.awaited = true;
            self.inner.changed.notify_all();
            self.inner.changed.wait(&mut state);
            state.awaited = false;
        }
    }

    /// A file of this number was created without these spares.
    pub fn created(&self, number: u64) {
        let mut state = self.inner.state.lock();
        assert!(number > state.last_number, "file {number} comes again");
        state.last_number = number;
        state.wanted = false;
        state.no_room = false;
    }

    /// A file will be needed that is not there yet, perhaps.
    pub fn ask_for_one(&self) {
        self.inner.state.lock().wanted = true;
        self.inner.changed.notify_all();
    }

    /// Takes files that are not needed any more.
    pub fn retire(&self, files: impl Iterator<Item = WalFile>) -> Result<(), LogError> {
        let mut state = self.inner.state.lock();
        state.retired.extend(files);
        // What goes leaves room.
        state.no_room = false;
        drop(state);
        match self.worker {
            Some(_) => {
                self.inner.changed.notify_all();
                Ok(())
            }
            None => self.inner.work(),
        }
    }

    /// A sync is done: time to prepare something, if nobody else does.
    pub fn after_sync(&self) -> Result<(), LogError> {
        match self.worker {
            Some(_) => Ok(()),
            None => self.inner.work(),
        }
    }

    /// Whether nothing is to be done.
    #[cfg(test)]
    pub fn are_prepared(&self) -> bool {
        let state = self.inner.state.lock();
        !state.busy && (state.failed.is_some() || !self.inner.has_job(&state))
    }
}

impl Drop for Spares {
    /// Finishes with the files that are not needed any more; begins no new one.
    fn drop(&mut self) {
        self.inner.state.lock().stop = true;
        self.inner.changed.notify_all();
        if let Some(worker) = self.worker.take() {
            // One that panicked has told so on its way.
            drop(worker.join());
        }
    }
}

impl Inner {
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            while !self.has_job(&state) {
                if state.stop || state.failed.is_some() {
                    return;
                }
                self.changed.wait(&mut state);
            }
            drop(state);
            if self.work().is_err() {
                return;
            }
        }
    }

    fn has_job(&self, state: &State) -> bool {
        let may_create = self.ahead && !state.no_room && !state.stop;
        let create = state.wanted && state.ready.is_empty() && may_create;
        state.failed.is_none() && (!state.retired.is_empty() || create)
    }

    fn next_job(&self, state: &mut State) -> Option<Job> {
        if !self.has_job(state) {
            return None;
        }
        let spares = state.ready.len();
        Some(match state.retired.pop_front() {
            Some(file) => Job::Retire {
                keep: match () {
                    () if file.size != self.file_bytes || spares >= self.most => Keep::No,
                    () if spares >= KEPT_ALWAYS => Keep::IfThereIsPlentyOfRoom,
                    () => Keep::Yes,
                },
                file,
            },
            None => Job::Create,
        })
    }

    /// Does what there is to do.
    fn work(&self) -> Result<(), LogError> {
        let mut state = self.state.lock();
        while let Some(job) = self.next_job(&mut state) {
            state.busy = true;
            let number = state.last_number + 1;
            let done = MutexGuard::unlocked(&mut state, || match job {
                Job::Retire { file, keep } => {
                    let keep = keep == Keep::Yes
                        || keep == Keep::IfThereIsPlentyOfRoom && self.has_plenty_of_room();
                    self.retire(file, keep.then_some(number))
                }
                Job::Create => self.create(number),
            });
            state.busy = false;
            match done {
                Ok(Some(file)) => {
                    state.last_number = file.number;
                    state.ready.push_back(file);
                }
                Ok(None) => {}
                Err(error) => state.failed = Some(error),
            }
            self.changed.notify_all();
        }
        state.failed.clone().map_or(Ok(()), Err)
    }

    fn has_plenty_of_room(&self) -> bool {
        let spares = self.file_bytes.saturating_mul(self.most as u64);
        let free = self.disk.free_space(&self.dir);
        free.is_ok_and(|free| free >= spares.saturating_mul(PLENTY))
    }

    /// Makes a file that is not needed any more a spare of that number, or removes it.
    fn retire(&self, file: WalFile, number: Option<u64>) -> Result<Option<WalFile>, LogError> {
        let old = file.path;
        drop(file.file);
        if let Some(number) = number {
            let new = file_path(&self.dir, number);
            match self.disk.rename(&old, &new) {
                Ok(()) => {
                    self.sync_names()?;
                    return files::open(&*self.disk, &self.dir, number, OpenMode::WritePastCache)
                        .map(Some);
                }
                Err(error) if is_want_of_room(&error) => {}
                Err(error) => return Err(error).or_log("rename", &old),
            }
        }
        self.disk.unlink(&old).or_log("remove", &old)?;
        // It would only be read once more if it came back.
        self.sync_names()?;
        Ok(None)
    }

    /// Creates a spare; `None` if there is no room for one, or no time.
    fn create(&self, number: u64) -> Result<Option<WalFile>, LogError> {
        let path = file_path(&self.dir, number);
        match self.create_filled(number) {
            Ok(Some(file)) => Ok(Some(file)),
            Ok(None) => {
                self.disk.unlink(&path).or_log("remove", &path)?;
                Ok(None)
            }
            Err(LogError::Io { source, action, .. })
                if is_want_of_room(&source) && action != "sync" =>
            {
                self.state.lock().no_room = true;
                if self.disk.exists(&path).or_log("look for", &path)? {
                    self.disk.unlink(&path).or_log("remove", &path)?;
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn sync_names(&self) -> Result<(), LogError> {
        if planted::in_disk(&*self.disk, Bug::SpareWithoutItsName) {
            return Ok(());
        }
        self.disk.sync_dir(&self.dir).or_log("sync", &self.dir)
    }

    fn create_filled(&self, number: u64) -> Result<Option<WalFile>, LogError> {
        let mut file = files::open(&*self.disk, &self.dir, number, OpenMode::CreateEmpty)?;
        let allocated = file.file.allocate(self.file_bytes);
        allocated.or_log("allocate", &file.path)?;
        file = file.past_cache(&self.disk)?;
        let path = &file.path;
        let zeros = AlignedBuffer::zeroed(FILL_BYTES.min(self.file_bytes as usize));
        let mut filled = 0;
        // Space that was never written costs the sync of an append more. But an append that waits
        // for this file waits longer for zeros.
        while filled < self.file_bytes {
            let mut state = self.state.lock();
            if filled > 0 && !state.awaited && !state.stop {
                self.changed.wait_for(&mut state, FILL_PAUSE);
            }
            if state.stop {
                return Ok(None);
            }
            if state.awaited {
                break;
            }
            drop(state);
            let bytes = (self.file_bytes - filled).min(zeros.len() as u64);
            let parts = [IoSlice::new(&zeros[..bytes as usize])];
            file.file.write_at(&parts, filled).or_log("write", path)?;
            file.file.sync_data().or_log("sync", path)?;
            filled += bytes;
        }
        if filled < self.file_bytes {
            file.file.sync_data().or_log("sync", path)?;
        }
        self.sync_names()?;
        file.size = file.file.size().or_log("measure", path)?;
        Ok(Some(file))
    }
}
