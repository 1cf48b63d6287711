//! Rust client: admin, producer, consumer.
