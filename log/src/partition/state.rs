//! What a log knows of itself. It has two ends: the *logical* log is what callers have asked for
//! so far; the *physical* one is what the segments have followed. The physical one trails, by
//! entries that are on their way through the journal, and only the lane changes it.

use std::ops::Range;

use ottla_model::batch::BatchHeader;
use ottla_model::{LeaderEpoch, Offset};

use super::epochs::Epochs;
use super::tail::Tail;
use crate::segment::{Segment, SegmentIndex};
use crate::store::LogSettings;
use crate::wal::WalPosition;

#[derive(Debug)]
pub(crate) struct State {
    pub log_start: Offset,
    pub log_end: Offset,
    pub epochs: Epochs,
    pub tail: Tail,
    /// Below it, the segments hold what the logical log holds. Everything above is in the tail.
    pub disk_end: Offset,
    /// Truncations and restarts on their way. While there are any, what the lane writes may be
    /// cut again and `disk_end` does not follow it.
    pub pending_cuts: usize,
    /// The lowest offset that one of them cuts at.
    pub lowest_cut: Offset,
    /// Truncations and restarts so far.
    pub cuts: u64,
    /// The journal is being replayed: the logical log follows the segments.
    pub recovering: bool,
    /// The log was deleted or set aside.
    pub gone: bool,
    pub settings: LogSettings,
    /// That of the last append since the store was opened; 0 before.
    pub last_ticket: u64,
    /// Bytes of batches appended since the store was opened.
    pub appended_bytes: u64,
    /// How many of them, when the producers were saved, or when there was nothing to save yet;
    /// `None` if it is not known how much came since.
    pub saved_at: Option<u64>,
    /// Segments below it were sealed when the last checkpoint was made, which so vouches for them
    /// whole: compaction may replace them.
    pub checkpointed: Offset,
    pub physical: Physical,
}

/// The log as far as the segments have followed.
#[derive(Debug, Clone)]
pub(crate) struct Physical {
    pub log_start: Offset,
    pub end: Offset,
    pub epochs: Epochs,
    pub segments: Vec<Segment>,
    /// Journal entries before this position are contained.
    pub applied: WalPosition,
    /// Compaction has been over everything below.
    pub cleaned_to: Offset,
    /// Rises when bytes that a reader may have been pointed to are taken away.
    pub generation: u64,
    pub dir_exists: bool,
}

impl Physical {
    /// The leader epoch that a stored batch must have. `None` if it lies below the log's start:
    /// the epochs there are forgotten, though the batch's segment may still hold what follows.
    pub fn epoch_of(&self, batch: &BatchHeader) -> Option<LeaderEpoch> {
        let start = self.log_start;
        (batch.next_offset() > start).then(|| self.epochs.at(batch.base_offset.max(start)))
    }

    /// What is wrong with where a stored batch says that it stands, if anything. Its offset and its
    /// leader epoch lie outside of its checksum, so what is known of them must agree: `within` are
    /// the offsets that it can have. A compacted log may have gaps, but never an offset twice.
    pub fn misplacement(&self, batch: &BatchHeader, within: Range<Offset>) -> Option<String> {
        let base = batch.base_offset;
        if base < within.start {
            let start = within.start;
            return Some(format!("offset {base} behind what reaches to {start}"));
        }
        if batch.next_offset() > within.end {
            let (next, end) = (batch.next_offset(), within.end);
            return Some(format!(
                "offset {base}, up to {next}, where {end} is the end"
            ));
        }
        let known = self.epoch_of(batch)?;
        let epoch = batch.leader_epoch;
        (epoch != known)
            .then(|| format!("leader epoch {epoch} at offset {base}, written in {known}"))
    }

    /// An empty log that continues at `at`.
    pub fn empty(at: Offset) -> Physical {
        Physical {
            log_start: at,
            end: at,
            epochs: Epochs::default(),
            segments: Vec::new(),
            applied: WalPosition(0),
            cleaned_to: Offset::ZERO,
            generation: 0,
            dir_exists: false,
        }
    }

    /// What a checkpoint needs of it: all but the indexes.
    pub fn outline(&self) -> Physical {
        let outline = |segment: &Segment| Segment {
            index: SegmentIndex::Unknown,
            ..*segment
        };
        Physical {
            segments: self.segments.iter().map(outline).collect(),
            epochs: self.epochs.clone(),
            ..*self
        }
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The offset behind the segment at `index`.
    pub fn end_of(&self, index: usize) -> Offset {
        self.segments
            .get(index + 1)
            .map_or(self.end, |next| next.base)
    }

    /// Where the segment at `index` ends, if it holds anything of the log from `log_start` to the
    /// log's end. The latter may have been cut back within or before the segment.
    pub fn wanted_end(&self, index: usize, log_start: Offset) -> Option<Offset> {
        let end = self.end_of(index).min(self.end);
        let begins_below = self.segments[index].base < self.end;
        (begins_below && end > log_start).then_some(end)
    }

    /// The segment that holds `offset`, or would.
    pub fn segment_of(&self, offset: Offset) -> Option<usize> {
        self.segments
            .partition_point(|segment| segment.base <= offset)
            .checked_sub(1)
    }
}

impl State {
    /// A log whose logical end is where the segments are.
    pub fn new(physical: Physical, settings: LogSettings) -> State {
        let mut state = State {
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            epochs: Epochs::default(),
            tail: Tail::default(),
            disk_end: Offset::ZERO,
            pending_cuts: 0,
            lowest_cut: Offset(i64::MAX),
            cuts: 0,
            recovering: false,
            gone: false,
            settings,
            last_ticket: 0,
            appended_bytes: 0,
            saved_at: None,
            checkpointed: Offset::ZERO,
            physical,
        };
        state.follow_physical();
        state
    }

    /// Makes the logical log what the segments hold: after recovery.
    pub fn follow_physical(&mut self) {
        self.log_start = self.physical.log_start;
        self.log_end = self.physical.end;
        self.disk_end = self.physical.end;
        self.epochs = self.physical.epochs.clone();
        self.saved_at = self.physical.segments.is_empty().then_some(0);
    }

    /// Where the tail cache begins; everything below it is in segments.
    pub fn tail_start(&self) -> Offset {
        self.tail.start().unwrap_or(self.log_end)
    }

    /// Takes in where a batch that follows begins. Between the log's end and there may be nothing,
    /// which then is on disk as much as anything is.
    pub fn goes_on_at(&mut self, base: Offset) {
        if self.tail.start().is_none() {
            self.disk_end = self.disk_end.max(base);
        }
    }

    /// The log goes on at `to`, without records in between.
    pub fn skip(&mut self, to: Offset) {
        self.goes_on_at(to);
        self.log_end = to;
        self.check();
    }

    /// Drops batches from memory that are in segments, as [`Tail::evict`].
    pub fn evict(&mut self, to: Offset, enough: u64) -> (u64, bool) {
        let evicted = self.tail.evict(to.min(self.disk_end), enough);
        self.disk_end = self.disk_end.max(self.tail_start());
        evicted
    }

    /// Cuts the logical log; `to` is a batch boundary. Returns the bytes that left the tail.
    pub fn cut(&mut self, to: Offset) -> u64 {
        self.log_end = to;
        self.disk_end = self.disk_end.min(to);
        self.epochs.cut(to);
        self.lowest_cut = self.lowest_cut.min(to);
        self.pending_cuts += 1;
        self.cuts += 1;
        let bytes = self.tail.cut(to);
        self.check();
        bytes
    }

    /// Empties the logical log; it continues at `at`. Returns the bytes that left the tail.
    pub fn restart(&mut self, at: Offset) -> u64 {
        let bytes = self.tail.cut(Offset(i64::MIN));
        self.log_start = at;
        self.log_end = at;
        self.disk_end = at;
        self.epochs.clear();
        self.lowest_cut = Offset(i64::MIN);
        self.pending_cuts += 1;
        self.cuts += 1;
        self.check();
        bytes
    }

    /// The lane has carried out a cut.
    pub fn cut_arrived(&mut self) {
        assert!(self.pending_cuts > 0, "a cut arrived that nobody asked for");
        self.pending_cuts -= 1;
        if self.pending_cuts == 0 {
            self.lowest_cut = Offset(i64::MAX);
        }
        self.segments_followed();
    }

    /// The lane has changed the physical log.
    pub fn segments_followed(&mut self) {
        if self.recovering {
            self.follow_physical();
        }
        if self.pending_cuts == 0 && !self.gone {
            // It is ahead of the segments where nothing is between.
            self.disk_end = self.disk_end.max(self.physical.end);
        }
        self.check();
    }

    pub fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.last()
    }

    fn check(&self) {
        assert!(
            self.log_start <= self.log_end,
            "log start {} lies beyond log end {}",
            self.log_start,
            self.log_end
        );
        assert!(
            self.gone || self.tail_start() <= self.disk_end,
            "batches from {} to {} are neither in memory nor on disk",
            self.disk_end,
            self.tail_start()
        );
        assert!(
            self.disk_end <= self.log_end,
            "the segments end at {}, the log at {}",
            self.disk_end,
            self.log_end
        );
    }
}
