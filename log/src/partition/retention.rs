//! Deleting old segments by age and size (Kafka's `retention.ms` and `retention.bytes`).

use ottla_model::{Offset, TimestampMs};

use super::PartitionLog;
use super::state::State;
use crate::error::LogError;

impl PartitionLog {
    /// Moves the log's start over segments that are older than the settings allow, or that the
    /// log's size does not allow; oldest first, up to the first that stays. A segment that reaches
    /// over `bound` stays. The segment that is written to goes only by age, and only whole: the
    /// next batch begins another. Returns the log's new start if it moved.
    pub fn apply_retention(
        &self,
        now: TimestampMs,
        bound: Offset,
    ) -> Result<Option<Offset>, LogError> {
        let start = self.retained_from(now, bound)?;
        if let Some(start) = start {
            self.advance_log_start(start)?;
        }
        Ok(start)
    }

    /// Where [`PartitionLog::apply_retention`] would move the log's start, for a caller who does
    /// that by other ways; `None` if it would not move.
    pub fn retained_from(
        &self,
        now: TimestampMs,
        bound: Offset,
    ) -> Result<Option<Offset>, LogError> {
        let state = self.lock_present()?;
        Ok(new_log_start(&state, now, bound))
    }
}

fn new_log_start(state: &State, now: TimestampMs, bound: Offset) -> Option<Offset> {
    // While cuts are on their way, what the segments hold is not what the log holds.
    if state.pending_cuts > 0 {
        return None;
    }
    let settings = &state.settings;
    let physical = &state.physical;
    let mut total = physical.bytes() + state.tail.bytes_from(state.disk_end);
    let mut start = None;
    // Of what compaction left nothing, no age is known: it goes with the next that is too old.
    let mut ageless = 0;
    for (index, segment) in physical.segments.iter().enumerate() {
        let end = physical.end_of(index);
        let is_active = index + 1 == physical.segments.len();
        let too_old = settings.retention_ms.is_some_and(|retention| {
            segment.max_timestamp != TimestampMs::NONE
                && now.0.saturating_sub(segment.max_timestamp.0) > retention
        });
        let too_much = !is_active
            && ageless == 0
            && settings
                .retention_bytes
                .is_some_and(|retention| total - segment.bytes >= retention);
        let in_the_past = end <= state.log_start;
        if end > bound || segment.bytes == 0 {
            break;
        }
        if too_old || too_much || in_the_past {
            total -= ageless + segment.bytes;
            ageless = 0;
            start = Some(end);
        } else if segment.max_timestamp == TimestampMs::NONE {
            ageless += segment.bytes;
        } else {
            break;
        }
    }
    start.filter(|start| *start > state.log_start)
}
