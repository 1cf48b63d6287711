//! The consensus of the controllers. The only place that names openraft.

mod frame;
mod log_cache;
mod log_store;
mod log_writer;
mod snapshot_file;
mod state_machine;
mod types;
