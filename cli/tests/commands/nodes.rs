//! What nodes tell.

use crate::cluster::Cluster;

#[test]
fn a_cluster_that_is_stopped_complains_of_nobody() {
    let mut cluster = Cluster::of("--nodes 3 --log-level warn");
    assert!(cluster.stop().success());
    let told = cluster.told();
    let (_, since) = told.rsplit_once("stopping").expect("that it stops");
    for level in ["WARN", "ERROR"] {
        assert!(!since.contains(level), "{since}");
    }
}
