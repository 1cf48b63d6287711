//! Drills: something is killed on purpose while records are written and read, what users felt is
//! measured, and in the end every acknowledged record is looked for.

mod audit;
mod kill;
mod load;
mod measure;
mod readback;
mod report;
mod run;
mod scene;
mod watch;

pub use report::Report;
pub use run::{DrillOptions, run};

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The active controller.
    Controller,
    /// The broker that leads the most partitions.
    Broker,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Target::Controller => "controller",
            Target::Broker => "broker",
        }
    }
}
