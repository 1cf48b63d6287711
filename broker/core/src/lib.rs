//! Pure state machine of one partition replica.
