//! Three replicas of one partition, with disks that forget, streams that break and a controller
//! that decides at once. Scripts tell single stories; the simulation tries thousands.

mod checker;
mod cluster;
mod controller;
mod disk;
mod scripts;
mod show;
mod simulation;
