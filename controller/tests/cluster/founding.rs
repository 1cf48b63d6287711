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
fn two_replaced_disks_of_three_never_found_a_second_cluster() {
    let mut cluster = Cluster::founded();
    let cluster_id = cluster.status(3).cluster_id;
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in [1, 2] {
        cluster.lose_directory(id);
    }
    cluster.start_all();
    // Longer than an election, and than the rounds of greetings.
    holds_for(Duration::from_secs(2), || {
        let is_new = |id| cluster.status(id).cluster_id.is_none();
        is_new(1) && is_new(2) && (1..=3).all(|id| !cluster.status(id).is_active)
    });
    assert_eq!(cluster.status(3).cluster_id, cluster_id);
    assert!((1..=3).all(|id| cluster.running[&id].fatal.lock().is_none()));
    // One of them is found again, and with it the quorum, which takes the other one in.
    cluster.kill(1);
    cluster.find_directory(1);
    cluster.start(1);
    cluster.wait_registered(2);
    assert_eq!(cluster.status(2).cluster_id, cluster_id);
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
