//! The broker node: partitions, replication streams and services.
