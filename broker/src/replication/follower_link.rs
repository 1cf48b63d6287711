//! The leader's end of one follower's stream: where the follower stands in each partition, and
//! the messages that carry it on, within the window of unacknowledged bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ottla_model::limits::{REPLICATION_MESSAGE_BYTES, REPLICATION_WINDOW_BYTES};
use ottla_model::{ErrorCode, LeaderEpoch, NodeId, Offset, TopicIdPartition};
use ottla_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::manager::ReplicaManager;
use crate::replica::{FollowerRead, Replica};
use crate::replication::message::{pieces, portions};

/// The bytes that a partition's header in a message may take.
const ITEM_OVERHEAD: usize = 128;

/// A stream's place among all that this broker was ever asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamNumber(u64);

impl StreamNumber {
    /// The number of a stream that begins now.
    pub fn next() -> StreamNumber {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        StreamNumber(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// One follower's stream, as its leader sees it.
pub struct FollowerLink {
    follower: NodeId,
    number: StreamNumber,
    state: Mutex<State>,
    wake: Notify,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    cursors: BTreeMap<TopicIdPartition, Cursor>,
    /// Partitions with something to send, so that idle ones cost nothing.
    due: BTreeSet<TopicIdPartition>,
    /// Divergences and refusals, to be sent as they are.
    notices: Vec<v1::ReplicaData>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Cursor {
    epoch: LeaderEpoch,
    next: Offset,
    sent_high_watermark: Offset,
    sent_log_start: Offset,
}

impl FollowerLink {
    pub fn new(follower: NodeId, number: StreamNumber) -> FollowerLink {
        FollowerLink {
            follower,
            number,
            state: Mutex::new(State::default()),
            wake: Notify::new(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        }
    }

    pub fn follower(&self) -> NodeId {
        self.follower
    }

    /// Whether the follower opened this stream after the other one. What lingers of a stream that
    /// it gave up may still arrive once the next one has begun.
    pub fn is_newer_than(&self, other: &FollowerLink) -> bool {
        self.number > other.number
    }

    /// The logs match up to `from`: push from there.
    pub fn start(&self, id: TopicIdPartition, epoch: LeaderEpoch, from: Offset) {
        let none = Offset(-1);
        let cursor = Cursor {
            epoch,
            next: from,
            sent_high_watermark: none,
            sent_log_start: none,
        };
        let mut state = self.state.lock();
        state.cursors.insert(id, cursor);
        state.due.insert(id);
        drop(state);
        self.wake.notify_one();
    }

    /// The logs part: the follower must truncate and state itself again.
    pub fn diverged(
        &self,
        id: TopicIdPartition,
        leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
        end_offset: Offset,
    ) {
        let divergence = v1::ReplicaDivergence {
            epoch: epoch.0,
            end_offset: end_offset.0,
        };
        let notice = v1::ReplicaData {
            divergence: Some(divergence),
            ..item(id, leader_epoch)
        };
        self.notice(id, notice);
    }

    /// The leader will not be followed here.
    pub fn refused(&self, id: TopicIdPartition, leader_epoch: LeaderEpoch, error: ErrorCode) {
        let error_code = i32::from(error.number());
        self.notice(
            id,
            v1::ReplicaData {
                error_code,
                ..item(id, leader_epoch)
            },
        );
    }

    fn notice(&self, id: TopicIdPartition, notice: v1::ReplicaData) {
        let mut state = self.state.lock();
        state.cursors.remove(&id);
        state.notices.push(notice);
        drop(state);
        self.wake.notify_one();
    }

    /// The leader appended to a partition that this follower may follow.
    pub fn data_added(&self, id: TopicIdPartition) {
        let mut state = self.state.lock();
        if state.cursors.contains_key(&id) {
            state.due.insert(id);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The leader's high watermark or log start moved.
    pub fn positions_changed(&self, id: TopicIdPartition) {
        self.data_added(id);
    }

    /// The follower no longer follows this partition here.
    pub fn stop(&self, id: TopicIdPartition) {
        let mut state = self.state.lock();
        state.cursors.remove(&id);
        state.due.remove(&id);
    }

    /// The partitions that the follower follows here.
    pub fn partitions(&self) -> Vec<TopicIdPartition> {
        self.state.lock().cursors.keys().copied().collect()
    }

    /// The follower has taken in so many bytes of batches since the stream began.
    pub fn received(&self, total: u64) {
        self.received_bytes.fetch_max(total, Ordering::AcqRel);
        self.wake.notify_one();
    }

    fn window(&self) -> usize {
        let sent = self.sent_bytes.load(Ordering::Acquire);
        let in_flight = sent.saturating_sub(self.received_bytes.load(Ordering::Acquire));
        REPLICATION_WINDOW_BYTES.saturating_sub(in_flight as usize)
    }

    /// The next message for the follower, in the pieces in which it is sent; waits until there is
    /// something to say.
    pub async fn next_message(&self, manager: &Arc<ReplicaManager>) -> Vec<Bytes> {
        loop {
            let (mut message, due) = {
                let mut state = self.state.lock();
                (
                    std::mem::take(&mut state.notices),
                    std::mem::take(&mut state.due),
                )
            };
            self.fill(manager, due, &mut message).await;
            if !message.is_empty() {
                return pieces(message);
            }
            self.wake.notified().await;
        }
    }

    /// Adds what the partitions have to send until the message or the window is full; what found
    /// no room stays due.
    async fn fill(
        &self,
        manager: &Arc<ReplicaManager>,
        due: BTreeSet<TopicIdPartition>,
        message: &mut Vec<v1::ReplicaData>,
    ) {
        let mut room = REPLICATION_MESSAGE_BYTES;
        for id in due {
            let Some(cursor) = self.state.lock().cursors.get(&id).copied() else {
                continue;
            };
            let Some(replica) = manager.get(id) else {
                continue;
            };
            // A first batch larger than the window still goes, alone; otherwise it never would.
            let max_bytes = room.min(self.window());
            let (batches, from, next, high_watermark, log_start) =
                match read(&replica, cursor, max_bytes).await {
                    Ok(FollowerRead::Data {
                        batches,
                        from,
                        next,
                        high_watermark,
                        log_start,
                    }) => (batches, from, next, high_watermark, log_start),
                    // The follower hears of the new leader epoch and states itself in it.
                    Ok(FollowerRead::Stale | FollowerRead::OnDisk) => {
                        self.drop_cursor(id, &cursor);
                        continue;
                    }
                    // Not a word would leave it waiting for ever.
                    Err(error) => {
                        if self.drop_cursor(id, &cursor) {
                            self.refused(id, cursor.epoch, error);
                        }
                        continue;
                    }
                };
            let bytes: usize = batches.iter().map(Bytes::len).sum();
            let has_more = max_bytes == 0 || bytes > 0;
            let is_news = bytes > 0
                || next != cursor.next
                || high_watermark != cursor.sent_high_watermark
                || log_start != cursor.sent_log_start;
            if is_news && self.advance(id, &cursor, next, high_watermark, log_start, has_more) {
                self.sent_bytes.fetch_add(bytes as u64, Ordering::AcqRel);
                for portion in portions(batches, from, next) {
                    room = room.saturating_sub(portion.batches.len() + ITEM_OVERHEAD);
                    message.push(v1::ReplicaData {
                        high_watermark: high_watermark.0,
                        log_start_offset: log_start.0,
                        from_offset: Some(portion.from.0),
                        to_offset: Some(portion.to.0),
                        batches: portion.batches,
                        ..item(id, cursor.epoch)
                    });
                }
            } else if has_more {
                self.state.lock().due.insert(id);
            }
        }
    }

    /// Stops pushing from a cursor, unless it was set anew since it was read.
    fn drop_cursor(&self, id: TopicIdPartition, read: &Cursor) -> bool {
        let mut state = self.state.lock();
        let is_same = state.cursors.get(&id) == Some(read);
        if is_same {
            state.cursors.remove(&id);
        }
        is_same
    }

    /// Moves the cursor on, unless it was set anew since it was read.
    fn advance(
        &self,
        id: TopicIdPartition,
        read: &Cursor,
        next: Offset,
        high_watermark: Offset,
        log_start: Offset,
        has_more: bool,
    ) -> bool {
        let mut state = self.state.lock();
        let Some(cursor) = state.cursors.get_mut(&id) else {
            return false;
        };
        if cursor != read {
            return false;
        }
        cursor.next = next;
        cursor.sent_high_watermark = high_watermark;
        cursor.sent_log_start = log_start;
        if has_more {
            state.due.insert(id);
        }
        true
    }
}

fn item(id: TopicIdPartition, leader_epoch: LeaderEpoch) -> v1::ReplicaData {
    v1::ReplicaData {
        topic_id: Bytes::copy_from_slice(id.topic.as_bytes()),
        partition: id.partition.0,
        leader_epoch: leader_epoch.0,
        ..Default::default()
    }
}

/// Reads from memory, or else from disk on a thread that may block.
async fn read(
    replica: &Arc<Replica>,
    cursor: Cursor,
    max_bytes: usize,
) -> Result<FollowerRead, ErrorCode> {
    let read = replica.read_for_follower(cursor.epoch, cursor.next, max_bytes, false);
    let read = match read {
        Ok(FollowerRead::OnDisk) => {
            let replica = Arc::clone(replica);
            let blocking = tokio::task::spawn_blocking(move || {
                replica.read_for_follower(cursor.epoch, cursor.next, max_bytes, true)
            });
            // Only a broker that stops cancels it.
            blocking.await.map_err(|_| ErrorCode::NotLeaderOrFollower)?
        }
        other => other,
    };
    read.map_err(|error| {
        tracing::warn!(partition = %replica.id, from = %cursor.next, %error, "cannot read for a follower");
        ErrorCode::StorageError
    })
}
