//! Load on a cluster, and what came of it: as much as it takes, or at a fixed rate.
//!
//! Pure parts: `amount` (what people type), `schedule` (when a record is due), `payload` (what it
//! holds), `meter` (counts and histograms) and `report` (what is printed). Around them: `topic` (a
//! topic of the run's own), `write` and `read` (the load, a thread a client), `clock` (one time for
//! all of them) and `run`, which puts a run together.

mod amount;
mod clock;
mod meter;
mod payload;
mod read;
mod report;
mod run;
mod schedule;
mod topic;
mod worker;
mod write;

pub use amount::{Amount, Rate, batch_bytes};
pub use payload::STAMP_BYTES;
pub use report::{Report, Settings};
pub use run::{Scene, consume, latency, produce};
pub use topic::{BenchTopic, TopicShape};
pub use write::Writing;
