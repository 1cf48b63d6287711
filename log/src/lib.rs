//! Journal, partition logs, segments, indexes and recovery.
