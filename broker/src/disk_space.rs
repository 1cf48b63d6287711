//! Whether there is room to take records. Below a reserve, producers are refused, so that what was
//! promised, retention, deletion and the metadata still have room; above it, everything goes on by
//! itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use ottla_log::LogStore;
use ottla_model::ErrorCode;
use ottla_model::error::ApiError;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Fatal;
use crate::replica::chain;

/// How often the room is measured. At full load, much less than the reserve fits in between.
const PERIOD: Duration = Duration::from_millis(100);

/// The room on the file system of a broker's logs.
#[derive(Debug)]
pub struct DiskSpace {
    reserve_bytes: u64,
    room: watch::Sender<Room>,
    /// What may still be admitted before the next measurement; each byte takes room in the journal
    /// and in a segment.
    admissible: AtomicI64,
    /// What was free at the last measurement, in bytes.
    free_bytes: AtomicU64,
    /// Something did not fit into what was admissible since.
    refused: AtomicBool,
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    /// Nothing more is taken from leaders either.
    Exhausted,
    /// Nothing more is taken from producers. What leaders have accepted still goes to followers:
    /// without it, what is committed could not be told after a failover, and nobody could read it.
    Short,
    Enough,
}

/// How much must be free to take records, where some were refused, or none.
fn needed(reserve_bytes: u64, refuses: bool) -> u64 {
    match refuses {
        false => reserve_bytes,
        true => reserve_bytes + reserve_bytes / 8,
    }
}

impl Room {
    /// A little more is needed before it goes on, and where something did not fit any more, so that
    /// it does not flutter at the edge, nor stand there and refuse what comes without a word. A
    /// writer that already waits for room tells more than the number does: a quota, for example.
    fn of(free_bytes: u64, reserve_bytes: u64, awaited: bool, refuses: bool) -> Room {
        let needed = needed(reserve_bytes, refuses);
        if awaited || free_bytes < reserve_bytes / 2 {
            Room::Exhausted
        } else if free_bytes < needed {
            Room::Short
        } else {
            Room::Enough
        }
    }

    fn is_exhausted(self) -> bool {
        matches!(self, Room::Exhausted)
    }
}

impl DiskSpace {
    pub fn new(reserve_bytes: u64) -> DiskSpace {
        DiskSpace {
            reserve_bytes,
            room: watch::channel(Room::Enough).0,
            admissible: AtomicI64::new(i64::MAX),
            free_bytes: AtomicU64::new(0),
            refused: AtomicBool::new(false),
        }
    }

    /// Refuses a producer's bytes while there is too little room, however long ago that was
    /// measured.
    pub fn admit(&self, bytes: usize) -> Result<(), ApiError> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let left = self.admissible.fetch_sub(bytes, Ordering::Relaxed);
        if *self.room.borrow() == Room::Enough {
            if left >= bytes {
                return Ok(());
            }
            self.refused.store(true, Ordering::Relaxed);
        }
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        let message = format!(
            "the broker's disk is full: {free_bytes} bytes are free, and the last {} are kept in \
             reserve (log.disk_reserve_bytes); it goes on by itself with {} free: trim or delete \
             topics, or free space otherwise (a shorter retention removes sealed segments alone)",
            self.reserve_bytes,
            needed(self.reserve_bytes, true)
        );
        Err(ApiError::new(ErrorCode::DiskFull, message))
    }

    pub fn is_short(&self) -> bool {
        *self.room.borrow() != Room::Enough
    }

    /// Waits until a follower may take what its leader sends.
    pub async fn wait_for_room(&self) {
        let mut room = self.room.subscribe();
        // The sender lives as long as `self`.
        let _ = room.wait_for(|room| !room.is_exhausted()).await;
    }

    /// Waits until producers are refused.
    pub async fn wait_for_shortage(&self) {
        let mut room = self.room.subscribe();
        let _ = room.wait_for(|room| *room != Room::Enough).await;
    }

    /// Measures, for the life of the broker. Ends it if the directory of its logs is gone: what is
    /// written to files that have no name is lost with the process.
    pub async fn run(self: Arc<Self>, store: Arc<LogStore>, fatal: Fatal) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            ticks.tick().await;
            match store.free_space() {
                Ok(free_bytes) => {
                    fails = false;
                    self.measured(free_bytes, store.stats().awaits_room);
                }
                Err(error) if error.is_not_found() => {
                    fatal(format!(
                        "the directory of the logs was removed while they were in use: {}; put it \
                         back before the next start, or start with an empty one to refill from the \
                         other replicas",
                        chain(&error)
                    ));
                    return;
                }
                Err(error) if !fails => {
                    fails = true;
                    tracing::warn!(error = %chain(&error), "the free space cannot be measured");
                }
                Err(_) => {}
            }
        }
    }

    fn measured(&self, free_bytes: u64, awaited: bool) {
        let reserve_bytes = self.reserve_bytes;
        let before = *self.room.borrow();
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let refused = self.refused.swap(false, Ordering::Relaxed);
        let refuses = refused || before != Room::Enough;
        let now = Room::of(free_bytes, reserve_bytes, awaited, refuses);
        match (before, now) {
            (Room::Enough, Room::Short | Room::Exhausted) => tracing::error!(
                free_bytes,
                reserve_bytes,
                "the disk is full; nothing more is taken from producers"
            ),
            (Room::Short, Room::Exhausted) => tracing::error!(
                free_bytes,
                reserve_bytes,
                "half of the reserve is gone; nothing more is taken from leaders either"
            ),
            (Room::Short | Room::Exhausted, Room::Enough) => {
                tracing::info!(free_bytes, "the disk has room again");
            }
            _ => {}
        }
        let surplus = free_bytes.saturating_sub(reserve_bytes) / 2;
        let admissible = i64::try_from(surplus).unwrap_or(i64::MAX);
        self.admissible.store(admissible, Ordering::Relaxed);
        self.room.send_replace(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_reserve_nothing_is_taken_until_there_is_clearly_more() {
        let space = DiskSpace::new(800);
        space.measured(800, false);
        assert_eq!(space.admit(0), Ok(()));
        space.measured(799, false);
        let refused = space.admit(0).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DiskFull);
        assert!(refused.message.contains("799") && refused.message.contains("disk_reserve_bytes"));
        assert!(refused.message.contains("with 900 free"), "{refused}");
        space.measured(899, false);
        assert!(space.is_short());
        space.measured(900, false);
        assert_eq!(space.admit(0), Ok(()));
    }

    #[test]
    fn no_more_is_admitted_than_was_measured_to_fit() {
        let space = DiskSpace::new(800);
        space.measured(1_000, false);
        assert_eq!(space.admit(100), Ok(()));
        assert_eq!(space.admit(1).unwrap_err().code, ErrorCode::DiskFull);
        space.measured(1_000, false);
        assert_eq!(space.admit(1), Ok(()));
    }

    /// Once, a broker a little above the reserve refused nearly everything and told nobody.
    #[test]
    fn a_broker_that_refuses_what_does_not_fit_says_that_its_disk_is_full() {
        let space = DiskSpace::new(800);
        space.measured(810, false);
        let refused = space.admit(6).unwrap_err();
        assert!(refused.message.contains("810 bytes are free"), "{refused}");
        assert!(!space.is_short());
        space.measured(810, false);
        assert!(space.is_short());
        space.measured(899, false);
        assert!(space.is_short());
        space.measured(900, false);
        assert!(!space.is_short());
        // There is plenty of room for what did not fit between two measurements.
        assert!(space.admit(51).is_err());
        space.measured(900, false);
        assert!(!space.is_short());
    }

    #[test]
    fn followers_take_what_leaders_have_accepted_until_half_of_the_reserve_is_gone() {
        let space = DiskSpace::new(800);
        for (free, exhausted) in [(799, false), (400, false), (399, true), (400, false)] {
            space.measured(free, false);
            assert_eq!(space.room.borrow().is_exhausted(), exhausted, "{free}");
            assert!(space.is_short());
        }
    }

    #[test]
    fn a_writer_that_waits_for_room_counts_as_a_full_disk() {
        let space = DiskSpace::new(0);
        space.measured(1 << 40, true);
        assert!(space.is_short());
        space.measured(1 << 40, false);
        assert!(!space.is_short());
    }
}
