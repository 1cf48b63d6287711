//! What clients make a broker hold: what was read for consumers and answered to producers that
//! they have not taken yet, and what producers have begun to send. How much of each there may be,
//! and who has to go when others wait for room and somebody stands still.
//!
//! A host has at most half of the room, so that it delays no other, however many connections it
//! opens. Those who wait for room push out calls that stall, longest first. Their connections are
//! closed, because the HTTP/2 layer drops what it holds for a stalled reader on no other terms.
//! Nobody is pushed out while there is room, or for being slow.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ottla_model::ErrorCode;
use ottla_model::error::ApiError;
use ottla_model::limits::{
    ANSWER_BYTES_IN_FLIGHT, ANSWER_BYTES_PER_HOST, BATCH_BYTES_DEFAULT, FETCH_BYTES_IN_FLIGHT,
    FETCH_BYTES_MAX, FETCH_BYTES_PER_HOST, FETCH_BYTES_PER_STREAM, INCOMING_BYTES_IN_FLIGHT,
    INCOMING_BYTES_PER_HOST, VIEW_BYTES_IN_FLIGHT, VIEW_BYTES_PER_HOST,
};
use ottla_shell::{Connection, Progress};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// How long nothing is taken of an answer, nor of any other on its connection, before it stalls.
/// Far more than a slow reader needs for what is handed over at a time.
const STALLED: Duration = Duration::from_secs(6);
/// How long nothing is taken of an answer whose connection takes others before it stalls.
const STALLED_BESIDE_OTHERS: Duration = Duration::from_secs(60);
/// How long a fetch waits for room. Longer than it takes to stall, and less than clients wait.
const PATIENCE: Duration = Duration::from_secs(9);
/// How often those who wait look who stalls.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Beyond this many, what is gone is looked for and forgotten.
const SWEEP_AT_LEAST: usize = 1_024;

/// A machine, as far as addresses tell. An IPv6 host chooses freely among those of its network.
pub(super) type Host = IpAddr;

pub(super) fn host(peer: IpAddr) -> Host {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

/// A part of the room, and when those who wait for it last looked who stalls.
struct Part {
    room: Arc<Semaphore>,
    looked: Mutex<Option<Instant>>,
}

impl Part {
    fn new(bytes: usize) -> Part {
        Part {
            room: Arc::new(Semaphore::new(bytes)),
            looked: Mutex::new(None),
        }
    }

    /// Whether it is time to look again.
    fn looks(&self) -> bool {
        let now = Instant::now();
        let mut looked = self.looked.lock();
        let is_due = looked.is_none_or(|last| now >= last + LOOK_PAUSE);
        if is_due {
            *looked = Some(now);
        }
        is_due
    }
}

/// The room of a broker for one kind of what clients make it hold.
pub struct UnreadRoom {
    /// What fills it, for people.
    full_of: &'static str,
    all: Part,
    per_host: usize,
    hosts: Mutex<Hosts>,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Hosts {
    by_address: BTreeMap<Host, Weak<Part>>,
    sweep_at: usize,
}

#[derive(Default)]
struct Calls {
    list: Vec<Weak<Call>>,
    sweep_at: usize,
}

impl Default for UnreadRoom {
    fn default() -> UnreadRoom {
        let full_of = "too much that was read for consumers waits to be taken";
        UnreadRoom::new(full_of, FETCH_BYTES_IN_FLIGHT, FETCH_BYTES_PER_HOST)
    }
}

impl UnreadRoom {
    fn new(full_of: &'static str, bytes: usize, per_host: usize) -> UnreadRoom {
        UnreadRoom {
            full_of,
            all: Part::new(bytes),
            per_host,
            hosts: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// The room for views of the cluster. One of its own: who reads records slowly must learn of a
    /// new leader all the same.
    pub fn of_views() -> UnreadRoom {
        let full_of = "too many views of the cluster wait to be taken";
        UnreadRoom::new(full_of, VIEW_BYTES_IN_FLIGHT, VIEW_BYTES_PER_HOST)
    }

    /// The room for requests of producers that are on their way.
    pub fn of_requests() -> UnreadRoom {
        let full_of = "too many requests of producers are on their way";
        UnreadRoom::new(full_of, INCOMING_BYTES_IN_FLIGHT, INCOMING_BYTES_PER_HOST)
    }

    /// The room for answers to producers. One of its own: producers must not wait for consumers.
    pub fn of_answers() -> UnreadRoom {
        let full_of = "too many answers to producers wait to be taken";
        UnreadRoom::new(full_of, ANSWER_BYTES_IN_FLIGHT, ANSWER_BYTES_PER_HOST)
    }

    fn part_of(&self, host: Host) -> Arc<Part> {
        let mut hosts = self.hosts.lock();
        if let Some(part) = hosts.by_address.get(&host).and_then(Weak::upgrade) {
            return part;
        }
        if hosts.by_address.len() >= hosts.sweep_at {
            hosts.by_address.retain(|_, part| part.strong_count() > 0);
            hosts.sweep_at = SWEEP_AT_LEAST.max(2 * hosts.by_address.len());
        }
        let part = Arc::new(Part::new(self.per_host));
        hosts.by_address.insert(host, Arc::downgrade(&part));
        part
    }

    fn enter(&self, connection: &Connection) -> Arc<Call> {
        let host = connection.peer().map(host);
        let call = Arc::new(Call {
            connection: connection.clone(),
            host,
            part: host.map(|host| self.part_of(host)),
            held: AtomicUsize::new(0),
            taken: Progress::begin(),
        });
        let mut calls = self.calls.lock();
        if calls.list.len() >= calls.sweep_at {
            calls.list.retain(|call| call.strong_count() > 0);
            calls.sweep_at = SWEEP_AT_LEAST.max(2 * calls.list.len());
        }
        calls.list.push(Arc::downgrade(&call));
        call
    }

    /// Closes the connections of the calls that stalled longest, of one host or of all, until an
    /// answer finds room.
    fn push_out(&self, of: Option<Host>) {
        let mut stalled: Vec<_> = {
            let calls = self.calls.lock();
            let live = calls.list.iter().filter_map(Weak::upgrade);
            let here = live.filter(|call| of.is_none() || call.host == of);
            here.filter(|call| call.is_stalled()).collect()
        };
        stalled.sort_by_key(|call| std::cmp::Reverse(call.taken.idle()));
        let mut freed = 0;
        for call in stalled {
            if freed >= FETCH_BYTES_MAX {
                return;
            }
            freed += call.held.load(Ordering::Relaxed);
            tracing::info!(
                host = ?call.host,
                held_bytes = call.held.load(Ordering::Relaxed),
                "closed a connection that stood still while others waited for room: {}",
                self.full_of
            );
            call.connection.close();
        }
    }

    /// Reserves bytes of a part, pushing out who stalls in it.
    async fn reserve(
        &self,
        part: &Part,
        of: Option<Host>,
        bytes: u32,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        // Never ahead of those who wait: what is returned is theirs first.
        if let Ok(permit) = Arc::clone(&part.room).try_acquire_many_owned(bytes) {
            return Ok(permit);
        }
        let granted = Arc::clone(&part.room).acquire_many_owned(bytes);
        tokio::pin!(granted);
        loop {
            if part.looks() {
                self.push_out(of);
            }
            let pause = deadline.min(Instant::now() + LOOK_PAUSE);
            tokio::select! {
                biased;
                Ok(permit) = &mut granted => return Ok(permit),
                () = sleep_until(pause) => {}
            }
            if Instant::now() >= deadline {
                let message = format!("{}; try again in a moment", self.full_of);
                return Err(ApiError::new(ErrorCode::ThrottlingQuotaExceeded, message));
            }
        }
    }
}

/// A call whose answers, or whose requests, hold room.
struct Call {
    connection: Connection,
    host: Option<Host>,
    /// The host's part, which is the same as long as anything of it is held.
    part: Option<Arc<Part>>,
    held: AtomicUsize,
    taken: Progress,
}

impl Call {
    fn is_stalled(&self) -> bool {
        let idle = self.taken.idle();
        self.held.load(Ordering::Relaxed) > 0
            && idle >= STALLED
            && (self.connection.idle() >= STALLED || idle >= STALLED_BESIDE_OTHERS)
    }
}

/// The room that one call or stream may use: its own share, its connection's, its host's and the
/// broker's. What is not its own is asked for last, so that who waits for its own share keeps
/// nothing from the others.
#[derive(Clone)]
pub struct CallBudget {
    room: Arc<UnreadRoom>,
    /// `None` of what this broker asks of itself.
    call: Option<Arc<Call>>,
    stream: Option<Arc<Semaphore>>,
}

impl CallBudget {
    /// The budget of a call by itself, on this connection.
    pub fn of_call(room: &Arc<UnreadRoom>, connection: Option<&Connection>) -> CallBudget {
        CallBudget {
            room: Arc::clone(room),
            call: connection.map(|connection| room.enter(connection)),
            stream: None,
        }
    }

    pub fn of_stream(room: &Arc<UnreadRoom>, connection: Option<&Connection>) -> CallBudget {
        let stream = Some(Arc::new(Semaphore::new(FETCH_BYTES_PER_STREAM)));
        CallBudget {
            stream,
            ..CallBudget::of_call(room, connection)
        }
    }

    /// The budget of a stream that has one message in flight at a time.
    pub fn of_messages(room: &Arc<UnreadRoom>, connection: Option<&Connection>) -> CallBudget {
        let stream = Some(Arc::new(Semaphore::new(FETCH_BYTES_MAX)));
        CallBudget {
            stream,
            ..CallBudget::of_call(room, connection)
        }
    }

    /// Reserves what a message of this size holds, once the one before is taken; waits as long as
    /// it takes for that, and a bounded time for others.
    pub async fn reserve_message(&self, bytes: usize) -> Result<Unread, ApiError> {
        let mut permits = Vec::with_capacity(3);
        if let Some(own) = &self.stream {
            // Never closed.
            if let Ok(permit) = Arc::clone(own)
                .acquire_many_owned(FETCH_BYTES_MAX as u32)
                .await
            {
                permits.push(permit);
            }
        }
        self.reserve_shared(permits, bytes.clamp(1, FETCH_BYTES_MAX))
            .await
    }

    /// Reserves what the answer to a producer may hold, before anything is done for it. Waits a
    /// bounded time for others.
    pub async fn reserve_answer(&self, bytes: usize) -> Result<Unread, ApiError> {
        let bytes = bytes.clamp(1, ANSWER_BYTES_PER_HOST);
        self.reserve_shared(Vec::new(), bytes).await
    }

    /// Reserves what a request holds that has begun to come: its sender is waited for from now on.
    /// Waits a bounded time for others.
    pub async fn reserve_request(&self, bytes: usize) -> Result<Unread, ApiError> {
        let bytes = bytes.clamp(1, INCOMING_BYTES_PER_HOST);
        let mut request = self.reserve_shared(Vec::new(), bytes).await?;
        request.answer(bytes);
        Ok(request)
    }

    /// Reserves what one response may hold: what was asked for, or a batch of ordinary size; less
    /// while the connection has taken little. Waits as long as it takes for what the same
    /// connection has not taken yet, and a bounded time for others.
    pub async fn reserve(&self, max_bytes: usize) -> Result<Unread, ApiError> {
        let mut most = max_bytes.clamp(BATCH_BYTES_DEFAULT, FETCH_BYTES_MAX);
        if let Some(call) = &self.call {
            most = most.min(BATCH_BYTES_DEFAULT.max(call.connection.share() / 2));
        }
        let bytes = u32::try_from(most).unwrap_or(u32::MAX);
        let mut permits = Vec::with_capacity(4);
        let connection = self
            .call
            .as_ref()
            .map(|call| call.connection.unread_bytes());
        for own in self.stream.iter().chain(connection) {
            // Never closed.
            if let Ok(permit) = Arc::clone(own).acquire_many_owned(bytes).await {
                permits.push(permit);
            }
        }
        self.reserve_shared(permits, most).await
    }

    /// Adds to what is reserved of one's own what others want too.
    async fn reserve_shared(
        &self,
        mut permits: Vec<OwnedSemaphorePermit>,
        most: usize,
    ) -> Result<Unread, ApiError> {
        let bytes = u32::try_from(most).unwrap_or(u32::MAX);
        let deadline = Instant::now() + PATIENCE;
        if let Some(call) = &self.call
            && let Some(part) = &call.part
        {
            permits.push(self.room.reserve(part, call.host, bytes, deadline).await?);
        }
        let all = &self.room.all;
        permits.push(self.room.reserve(all, None, bytes, deadline).await?);
        Ok(Unread {
            permits,
            bytes: most,
            call: self.call.clone(),
            is_answer: false,
        })
    }
}

/// Room that is taken until this is dropped.
pub struct Unread {
    permits: Vec<OwnedSemaphorePermit>,
    bytes: usize,
    call: Option<Arc<Call>>,
    /// Whether the reader is waited for.
    is_answer: bool,
}

impl Unread {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many bytes wait for their reader from now on; what is more is given back.
    pub fn answer(&mut self, bytes: usize) {
        assert!(!self.is_answer, "{bytes} bytes are answered once");
        self.is_answer = true;
        self.bytes = bytes.min(self.bytes);
        for permit in &mut self.permits {
            let rest = permit.num_permits().saturating_sub(self.bytes);
            drop(permit.split(rest));
        }
        if let Some(call) = &self.call
            && call.held.fetch_add(self.bytes, Ordering::Relaxed) == 0
        {
            call.taken.mark();
        }
    }

    /// The reader has room for more, after so many bytes of this.
    pub fn took(&self, bytes: usize) {
        if let Some(call) = &self.call {
            call.taken.mark();
            call.connection.took(bytes);
        }
    }

    /// Some of this has left.
    pub fn left(&self) {
        if let Some(call) = &self.call {
            call.taken.mark();
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if let Some(call) = self.call.as_ref().filter(|_| self.is_answer) {
            call.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
