use std::time::Duration;

use ottla_metadata::MetadataDelta;
use ottla_model::{ClusterId, DirectoryId};

use super::*;
use crate::RegisterBroker;
use crate::fixture::{BEAT, CLUSTER, Fixture, create, first, nodes, register, registration};

const SECOND: Duration = Duration::from_secs(1);

fn shutdown(fixture: &mut Fixture, broker: i32) -> Vec<MetadataRecord> {
    let broker_epoch = fixture.epoch(broker);
    fixture.must(Request::BeginControlledShutdown {
        broker: NodeId(broker),
        broker_epoch,
    })
}

fn kinds(records: &[MetadataRecord]) -> Vec<&'static str> {
    records.iter().map(MetadataRecord::kind).collect()
}

// Registration

#[test]
fn nothing_is_decided_while_not_active() {
    let mut core = ControllerCore::new(ControllerConfig::default());
    let mut out = Vec::new();
    let refused = core.decide(Instant::ZERO, 1, register(1, 1), &mut out);
    assert_eq!(refused.unwrap_err().code, ErrorCode::NotController);
    core.on_tick(Instant::ZERO, &mut out);
    assert_eq!((out, core.next_deadline()), (Vec::new(), None));
}

#[test]
fn a_cluster_is_founded_once() {
    let mut fixture = Fixture::founded();
    let found = |cluster_id| Request::Found { cluster_id };
    assert_eq!(fixture.must(found(CLUSTER)), []);
    let other = fixture.refused(found(ClusterId::ZERO));
    assert_eq!(other.code, ErrorCode::InconsistentClusterId);
}

#[test]
fn a_broker_of_another_cluster_is_refused() {
    let mut fixture = Fixture::founded();
    let stranger = RegisterBroker {
        cluster_id: ClusterId::ZERO,
        ..registration(1, 1)
    };
    let error = fixture.refused(Request::RegisterBroker(stranger));
    assert_eq!(error.code, ErrorCode::InconsistentClusterId);
    assert!(error.message.contains(&CLUSTER.to_string()), "{error}");
}

#[test]
fn a_new_broker_starts_fenced_with_its_records_offset_as_epoch() {
    let mut fixture = Fixture::founded();
    let (reply, records) = fixture.decide(register(1, 1)).unwrap();
    let broker_epoch = BrokerEpoch(1);
    assert_eq!(
        reply,
        Reply::BrokerRegistered {
            broker_epoch,
            outdated: None,
        }
    );
    assert_eq!(kinds(&records), ["BrokerRegistered"]);
    let broker = fixture.image().broker(NodeId(1)).unwrap();
    assert_eq!((broker.epoch, broker.fenced), (broker_epoch, true));
}

#[test]
fn the_same_process_amends_its_registration_and_keeps_its_epoch() {
    let mut fixture = Fixture::with_brokers(1);
    let broker_epoch = fixture.epoch(1);
    let (reply, records) = fixture.decide(register(1, 1)).unwrap();
    assert_eq!(
        (reply, records.len()),
        (
            Reply::BrokerRegistered {
                broker_epoch,
                outdated: None,
            },
            0
        )
    );
    let moved = RegisterBroker {
        version: "0.2.0".to_owned(),
        ..registration(1, 1)
    };
    assert_eq!(fixture.must(Request::RegisterBroker(moved)).len(), 1);
    let broker = fixture.image().broker(NodeId(1)).unwrap();
    assert_eq!((broker.epoch, broker.fenced), (broker_epoch, false));
}

#[test]
fn a_second_process_is_refused_while_the_first_is_alive_and_told_until_when() {
    let mut fixture = Fixture::with_brokers(1);
    fixture.advance(SECOND);
    let error = fixture.refused(register(1, 2));
    assert_eq!(error.code, ErrorCode::DuplicateBrokerRegistration);
    assert!(error.message.contains("another 2000 ms"), "{error}");
    fixture.advance(SECOND * 2);
    fixture.must(register(1, 2));
}

#[test]
fn a_restarted_broker_registers_at_once_when_its_old_stream_is_closed() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[1, 2], &[]);
    fixture.disconnect(1);
    let records = fixture.must(register(1, 2));
    let expected = ["PartitionChanged", "BrokerChanged", "BrokerRegistered"];
    assert_eq!(kinds(&records), expected);
    assert_eq!(fixture.state(topic), "isr [2] elr [1] leader 2");
    assert!(fixture.image().broker(NodeId(1)).unwrap().fenced);
}

#[test]
fn one_of_two_streams_closing_leaves_a_broker_alive() {
    let mut fixture = Fixture::with_brokers(1);
    let epoch = fixture.epoch(1);
    fixture.core.on_connected(fixture.now, NodeId(1), epoch);
    fixture.disconnect(1);
    fixture.refused(register(1, 2));
    fixture.disconnect(1);
    fixture.must(register(1, 2));
}

#[test]
fn after_a_failover_a_broker_not_yet_seen_gives_way_only_on_its_own_directory() {
    let mut fixture = Fixture::with_brokers(1);
    let image = Arc::new(fixture.image().clone());
    fixture.core.activate(fixture.now, image);
    let elsewhere = RegisterBroker {
        directory: DirectoryId::from_bytes([77; 16]),
        ..registration(1, 2)
    };
    let error = fixture.refused(Request::RegisterBroker(elsewhere));
    assert_eq!(error.code, ErrorCode::DuplicateBrokerRegistration);
    fixture.must(register(1, 2));
}

#[test]
fn a_directory_belongs_to_one_broker() {
    let mut fixture = Fixture::with_brokers(1);
    let copied = RegisterBroker {
        directory: registration(1, 1).directory,
        ..registration(2, 2)
    };
    let error = fixture.refused(Request::RegisterBroker(copied));
    assert_eq!(error.code, ErrorCode::DuplicateBrokerRegistration);
    assert_eq!(error.field.as_deref(), Some("directory"));
}

#[test]
fn a_crashed_broker_that_kept_its_disk_may_lead_again() {
    let mut fixture = Fixture::with_brokers(1);
    let topic = fixture.topic("t", &[1], &[]);
    fixture.disconnect(1);
    fixture.fence(1);
    assert_eq!(fixture.state(topic), "isr [1] elr [] leader 0");
    fixture.start(1, 2);
    assert_eq!(fixture.state(topic), "isr [1] elr [] leader 1");
}

#[test]
fn a_broker_that_lost_its_disk_is_never_elected_for_what_it_lost() {
    let mut fixture = Fixture::with_brokers(3);
    let alone = fixture.topic("alone", &[1], &[]);
    let pair = fixture.topic("pair", &[1, 2], &[]);
    fixture.disconnect(1);
    fixture.fence(1);
    assert_eq!(fixture.state(pair), "isr [2] elr [1] leader 2");
    let wiped = RegisterBroker {
        directory: DirectoryId::from_bytes([77; 16]),
        ..registration(1, 2)
    };
    fixture.must(Request::RegisterBroker(wiped));
    assert_eq!(fixture.state(alone), "isr [] elr [] leader 0");
    assert_eq!(fixture.state(pair), "isr [2] elr [] leader 2");
    let broker_epoch = fixture.epoch(1);
    fixture.must(Request::Unfence {
        broker: NodeId(1),
        broker_epoch,
    });
    assert_eq!(fixture.state(alone), "isr [] elr [] leader 0");
    fixture.fence(2);
    assert_eq!(fixture.state(pair), "isr [2] elr [] leader 0");
}

// Fencing

#[test]
fn fencing_moves_leaders_and_then_changes_the_broker() {
    let mut fixture = Fixture::with_brokers(3);
    let led = fixture.topic("led", &[1, 2, 3], &[]);
    let followed = fixture.topic("followed", &[2, 1, 3], &[]);
    let records = fixture.fence(1);
    let expected = ["PartitionChanged", "PartitionChanged", "BrokerChanged"];
    assert_eq!(kinds(&records), expected);
    assert_eq!(fixture.state(led), "isr [2, 3] elr [] leader 2");
    assert_eq!(fixture.state(followed), "isr [2, 3] elr [] leader 2");
    assert_eq!(fixture.partition(followed).leader_epoch.0, 0);
    assert_eq!(fixture.fence(1), []);
}

#[test]
fn fencing_with_an_old_epoch_is_refused() {
    let mut fixture = Fixture::with_brokers(1);
    let broker_epoch = BrokerEpoch(0);
    let (broker, cause) = (NodeId(1), Cause::ConnectionClosed);
    let error = fixture.refused(Request::Fence {
        broker,
        broker_epoch,
        cause,
    });
    assert_eq!(error.code, ErrorCode::StaleBrokerEpoch);
}

#[test]
fn a_beat_on_its_way_does_not_unfence_a_broker_whose_stream_closed() {
    let mut fixture = Fixture::with_brokers(1);
    fixture.fence(1);
    let late = fixture.beat(1).needs_decision.unwrap();
    fixture.disconnect(1);
    assert_eq!(fixture.must(late.clone()), []);
    let epoch = fixture.epoch(1);
    fixture.core.on_connected(fixture.now, NodeId(1), epoch);
    assert_eq!(kinds(&fixture.must(late)), ["BrokerChanged"]);
}

#[test]
fn a_silent_broker_is_fenced_after_its_session_and_not_before() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[1, 2], &[]);
    let mut fenced_at = None;
    for step in 1..=8 {
        fixture.advance(BEAT);
        fixture.beat(2);
        if kinds(&fixture.tick()).contains(&"BrokerChanged") {
            fenced_at.get_or_insert(step);
        }
    }
    assert_eq!(fenced_at, Some(6), "after 3 s");
    assert_eq!(fixture.state(topic), "isr [2] elr [1] leader 2");
}

#[test]
fn brokers_that_vanish_together_are_fenced_one_by_one_without_detours() {
    let mut fixture = Fixture::with_brokers(3);
    let topic = fixture.topic("t", &[1, 2, 3], &[]);
    fixture.advance(SECOND * 3);
    fixture.beat(3);
    assert_eq!(fixture.core.next_deadline(), Some(fixture.now));
    fixture.tick();
    assert_eq!(fixture.state(topic), "isr [2, 3] elr [] leader 3");
    assert!(fixture.core.next_deadline().unwrap() <= fixture.now);
    fixture.tick();
    assert_eq!(fixture.state(topic), "isr [3] elr [2] leader 3");
    assert_eq!(fixture.partition(topic).leader_epoch.0, 1);
}

/// A controller whose link to the brokers is cut is no reason to take every leader away: they go
/// on, and another controller may hear them.
#[test]
fn the_silence_of_all_brokers_is_taken_for_the_controllers_own() {
    let mut fixture = Fixture::with_brokers(3);
    let topic = fixture.topic("t", &[1, 2, 3], &[]);
    // Their last beats were not heard at the same moment.
    for broker in 1..=3 {
        fixture.advance(BEAT / 4);
        fixture.beat(broker);
    }
    let (cut, mut gave_way) = (fixture.now, 0);
    while fixture.now < cut + SECOND * 10 {
        let due = fixture.core.next_deadline().unwrap();
        assert!(due > fixture.now, "it would not rest");
        gave_way += usize::from(fixture.core.should_give_way(fixture.now));
        assert_eq!(gave_way, usize::from(fixture.now >= cut + SECOND * 9));
        fixture.advance(BEAT / 5);
        assert!(!kinds(&fixture.tick()).contains(&"BrokerChanged"));
    }
    assert_eq!(fixture.state(topic), "isr [1, 2, 3] elr [] leader 1");
    fixture.advance(SECOND * 9);
    fixture.beat(3);
    assert!(!fixture.core.should_give_way(fixture.now));
    fixture.tick();
    fixture.tick();
    assert_eq!(fixture.state(topic), "isr [3] elr [2] leader 3");
}

#[test]
fn a_new_active_controller_gives_every_broker_a_full_session_and_forgets_none() {
    let mut fixture = Fixture::with_brokers(3);
    fixture.advance(SECOND * 2);
    let image = Arc::new(fixture.image().clone());
    fixture.core.activate(fixture.now, image);
    fixture.advance(SECOND * 2);
    fixture.beat(3);
    assert!(!kinds(&fixture.tick()).contains(&"BrokerChanged"));
    fixture.advance(SECOND);
    assert_eq!(kinds(&fixture.tick()), ["BrokerChanged"]);
    assert_eq!(kinds(&fixture.tick()), ["BrokerChanged"]);
}

#[test]
fn brokers_that_others_registered_get_a_full_session_too() {
    let fixture = Fixture::with_brokers(2);
    let ahead = Arc::new(fixture.image().clone());
    let mut late = ControllerCore::new(ControllerConfig::default());
    late.activate(Instant::ZERO, Arc::default());
    late.on_tick(Instant(2_000_000_000), &mut Vec::new());
    late.on_committed(Arc::clone(&ahead));
    assert_eq!(late.scratch(), ahead.as_ref());
    assert_eq!(late.next_deadline(), Some(Instant(5_000_000_000)));
}

// Beats

#[test]
fn a_broker_is_unfenced_once_it_is_ready_and_has_applied_its_registration() {
    let mut fixture = Fixture::founded();
    fixture.must(register(1, 1));
    let epoch = fixture.epoch(1);
    let mut beat = |applied, ready| {
        let applied = MetadataOffset(applied);
        let wants_shutdown = false;
        let state = BeatState {
            applied,
            ready,
            wants_shutdown,
        };
        fixture
            .core
            .on_beat(fixture.now, NodeId(1), epoch, state)
            .needs_decision
    };
    assert_eq!(beat(epoch.0, true), None);
    assert_eq!(beat(epoch.0 + 1, false), None);
    assert!(matches!(
        beat(epoch.0 + 1, true),
        Some(Request::Unfence { .. })
    ));
}

#[test]
fn a_beat_that_claims_what_was_never_decided_only_keeps_the_session_alive() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[2, 1], &[]);
    fixture.disconnect(1);
    fixture.must(register(1, 2));
    let epoch = fixture.epoch(1);
    fixture.core.on_connected(fixture.now, NodeId(1), epoch);
    let claim = |fixture: &mut Fixture, applied: i64, wants_shutdown| {
        let state = BeatState {
            applied: MetadataOffset(applied),
            ready: true,
            wants_shutdown,
        };
        let epoch = fixture.epoch(1);
        fixture.core.on_beat(fixture.now, NodeId(1), epoch, state)
    };
    // It unfences nobody.
    let end = fixture.image().offset.0;
    for applied in [end + 1, i64::MAX] {
        let outcome = claim(&mut fixture, applied, false);
        assert!(outcome.registered && outcome.ahead && outcome.needs_decision.is_none());
    }
    let honest = claim(&mut fixture, end, false);
    assert!(!honest.ahead);
    fixture.must(honest.needs_decision.expect("unfenced"));

    // Nor does it let another stop before this one knows who leads instead.
    claim(&mut fixture, i64::MAX, false);
    let asked = fixture.beat_with(2, true);
    fixture.must(asked.needs_decision.expect("a hand-over"));
    assert_eq!(fixture.partition(topic).leader, Some(NodeId(1)));
    assert!(!fixture.beat_with(2, true).may_shut_down);
    fixture.beat(1);
    assert!(fixture.beat_with(2, true).may_shut_down);
}

#[test]
fn a_beat_of_an_older_registration_is_told_to_register() {
    let mut fixture = Fixture::with_brokers(1);
    let old = fixture.epoch(1);
    fixture.disconnect(1);
    fixture.start(1, 2);
    let state = BeatState {
        applied: MetadataOffset(100),
        ready: true,
        wants_shutdown: false,
    };
    let outcome = fixture.core.on_beat(fixture.now, NodeId(1), old, state);
    assert!(!outcome.registered);
    assert!(fixture.beat(1).registered);
}

// Controlled shutdown

#[test]
fn a_stopping_broker_hands_over_and_stops_once_everyone_knows() {
    let mut fixture = Fixture::with_brokers(3);
    let topic = fixture.topic("t", &[1, 2, 3], &[]);
    let asked = fixture.beat_with(1, true);
    assert!(!asked.may_shut_down);
    let records = fixture.must(asked.needs_decision.unwrap());
    assert_eq!(kinds(&records), ["BrokerChanged", "PartitionChanged"]);
    assert_eq!(fixture.state(topic), "isr [2, 3] elr [] leader 2");

    assert!(!fixture.beat_with(1, true).may_shut_down);
    fixture.beat(2);
    assert!(!fixture.beat_with(1, true).may_shut_down);
    fixture.beat(3);
    let last = fixture.beat_with(1, true);
    assert_eq!((last.may_shut_down, last.needs_decision), (true, None));
}

#[test]
fn a_stopping_broker_keeps_what_nobody_else_can_lead_and_may_stop_all_the_same() {
    let mut fixture = Fixture::with_brokers(2);
    let alone = fixture.topic("alone", &[1], &[]);
    shutdown(&mut fixture, 1);
    assert_eq!(fixture.state(alone), "isr [1] elr [] leader 1");
    fixture.beat(2);
    assert!(fixture.beat_with(1, true).may_shut_down);
}

#[test]
fn what_becomes_movable_is_moved_before_the_broker_stops() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[1, 2], &[]);
    fixture.disconnect(2);
    fixture.fence(2);
    shutdown(&mut fixture, 1);
    assert_eq!(fixture.state(topic), "isr [1] elr [2] leader 1");
    fixture.start(2, 3);
    let outcome = fixture.beat_with(1, true);
    fixture.must(outcome.needs_decision.unwrap());
    assert_eq!(fixture.state(topic), "isr [2] elr [1] leader 2");
}

#[test]
fn a_stopping_broker_does_not_wait_for_one_that_has_left() {
    let mut fixture = Fixture::with_brokers(3);
    fixture.topic("t", &[1, 2, 3], &[]);
    for broker in [1, 2] {
        shutdown(&mut fixture, broker);
    }
    fixture.beat(3);
    // It applies nothing more while it closes its logs, and its process is still there.
    fixture.disconnect(1);
    assert!(fixture.beat_with(2, true).may_shut_down);
}

#[test]
fn a_lost_connection_alone_does_not_let_others_stop_unnoticed() {
    let mut fixture = Fixture::with_brokers(3);
    fixture.topic("t", &[1, 2, 3], &[]);
    shutdown(&mut fixture, 2);
    fixture.disconnect(1);
    fixture.beat(3);
    assert!(!fixture.beat_with(2, true).may_shut_down);
}

#[test]
fn a_fenced_broker_that_wants_to_stop_may() {
    let mut fixture = Fixture::with_brokers(1);
    fixture.fence(1);
    let outcome = fixture.beat_with(1, true);
    assert_eq!(
        (outcome.may_shut_down, outcome.needs_decision),
        (true, None)
    );
}

#[test]
fn a_new_active_controller_finishes_a_shutdown_under_way() {
    let mut fixture = Fixture::with_brokers(2);
    fixture.topic("t", &[1, 2], &[]);
    shutdown(&mut fixture, 1);
    let image = Arc::new(fixture.image().clone());
    fixture.core.activate(fixture.now, image);
    assert!(!fixture.beat_with(1, true).may_shut_down);
    fixture.beat(2);
    assert!(fixture.beat_with(1, true).may_shut_down);
}

// Elections

#[test]
fn preferred_leaders_return_by_themselves_a_few_at_a_time() {
    let mut fixture = Fixture::with_brokers(2);
    let config = ControllerConfig {
        leader_changes_per_pass: 2,
        ..ControllerConfig::default()
    };
    let image = Arc::new(fixture.image().clone());
    fixture.core = ControllerCore::new(config.clone());
    fixture.core.activate(fixture.now, image);
    let topics: Vec<_> = (0..5)
        .map(|n| fixture.topic(&format!("t{n}"), &[1, 2], &[]))
        .collect();
    fixture.fence(1);
    let broker_epoch = fixture.epoch(1);
    fixture.must(Request::Unfence {
        broker: NodeId(1),
        broker_epoch,
    });
    for topic in &topics[..4] {
        fixture.alter(*topic, &[2, 1]).unwrap();
    }
    let mut moved = Vec::new();
    for _ in 0..6 {
        fixture.now = fixture.now.max(fixture.core.next_deadline().unwrap());
        fixture.beat(1);
        fixture.beat(2);
        moved.push(fixture.tick().len());
    }
    moved.retain(|count| *count > 0);
    assert_eq!(moved, [2, 2], "two at a time");
    let lagging = fixture.state(topics[4]);
    assert_eq!(lagging, "isr [2] elr [1] leader 2");
}

#[test]
fn preferred_leaders_return_on_request() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[1, 2], &[]);
    fixture.fence(1);
    fixture.must(Request::Unfence {
        broker: NodeId(1),
        broker_epoch: fixture.epoch(1),
    });
    fixture.alter(topic, &[1, 2]).unwrap();
    let elect = |partitions| Request::ElectLeaders { partitions };
    let (reply, _) = fixture.decide(elect(Some(vec![first(topic)]))).unwrap();
    assert_eq!(reply, Reply::Elected(1));
    let (reply, _) = fixture.decide(elect(None)).unwrap();
    assert_eq!(reply, Reply::Elected(0));
    let unknown = first(ottla_model::TopicId::ZERO);
    let error = fixture.refused(elect(Some(vec![first(topic), unknown])));
    assert_eq!(error.field.as_deref(), Some("partitions[1]"));
}

#[test]
fn a_leaderless_partition_is_led_by_whoever_returns() {
    let mut fixture = Fixture::with_brokers(2);
    let topic = fixture.topic("t", &[1, 2], &[]);
    fixture.disconnect(1);
    fixture.disconnect(2);
    fixture.fence(1);
    fixture.fence(2);
    assert_eq!(fixture.state(topic), "isr [2] elr [1] leader 0");
    fixture.start(1, 3);
    assert_eq!(fixture.state(topic), "isr [1] elr [2] leader 1");
}

// The rest

#[test]
fn producer_ids_are_given_once_and_only_to_current_brokers() {
    let mut fixture = Fixture::with_brokers(2);
    let allocate = |broker, broker_epoch| Request::AllocateProducerIds {
        broker: NodeId(broker),
        broker_epoch,
    };
    let mut firsts = Vec::new();
    for broker in [1, 2, 1] {
        let request = allocate(broker, fixture.epoch(broker));
        match fixture.decide(request).unwrap().0 {
            Reply::ProducerIds { first, count: 1000 } => firsts.push(first.0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(firsts, [0, 1000, 2000]);
    let stale = fixture.refused(allocate(1, BrokerEpoch(0)));
    assert_eq!(stale.code, ErrorCode::StaleBrokerEpoch);
    let unknown = fixture.refused(allocate(9, BrokerEpoch(0)));
    assert_eq!(unknown.code, ErrorCode::BrokerIdNotRegistered);
}

#[test]
fn decisions_follow_each_other_before_anything_is_committed() {
    let mut fixture = Fixture::with_brokers(3);
    let committed = Arc::new(fixture.image().clone());
    let (now, core) = (fixture.now, &mut fixture.core);
    let mut out = Vec::new();
    core.decide(now, 5, Request::CreateTopic(create("a")), &mut out)
        .unwrap();
    let again = core.decide(now, 6, Request::CreateTopic(create("a")), &mut out);
    assert_eq!(again.unwrap_err().code, ErrorCode::TopicAlreadyExists);
    core.decide(now, 7, Request::CreateTopic(create("b")), &mut out)
        .unwrap();
    let mut delta = MetadataDelta::new(Arc::clone(&committed));
    for record in &out {
        delta.replay(record).unwrap();
    }
    assert_eq!(delta.image(), core.scratch());
    assert_eq!(core.next_offset(), committed.offset + 4);
}

#[test]
fn fencing_one_of_a_hundred_brokers_with_a_hundred_thousand_partitions_is_quick() {
    let mut fixture = Fixture::with_brokers(100);
    for topic in 0..20 {
        fixture.must(Request::CreateTopic(crate::CreateTopic {
            partitions: Some(5_000),
            ..create(&format!("t{topic}"))
        }));
    }
    let start = std::time::Instant::now();
    let records = fixture.fence(1);
    println!("{} records decided in {:?}", records.len(), start.elapsed());
    assert_eq!(fixture.image().leader_count(NodeId(1)), 0);
    let most = nodes(&[2, 3])
        .iter()
        .map(|node| fixture.image().leader_count(*node))
        .max();
    assert!(most < Some(1_200), "its leaderships were spread: {most:?}");
}
