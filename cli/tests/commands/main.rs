//! The `ottla` program as its users run it: what it prints, and how it exits.

mod cluster;
mod nodes;
mod records;
