//! A queue between threads that is bounded in bytes for those who may wait, and counts for those
//! who may not.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What taking from the queue found.
#[derive(Debug)]
pub(crate) enum Taken<T> {
    Items(Vec<T>),
    /// Woken without an item.
    Nothing,
    /// Closed, and empty.
    Closed,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
    woken: bool,
}

/// First in, first out.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    filled: Condvar,
    drained: Condvar,
}

impl<T> Queue<T> {
    pub fn new() -> Queue<T> {
        Queue {
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                bytes: 0,
                closed: false,
                woken: false,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
        }
    }

    /// Puts an item in without waiting. Gives it back if the queue is closed.
    pub fn push(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(item);
        }
        inner.items.push_back((item, bytes));
        inner.bytes += bytes;
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts an item in as soon as fewer than `limit` bytes are queued.
    pub fn push_when_below(&self, limit: usize, item: T, bytes: usize) -> Result<(), T> {
        let mut inner = self.inner.lock();
        while inner.bytes >= limit && !inner.closed {
            self.drained.wait(&mut inner);
        }
        drop(inner);
        self.push(item, bytes)
    }

    /// Takes what is there, about `bytes_max` at most but at least one item; waits for it at most
    /// `patience`, if given.
    pub fn take(&self, bytes_max: usize, patience: Option<Duration>) -> Taken<T> {
        let mut inner = self.inner.lock();
        while inner.items.is_empty() && !inner.closed && !inner.woken {
            match patience {
                None => self.filled.wait(&mut inner),
                Some(patience) => {
                    if self.filled.wait_for(&mut inner, patience).timed_out() {
                        break;
                    }
                }
            }
        }
        inner.woken = false;
        if inner.items.is_empty() {
            return if inner.closed {
                Taken::Closed
            } else {
                Taken::Nothing
            };
        }
        let (mut items, mut taken) = (Vec::new(), 0);
        while let Some((_, bytes)) = inner.items.front() {
            if taken > 0 && taken + bytes > bytes_max {
                break;
            }
            taken += bytes;
            items.extend(inner.items.pop_front().map(|(item, _)| item));
        }
        inner.bytes -= taken;
        drop(inner);
        self.drained.notify_all();
        Taken::Items(items)
    }

    /// Waits until woken or closed, whatever is there.
    pub fn rest(&self) {
        let mut inner = self.inner.lock();
        while !inner.woken && !inner.closed {
            self.filled.wait(&mut inner);
        }
        inner.woken = false;
    }

    /// Lets who waits in `take` or `rest` look around.
    pub fn wake(&self) {
        self.inner.lock().woken = true;
        self.filled.notify_all();
    }

    /// Takes no more; what is there can still be taken.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Takes no more, and gives back what is there.
    pub fn abort(&self) -> Vec<T> {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.bytes = 0;
        let items = inner.items.drain(..).map(|(item, _)| item).collect();
        drop(inner);
        self.filled.notify_all();
        self.drained.notify_all();
        items
    }

    /// Whether it takes no more.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Bytes queued now.
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}
