//! Reads stored data again at a steady, low rate, so that damage is found while there are whole
//! copies elsewhere, not when the last of them is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ottla_log::LogStore;

use crate::damage::DamageFound;
use crate::stop::Stop;

/// How fast and how often.
#[derive(Debug, Clone, Copy)]
pub struct ScrubPace {
    /// Bytes read in a second, on average.
    pub bytes_per_second: u64,
    /// From the beginning of one round to the next, at least.
    pub interval: Duration,
}

/// Goes over all segments, round after round, until it is told to stop.
pub fn start(
    store: Arc<LogStore>,
    found: Arc<DamageFound>,
    pace: ScrubPace,
    stop: Arc<Stop>,
) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("log-scrub".to_owned())
        .spawn(move || run(&store, &found, pace, &stop))
        .map(|_| ())
}

fn run(store: &LogStore, found: &DamageFound, pace: ScrubPace, stop: &Stop) {
    loop {
        let began = Instant::now();
        let mut going = true;
        store.scrub(
            &mut |bytes| {
                let takes = bytes as f64 / pace.bytes_per_second as f64;
                going = !stop.wait(Duration::from_secs_f64(takes));
                going
            },
            &mut |id, what| found.add(id, what),
        );
        let rest = pace.interval.saturating_sub(began.elapsed());
        if !going || stop.wait(rest) {
            return;
        }
    }
}
