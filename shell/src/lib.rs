//! What the shells of controllers and brokers need of the machine: a clock, ports that tell
//! protocols apart, connections that know when they end and can be closed, and words for its
//! failures. Knows nothing of metadata, logs or the services that are served.

mod clock;
mod connection;
mod door;
mod held_stream;
pub mod listener;
mod told;

pub use clock::Clock;
pub use connection::{Connection, Progress};
pub use held_stream::HeldStream;
pub use told::{remedy, told};
