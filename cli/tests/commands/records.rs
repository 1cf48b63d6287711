//! Producing and consuming.

use std::io::Write as _;

use bytes::Bytes;
use ottla_model::batch::{BatchBuilder, NewRecord};
use ottla_model::compression::Compression;

use crate::cluster::Cluster;

/// A batch of three records whose checksum is right and whose compressed part is garbage.
fn unpackable() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::Gzip);
    for _ in 0..3 {
        builder.push(&NewRecord::default()).expect("room");
    }
    let mut batch = builder.build().expect("a batch").to_vec();
    batch[61..].fill(7);
    let crc = !batch[21..].iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    });
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

#[test]
fn a_batch_that_cannot_be_unpacked_stops_its_partition_alone_and_says_how_to_go_on() {
    let cluster = Cluster::start();
    cluster.ok("topic create t --partitions 2", "");
    cluster.ok("produce t --partition 0", "a\n");
    cluster.append("t", 0, unpackable());
    cluster.ok("produce t --partition 0", "b\n");
    cluster.ok("produce t --partition 1", "c\nd\n");

    let ran = cluster.run("consume t --from-beginning --until-end", "");
    let mut lines: Vec<_> = ran.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a", "c", "d"], "{}", ran.err);
    assert_eq!(ran.code, Some(7), "{}", ran.err);
    for part in [
        "offsets 1 to 3 of t-0",
        "gzip",
        "producer",
        "--partition 0 --offset 4",
    ] {
        assert!(ran.err.contains(part), "no {part:?} in {}", ran.err);
    }

    let ran = cluster.ok("consume t --partition 0 --offset 4:end", "");
    assert_eq!(ran.out, "b\n");
    let alone = cluster.run("consume t --partition 0 --offset 2", "");
    assert_eq!(
        (alone.code, alone.out.as_str()),
        (Some(1), ""),
        "{}",
        alone.err
    );
    assert_eq!(alone.err.lines().count(), 1, "{}", alone.err);
    // Nothing beyond the end that was asked for is looked at.
    cluster.ok("consume t --partition 0 --offset :1", "");
}

#[test]
fn a_null_can_be_produced_and_told_from_an_empty_value() {
    let cluster = Cluster::start();
    cluster.ok(
        "topic create t --partitions 1 --config cleanup.policy=compact",
        "",
    );
    let format = r"-f %k:%v --null-marker NULL";
    cluster.ok(&format!("produce t {format}"), "a:NULL\nb:\nc:null\n");
    let read = "consume t --from-beginning --until-end";
    assert_eq!(cluster.ok(read, "").out, "\n\nnull\n");
    let shown = cluster.ok(&format!(r"{read} -f %k:%v\n --null-marker NULL"), "");
    assert_eq!(shown.out, "a:NULL\nb:\nc:null\n");
    let json = cluster
        .ok(&format!("{read} --max-messages 1 -o json"), "")
        .out;
    assert!(json.contains(r#""value":null"#), "{json}");
    // Without a marker, the text is a value like any other.
    cluster.ok("produce t -f %k:%v", "d:NULL\n");
    let last = cluster.ok("consume t --offset -1:end -o json", "").out;
    assert!(last.contains(r#""value":"NULL""#), "{last}");
    let refused = cluster.run(&format!("{read} -o json --null-marker NULL"), "");
    assert_eq!(refused.code, Some(2), "{}", refused.err);
}

#[test]
fn what_cannot_be_meant_fails_instead_of_doing_nothing() {
    let cluster = Cluster::start();
    cluster.ok("topic create t --partitions 1", "");
    cluster.ok("produce t", "");
    cluster.ok("produce t", "a\nb\nc\n");
    cluster.ok("topic trim t --all", "");
    for (command, code, said) in [
        ("produce none", 4, "none"),
        ("consume t --offset 20:10", 2, "ends before it begins"),
        ("consume t --offset 0", 1, "offset 0 of t-0 is out of range"),
        (
            "consume t --offset 0 --until-end",
            1,
            "offset 0 of t-0 is out of range",
        ),
        (
            "topic trim t --before-offset 9",
            1,
            "beyond the end of the partition (3)",
        ),
        (
            "consume t --bootstrap http://127.0.0.1:9092",
            2,
            "without http://",
        ),
    ] {
        let ran = cluster.run(command, "");
        assert_eq!(ran.code, Some(code), "{command}: {}", ran.err);
        assert!(ran.err.contains(said), "{command}: {}", ran.err);
        assert_eq!(ran.out, "", "{command}");
    }
    cluster.ok("consume t --offset 3 --until-end", "");
}

#[test]
fn a_described_topic_says_where_its_partitions_begin_and_end() {
    let cluster = Cluster::start();
    cluster.ok("topic create t --config retention.ms=7d", "");
    cluster.ok("produce t", "a\nb\nc\n");
    cluster.ok("topic trim t --before-offset 1", "");
    let json = cluster.ok("topic describe t -o json", "").out;
    for part in ["\"start_offset\": 1", "\"end_offset\": 3", "\"604800000\""] {
        assert!(json.contains(part), "no {part} in {json}");
    }
    let table = cluster.ok("topic describe t", "").out;
    assert!(table.contains("START  END"), "{table}");
    let refused = cluster.run("topic alter t --config retension.ms=5", "");
    assert!(
        refused.err.contains("did you mean retention.ms?"),
        "{}",
        refused.err
    );
    let refused = cluster.run("topic create u --config retention.ms=7w", "");
    assert_eq!(refused.code, Some(2), "{}", refused.err);
}

#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let cluster = Cluster::start();
    cluster.ok("topic create t --partitions 1", "");
    cluster.ok("produce t", "old\n");
    let newest = cluster.spawn("consume t --offset -1");
    let all = cluster.spawn("consume t --from-beginning");
    let one = cluster.spawn("consume t --from-beginning --partition 0");
    for consumer in [&newest, &all, &one] {
        assert_eq!(consumer.line(), "old");
    }

    cluster.ok("topic alter t --partitions 3", "");
    cluster.ok("produce t --partition 1", "first\n");
    assert_eq!(all.line(), "first");
    assert_eq!(newest.line(), "first");
    cluster.ok("produce t --partition 2", "second\n");
    assert_eq!(all.line(), "second");
    // Only what was asked for, where that was said.
    cluster.ok("produce t --partition 0", "own\n");
    assert_eq!(one.line(), "own");
}

#[test]
fn a_record_that_fails_behind_good_ones_is_named_and_exits_with_7() {
    let cluster = Cluster::start();
    cluster.ok("topic create t --config max.message.bytes=1000", "");
    let large = "x".repeat(5_000);
    let input = format!("a\nb\n{large}\n");
    let ran = cluster.run("produce t --batch-bytes 100", &input);
    assert_eq!(ran.code, Some(7), "{}", ran.err);
    let said = "2 of 3 records acknowledged; record 3: ";
    assert!(ran.err.contains(said), "{}", ran.err);
    let ran = cluster.run("produce t --partition 9", "a\n");
    assert_ne!(ran.code, Some(7), "{}", ran.err);

    let sent = cluster.ok("produce t --acks none", "a\nb\n");
    assert!(sent.err.starts_with("2 records sent in"), "{}", sent.err);
    let json = cluster.ok("produce t --acks none -o json", "a\n").out;
    assert!(json.contains(r#""sent":1,"acknowledged":0"#), "{json}");
}

#[test]
fn a_topic_that_is_deleted_while_it_is_written_leaves_the_input_partly_produced() {
    let cluster = Cluster::start();
    cluster.ok("topic create t", "");
    let mut producer = cluster.spawn("produce t -o json");
    let mut input = producer.child.stdin.take().expect("a pipe");
    input.write_all(b"a\n").expect("it reads");
    cluster.ok("consume t --from-beginning -n 1", "");
    cluster.ok("topic delete t", "");
    input.write_all(b"b\nc\n").expect("it reads");
    drop(input);
    let summary = producer.line();
    assert!(summary.contains(r#""acknowledged":1"#), "{summary}");
    let ended = producer.child.wait().expect("it ends");
    assert_eq!(ended.code(), Some(7));
}
