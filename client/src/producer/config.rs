//! Settings of a producer.

use std::time::Duration;

use ottla_model::compression::Compression;
use ottla_model::limits::{BATCH_BYTES_MAX, CLIENT_MESSAGE_BYTES_MAX, PRODUCER_BATCHES};

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// When the leader has taken it, before it is safe. Rules idempotence out.
    None,
    /// When it is on the leader's disk. Rules idempotence out.
    Leader,
    /// When it is on the disks of all in-sync replicas.
    #[default]
    All,
}

/// How a producer batches, retries and gives up.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    pub acks: Acks,
    /// How long a batch waits for more records.
    pub linger: Duration,
    /// How many bytes of records, before compression, a batch is closed at. A larger record has a
    /// batch of its own.
    pub batch_bytes: usize,
    pub compression: Compression,
    /// Whether retries are told apart from new records (KIP-98). Only with [`Acks::All`].
    pub idempotent: bool,
    /// How long after it was handed over a record is given up.
    pub delivery_timeout: Duration,
    /// How many batches of one partition may be on their way; at most five if idempotent. Without
    /// idempotence, more than one may change the order when something is retried.
    pub max_in_flight: usize,
    /// How many bytes of records may wait for their acknowledgement. Then sending waits.
    pub buffer_bytes: usize,
    /// About how many bytes of batches are put into one request.
    pub request_bytes: usize,
    pub retry_backoff_min: Duration,
    pub retry_backoff_max: Duration,
    /// How long sending waits at most for a topic that the client does not know yet. One that the
    /// brokers do not know either is refused within 300 ms.
    pub topic_wait: Duration,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            acks: Acks::All,
            linger: Duration::from_millis(5),
            batch_bytes: 128 * 1024,
            compression: Compression::None,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            max_in_flight: PRODUCER_BATCHES,
            buffer_bytes: 32 * 1024 * 1024,
            request_bytes: 1024 * 1024,
            retry_backoff_min: Duration::from_millis(20),
            retry_backoff_max: Duration::from_secs(1),
            topic_wait: Duration::from_secs(2),
        }
    }
}

impl ProducerConfig {
    /// Brings each setting into its range.
    pub(crate) fn within_limits(mut self) -> ProducerConfig {
        self.batch_bytes = self.batch_bytes.clamp(1, BATCH_BYTES_MAX);
        self.idempotent &= self.acks == Acks::All;
        let in_flight_max = if self.idempotent {
            PRODUCER_BATCHES
        } else {
            1_024
        };
        self.max_in_flight = self.max_in_flight.clamp(1, in_flight_max);
        self.buffer_bytes = self.buffer_bytes.clamp(1, u32::MAX as usize / 2);
        self.request_bytes = self.request_bytes.clamp(1, CLIENT_MESSAGE_BYTES_MAX / 2);
        self.retry_backoff_min = self.retry_backoff_min.max(Duration::from_millis(1));
        self.retry_backoff_max = self.retry_backoff_max.max(self.retry_backoff_min);
        self
    }
}
