use std::time::{Duration, Instant};

use ottla_model::ErrorCode;
use ottla_proto::status::from_status;
use ottla_proto::v1::decide_response::Response as Answer;

use crate::harness::{Cluster, holds_for, wait_for};
use crate::sessions::{FakeBroker, create_topic};

#[test]
fn a_killed_active_controller_is_replaced_at_once_and_catches_up_when_it_is_back() {
    let mut cluster = Cluster::founded();
    let mut waits = Vec::new();
    for _ in 0..5 {
        let killed = cluster.wait_active();
        let term = cluster.status(killed).term;
        wait_for("everyone to follow", || {
            let follows = |id: &i32| cluster.status(*id).active_id.map(|id| id.0) == Some(killed);
            cluster.running.keys().all(follows).then_some(())
        });
        let begun = Instant::now();
        cluster.kill(killed);
        let next = cluster.wait_active();
        let answer = wait_for("a decision", || {
            cluster.delete_missing_topic(next, 1_000).ok()
        });
        waits.push(begun.elapsed());
        assert!(matches!(answer.response, Some(Answer::Error(_))));
        assert_ne!(next, killed);
        assert!(cluster.status(next).term > term);
        cluster.start(killed);
        let applied = cluster.status(next).applied;
        wait_for("the killed node to catch up", || {
            let status = cluster.status(killed);
            (status.applied >= applied && status.active_id.is_some()).then_some(())
        });
    }
    waits.sort_unstable();
    println!("from the kill to the next decision: {waits:?}");
    assert!(waits[2] < Duration::from_millis(600), "{waits:?}");
}

#[test]
fn without_a_majority_a_request_fails_in_time_and_with_one_again_it_succeeds() {
    let mut cluster = Cluster::founded();
    let active = cluster.wait_active();
    let mut broker = FakeBroker::register(&cluster, active, 1);
    broker.join(&cluster, active);
    create_topic(&cluster, active, 5_000).unwrap();
    let others: Vec<_> = (1..=3).filter(|id| *id != active).collect();
    for id in &others {
        cluster.kill(*id);
    }
    let begun = Instant::now();
    let refused = create_topic(&cluster, active, 500).unwrap_err();
    let error = from_status(&refused).unwrap();
    assert_eq!(error.code, ErrorCode::NoControllerQuorum, "{error}");
    assert!(error.message.contains("no majority"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    for id in others {
        cluster.start(id);
    }
    wait_for("decisions to be made again", || {
        let active = cluster.wait_active();
        create_topic(&cluster, active, 500).ok()
    });
}

#[test]
fn a_shutdown_of_the_active_controller_hands_over_without_a_pause() {
    let mut cluster = Cluster::founded();
    let active = cluster.wait_active();
    let begun = Instant::now();
    cluster.running.remove(&active).unwrap().shut_down();
    let next = cluster.wait_active();
    println!("handed over within {:?}", begun.elapsed());
    assert_ne!(next, active);
}

#[test]
fn an_idle_cluster_elects_nobody() {
    let cluster = Cluster::founded();
    let active = cluster.wait_active();
    let term = cluster.status(active).term;
    holds_for(Duration::from_secs(3), || {
        let status = cluster.status(active);
        status.term == term && status.is_active
    });
}
