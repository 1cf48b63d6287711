//! Reading a replica's log for followers and consumers.

use bytes::Bytes;
use ottla_broker_core::partition::Role;
use ottla_log::{ReadError, ReadOutcome};
use ottla_model::batch::next_batch;
use ottla_model::{LeaderEpoch, Offset};

use super::Replica;

/// What there is for a follower behind a position.
pub enum FollowerRead {
    /// This broker no longer leads in that epoch: nothing may be sent.
    Stale,
    /// The batches (perhaps none), what range they cover, and the positions to tell with them.
    Data {
        batches: Vec<Bytes>,
        /// The batches are all that the log holds from here up to `next`.
        from: Offset,
        next: Offset,
        high_watermark: Offset,
        log_start: Offset,
    },
    /// The batches are on disk: read them where blocking is allowed.
    OnDisk,
}

impl Replica {
    /// Reads for a follower that stands at `from`, only while this broker leads in `epoch`: what a
    /// later leader wrote must not travel under an earlier epoch.
    pub fn read_for_follower(
        &self,
        epoch: LeaderEpoch,
        from: Offset,
        max_bytes: usize,
        blocking: bool,
    ) -> Result<FollowerRead, ReadError> {
        let inner = self.inner.lock();
        let core = &inner.core;
        if core.role() != Role::Leader || core.leader_epoch() != epoch {
            return Ok(FollowerRead::Stale);
        }
        let (limit, high_watermark, log_start) =
            (core.log_end(), core.high_watermark(), core.log_start());
        let from = from.max(log_start);
        if max_bytes == 0 || from >= limit {
            return Ok(FollowerRead::Data {
                batches: Vec::new(),
                from,
                next: from,
                high_watermark,
                log_start,
            });
        }
        if !blocking {
            // From memory, under the lock: the log cannot change hands meanwhile.
            return match self.checked(self.log.read(from, limit, max_bytes))? {
                ReadOutcome::Cached(batches) => {
                    let next = end_of(&batches).unwrap_or(limit);
                    Ok(FollowerRead::Data {
                        batches,
                        from,
                        next,
                        high_watermark,
                        log_start,
                    })
                }
                ReadOutcome::OnDisk => Ok(FollowerRead::OnDisk),
            };
        }
        drop(inner);
        let batches = self.checked(self.log.read_blocking(from, limit, max_bytes))?;
        let inner = self.inner.lock();
        if inner.core.role() != Role::Leader || inner.core.leader_epoch() != epoch {
            return Ok(FollowerRead::Stale);
        }
        let next = end_of(&batches).unwrap_or(limit);
        Ok(FollowerRead::Data {
            batches,
            from,
            next,
            high_watermark,
            log_start,
        })
    }
}

/// The offset behind the last batch.
pub fn end_of(batches: &[Bytes]) -> Option<Offset> {
    let mut rest: &[u8] = batches.last()?;
    let mut end = None;
    while let Ok((header, _, behind)) = next_batch(rest) {
        end = Some(header.next_offset());
        rest = behind;
    }
    end
}
