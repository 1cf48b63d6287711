//! What nodes tell.

use crate::cluster::Cluster;

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
