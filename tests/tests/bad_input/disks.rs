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
    assert_one_line(
        &full,
        FAILURE,
        &["disk/data/", "No space left", "free space"],
    );
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
async fn a_disk_that_fills_up_ends_the_server_with_what_to_do() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (client, internal) = (free_port(), free_port());
    let mount = "mount -t tmpfs -o size=100m tmpfs disk";
    let small = "[log]\njournal_file_bytes = 16777216\ncheckpoint_bytes = 16777216\n";
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
    let writing = async {
        loop {
            let request = super::produce_request(partition("large", 0), batch.clone());
            let stream = harness.log.produce(futures::stream::iter([request])).await;
            let Ok(stream) = stream else { return };
            // The answer may be an error, or none: the node may end at any time.
            if stream.into_inner().message().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        _ = tokio::time::sleep(super::PATIENCE) => panic!("the disk took everything"),
    }
    let (status, said) = harness.node.ended().await;
    let ended = Ended {
        status,
        said,
        took: std::time::Duration::ZERO,
        least: std::time::Duration::ZERO,
    };
    let words = ["disk/data/", "No space left", "free space"];
    assert_last_line(&ended, FAILURE, &words);
}
