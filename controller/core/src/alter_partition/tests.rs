use ottla_model::{ErrorCode, LeaderEpoch, PartitionEpoch, PartitionIndex, TopicId};

use super::*;
use crate::Request;
use crate::fixture::{Fixture, first};

fn three() -> (Fixture, TopicId) {
    let mut fixture = Fixture::with_brokers(4);
    let topic = fixture.topic("orders", &[1, 2, 3], &[]);
    (fixture, topic)
}

/// A good proposal of ISR 1, 2, spoilt.
#[track_caller]
fn refused_as(code: ErrorCode, spoil: impl FnOnce(&mut AlterPartition)) {
    let (mut fixture, topic) = three();
    let mut change = fixture.proposal(topic, &[1, 2]);
    spoil(&mut change);
    let before = fixture.partition(topic).clone();
    assert_eq!(fixture.propose(1, change), Err(code));
    assert_eq!(fixture.partition(topic), &before);
}

#[test]
fn a_leader_shrinks_and_expands_its_isr() {
    let (mut fixture, topic) = three();
    assert_eq!(fixture.alter(topic, &[1, 2]), Ok(()));
    assert_eq!(fixture.state(topic), "isr [1, 2] elr [] leader 1");
    assert_eq!(fixture.alter(topic, &[1, 2, 3]), Ok(()));
    assert_eq!(fixture.state(topic), "isr [1, 2, 3] elr [] leader 1");
    let partition = fixture.partition(topic);
    assert_eq!(
        (partition.leader_epoch.0, partition.partition_epoch.0),
        (0, 2)
    );
}

#[test]
fn proposing_the_present_isr_is_fine_and_decides_nothing() {
    let (mut fixture, topic) = three();
    let offset = fixture.image().offset;
    assert_eq!(fixture.alter(topic, &[3, 2, 1]), Ok(()));
    assert_eq!(fixture.image().offset, offset);
}

#[test]
fn an_unknown_topic_or_partition_is_told_apart() {
    refused_as(ErrorCode::UnknownTopicId, |c| c.id.topic = TopicId::ZERO);
    refused_as(ErrorCode::UnknownTopicOrPartition, |c| {
        c.id.partition = PartitionIndex(1);
    });
}

#[test]
fn newer_epochs_than_the_controllers_mean_another_controller() {
    refused_as(ErrorCode::NotController, |c| {
        c.leader_epoch = LeaderEpoch(1)
    });
    refused_as(ErrorCode::NotController, |c| {
        c.partition_epoch = PartitionEpoch(1);
    });
}

#[test]
fn an_older_leader_epoch_is_fenced() {
    refused_as(ErrorCode::FencedLeaderEpoch, |c| {
        c.leader_epoch = LeaderEpoch(-1);
    });
}

#[test]
fn an_older_partition_epoch_is_an_invalid_update() {
    refused_as(ErrorCode::InvalidUpdateVersion, |c| {
        c.partition_epoch = PartitionEpoch(-1);
    });
}

#[test]
fn only_the_leader_proposes() {
    let (mut fixture, topic) = three();
    let change = fixture.proposal(topic, &[2, 1]);
    assert_eq!(fixture.propose(2, change), Err(ErrorCode::InvalidRequest));
}

#[test]
fn the_isr_has_its_leader_and_replicas_only_once_each() {
    refused_as(ErrorCode::InvalidRequest, |c| c.isr.truncate(0));
    refused_as(ErrorCode::InvalidRequest, |c| c.isr[0].0 = NodeId(3));
    refused_as(ErrorCode::InvalidRequest, |c| c.isr.push(c.isr[1]));
    refused_as(ErrorCode::InvalidRequest, |c| c.isr[1].0 = NodeId(4));
}

#[test]
fn a_member_with_another_broker_epoch_is_ineligible() {
    refused_as(ErrorCode::IneligibleReplica, |c| {
        c.isr[1].1 = BrokerEpoch(0)
    });
}

#[test]
fn a_fenced_or_stopping_broker_does_not_join() {
    let (mut fixture, topic) = three();
    fixture.fence(3);
    let refused = Err(ErrorCode::IneligibleReplica);
    assert_eq!(fixture.alter(topic, &[1, 2, 3]), refused);

    let (mut fixture, topic) = three();
    let broker_epoch = fixture.epoch(3);
    let broker = NodeId(3);
    fixture.must(Request::BeginControlledShutdown {
        broker,
        broker_epoch,
    });
    assert_eq!(fixture.state(topic), "isr [1, 2] elr [] leader 1");
    assert_eq!(fixture.alter(topic, &[1, 2, 3]), refused);
}

#[test]
fn a_stale_broker_is_refused_as_a_whole_and_one_bad_proposal_alone() {
    let (mut fixture, topic) = three();
    let good = fixture.proposal(topic, &[1, 2]);
    let mut bad = good.clone();
    bad.id = first(TopicId::from_bytes([0xee; 16]));
    let request = |broker_epoch| {
        Request::AlterPartitions(AlterPartitions {
            broker: NodeId(1),
            broker_epoch,
            changes: vec![bad.clone(), good.clone()],
        })
    };
    let stale = fixture.refused(request(BrokerEpoch(0)));
    assert_eq!(stale.code, ErrorCode::StaleBrokerEpoch);
    let epoch = fixture.epoch(1);
    let (reply, records) = fixture.decide(request(epoch)).unwrap();
    let Reply::PartitionsAltered(results) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(
        results[0].as_ref().unwrap_err().code,
        ErrorCode::UnknownTopicId
    );
    assert_eq!((results[1].clone(), records.len()), (Ok(()), 1));
}

#[test]
fn a_refusal_names_the_topic_and_the_numbers() {
    let (mut fixture, topic) = three();
    let mut change = fixture.proposal(topic, &[1, 2]);
    change.isr[1].1 = BrokerEpoch(77);
    let error = check(fixture.image(), NodeId(1), &change).unwrap_err();
    for part in ["orders-0", "broker 2", "77"] {
        assert!(error.message.contains(part), "{}", error.message);
    }
    assert_eq!(error.field.as_deref(), Some("isr"));
    assert_eq!(fixture.alter(topic, &[1, 2]), Ok(()));
}
