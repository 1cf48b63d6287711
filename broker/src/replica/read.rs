//! Reading a replica's log for followers and consumers.

use bytes::Bytes;
use ottla_broker_core::partition::Role;
use ottla_log::{ReadError, ReadOutcome};
use ottla_model::batch::{BatchHeader, next_batch};
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
                        batches: without_filler_below(batches, from),
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
            batches: without_filler_below(batches, from),
            from,
            next,
            high_watermark,
            log_start,
        })
    }
}

/// The batches without the first if that stands for offsets alone and begins below `from`: where a
/// follower stands, another replica's compaction may have left no boundary. It is told how far the
/// log goes on without it.
fn without_filler_below(mut batches: Vec<Bytes>, from: Offset) -> Vec<Bytes> {
    let first = batches.first().and_then(|first| BatchHeader::decode(first));
    if let Some(header) = first.filter(|it| it.is_filler() && it.base_offset < from) {
        let rest = batches[0].split_off(header.size);
        match rest.is_empty() {
            true => drop(batches.remove(0)),
            false => batches[0] = rest,
        }
    }
    batches
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

#[cfg(test)]
mod tests {
    use ottla_model::batch::empty_batches;

    use super::*;

    #[test]
    fn a_follower_is_not_sent_the_filler_that_it_stands_in() {
        let filler = |from, to| empty_batches(Offset(from), Offset(to), LeaderEpoch(1));
        let both = Bytes::from([filler(10, 100), filler(100, 120)].concat());
        let second = Bytes::from(filler(100, 120));
        let alone = Bytes::from(filler(10, 100));
        let piece = |bytes: &Bytes| vec![bytes.clone()];
        assert_eq!(
            without_filler_below(piece(&both), Offset(50)),
            piece(&second)
        );
        let pieces = vec![alone.clone(), second.clone()];
        assert_eq!(without_filler_below(pieces, Offset(50)), piece(&second));
        assert_eq!(
            without_filler_below(piece(&alone), Offset(50)),
            [] as [Bytes; 0]
        );
        assert_eq!(without_filler_below(piece(&both), Offset(10)), piece(&both));
    }
}
