//! What nodes tell.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;

/// A process that hangs until this is dropped.
struct Hanging(Pid);

impl Hanging {
    fn new(pid: i32) -> Hanging {
        let pid = Pid::from_raw(pid).expect("a process");
        kill_process(pid, Signal::STOP).expect("it runs");
        Hanging(pid)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // One that is gone cannot be woken.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn a_cluster_that_is_stopped_complains_of_nobody() {
    let mut cluster = Cluster::of(3, "--log-level warn");
    assert!(cluster.stop().success());
    let told = cluster.told();
    let (_, since) = told.rsplit_once("stopping").expect("that it stops");
    for level in ["WARN", "ERROR"] {
        assert!(!since.contains(level), "{since}");
    }
}

#[test]
fn a_broker_that_is_alive_or_not_there_is_not_unregistered() {
    let cluster = Cluster::start();
    let refused = cluster.run("broker unregister 1 --force", "");
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("stop it first"), "{}", refused.err);
    let unknown = cluster.run("broker unregister 77", "");
    assert_eq!(unknown.code, Some(4), "{}", unknown.err);
    let listed = cluster.ok("broker list --output json", "");
    assert!(listed.out.contains("\"active\""), "{}", listed.out);
}

#[test]
fn a_cluster_is_unhealthy_while_it_has_fewer_brokers_than_asked_for() {
    let cluster = Cluster::start();
    cluster.ok("cluster health --brokers 1", "");
    let few = cluster.run("cluster health --brokers 2", "");
    assert_eq!(few.code, Some(3), "{}", few.err);
    let said = "1 of 2 brokers are known";
    assert!(few.out.contains(said), "{}", few.out);
    let waited = cluster.run("cluster health -w -e --brokers 2 --timeout 1s", "");
    assert_eq!(waited.code, Some(6), "{}", waited.err);
}

#[test]
fn while_the_active_controller_hangs_nobody_says_that_all_is_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let shape = "--processes --controllers 1 --brokers 1 --data-dir";
    let mut cluster = Cluster::shaped(2, &format!("{shape} {}", dir.path().display()));
    let manifest = std::fs::read(dir.path().join("cluster.json")).expect("the file");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("its form");
    let nodes = manifest["nodes"].as_array().expect("nodes");
    let is = |node: &&serde_json::Value, role| node["roles"].as_array().unwrap().contains(&role);
    let controller = nodes.iter().find(|node| is(node, "controller".into()));
    let broker = nodes.iter().find(|node| is(node, "broker".into()));
    let client = &broker.expect("a broker")["client"];
    cluster.bootstrap = client.as_str().expect("an address").to_owned();
    cluster.ok("cluster health", "");
    cluster.ok("quorum status", "");

    let pid = controller.expect("a controller")["pid"].as_i64();
    let _hanging = Hanging::new(pid.and_then(|pid| pid.try_into().ok()).expect("a process"));
    let health = cluster.run("cluster health --timeout 2s", "");
    assert_eq!(health.code, Some(3), "{}", health.out);
    let said = "no controller is active";
    assert!(health.out.contains(said), "{}", health.out);
    let status = cluster.run("quorum status --timeout 2s", "");
    assert_eq!(status.code, Some(3), "{}", status.err);
    assert!(
        status.out.contains("leader            none"),
        "{}",
        status.out
    );
    assert!(
        status.err.contains("no controller answered"),
        "{}",
        status.err
    );
    let refused = cluster.run("topic create t --timeout 3s", "");
    assert_eq!(refused.code, Some(6), "{}", refused.err);
    let address = controller.expect("a controller")["internal"].as_str();
    let said = format!("the controllers are 1 ({})", address.expect("an address"));
    assert!(refused.err.contains(&said), "{}", refused.err);
    let json = cluster.run("quorum status --timeout 2s -o json", "").out;
    assert!(json.contains("\"leader_id\": null"), "{json}");
}

#[test]
fn an_active_controller_that_stops_goes_once_another_leads() {
    let dir = tempfile::tempdir().expect("a directory");
    let shape = format!("--processes --nodes 3 --data-dir {}", dir.path().display());
    let mut cluster = Cluster::shaped(3, &shape);
    let manifest = std::fs::read(dir.path().join("cluster.json")).expect("the file");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("its form");
    let quorum = cluster.ok("quorum status -o json", "").out;
    let quorum: serde_json::Value = serde_json::from_str(&quorum).expect("its form");
    let nodes = manifest["nodes"].as_array().expect("nodes");
    let active = nodes.iter().find(|node| node["id"] == quorum["leader_id"]);
    let active = active.expect("the active controller's node");
    let other = nodes.iter().find(|node| node["id"] != active["id"]);
    cluster.bootstrap = other.expect("a node")["client"]
        .as_str()
        .unwrap()
        .to_owned();

    let pid = active["pid"].as_i64().and_then(|pid| pid.try_into().ok());
    kill_process(
        pid.and_then(Pid::from_raw).expect("a process"),
        Signal::TERM,
    )
    .expect("it runs");
    let log = active["log"].as_str().expect("a path");
    let deadline = Instant::now() + Duration::from_secs(30);
    let told = loop {
        let told = std::fs::read_to_string(log).expect("the log");
        if told.contains(" stopped ") {
            break told;
        }
        assert!(Instant::now() < deadline, "it does not stop: {told}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(told.contains("another controller leads now"), "{told}");
    // Once a majority has answered it.
    while cluster.run("quorum status", "").code != Some(0) {
        assert!(Instant::now() < deadline, "nobody leads");
        std::thread::sleep(Duration::from_millis(20));
    }
}
