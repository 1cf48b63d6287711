//! The `ottla` program as its users run it: what it prints, and how it exits.

mod cluster;
mod errors;
mod nodes;
mod records;
