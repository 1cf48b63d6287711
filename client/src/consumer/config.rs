//! Settings of a consumer.

use std::time::Duration;

use ottla_model::limits::FETCH_BYTES_MAX;

/// Where to go on when a position lies outside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoReset {
    Earliest,
    Latest,
}

/// How a consumer fetches.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// How long a broker waits for `min_bytes`.
    pub max_wait: Duration,
    /// Fewest bytes worth a response.
    pub min_bytes: u32,
    /// Most bytes in a response. A first batch that is larger comes whole.
    pub max_bytes: u32,
    /// Most bytes of one partition in a response, and how much of one is fetched ahead.
    pub partition_max_bytes: u32,
    /// About how many bytes are fetched ahead in all.
    pub buffer_bytes: usize,
    /// Most records that one poll returns.
    pub max_poll_records: usize,
    /// What to do when a position lies outside the log; `None`: return the error.
    pub auto_reset: Option<AutoReset>,
    pub retry_backoff_min: Duration,
    pub retry_backoff_max: Duration,
}

impl Default for ConsumerConfig {
    fn default() -> ConsumerConfig {
        ConsumerConfig {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: FETCH_BYTES_MAX as u32,
            partition_max_bytes: 1024 * 1024,
            buffer_bytes: 32 * 1024 * 1024,
            max_poll_records: 5_000,
            auto_reset: None,
            retry_backoff_min: Duration::from_millis(20),
            retry_backoff_max: Duration::from_secs(1),
        }
    }
}

impl ConsumerConfig {
    /// Brings each setting into its range.
    pub(crate) fn within_limits(mut self) -> ConsumerConfig {
        self.min_bytes = self.min_bytes.max(1);
        self.max_bytes = self.max_bytes.clamp(1, FETCH_BYTES_MAX as u32);
        self.partition_max_bytes = self.partition_max_bytes.clamp(1, self.max_bytes);
        self.buffer_bytes = self.buffer_bytes.max(1);
        self.max_poll_records = self.max_poll_records.max(1);
        self.retry_backoff_min = self.retry_backoff_min.max(Duration::from_millis(1));
        self.retry_backoff_max = self.retry_backoff_max.max(self.retry_backoff_min);
        self
    }
}
