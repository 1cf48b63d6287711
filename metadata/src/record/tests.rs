use ottla_model::name::TopicName;
use ottla_model::{
    BrokerEpoch, ClusterId, DirectoryId, IncarnationId, NodeId, PartitionIndex, ProducerId, TopicId,
};
use proptest::prelude::*;

use super::*;

const TOPIC: TopicId = TopicId::from_bytes([7; 16]);

fn samples() -> Vec<MetadataRecord> {
    let mut samples = cluster_samples();
    samples.extend(topic_samples());
    samples
}

fn cluster_samples() -> Vec<MetadataRecord> {
    let directory = DirectoryId::from_bytes([3; 16]);
    let internal_endpoint = Endpoint::new("::1", 9093);
    vec![
        ClusterCreated {
            cluster_id: ClusterId::from_bytes([1; 16]),
        }
        .into(),
        BrokerRegistered {
            broker: NodeId(2),
            incarnation: IncarnationId::from_bytes([2; 16]),
            directory,
            client_endpoint: Endpoint::new("a", 9092),
            internal_endpoint: internal_endpoint.clone(),
            rack: Some("r".to_owned()),
            version: "0.1.0".to_owned(),
        }
        .into(),
        BrokerChanged {
            broker: NodeId(2),
            broker_epoch: BrokerEpoch(300),
            fenced: Some(false),
            in_controlled_shutdown: None,
            cause: Cause::Unfenced,
        }
        .into(),
        BrokerUnregistered {
            broker: NodeId(2),
            broker_epoch: BrokerEpoch(300),
        }
        .into(),
        FeatureLevelChanged {
            name: "f".to_owned(),
            level: 3,
        }
        .into(),
        ProducerIdsAllocated {
            broker: NodeId(2),
            broker_epoch: BrokerEpoch(300),
            next_producer_id: ProducerId(1000),
        }
        .into(),
        ControllerRegistered {
            controller: NodeId(1),
            directory,
            internal_endpoint,
            version: "0.1.0".to_owned(),
        }
        .into(),
        ControllerActivated {
            controller: NodeId(1),
            activation_id: 258,
        }
        .into(),
    ]
}

fn topic_samples() -> Vec<MetadataRecord> {
    let nodes = |list: &[i32]| list.iter().copied().map(NodeId).collect::<Vec<_>>();
    vec![
        TopicCreated {
            topic: TOPIC,
            name: TopicName::new("orders").unwrap(),
        }
        .into(),
        TopicDeleted { topic: TOPIC }.into(),
        PartitionCreated {
            topic: TOPIC,
            partition: PartitionIndex(5),
            replicas: nodes(&[1, 2, 3]),
            isr: nodes(&[1, 2]),
            leader: NodeId(1),
        }
        .into(),
        PartitionChanged {
            topic: TOPIC,
            partition: PartitionIndex(5),
            isr: Some(nodes(&[2])),
            leader: Some(LeaderChange::To(NodeId(2))),
            replicas: Some(nodes(&[2, 3])),
            adding: Some(nodes(&[3])),
            removing: Some(Vec::new()),
            elr: Some(nodes(&[3])),
            cause: Cause::SessionTimeout,
        }
        .into(),
        PartitionChanged {
            leader: Some(LeaderChange::None),
            ..PartitionChanged::new(
                ottla_model::TopicIdPartition::new(TOPIC, PartitionIndex(0)),
                Cause::ConnectionClosed,
            )
        }
        .into(),
        ConfigChanged {
            resource: ConfigResource::Topic(TOPIC),
            name: "n".to_owned(),
            value: Some("v".to_owned()),
        }
        .into(),
        ConfigChanged {
            resource: ConfigResource::Cluster,
            name: "n".to_owned(),
            value: None,
        }
        .into(),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that are on disks. A line here is never changed: a new version gets a new line.
const GOLDEN: &[&str] = &[
    "01000a1001010101010101010101010101010101",
    "020008021210020202020202020202020202020202021a100303030303030303030303030303030322060a01611084472a080a033a3a311085473201723a05302e312e30",
    "0300080210ac0218002806",
    "0400080210ac02",
    "0a000a01661003",
    "0b00080210ac0218e807",
    "0c0008011210030303030303030303030303030303031a080a033a3a311085472205302e312e30",
    "0d000801110201000000000000",
    "05000a100707070707070707070707070707070712066f7264657273",
    "06000a1007070707070707070707070707070707",
    "07000a100707070707070707070707070707070710051a03010203220201022801",
    "08000a100707070707070707070707070707070710051a030a010220042a040a02020332030a01033a0042030a01034801",
    "08000a100707070707070707070707070707070720014802",
    "09000a100707070707070707070707070707070712016e1a0176",
    "090012016e",
];

#[test]
fn the_bytes_of_every_record_are_as_they_always_were() {
    let encoded: Vec<String> = samples().iter().map(|r| hex(&r.encode())).collect();
    assert_eq!(encoded, GOLDEN, "{encoded:#?}");
}

#[test]
fn every_kind_has_a_golden_line_and_an_id_of_its_own() {
    let kinds: std::collections::BTreeSet<_> = samples().iter().map(|r| r.kind()).collect();
    assert_eq!(kinds.len(), IDS.len());
    let ids: std::collections::BTreeSet<_> = IDS.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), IDS.len());
}

#[test]
fn every_record_round_trips() {
    for record in samples() {
        assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn a_record_of_a_newer_build_is_refused_by_name() {
    assert_eq!(
        MetadataRecord::decode(&[99, 0]),
        Err(RecordError::UnknownRecord { id: 99, version: 0 })
    );
    assert_eq!(
        MetadataRecord::decode(&[6, 1]),
        Err(RecordError::UnknownVersion {
            id: 6,
            version: 1,
            newest: 0
        })
    );
}

#[test]
fn a_field_that_no_writer_wrote_is_refused() {
    assert_eq!(
        MetadataRecord::decode(&[6, 0, 0x0a, 1, 7]),
        Err(RecordError::Field {
            id: 6,
            field: "topic"
        })
    );
}

proptest! {
    #[test]
    fn any_bytes_decode_without_a_panic(
        id in 0u8..16,
        body in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let _ = MetadataRecord::decode(&body);
        let mut framed = vec![id, 0];
        framed.extend(&body);
        let _ = MetadataRecord::decode(&framed);
        let _ = crate::MetadataBatch::decode(&body);
        let _ = crate::snapshot_from_bytes(&body);
        let _ = crate::decode_snapshot([bytes::Bytes::from(body)]);
    }

    #[test]
    fn damaged_records_decode_without_a_panic(
        which in 0usize..15,
        at in 0usize..200,
        flip in 1u8..,
    ) {
        let mut bytes = samples()[which].encode().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(record) = MetadataRecord::decode(&bytes) {
            prop_assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
        }
    }
}
