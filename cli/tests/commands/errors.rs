//! Errors name what was tried, where, and what to do.

use crate::cluster::{Cluster, Ran, free_ports, ottla};

#[track_caller]
fn assert_told(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    for part in parts {
        assert!(ran.err.contains(part), "no {part:?} in {}", ran.err);
    }
    for raw in ["transport error", "tcp connect", "Unimplemented"] {
        assert!(!ran.err.contains(raw), "{}", ran.err);
    }
}

#[test]
fn an_address_without_a_broker_is_named_with_what_is_there_instead() {
    let dead = format!("127.0.0.1:{}", free_ports(1));
    let parts = [
        dead.as_str(),
        "nothing listens there",
        "--bootstrap",
        "ottla dev",
    ];
    for command in [
        "topic list",
        "quorum status",
        "consume t",
        "produce t",
        "bench produce",
    ] {
        assert_told(&ottla(&dead, command, b""), 1, &parts);
    }
    assert_told(&ottla(&dead, "cluster health", b""), 3, &parts);
    let nowhere = ottla("no-such-host.invalid:9092", "topic list", b"");
    assert_told(&nowhere, 1, &["no-such-host.invalid", "resolved"]);
    // The port of the nodes among themselves, which stands beside that of the clients.
    let cluster = Cluster::start();
    let (host, port) = cluster.bootstrap.split_once(':').unwrap();
    let internal = format!("{host}:{}", port.parse::<u16>().unwrap() + 1);
    assert_told(
        &ottla(&internal, "topic list", b""),
        1,
        &[&internal, "client port"],
    );
}

#[test]
fn a_usage_line_lacks_what_the_environment_gives() {
    let refused = ottla("127.0.0.1:1", "topic create", b"");
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    let usage = "Usage: ottla topic create <NAME>";
    assert!(refused.err.contains(usage), "{}", refused.err);
}

#[test]
fn what_a_setting_was_meant_to_be_is_told_only_where_the_setting_is_refused() {
    let cluster = Cluster::start();
    cluster.ok("topic create there", "");
    let misspelt = "--config clenup.policy=compact";
    let refused = cluster.run(&format!("topic create new {misspelt}"), "");
    assert_told(
        &refused,
        1,
        &["clenup.policy", "did you mean cleanup.policy?"],
    );
    let exists = cluster.run(&format!("topic create there {misspelt}"), "");
    assert_told(&exists, 1, &["exists"]);
    assert!(!exists.err.contains("did you mean"), "{}", exists.err);
}

#[test]
fn a_setting_to_be_returned_to_its_default_is_guessed_at_like_one_to_be_set() {
    let cluster = Cluster::start();
    cluster.ok("topic create t", "");
    let alter = |name: &str| cluster.run(&format!("topic alter t --delete-config {name}"), "");
    let meant = "did you mean retention.ms?";
    assert_told(&alter("retention.mss"), 1, &["retention.mss", meant]);
    assert_told(
        &alter("flush"),
        1,
        &["flush", "known are: cleanup.policy, "],
    );
}

#[test]
fn a_record_that_lacks_the_key_of_a_compacted_topic_is_named_as_the_input_counts() {
    let cluster = Cluster::start();
    cluster.ok("topic create t --config cleanup.policy=compact", "");
    let keyless = cluster.run("produce t", "a\n");
    assert_told(&keyless, 1, &["record 1 has no key", "--key", "%k"]);
    let among_others = cluster.run("produce t -f %k:%v --linger 1s", "a:1\nb:2\n:3\nd:4\n");
    assert_told(&among_others, 1, &["record 3 has no key", "empty key"]);
    for ran in [keyless, among_others] {
        assert!(!ran.err.contains("of the batch"), "{}", ran.err);
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let there = tempfile::tempdir().unwrap();
    let missing = there.path().join("missing");
    let (there, missing) = (there.path().display(), missing.display());
    let run = |line: String| ottla("", &line, b"");
    let dumped = run(format!("log dump {missing}"));
    assert_told(&dumped, 4, &[&missing.to_string(), "No such file"]);
    let dumped = run(format!("log dump {there}"));
    assert_told(&dumped, 2, &[&there.to_string(), "log verify"]);
    let verified = run(format!("log verify {there}"));
    assert_told(&verified, 4, &[&there.to_string(), "data directory"]);
    let served = run(format!("server --config {missing}"));
    assert_told(&served, 2, &[&missing.to_string(), "--config"]);
    let made = run("dev --data-dir /proc/none".to_owned());
    assert_told(&made, 1, &["/proc/none", "--data-dir"]);
}
