//! What can be told to go wrong on a simulated disk: calls that fail, and calls that hang.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Inner, SimDisk};

/// How long a test waits for a call to be held.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kind of call on a disk or on one of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    Open,
    Read,
    List,
    Create,
    Write,
    /// A change of a file's length, by `set_len`, `allocate` or an opening that empties it.
    SetLen,
    Sync,
    /// A hint that written bytes should go to the disk. It changes nothing, so it is no operation,
    /// but it can fail: then what it covers is lost as by a failed sync.
    WriteBack,
    Rename,
    Unlink,
    CreateDir,
    SyncDir,
    /// A sync of all that the disk holds.
    SyncAll,
}

/// A change or a sync that a simulated disk is about to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// How many came before it.
    pub number: u64,
    pub call: Call,
    /// The path that the file was opened under, or that the call names.
    pub path: PathBuf,
}

/// A call that fails. Made with [`Fault::new`], which is one input/output error, and narrowed.
#[derive(Debug, Clone)]
pub struct Fault {
    call: Call,
    path_part: String,
    errno: i32,
    skip: u64,
    times: u64,
    pub(super) survival: Option<u64>,
}

impl Fault {
    /// The next such call fails with an input/output error. Of what a failing sync covers nothing
    /// reaches the disk; a failing write leaves the first half of its bytes.
    pub fn new(call: Call) -> Fault {
        Fault {
            call,
            path_part: String::new(),
            errno: libc::EIO,
            skip: 0,
            times: 1,
            survival: None,
        }
    }

    /// Only for paths that contain this.
    pub fn of(self, path_part: &str) -> Fault {
        let path_part = path_part.to_owned();
        Fault { path_part, ..self }
    }

    /// With this error number of the operating system.
    pub fn with(self, errno: i32) -> Fault {
        Fault { errno, ..self }
    }

    /// After so many such calls went well.
    pub fn after(self, skip: u64) -> Fault {
        Fault { skip, ..self }
    }

    /// Every such call from then on.
    pub fn sticky(self) -> Fault {
        let times = u64::MAX;
        Fault { times, ..self }
    }

    /// A part, decided by `seed`, of what a failing sync covers has reached the disk.
    pub fn keeping_some(self, seed: u64) -> Fault {
        let survival = Some(seed);
        Fault { survival, ..self }
    }

    fn concerns(&self, call: Call, path: &Path) -> bool {
        self.times > 0 && concerns(self.call, &self.path_part, call, path)
    }
}

fn concerns(mine: Call, path_part: &str, call: Call, path: &Path) -> bool {
    mine == call && path.to_string_lossy().contains(path_part)
}

/// The fault that this call meets, if it meets one.
pub(super) fn strike(faults: &mut Vec<Fault>, call: Call, path: &Path) -> Option<Fault> {
    let mut struck = None;
    for fault in faults.iter_mut().filter(|fault| fault.concerns(call, path)) {
        if fault.skip > 0 {
            fault.skip -= 1;
        } else if struck.is_none() {
            fault.times -= 1;
            struck = Some(fault.clone());
        }
    }
    faults.retain(|fault| fault.times > 0);
    struck
}

impl From<&Fault> for io::Error {
    fn from(fault: &Fault) -> io::Error {
        io::Error::from_raw_os_error(fault.errno)
    }
}

/// Calls that hang.
#[derive(Debug, Clone)]
pub(super) struct Held {
    id: u64,
    call: Call,
    path_part: String,
    reached: u64,
}

pub(super) fn held<'a>(holds: &'a mut [Held], call: Call, path: &Path) -> Option<&'a mut Held> {
    holds
        .iter_mut()
        .find(|held| concerns(held.call, &held.path_part, call, path))
}

impl Held {
    pub(super) fn reach(&mut self) {
        self.reached += 1;
    }
}

/// Such calls hang until this is dropped.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
    id: u64,
}

impl Hold {
    pub(super) fn new(disk: &SimDisk, call: Call, path_part: &str) -> Hold {
        let mut state = disk.inner.state.lock();
        state.next_hold += 1;
        let id = state.next_hold;
        state.holds.push(Held {
            id,
            call,
            path_part: path_part.to_owned(),
            reached: 0,
        });
        let inner = disk.inner.clone();
        Hold { inner, id }
    }

    /// Whether a call hangs, or did.
    pub fn is_reached(&self) -> bool {
        let state = self.inner.state.lock();
        let mine = state.holds.iter().find(|held| held.id == self.id);
        mine.is_some_and(|held| held.reached > 0)
    }

    /// Waits until a call hangs; false if none does in a time that is long enough for a test.
    pub fn wait_until_reached(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.inner.state.lock();
        loop {
            let mine = state.holds.iter().find(|held| held.id == self.id);
            if mine.is_some_and(|held| held.reached > 0) {
                return true;
            }
            let waited = self.inner.changed.wait_until(&mut state, deadline);
            if waited.timed_out() {
                return false;
            }
        }
    }

    /// Lets them go on.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        state.holds.retain(|held| held.id != self.id);
        self.inner.changed.notify_all();
    }
}
