//! Every bound that is not a setting. A queue, a buffer or a message without a limit here or in
//! the configuration is a bug.

/// The longest topic name, in bytes (Kafka's limit: a directory name must still fit).
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// The longest host name, rack or version of a node, in bytes.
pub const NODE_TEXT_BYTES_MAX: usize = 255;
/// The most partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: usize = 100_000;
/// The most replicas of one partition.
pub const REPLICATION_FACTOR_MAX: usize = 32;
/// The most metadata records that one admin request may cause, as in Kafka.
pub const METADATA_RECORDS_PER_REQUEST_MAX: usize = 10_000;
/// The most metadata records in one Raft entry.
pub const METADATA_RECORDS_PER_ENTRY_MAX: usize = 20_000;
/// The most metadata requests that wait for the active controller's decision.
pub const CONTROLLER_QUEUE_MAX: usize = 4_096;
/// The longest configuration value, in bytes.
pub const CONFIG_VALUE_BYTES_MAX: usize = 4_096;

/// The largest gRPC message accepted on the client port, in bytes.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest admin request, in bytes: room for as many partitions as one request may make, each
/// with as many replicas as it may have.
pub const ADMIN_MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The largest request about the cluster, in bytes: room for the names of thousands of topics.
pub const CLUSTER_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// The largest request for health or reflection, in bytes.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// The largest gRPC message accepted on the inter-node port, in bytes.
pub const INTERNAL_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The largest record batch a topic's `max.message.bytes` can allow, in bytes.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The default of `max.message.bytes`, in bytes (Kafka's).
pub const BATCH_BYTES_DEFAULT: usize = 1_048_588;
/// The most records in one batch.
pub const RECORDS_PER_BATCH_MAX: usize = 1_000_000;
/// The most bytes that a batch of a compacted topic may unpack to, so that compaction can.
pub const COMPACTED_UNPACKED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most partitions in one produce or fetch message.
pub const PARTITIONS_PER_MESSAGE_MAX: usize = 10_000;
/// The most bytes one fetch response carries.
pub const FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most produce requests in flight on one stream.
pub const PRODUCE_IN_FLIGHT_MAX: usize = 1_024;
/// The most connections on one client port, unless configured otherwise. Half of a usual limit of
/// open files, so that the log always finds handles.
pub const CONNECTIONS_MAX: usize = 10_000;
/// The most connections on one internal port.
pub const INTERNAL_CONNECTIONS_MAX: usize = 2_000;
/// The most bytes of batches that one consumer's stream has read and not taken yet.
pub const FETCH_BYTES_PER_STREAM: usize = 16 * 1024 * 1024;
/// The most bytes of batches that were read for one connection and not taken yet, whatever the
/// number of its calls, so that one client leaves the others their share of the node's memory.
pub const FETCH_BYTES_PER_CONNECTION: usize = 32 * 1024 * 1024;
/// The same of a connection that has taken nothing yet: an answer of ordinary size, and another
/// beside it.
pub const FETCH_BYTES_PER_CONNECTION_AT_FIRST: usize = 2 * BATCH_BYTES_DEFAULT;
/// The most bytes of batches that were read for the connections of one host and not taken yet, so
/// that no host takes the memory of the others.
pub const FETCH_BYTES_PER_HOST: usize = FETCH_BYTES_IN_FLIGHT / 2;
/// The most bytes that a broker has read for consumers and that they have not taken yet.
pub const FETCH_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;
/// The most bytes of views of the cluster that a broker has made and that have not been taken yet,
/// counted for each who is to take them, though they share what is the same.
pub const VIEW_BYTES_IN_FLIGHT: usize = 64 * 1024 * 1024;
/// The same of one host.
pub const VIEW_BYTES_PER_HOST: usize = VIEW_BYTES_IN_FLIGHT / 2;
/// The most bytes of answers to producers that a broker keeps for who has not taken them yet.
pub const ANSWER_BYTES_IN_FLIGHT: usize = 64 * 1024 * 1024;
/// The same of one host.
pub const ANSWER_BYTES_PER_HOST: usize = ANSWER_BYTES_IN_FLIGHT / 2;
/// The most bytes of requests of producers that have begun to come and are not all there.
pub const INCOMING_BYTES_IN_FLIGHT: usize = 128 * 1024 * 1024;
/// The same of one host.
pub const INCOMING_BYTES_PER_HOST: usize = INCOMING_BYTES_IN_FLIGHT / 2;
/// The most fields that a request has, each entry counted: one for each partition, and others.
pub const FIELDS_PER_MESSAGE_MAX: usize = PARTITIONS_PER_MESSAGE_MAX + 100;
/// The most streams on which a broker tells how the cluster changes: one for each connection.
pub const WATCHES_MAX: usize = CONNECTIONS_MAX;
/// The most of them from one host.
pub const WATCHES_PER_HOST_MAX: usize = WATCHES_MAX / 2;
/// The most concurrent streams on one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// The most bytes that one replication stream has in flight, unacknowledged.
pub const REPLICATION_WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes of batches in one replication message.
pub const REPLICATION_MESSAGE_BYTES: usize = 1024 * 1024;
/// The most idempotent producers a partition remembers.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 100_000;
/// The last batches of a producer that a partition remembers (KIP-98).
pub const PRODUCER_BATCHES: usize = 5;
/// Producer ids that a broker takes from the controller at a time.
pub const PRODUCER_ID_BLOCK: i64 = 1_000;

/// HTTP/2 stream window, in bytes.
pub const H2_STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// HTTP/2 connection window, in bytes. Large enough that h2's budget for small unread data frames
/// is not the limit.
pub const H2_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// HTTP/2 frame size, in bytes.
pub const H2_FRAME_SIZE: u32 = 256 * 1024;
/// HTTP/2 frame size of what another broker sends, in bytes: a batch as large as producers usually
/// make them at most comes in one piece.
pub const H2_INTERNAL_FRAME_SIZE: u32 = 1024 * 1024 + 64 * 1024;

const _: () = assert!(
    METADATA_RECORDS_PER_REQUEST_MAX * (REPLICATION_FACTOR_MAX * 6 + 4) <= ADMIN_MESSAGE_BYTES_MAX
);
const _: () = assert!(1_000 * (TOPIC_NAME_BYTES_MAX + 3) <= CLUSTER_MESSAGE_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_DEFAULT <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= COMPACTED_UNPACKED_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < CLIENT_MESSAGE_BYTES_MAX);
const _: () = assert!(FETCH_BYTES_MAX + BATCH_BYTES_MAX <= CLIENT_MESSAGE_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + REPLICATION_MESSAGE_BYTES < INTERNAL_MESSAGE_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= REPLICATION_WINDOW_BYTES);
const _: () = assert!(FETCH_BYTES_MAX + BATCH_BYTES_MAX <= FETCH_BYTES_PER_STREAM);
const _: () = assert!(FETCH_BYTES_PER_STREAM <= FETCH_BYTES_PER_CONNECTION);
const _: () = assert!(FETCH_BYTES_PER_CONNECTION_AT_FIRST <= FETCH_BYTES_PER_CONNECTION);
const _: () = assert!(FETCH_BYTES_PER_CONNECTION <= FETCH_BYTES_PER_HOST);
const _: () = assert!(FETCH_BYTES_MAX <= VIEW_BYTES_PER_HOST);
const _: () = assert!(CLIENT_MESSAGE_BYTES_MAX <= INCOMING_BYTES_PER_HOST);
const _: () = assert!(METADATA_RECORDS_PER_REQUEST_MAX <= METADATA_RECORDS_PER_ENTRY_MAX);
