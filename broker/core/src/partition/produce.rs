//! Writes on a leader: which batch is taken, where it goes, and when its producer hears of it.

use ottla_model::Instant;
use ottla_model::batch::BatchHeader;
use ottla_model::config::TimestampType;

use super::effect::{Effect, ProduceAck, ProduceFault, Stamp};
use super::input::{Acks, Assignment, Produce, ReplyId};
use super::leader::Leading;
use super::parked::{PARKED_PRODUCES_MAX, WaitFor};
use super::{Partition, State};
use crate::producers::Sequence;

/// Where an accepted write ends in the log, and what its producer will be told.
struct Accepted {
    end: ottla_model::Offset,
    ack: ProduceAck,
}

impl Partition {
    pub(super) fn on_produce(&mut self, now: Instant, produce: Produce, effects: &mut Vec<Effect>) {
        let (reply, acks, deadline) = (produce.reply, produce.acks, produce.deadline);
        match self.accept(now, produce, effects) {
            Err(fault) => {
                let result = Err(self.produce_error(fault));
                effects.push(Effect::Reply { reply, result });
            }
            Ok(accepted) => self.answer_or_park(reply, acks, deadline, &accepted, effects),
        }
        self.advance(now, effects);
    }

    fn accept(
        &mut self,
        now: Instant,
        produce: Produce,
        effects: &mut Vec<Effect>,
    ) -> Result<Accepted, ProduceFault> {
        let Some(assignment) = &self.assignment else {
            return Err(ProduceFault::NotAssigned);
        };
        let State::Leading(leading) = &mut self.state else {
            return Err(ProduceFault::NotLeader);
        };
        check_batch(assignment, &produce)?;
        check_replicas(assignment, leading, &produce)?;
        let producers = self.log.producers().ok_or(ProduceFault::ProducersLoading)?;
        let append_time = match assignment.timestamp_type {
            TimestampType::LogAppendTime => Some(produce.wall_ms),
            TimestampType::CreateTime => None,
        };
        if let Sequence::Duplicate(batch) = producers.check(&produce.header)? {
            return Ok(Accepted {
                end: batch.last_offset.next(),
                ack: ProduceAck {
                    base_offset: batch.base_offset,
                    log_append_time: append_time.and(Some(batch.timestamp)),
                    log_start: self.log.start(),
                    duplicate: true,
                },
            });
        }
        let base_offset = self.log.end();
        let header = BatchHeader {
            base_offset,
            leader_epoch: assignment.leader_epoch,
            max_timestamp: append_time.unwrap_or(produce.header.max_timestamp),
            ..produce.header
        };
        for progress in leading.followers.values_mut() {
            progress.before_append(now, base_offset);
        }
        let ticket = self.log.append(&[header]);
        effects.push(Effect::Append {
            ticket,
            batches: produce.batch,
            stamp: Some(Stamp {
                base_offset,
                leader_epoch: assignment.leader_epoch,
                append_time,
            }),
        });
        Ok(Accepted {
            end: header.next_offset(),
            ack: ProduceAck {
                base_offset,
                log_append_time: append_time,
                log_start: self.log.start(),
                duplicate: false,
            },
        })
    }

    fn answer_or_park(
        &mut self,
        reply: ReplyId,
        acks: Acks,
        deadline: Instant,
        accepted: &Accepted,
        effects: &mut Vec<Effect>,
    ) {
        let (condition, reached) = match acks {
            Acks::None => (None, accepted.end),
            Acks::Leader => (Some(WaitFor::LocalDisk), self.log.durable_end()),
            Acks::All => (Some(WaitFor::HighWatermark), self.high_watermark),
        };
        match (condition, &mut self.state) {
            (Some(condition), State::Leading(leading)) if reached < accepted.end => {
                leading
                    .parked
                    .park(condition, accepted.end, reply, deadline, accepted.ack);
            }
            _ => effects.push(Effect::Reply {
                reply,
                result: Ok(accepted.ack),
            }),
        }
    }

    /// Answers the writes that are on the local disk and need no more.
    pub(super) fn complete_local(&mut self, effects: &mut Vec<Effect>) {
        self.complete(WaitFor::LocalDisk, self.log.durable_end(), effects);
    }

    /// Answers the writes below the high watermark.
    pub(super) fn complete_committed(&mut self, effects: &mut Vec<Effect>) {
        self.complete(WaitFor::HighWatermark, self.high_watermark, effects);
    }

    fn complete(
        &mut self,
        condition: WaitFor,
        reached: ottla_model::Offset,
        effects: &mut Vec<Effect>,
    ) {
        let State::Leading(leading) = &mut self.state else {
            return;
        };
        while let Some((reply, ack)) = leading.parked.pop_complete(condition, reached) {
            let log_start = self.log.start();
            let result = Ok(ProduceAck { log_start, ..ack });
            effects.push(Effect::Reply { reply, result });
        }
    }

    /// Gives up on writes that wait to be committed once too few replicas are in sync: nothing
    /// can commit them now, and their producers should hear it at once.
    pub(super) fn fail_if_under_min_isr(&mut self, effects: &mut Vec<Effect>) {
        loop {
            let (State::Leading(leading), Some(assignment)) = (&mut self.state, &self.assignment)
            else {
                return;
            };
            let (have, need) = (
                leading.isr.committed().len(),
                assignment.min_insync_replicas,
            );
            if have >= need {
                return;
            }
            let Some(reply) = leading.parked.pop_any(WaitFor::HighWatermark) else {
                return;
            };
            let fault = ProduceFault::NotEnoughReplicasAfterAppend { have, need };
            let result = Err(self.produce_error(fault));
            effects.push(Effect::Reply { reply, result });
        }
    }
}

/// Refuses what no retry to this leader would change.
fn check_batch(assignment: &Assignment, produce: &Produce) -> Result<(), ProduceFault> {
    let current = assignment.leader_epoch;
    match produce.expected_leader_epoch {
        Some(given) if given < current => {
            return Err(ProduceFault::FencedLeaderEpoch { given, current });
        }
        Some(given) if given > current => {
            return Err(ProduceFault::UnknownLeaderEpoch { given, current });
        }
        _ => {}
    }
    let attributes = produce.header.attributes;
    if attributes.is_control() {
        return Err(ProduceFault::ControlBatch);
    }
    if attributes.is_transactional() {
        return Err(ProduceFault::Transactional);
    }
    if attributes.is_log_append_time() {
        return Err(ProduceFault::AppendTimeClaimed);
    }
    if produce.header.delete_horizon().is_some() {
        return Err(ProduceFault::DeleteHorizonClaimed);
    }
    let (bytes, limit) = (produce.header.size, assignment.max_message_bytes);
    if bytes > limit {
        return Err(ProduceFault::TooLarge { bytes, limit });
    }
    Ok(())
}

/// Refuses what the partition cannot take at the moment.
fn check_replicas(
    assignment: &Assignment,
    leading: &Leading,
    produce: &Produce,
) -> Result<(), ProduceFault> {
    let (have, need) = (
        leading.isr.committed().len(),
        assignment.min_insync_replicas,
    );
    if produce.acks == Acks::All && have < need {
        return Err(ProduceFault::NotEnoughReplicas { have, need });
    }
    let waiting = leading.parked.len();
    if waiting >= PARKED_PRODUCES_MAX {
        return Err(ProduceFault::TooManyWaiting { waiting });
    }
    Ok(())
}
