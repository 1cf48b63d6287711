//! Carrying out what a partition's core decided. Appends and truncations enter the disk's queue
//! before the core is released, so that their order is the core's; everything else follows after.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use ottla_broker_core::partition::{Effect, Input, ProduceAck, ProduceError, Stamp};
use ottla_log::LogError;
use ottla_model::batch::stamp;
use ottla_model::{ErrorCode, LeaderEpoch};

use super::{Inner, Replica, load_producers};
use crate::isr::IsrChange;
use crate::produce::PendingProduce;
use crate::replication::{Durable, FollowerLink};

/// A produce reply whose receiver has been looked up.
pub(super) struct DueReply {
    pending: Arc<PendingProduce>,
    index: usize,
    result: Result<ProduceAck, ProduceError>,
}

impl Replica {
    /// Runs the effects whose order matters, while the core is held.
    pub(super) fn run_ordered(&self, inner: &mut Inner, effects: &mut [Effect]) {
        let mut reload = false;
        for effect in effects.iter_mut() {
            let done = match effect {
                Effect::Append {
                    ticket,
                    batches,
                    stamp,
                } => {
                    let bytes = std::mem::take(batches);
                    match stamp {
                        Some(stamp) => self.log.append(*ticket, stamped(bytes, stamp)),
                        None => self.log.append_replicated(*ticket, bytes),
                    }
                }
                Effect::Truncate { to } => self.log.truncate(*to),
                Effect::RestartAt { offset } => self.log.restart_at(*offset),
                Effect::AdvanceLogStart { ticket, to } => {
                    self.log.advance_log_start_told(*ticket, *to)
                }
                Effect::SkipTo { offset } => self.log.skip_to(*offset),
                Effect::ReloadProducers => {
                    reload = true;
                    Ok(())
                }
                Effect::SendState { .. } | Effect::SendAck { .. } => {
                    self.tell_leader(effect);
                    Ok(())
                }
                Effect::AlterPartition {
                    leader_epoch,
                    partition_epoch,
                    isr,
                } => {
                    // The last wish counts; one that came late would be asked for in its place.
                    let change = IsrChange {
                        leader_epoch: *leader_epoch,
                        partition_epoch: *partition_epoch,
                        isr: std::mem::take(isr),
                    };
                    self.context.isr.request(self.id, change);
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(error) = done {
                self.storage_failed(inner, &error);
                return;
            }
        }
        if reload {
            self.reload_producers(inner);
        }
    }

    /// Reads the producers' state from the log again. Rare: only when a truncation removed all
    /// that was remembered of one.
    fn reload_producers(&self, inner: &mut Inner) {
        match load_producers(&self.log) {
            Ok(producers) => {
                let mut none = Vec::new();
                let now = self.context.clock.now();
                inner
                    .core
                    .step(now, Input::ProducersReloaded(producers), &mut none);
                debug_assert!(none.is_empty(), "a reload decides nothing: {none:?}");
            }
            Err(source) => {
                let (id, source) = (self.id, Box::new(source));
                self.storage_failed(inner, &LogError::Read { id, source });
            }
        }
    }

    /// Damage concerns this replica alone; any other failure ends the broker.
    fn storage_failed(&self, inner: &mut Inner, error: &LogError) {
        inner.broken = true;
        match error {
            LogError::Read { source, .. } if source.is_damage() => self.found_damaged(source),
            _ => (self.context.fatal)(format!("partition {}: {}", self.id, chain(error))),
        }
    }

    /// Answers those who wait for a trim.
    pub(super) fn answer_trims(inner: &mut Inner, effects: &[Effect]) {
        for effect in effects {
            if let Effect::TrimReply { reply, result } = effect
                && let Some(caller) = inner.trims.remove(reply)
            {
                // A caller that has gone needs no answer.
                let _ = caller.send(*result);
            }
        }
    }

    /// Takes the receivers of the replies out of the map, while the core is held.
    pub(super) fn take_replies(inner: &mut Inner, effects: &[Effect]) -> Vec<DueReply> {
        let mut due = Vec::new();
        for effect in effects {
            if let Effect::Reply { reply, result } = effect
                && let Some((pending, index)) = inner.replies.remove(reply)
            {
                due.push(DueReply {
                    pending,
                    index,
                    result: *result,
                });
            }
        }
        due
    }

    /// Runs the other effects, after the core was released. `leader_epoch` is the one in which
    /// they were decided: by now the partition may have moved on.
    pub(super) fn run_unordered(
        &self,
        effects: Vec<Effect>,
        replies: Vec<DueReply>,
        links: &[Arc<FollowerLink>],
        leader_epoch: LeaderEpoch,
    ) {
        for reply in replies {
            reply.pending.complete(reply.index, reply.result);
        }
        let link_of = |follower| links.iter().find(|link| link.follower() == follower);
        for effect in effects {
            match effect {
                Effect::Append { stamp: Some(_), .. } => {
                    links.iter().for_each(|link| link.data_added(self.id));
                }
                Effect::LogStartAdvanced { .. } | Effect::HighWatermarkAdvanced { .. } => {
                    links
                        .iter()
                        .for_each(|link| link.positions_changed(self.id));
                    self.waiters.wake();
                }
                Effect::StartFollower { follower, from } => {
                    if let Some(link) = link_of(follower) {
                        link.start(self.id, leader_epoch, from);
                    }
                }
                Effect::Diverged {
                    follower,
                    epoch,
                    end_offset,
                } => {
                    let Some(link) = link_of(follower) else {
                        continue;
                    };
                    if self.writable.load(Ordering::Acquire) {
                        link.diverged(self.id, leader_epoch, epoch, end_offset);
                    } else {
                        // This log may have lost what others still hold; whether this run leads
                        // is for the controllers to say.
                        let error = ErrorCode::NotLeaderOrFollower;
                        link.refused(self.id, leader_epoch, error);
                    }
                }
                Effect::RefuseFollower { follower, error } => {
                    if let Some(link) = link_of(follower) {
                        link.refused(self.id, leader_epoch, error);
                    }
                }
                Effect::Append { stamp: None, .. }
                | Effect::SendState { .. }
                | Effect::SendAck { .. }
                | Effect::AlterPartition { .. }
                | Effect::Truncate { .. }
                | Effect::RestartAt { .. }
                | Effect::AdvanceLogStart { .. }
                | Effect::SkipTo { .. }
                | Effect::TrimReply { .. }
                | Effect::ReloadProducers
                | Effect::Reply { .. } => {}
            }
        }
    }

    /// The effects that a follower's leader hears of. A statement takes back what was acknowledged
    /// before it, and only that.
    fn tell_leader(&self, effect: &Effect) {
        let links = &self.context.leader_links;
        match *effect {
            Effect::SendState { leader, state } => links.send_state(leader, self.id, state),
            Effect::SendAck {
                leader,
                leader_epoch,
                durable_end,
                log_start,
            } => {
                let durable = Durable {
                    leader_epoch,
                    end: durable_end,
                    log_start,
                };
                links.send_ack(leader, self.id, durable);
            }
            _ => {}
        }
    }
}

/// The batch with the leader's stamp. One copy: the bytes that came in are shared with the
/// connection's buffer.
fn stamped(batch: Bytes, place: &Stamp) -> Bytes {
    let mut bytes = batch
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    stamp(
        &mut bytes,
        place.base_offset,
        place.leader_epoch,
        place.append_time,
    );
    bytes.freeze()
}

/// An error with its causes, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
