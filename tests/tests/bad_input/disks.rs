//! `ottla server` on a disk that is full or that cannot be written. The disks are mounted where
//! nobody else sees them; where that is not permitted, the tests say so and end.

use std::path::Path;
use std::process::Command;

use super::configuration::{assert_last_line, assert_one_line};
use super::node::{Ended, Node, binary, config, free_port, refused};
use super::{Harness, batches, config_entry, new_topic, partition};

const FAILURE: i32 = 1;

/// A server whose data directory is a file system of its own, made by this command.
fn server_on(mount: &str, dir: &Path, client: u16, internal: u16, more: &str) -> Command {
    let data = dir.join("disk/data");
    std::fs::create_dir_all(dir.join("disk")).expect("a directory");
    let file = dir.join("node.toml");
    std::fs::write(&file, config(0, &data, client, internal) + more).expect("a file");
    let script = format!("set -e; cd {dir:?}; {mount}; exec \"$0\" server --config node.toml");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(binary());
    command
}

/// Whether file systems may be mounted here.
fn may_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs tmpfs /tmp"])
        .output();
    let why = match tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("SKIPPED: no file system can be mounted here: {why}");
    false
}

#[test]
fn a_disk_that_cannot_be_used_ends_the_server_with_one_clear_line() {
    if !may_mount() {
        return;
    }
    let on = |mount: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        refused(server_on(mount, dir.path(), free_port(), free_port(), ""))
    };
    let full = on("mount -t tmpfs -o size=1m tmpfs disk");
    // The broker's storage says that it waits for room before the controller's gives up.
    let words = ["disk/data/", "No space left", "free space"];
    assert_last_line(&full, FAILURE, &words);
    let last_byte = on("mount -t tmpfs -o size=1m tmpfs disk; cat /dev/zero >disk/x || true");
    let last = last_byte.said.lines().last().unwrap_or_default().to_owned();
    let alone = Ended {
        said: last,
        ..last_byte
    };
    assert_one_line(&alone, FAILURE, &["disk/data", "free space"]);
    let read_only = on("mount -t tmpfs -o ro tmpfs disk");
    let words = ["disk/data", "node.data_dir", "Read-only", "write there"];
    assert_one_line(&read_only, FAILURE, &words);
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_producers_and_ends_nothing() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (client, internal) = (free_port(), free_port());
    let mount = "mount -t tmpfs -o size=250m tmpfs disk";
    let small = "[log]\njournal_file_bytes = 16777216\ncheckpoint_bytes = 16777216\n\
                 disk_reserve_bytes = 100000000\n";
    let command = server_on(mount, dir.path(), client, internal, small);
    let mut node = Node::run(command, dir, client, internal);
    node.wait_until_it_serves().await;
    let mut harness = Harness::over(node).await;
    let topic = super::v1::CreateTopicRequest {
        configs: vec![config_entry("max.message.bytes", "1048588")],
        ..new_topic("large")
    };
    harness.admin.create_topic(topic).await.expect("a topic");
    let batch = batches::good(&vec![7; 1_000_000]);
    let mut refused = None;
    for _ in 0..1_000 {
        let request = super::produce_request(partition("large", 0), batch.clone());
        let stream = harness.log.produce(futures::stream::iter([request])).await;
        let answer = stream.expect("a stream").into_inner().message().await;
        let results = answer.expect("an answer").expect("a response").results;
        refused = results.into_iter().find_map(|result| result.error);
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("a refusal before the disk took everything");
    assert_eq!(refused.code, 1004, "{refused:?}");
    let words = ["disk is full", "bytes are free", "log.disk_reserve_bytes"];
    assert!(
        words.iter().all(|word| refused.message.contains(word)),
        "{refused:?}"
    );
    let other = new_topic("meanwhile");
    harness.admin.create_topic(other).await.expect("a topic");
    harness.node.assert_alive();
}
