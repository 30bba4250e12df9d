//! The server's clock as the mount knows it: what stamps operations.

use cairn_common::attr::Timestamp;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Clocks closer than this count as one: on one machine, a file's times must not differ from what
/// `date` says there by the error of an estimate.
const SAME_CLOCK_NANOS: u64 = 5_000_000;

/// This machine's clock plus the estimated distance to the server's, in nanoseconds.
#[derive(Debug, Default)]
pub struct ServerClock {
    offset: AtomicI64,
}

impl ServerClock {
    /// The server's time, now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        from_nanos(nanos_of(SystemTime::now()).saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    /// Learns from an exchange: the server said `server` between `sent` and `received`.
    pub fn learn(&self, sent: SystemTime, received: SystemTime, server: Timestamp) {
        let (sent, received) = (nanos_of(sent), nanos_of(received));
        let middle = sent + (received - sent) / 2;
        self.offset.store(offset(middle, to_nanos(server)), Ordering::Relaxed);
    }
}

fn offset(local: i64, server: i64) -> i64 {
    let distance = server.saturating_sub(local);
    if distance.unsigned_abs() <= SAME_CLOCK_NANOS { 0 } else { distance }
}

fn nanos_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn to_nanos(time: Timestamp) -> i64 {
    time.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

fn from_nanos(nanos: i64) -> Timestamp {
    let nanos_part = u32::try_from(nanos.rem_euclid(1_000_000_000)).expect("below a billion");
    Timestamp { secs: nanos.div_euclid(1_000_000_000), nanos: nanos_part }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_errors_of_the_estimate() {
        assert_eq!(offset(1_000_000_000, 1_004_000_000), 0);
        assert_eq!(offset(1_000_000_000, 1_006_000_000), 6_000_000);
        assert_eq!(offset(1_000_000_000, 900_000_000), -100_000_000);
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        assert_eq!(from_nanos(-1), Timestamp { secs: -1, nanos: 999_999_999 });
        assert_eq!(to_nanos(from_nanos(-1)), -1);
    }
}
