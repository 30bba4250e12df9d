//! Counters, and the state that is reported.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub puts: Counter,
    pub gets: Counter,
    pub put_bytes: Counter,
    pub get_bytes: Counter,
    pub syncs: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
