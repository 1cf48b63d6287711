//! `ottla server` over a directory that is not what it was: parts of it lost, damaged, or of
//! another cluster.

use std::path::Path;

use super::configuration::{assert_last_line, assert_one_line};
use super::node::{Ended, Node, config, config_among, free_port, refused_server};

const FAILURE: i32 = 1;

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("its type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

/// Starts a server of its own over a copy that was changed.
fn started_over(directory: &Path, change: impl FnOnce(&Path)) -> Ended {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    copy(directory, &data);
    change(&data);
    let config = config(0, &data, free_port(), free_port());
    refused_server(dir.path(), config)
}

fn remove(path: &Path) {
    match path.is_dir() {
        true => std::fs::remove_dir_all(path).expect("removed"),
        false => std::fs::remove_file(path).expect("removed"),
    }
}

/// It would acknowledge records that nothing but the process holds.
#[tokio::test]
async fn a_node_whose_logs_are_removed_under_it_ends_and_says_so() {
    let mut node = Node::start().await;
    let data = node.data_dir();
    std::fs::rename(data.join("broker"), data.join("elsewhere")).expect("moved");
    let told = node.wait_until_it_ends().await;
    assert!(
        told.contains("was removed while they were in use"),
        "{told}"
    );
}

#[tokio::test]
async fn a_directory_that_lost_a_part_is_refused_with_the_part_and_the_remedy() {
    let mut node = Node::start().await;
    node.kill();
    let data = node.data_dir();
    for (file, remedy) in [
        ("controller/meta.json", "take this node in anew"),
        ("broker/identity.json", "copied from the other replicas"),
    ] {
        let lost = started_over(&data, |data| remove(&data.join(file)));
        assert_one_line(&lost, FAILURE, &[file, "is missing", "restore it", remedy]);
        for text in ["", "{", "\0\0\0\0", "{\"node_id\": 0}"] {
            let damaged = started_over(&data, |data| {
                std::fs::write(data.join(file), text).expect("a file");
            });
            assert_one_line(&damaged, FAILURE, &[file, "damaged", "restore it", remedy]);
        }
    }
    let log = "controller/log";
    let lost = started_over(&data, |data| remove(&data.join(log)));
    assert_one_line(&lost, FAILURE, &[log, "is empty", "cluster", "restore it"]);
    for part in ["controller", "broker"] {
        let in_its_place = started_over(&data, |data| {
            remove(&data.join(part));
            std::fs::write(data.join(part), "").expect("a file");
        });
        assert_one_line(&in_its_place, FAILURE, &[part, "move it away"]);
    }
}

#[tokio::test]
async fn a_directory_put_together_from_two_clusters_is_refused() {
    let (mut one, mut other) = (Node::start().await, Node::start().await);
    one.kill();
    other.kill();
    let mixed = started_over(&one.data_dir(), |data| {
        remove(&data.join("broker"));
        copy(&other.data_dir().join("broker"), &data.join("broker"));
    });
    let words = [
        "node.data_dir",
        "two clusters",
        "/broker",
        "/controller",
        "restore",
    ];
    assert_one_line(&mixed, FAILURE, &words);
}

#[tokio::test]
async fn a_broker_of_another_cluster_is_refused() {
    let mut stranger = Node::start().await;
    stranger.kill();
    let mut here = Node::start_as(5, "").await;
    let dir = tempfile::tempdir().expect("a directory");
    let (client, internal) = (free_port(), free_port());
    let data = stranger.data_dir();
    let controllers = [(5, here.internal_port)];
    let config = config_among(0, &data, client, internal, &controllers)
        .replace("id = 0\n", "id = 0\nroles = [\"broker\"]\n");
    let ended = refused_server(dir.path(), config);
    assert_last_line(&ended, FAILURE, &["belongs to cluster", "data directory"]);
    here.assert_unharmed();
}

#[tokio::test]
async fn a_controller_of_another_cluster_is_refused_and_disturbs_nobody() {
    let mut stranger = Node::start().await;
    stranger.kill();
    let mut nodes = Node::three().await;
    nodes[0].kill();
    let dir = tempfile::tempdir().expect("a directory");
    let (client, internal) = (nodes[0].client_port, nodes[0].internal_port);
    let controllers: Vec<_> = (0..)
        .zip(nodes.iter().map(|node| node.internal_port))
        .collect();
    let config = config_among(0, &stranger.data_dir(), client, internal, &controllers);
    let ended = refused_server(dir.path(), config);
    let words = ["belongs to cluster", "its own directory", "controllers"];
    assert_last_line(&ended, FAILURE, &words);
    nodes[1].assert_unharmed();
    nodes[2].assert_unharmed();
}
