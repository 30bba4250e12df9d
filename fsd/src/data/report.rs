//! Counters, and the state that is reported.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// What has happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub puts: Counter,
    pub gets: Counter,
    pub put_bytes: Awaited,
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

/// A number that only grows, and can be waited for.
#[derive(Debug, Default)]
pub struct Awaited(watch::Sender<u64>);

impl Awaited {
    /// Adds to it, and wakes who waits.
    pub fn add(&self, count: u64) {
        self.0.send_modify(|number| *number += count);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        *self.0.borrow()
    }

    /// Returns once it is greater than `seen`.
    pub async fn beyond(&self, seen: u64) {
        // Its sender is ours, so that it cannot end before.
        drop(self.0.subscribe().wait_for(|number| *number > seen).await);
    }
}
