use ottla_metadata::MetadataRecord;
use ottla_model::limits::METADATA_RECORDS_PER_REQUEST_MAX;

use super::*;
use crate::fixture::{Fixture, create, nodes};
use crate::{AlterTopic, Request};

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| (String::from(*name), String::from(*value));
    list.iter().map(own).collect()
}

#[track_caller]
fn refused(fixture: &mut Fixture, request: Request, code: ErrorCode, field: &str, part: &str) {
    let error = fixture.refused(request);
    assert_eq!(error.code, code, "{error}");
    assert_eq!(error.field.as_deref(), Some(field), "{error}");
    assert!(error.message.contains(part), "{error}");
}

fn grow(total: i32, assignments: Vec<Vec<NodeId>>) -> Request {
    Request::CreatePartitions(CreatePartitions {
        name: name("t"),
        total,
        assignments,
        validate_only: false,
    })
}

fn alter(set: &[(&str, &str)], unset: &[&str]) -> Request {
    Request::AlterTopic(AlterTopic {
        name: name("t"),
        set: pairs(set),
        unset: unset.iter().map(|name| String::from(*name)).collect(),
        validate_only: false,
    })
}

#[test]
fn names_that_ottla_keeps_for_itself_are_not_given_away() {
    let mut fixture = Fixture::with_brokers(1);
    let request = Request::CreateTopic(create("__mine"));
    refused(
        &mut fixture,
        request,
        ErrorCode::InvalidTopic,
        "name",
        "reserved",
    );
    assert!(fixture.image().topic_by_name("__mine").is_none());
}

#[test]
fn a_topic_without_wishes_has_one_partition_and_up_to_three_replicas() {
    for (brokers, factor) in [(1, 1), (2, 2), (3, 3), (5, 3)] {
        let mut fixture = Fixture::with_brokers(brokers);
        let (reply, records) = fixture.decide(Request::CreateTopic(create("t"))).unwrap();
        let topic = fixture.image().topic_by_name("t").unwrap();
        let expected = Reply::TopicCreated {
            topic: topic.id,
            partitions: 1,
            replication_factor: factor,
        };
        assert_eq!((reply, records.len()), (expected, 2));
        let partition = &topic.partitions[0];
        assert_eq!(partition.isr, partition.replicas);
        assert_eq!(partition.leader, Some(partition.replicas[0]));
    }
}

#[test]
fn wishes_and_settings_are_kept() {
    let mut fixture = Fixture::with_brokers(3);
    fixture.must(Request::CreateTopic(CreateTopic {
        partitions: Some(6),
        replication_factor: Some(2),
        configs: pairs(&[("retention.ms", "1000")]),
        ..create("t")
    }));
    let topic = fixture.image().topic_by_name("t").unwrap();
    assert_eq!(topic.partition_count(), 6);
    assert!(topic.partitions.iter().all(|p| p.replicas.len() == 2));
    assert_eq!(topic.config.retention_ms, Some(1000));
}

#[test]
fn validate_only_decides_nothing() {
    let mut fixture = Fixture::with_brokers(3);
    let only = CreateTopic {
        validate_only: true,
        ..create("t")
    };
    let (reply, records) = fixture.decide(Request::CreateTopic(only)).unwrap();
    assert!(matches!(reply, Reply::TopicCreated { partitions: 1, .. }));
    assert_eq!(records, []);
    assert!(fixture.image().topics.is_empty());
}

#[test]
fn a_taken_or_colliding_name_is_refused() {
    let mut fixture = Fixture::with_brokers(1);
    fixture.must(Request::CreateTopic(create("a.b")));
    let (taken, collides) = (ErrorCode::TopicAlreadyExists, ErrorCode::InvalidTopic);
    let again = Request::CreateTopic(create("a.b"));
    refused(&mut fixture, again, taken, "name", "a.b exists");
    let like = Request::CreateTopic(create("a_b"));
    refused(
        &mut fixture,
        like,
        collides,
        "name",
        "collide with topic a.b",
    );
}

#[test]
fn a_replication_factor_that_the_brokers_cannot_bear_is_refused_with_their_number() {
    let mut fixture = Fixture::with_brokers(3);
    fixture.fence(2);
    fixture.fence(3);
    let code = ErrorCode::InvalidReplicationFactor;
    for (asked, part) in [
        (4, "only 3 brokers"),
        (3, "only 1 of 3"),
        (0, "at least 1"),
        (-1, "at least 1"),
    ] {
        let request = Request::CreateTopic(CreateTopic {
            replication_factor: Some(asked),
            ..create("t")
        });
        refused(&mut fixture, request, code, "replication_factor", part);
    }
    let mut empty = Fixture::founded();
    let request = Request::CreateTopic(create("t"));
    refused(
        &mut empty,
        request,
        code,
        "replication_factor",
        "only 0 brokers",
    );
}

#[test]
fn a_number_of_partitions_out_of_bounds_is_refused() {
    let mut fixture = Fixture::with_brokers(1);
    let most = METADATA_RECORDS_PER_REQUEST_MAX as i32;
    let (invalid, policy) = (ErrorCode::InvalidPartitions, ErrorCode::PolicyViolation);
    for (asked, code) in [
        (0, invalid),
        (-5, invalid),
        (100_001, invalid),
        (most, policy),
    ] {
        let request = Request::CreateTopic(CreateTopic {
            partitions: Some(asked),
            ..create("t")
        });
        refused(&mut fixture, request, code, "partitions", "");
    }
    let records = fixture.must(Request::CreateTopic(CreateTopic {
        partitions: Some(most - 1),
        ..create("t")
    }));
    assert_eq!(records.len(), METADATA_RECORDS_PER_REQUEST_MAX);
}

#[test]
fn bad_settings_are_refused_by_name() {
    let mut fixture = Fixture::with_brokers(1);
    let code = ErrorCode::InvalidConfig;
    let long = "9".repeat(5000);
    let ms = "retention.ms";
    for (configs, field, part) in [
        (
            vec![("retention", "1")],
            "configs[retention]",
            "no topic setting",
        ),
        (vec![(ms, "soon")], "configs[retention.ms]", "whole number"),
        (vec![(ms, "1"), (ms, "2")], "configs[retention.ms]", "twice"),
        (vec![(ms, &long)], "configs[retention.ms]", "5000 bytes"),
    ] {
        let request = Request::CreateTopic(CreateTopic {
            configs: pairs(&configs),
            ..create("t")
        });
        refused(&mut fixture, request, code, field, part);
    }
}

#[test]
fn chosen_replicas_are_kept_or_refused_by_place() {
    let mut fixture = Fixture::with_brokers(3);
    fixture.fence(3);
    let assigned = |lists: &[&[i32]]| {
        Request::CreateTopic(CreateTopic {
            assignments: lists.iter().map(|list| nodes(list)).collect(),
            ..create("t")
        })
    };
    let code = ErrorCode::InvalidReplicaAssignment;
    let lists: [(&[&[i32]], &str, &str); 5] = [
        (&[&[1, 2], &[1, 1]], "assignments[1]", "twice"),
        (&[&[1, 2], &[1]], "assignments[1]", "have 2"),
        (&[&[1, 7]], "assignments[0]", "broker 7 is not registered"),
        (&[&[]], "assignments[0]", "no broker"),
        (&[&[3]], "assignments[0]", "fenced"),
    ];
    for (lists, field, part) in lists {
        refused(&mut fixture, assigned(lists), code, field, part);
    }
    fixture.must(assigned(&[&[3, 1], &[2, 1]]));
    let topic = fixture.image().topic_by_name("t").unwrap().id;
    assert_eq!(fixture.state(topic), "isr [1] elr [] leader 1");
}

#[test]
fn a_number_that_contradicts_the_assignments_is_refused() {
    let mut fixture = Fixture::with_brokers(2);
    let request = |partitions, replication_factor| {
        Request::CreateTopic(CreateTopic {
            partitions,
            replication_factor,
            assignments: vec![nodes(&[1, 2])],
            ..create("t")
        })
    };
    let code = ErrorCode::InvalidRequest;
    refused(
        &mut fixture,
        request(Some(2), None),
        code,
        "partitions",
        "1 partitions",
    );
    refused(
        &mut fixture,
        request(None, Some(1)),
        code,
        "replication_factor",
        "2 replicas",
    );
    fixture.must(request(Some(1), Some(2)));
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    let mut fixture = Fixture::with_brokers(3);
    fixture.must(Request::CreateTopic(create("t")));
    assert_eq!(fixture.must(grow(4, Vec::new())).len(), 3);
    let topic = fixture.image().topic_by_name("t").unwrap();
    assert!(topic.partitions.iter().all(|p| p.replicas.len() == 3));
    let code = ErrorCode::InvalidPartitions;
    refused(
        &mut fixture,
        grow(4, Vec::new()),
        code,
        "total",
        "is 4; it can only rise",
    );
    let code = ErrorCode::InvalidReplicaAssignment;
    let one = vec![nodes(&[1, 2, 3])];
    refused(
        &mut fixture,
        grow(6, one.clone()),
        code,
        "assignments",
        "2 partitions",
    );
    let short = vec![nodes(&[1, 2])];
    refused(
        &mut fixture,
        grow(5, short),
        code,
        "assignments[0]",
        "have 3",
    );
    fixture.must(grow(5, one));
    assert_eq!(
        fixture
            .image()
            .topic_by_name("t")
            .unwrap()
            .partition_count(),
        5
    );
}

#[test]
fn a_deleted_topic_is_gone_and_its_name_free() {
    let mut fixture = Fixture::with_brokers(1);
    let old = fixture.topic("t", &[1], &[]);
    let delete = |topic| {
        Request::DeleteTopic(DeleteTopic {
            name: name("t"),
            topic,
        })
    };
    let (reply, records) = fixture.decide(delete(Some(old))).unwrap();
    assert_eq!(reply, Reply::TopicDeleted { topic: old });
    assert_eq!(records, [MetadataRecord::from(TopicDeleted { topic: old })]);
    let code = ErrorCode::UnknownTopicOrPartition;
    refused(&mut fixture, delete(None), code, "name", "does not exist");
    let new = fixture.topic("t", &[1], &[]);
    assert_ne!(old, new);
    let code = ErrorCode::InconsistentTopicId;
    refused(
        &mut fixture,
        delete(Some(old)),
        code,
        "topic",
        "created again",
    );
}

#[test]
fn only_settings_that_change_are_recorded() {
    let mut fixture = Fixture::with_brokers(1);
    let topic = fixture.topic("t", &[1], &[("retention.ms", "1000")]);
    assert_eq!(
        fixture.must(alter(&[("retention.ms", "1000")], &["segment.ms"])),
        []
    );
    let records = fixture.must(alter(&[("segment.ms", "5")], &["retention.ms"]));
    assert_eq!(records.len(), 2);
    let config = &fixture.image().topic(topic).unwrap().config;
    assert_eq!(
        (config.retention_ms, config.segment_ms),
        (Some(604_800_000), 5)
    );
}

#[test]
fn a_setting_to_unset_is_known_and_not_also_set() {
    let mut fixture = Fixture::with_brokers(1);
    fixture.topic("t", &[1], &[]);
    let code = ErrorCode::InvalidConfig;
    refused(
        &mut fixture,
        alter(&[], &["x"]),
        code,
        "configs[x]",
        "no topic setting",
    );
    let both = alter(&[("retention.ms", "1")], &["retention.ms"]);
    refused(&mut fixture, both, code, "configs[retention.ms]", "both");
}

#[test]
fn fewer_replicas_needed_in_sync_empty_the_elr_before_brokers_commit_with_fewer() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[1, 2], &[]);
    fixture.fence(2);
    assert_eq!(fixture.state(topic), "isr [1] elr [2] leader 1");
    let records = fixture.must(alter(&[("min.insync.replicas", "1")], &[]));
    let kinds: Vec<_> = records.iter().map(MetadataRecord::kind).collect();
    assert_eq!(kinds, ["PartitionChanged", "ConfigChanged"]);
    assert_eq!(fixture.state(topic), "isr [1] elr [] leader 1");
}

#[test]
fn allowing_unclean_election_elects_at_once() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[1, 2], &[("min.insync.replicas", "1")]);
    fixture.disconnect(2);
    fixture.start(2, 9);
    fixture.fence(1);
    assert_eq!(fixture.state(topic), "isr [1] elr [] leader 0");
    fixture.must(alter(&[("unclean.leader.election.enable", "true")], &[]));
    assert_eq!(fixture.state(topic), "isr [2] elr [] leader 2");
}
