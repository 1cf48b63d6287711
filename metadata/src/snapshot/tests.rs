use std::sync::Arc;

use ottla_model::name::TopicName;
use ottla_model::{ClusterId, DirectoryId, IncarnationId, NodeId, PartitionIndex, TopicId};

use super::*;
use crate::record::*;
use crate::{MetadataBatch, MetadataDelta};

fn image() -> MetadataImage {
    let topic = TopicId::from_bytes([7; 16]);
    let endpoint = Endpoint::new("h", 9092);
    let directory = DirectoryId::from_bytes([3; 16]);
    let records: Vec<MetadataRecord> = vec![
        ClusterCreated {
            cluster_id: ClusterId::from_bytes([1; 16]),
        }
        .into(),
        ControllerRegistered {
            controller: NodeId(1),
            directory,
            internal_endpoint: endpoint.clone(),
            version: "1".to_owned(),
        }
        .into(),
        BrokerRegistered {
            broker: NodeId(1),
            incarnation: IncarnationId::from_bytes([2; 16]),
            directory,
            client_endpoint: endpoint.clone(),
            internal_endpoint: endpoint,
            rack: None,
            version: "1".to_owned(),
        }
        .into(),
        TopicCreated {
            topic,
            name: TopicName::new("t").unwrap(),
        }
        .into(),
        ConfigChanged {
            resource: ConfigResource::Topic(topic),
            name: "retention.ms".to_owned(),
            value: Some("5".to_owned()),
        }
        .into(),
        FeatureLevelChanged {
            name: "f".to_owned(),
            level: 1,
        }
        .into(),
        PartitionCreated {
            topic,
            partition: PartitionIndex(0),
            replicas: vec![NodeId(1)],
            isr: vec![NodeId(1)],
            leader: NodeId(1),
        }
        .into(),
    ];
    let mut delta = MetadataDelta::new(Arc::default());
    for record in &records {
        delta.replay(record).unwrap();
    }
    delta.apply()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_a_snapshot_are_as_they_always_were() {
    let rows: Vec<String> = encode_snapshot(&image()).iter().map(|r| hex(r)).collect();
    let golden = [
        "0a1608071210010101010101010101010101010101012005",
        "123f0a3908011210020202020202020202020202020202021a100303030303030303030303030303030322060a01681084472a060a01681084473a013110021801",
        "1a1f08011210030303030303030303030303030303031a060a0168108447220131",
        "2a050a01661001",
        "32280a10070707070707070707070707070707071201741a110a0c726574656e74696f6e2e6d73120135",
        "3a080a01011201013001",
    ];
    assert_eq!(rows, golden, "{rows:#?}");
}

#[test]
fn the_bytes_of_a_batch_are_as_they_always_were() {
    let batch = MetadataBatch {
        base_offset: ottla_model::MetadataOffset(3),
        records: vec![
            TopicDeleted {
                topic: TopicId::ZERO,
            }
            .into(),
        ],
        wall_ms: ottla_model::TimestampMs(-1),
    };
    assert_eq!(
        hex(&batch.encode()),
        "080110031801221406000a1000000000000000000000000000000000"
    );
}

#[test]
fn missing_extra_and_misplaced_rows_are_refused() {
    let rows = encode_snapshot(&image());
    assert!(decode_snapshot(rows[..rows.len() - 1].to_vec()).is_err());
    assert!(decode_snapshot(rows[1..].to_vec()).is_err());
    assert!(decode_snapshot(Vec::new()).is_err());
    let mut extra = rows.clone();
    extra.push(rows[1].clone());
    assert!(decode_snapshot(extra).is_err());
    let mut swapped = rows.clone();
    let last = swapped.len() - 1;
    swapped.swap(last, last - 1);
    assert!(
        decode_snapshot(swapped).is_err(),
        "a partition before its topic"
    );
}
