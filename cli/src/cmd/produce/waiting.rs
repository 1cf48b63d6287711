//! Says to a person that acknowledgements fail to come, while a command waits for them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::output::{self, counted};

/// How long no record ends before that is told.
const SILENCE: Duration = Duration::from_secs(3);
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// How many records were begun to be sent, and how many of them have ended.
#[derive(Debug, Default)]
pub struct Waiting {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Waiting {
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells when nothing moves, and when it does again.
    pub async fn tell(&self) -> Infallible {
        let mut state = State::new(Instant::now());
        loop {
            tokio::time::sleep(INTERVAL).await;
            let ended = self.ended.load(Ordering::Relaxed);
            let waiting = self.begun.load(Ordering::Relaxed).saturating_sub(ended);
            match state.look(Instant::now(), ended, waiting) {
                Some(News::Silent) => output::note(format_args!(
                    "{} not acknowledged for {} s; still trying (`ottla cluster health` tells \
                     what is wrong)",
                    counted(waiting, "record"),
                    SILENCE.as_secs()
                )),
                Some(News::Again) => output::note("records are acknowledged again"),
                None => {}
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Silent,
    Again,
}

/// What was last seen, and since when.
#[derive(Debug)]
struct State {
    ended: u64,
    since: Instant,
    told: bool,
}

impl State {
    fn new(now: Instant) -> State {
        State {
            ended: 0,
            since: now,
            told: false,
        }
    }

    fn look(&mut self, now: Instant, ended: u64, waiting: u64) -> Option<News> {
        if ended != self.ended || waiting == 0 {
            let told = std::mem::take(&mut self.told);
            (self.ended, self.since) = (ended, now);
            return told.then_some(News::Again);
        }
        if self.told || now - self.since < SILENCE {
            return None;
        }
        self.told = true;
        Some(News::Silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_once_and_its_end_too() {
        let start = Instant::now();
        let mut state = State::new(start);
        let mut look = |millis, ended, waiting| {
            state.look(start + Duration::from_millis(millis), ended, waiting)
        };
        // Nothing to wait for is no silence.
        assert_eq!(look(9_000, 0, 0), None);
        assert_eq!(look(9_500, 0, 5), None);
        assert_eq!(look(11_900, 1, 4), None);
        assert_eq!(look(14_800, 1, 4), None);
        assert_eq!(look(14_900, 1, 4), Some(News::Silent));
        assert_eq!(look(20_000, 1, 4), None);
        assert_eq!(look(20_500, 3, 2), Some(News::Again));
        assert_eq!(look(23_500, 3, 2), Some(News::Silent));
    }
}
