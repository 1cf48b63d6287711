//! Controllers whose directories were lost or damaged, and are replaced while the others go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ottla_controller::FatalError;
use ottla_model::{DirectoryId, NodeId};

use crate::harness::{Cluster, holds_for, wait_for};

/// A decision that needs a majority.
fn decides(cluster: &Cluster) {
    wait_for("a decision", || {
        let active = cluster.wait_active();
        cluster.delete_missing_topic(active, 1_000).ok()
    });
}

#[test]
fn an_empty_directory_takes_the_place_of_a_lost_one_and_votes() {
    let mut cluster = Cluster::founded();
    let cluster_id = cluster.status(1).cluster_id;
    let lost = cluster.running[&2].node().directory_id();
    cluster.kill(2);
    cluster.lose_directory(2);
    cluster.start(2);
    assert_ne!(cluster.running[&2].node().directory_id(), lost);
    cluster.wait_registered(2);
    assert_eq!(cluster.status(2).cluster_id, cluster_id);
    // It is needed now, for the election and for what is decided after it.
    cluster.kill(3);
    decides(&cluster);
    cluster.kill(1);
    cluster.start(3);
    decides(&cluster);
    assert!(
        [2, 3]
            .iter()
            .all(|id| cluster.running[id].fatal.lock().is_none())
    );
}

#[test]
fn each_directory_in_turn_may_be_lost() {
    let mut cluster = Cluster::founded();
    let first: Vec<_> = (1..=3).map(|id| directory(&cluster, id)).collect();
    for id in [1, 3, 2, 1] {
        cluster.kill(id);
        let lost = cluster.dir.path().join(format!("lost-{id}"));
        drop(fs::remove_dir_all(lost));
        cluster.lose_directory(id);
        cluster.start(id);
        cluster.wait_registered(id);
        decides(&cluster);
    }
    let last: Vec<_> = (1..=3).map(|id| directory(&cluster, id)).collect();
    assert!(first.iter().zip(&last).all(|(first, last)| first != last));
}

#[test]
fn a_controller_that_was_away_follows_ones_that_it_knows_by_lost_directories() {
    let mut cluster = Cluster::of(5);
    cluster.start_all();
    cluster.wait_founded();
    cluster.kill(5);
    for id in [1, 2] {
        cluster.kill(id);
        cluster.lose_directory(id);
        cluster.start(id);
        cluster.wait_registered(id);
    }
    // Those who replaced are needed, and one of them leads: node 5 lacks what was decided.
    for id in 1..=4 {
        cluster.kill(id);
    }
    for id in [5, 1, 2] {
        cluster.start(id);
    }
    decides(&cluster);
    cluster.wait_registered(1);
    cluster.wait_registered(2);
    assert!(
        [1, 2, 5]
            .iter()
            .all(|id| cluster.running[id].fatal.lock().is_none())
    );
}

#[test]
fn a_new_directory_catches_up_from_a_snapshot() {
    let mut cluster = Cluster::of_three();
    cluster.tune = |config| config.quorum.snapshot_entries = 1;
    cluster.start_all();
    cluster.wait_founded();
    for id in [2, 3] {
        cluster.kill(id);
        cluster.lose_directory(id);
        cluster.start(id);
        cluster.wait_registered(id);
    }
    cluster.kill(1);
    decides(&cluster);
}

#[test]
fn the_old_directory_is_refused_with_what_happened_and_what_to_do() {
    let mut cluster = Cluster::founded();
    let cluster_id = cluster.status(1).cluster_id.unwrap();
    cluster.kill(2);
    cluster.lose_directory(2);
    cluster.start(2);
    cluster.wait_registered(2);
    let registered = directory(&cluster, 2);
    cluster.kill(2);
    cluster.find_directory(2);
    cluster.start(2);
    let fatal = wait_for("the old directory to be refused", || {
        cluster.running[&2].fatal.lock().clone()
    });
    let FatalError::ReplacedDirectory { .. } = &fatal else {
        panic!("refused for another reason: {fatal}");
    };
    let text = fatal.to_string();
    for part in [
        "controller 2",
        &cluster_id.to_string(),
        &registered.to_string(),
        "taken the place of this one",
        "taken in anew",
    ] {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
    // The others go on, and heed nothing that it says.
    decides(&cluster);
    assert!(
        [1, 3]
            .iter()
            .all(|id| cluster.running[id].fatal.lock().is_none())
    );
}

fn directory(cluster: &Cluster, id: i32) -> DirectoryId {
    cluster.running[&id].node().directory_id()
}

/// The files of a stopped controller whose names end so.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.join("controller")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false if entry.path().to_string_lossy().ends_with(suffix) => {
                    found.push(entry.path());
                }
                false => {}
            }
        }
    }
    found
}

#[test]
fn a_damaged_directory_is_kept_aside_and_the_controller_taken_in_anew() {
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |dir| fs::write(dir.join("controller/meta.json"), "{}").unwrap(),
        |dir| fs::remove_file(dir.join("controller/meta.json")).unwrap(),
        |dir| {
            files(dir, ".wal")
                .iter()
                .for_each(|path| fs::write(path, [7; 9]).unwrap())
        },
        // Nothing is left that says that the log went on there.
        |dir| {
            for path in files(dir, ".wal") {
                let mut bytes = fs::read(&path).unwrap();
                let end = bytes
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |at| at + 1);
                bytes[end.saturating_sub(4096)..end].fill(0);
                fs::write(path, bytes).unwrap();
            }
        },
    ];
    let mut cluster = Cluster::founded();
    let cluster_id = cluster.status(1).cluster_id;
    for (number, damage) in damages.iter().enumerate() {
        let damaged = directory(&cluster, 2);
        cluster.kill(2);
        damage(&cluster.data_dir(2));
        cluster.start(2);
        let aside = cluster.data_dir(2).join("controller-damaged-1");
        assert!(aside.exists(), "damage {number} was not noticed");
        cluster.wait_registered(2);
        assert_ne!(directory(&cluster, 2), damaged);
        assert_eq!(cluster.status(2).cluster_id, cluster_id);
        // No more than three are kept.
        fs::remove_dir_all(aside).unwrap();
    }
    cluster.kill(3);
    decides(&cluster);
}

#[test]
fn controllers_that_all_lost_what_they_held_found_no_cluster() {
    let mut cluster = Cluster::founded();
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        let path = cluster.data_dir(id).join("controller/meta.json");
        fs::write(path, "{}").unwrap();
    }
    cluster.start_all();
    holds_for(Duration::from_secs(2), || {
        (1..=3).all(|id| cluster.status(id).active_id.is_none())
    });
    for id in 1..=3 {
        assert_eq!(cluster.status(id).cluster_id, None);
        let image = cluster.running[&id].node().feed().current().image;
        assert!(!image.controllers.contains_key(&NodeId(1)));
    }
}
