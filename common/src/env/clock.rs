//! What time is it, and how much time has passed.

use crate::attr::Timestamp;
use parking_lot::Mutex;
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A wall clock for timestamps and a steady one for timeouts.
pub trait Clock: Debug + Send + Sync {
    /// Wall time: may jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment: never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        timestamp(SystemTime::now())
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// `time` as we store it.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let (before, distance) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (false, since),
        Err(error) => (true, error.duration()),
    };
    let secs = i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
    match (before, distance.subsec_nanos()) {
        (false, nanos) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos: 0 },
        (true, nanos) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock {
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// Begins at 1970 and at zero.
    #[must_use]
    pub fn new() -> ManualClock {
        ManualClock::default()
    }

    /// Lets `time` pass on both clocks.
    pub fn advance(&self, time: Duration) {
        *self.elapsed.lock() += time;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        timestamp(UNIX_EPOCH + self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_positive_nanoseconds() {
        let time = UNIX_EPOCH - Duration::from_millis(250);
        assert_eq!(timestamp(time), Timestamp { secs: -1, nanos: 750_000_000 });
        assert_eq!(timestamp(UNIX_EPOCH - Duration::from_secs(2)), Timestamp { secs: -2, nanos: 0 });
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new();
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now(), Timestamp { secs: 1, nanos: 500_000_000 });
        assert_eq!(clock.monotonic(), Duration::from_millis(1500));
    }
}
