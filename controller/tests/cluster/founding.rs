use std::time::Duration;

use ottla_controller::FatalError;

use crate::harness::{Cluster, holds_for, wait_for};

#[test]
fn a_cluster_is_founded_once_every_controller_is_present() {
    let mut cluster = Cluster::of_three();
    cluster.start(1);
    cluster.start(2);
    // Two of three are a majority, but not everyone.
    holds_for(Duration::from_millis(700), || {
        cluster.status(1).active_id.is_none()
    });
    cluster.start(3);
    cluster.wait_founded();
    let ids: Vec<_> = (1..=3).map(|id| cluster.status(id).cluster_id).collect();
    assert!(
        ids.iter().all(|id| *id == ids[0] && id.is_some()),
        "{ids:?}"
    );
    for id in 1..=3 {
        let node = cluster.running[&id].node();
        let image = node.feed().current().image;
        let known = &image.controllers[&ottla_model::NodeId(id)];
        assert_eq!(known.directory, node.directory_id());
    }
}

#[test]
fn an_empty_directory_of_a_voter_is_refused_with_what_happened_and_what_to_do() {
    let mut cluster = Cluster::founded();
    let registered = cluster.running[&2].node().directory_id();
    let cluster_id = cluster.status(1).cluster_id.unwrap();
    cluster.kill(2);
    std::fs::rename(cluster.data_dir(2), cluster.dir.path().join("lost")).unwrap();
    cluster.start(2);
    let fatal = wait_for("the replaced directory to be refused", || {
        cluster.running[&2].fatal.lock().clone()
    });
    let FatalError::ReplacedDirectory { .. } = &fatal else {
        panic!("refused for another reason: {fatal}");
    };
    let text = fatal.to_string();
    for part in [
        "this directory is new",
        "controller 2",
        &cluster_id.to_string(),
        &registered.to_string(),
        "restore",
        "leave this controller stopped",
    ] {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
    // The others go on, and heed nothing that it says.
    cluster.wait_active();
    for id in [1, 3] {
        assert!(cluster.running[&id].fatal.lock().is_none());
    }
    // The directory is found again.
    cluster.kill(2);
    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    std::fs::rename(cluster.dir.path().join("lost"), cluster.data_dir(2)).unwrap();
    cluster.start(2);
    wait_for("node 2 to be back", || cluster.status(2).active_id);
}

#[test]
fn two_replaced_disks_of_three_never_found_a_second_cluster() {
    let mut cluster = Cluster::founded();
    let cluster_id = cluster.status(3).cluster_id;
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in [1, 2] {
        let lost = cluster.dir.path().join(format!("lost-{id}"));
        wait_for("the directory to be free", || {
            std::fs::rename(cluster.data_dir(id), &lost).ok()
        });
    }
    cluster.start_all();
    for id in [1, 2] {
        wait_for("the replaced directories to be refused", || {
            cluster.running[&id].fatal.lock().clone()
        });
        assert_eq!(cluster.status(id).cluster_id, None);
    }
    assert_eq!(cluster.status(3).cluster_id, cluster_id);
    assert!(cluster.running[&3].fatal.lock().is_none());
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let ours = Cluster::founded();
    let mut others = Cluster::founded();
    others.kill(3);
    let foreign = ours.data_dir(3);
    let theirs = ours.status(3).cluster_id.unwrap();
    drop(ours.running);
    std::fs::remove_dir_all(others.data_dir(3)).unwrap();
    wait_for("the directory to be free", || {
        std::fs::rename(&foreign, others.data_dir(3)).ok()
    });
    others.start(3);
    let fatal = wait_for("the foreign directory to be refused", || {
        others.running[&3].fatal.lock().clone()
    });
    let text = fatal.to_string();
    assert!(text.contains(&theirs.to_string()), "{text}");
    assert!(matches!(fatal, FatalError::ForeignCluster { .. }), "{text}");
}
