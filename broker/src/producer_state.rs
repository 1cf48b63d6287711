//! Keeps the producers' state of all partitions beside their logs, so that a restart reads only
//! the batches since: after each checkpoint, by which time about as much was appended as a restart
//! takes from the journal anyway, and before the logs close.

use std::sync::Arc;
use std::time::Duration;

use ottla_log::LogStore;

use crate::manager::ReplicaManager;
use crate::replica::{Replica, chain};
use crate::stop::Stop;

/// How often it is seen whether there was a checkpoint.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until stopped.
pub fn start(
    store: Arc<LogStore>,
    manager: Arc<ReplicaManager>,
    stop: Arc<Stop>,
) -> std::io::Result<()> {
    let run = move || {
        let mut checkpoints = store.stats().checkpoints;
        while !stop.wait(INTERVAL) {
            let now = store.stats().checkpoints;
            if now != checkpoints {
                checkpoints = now;
                save(
                    manager
                        .all()
                        .iter()
                        .filter(|replica| replica.saved_producers_lag()),
                );
            }
        }
    };
    std::thread::Builder::new()
        .name("producer-state".to_owned())
        .spawn(run)
        .map(drop)
}

/// Saves whatever changed. Blocks.
pub fn save_all(manager: &ReplicaManager) {
    save(manager.all().iter());
}

fn save<'a>(replicas: impl Iterator<Item = &'a Arc<Replica>>) {
    let (mut failed, mut why) = (0, None);
    for replica in replicas {
        if let Err(error) = replica.save_producers() {
            failed += 1;
            why.get_or_insert(error);
        }
    }
    if let Some(error) = why {
        // A start reads the log instead.
        tracing::warn!(partitions = failed, error = %chain(&error),
            "the producers' state could not be saved; the next start takes longer");
    }
}
