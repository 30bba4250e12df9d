//! `soft`: how long a call may wait for a server that has been silent for a while already. Pure.
//!
//! A program's call may become several to the server, one after the other: the kernel asks for each name of a path,
//! and again when there was no answer. All of them together are to wait as long as one may. So what is counted is
//! how long the server has been silent, not how long a call has waited.

use std::time::{Duration, Instant};

/// Longest time between two calls that count as one silence.
const TOGETHER: Duration = Duration::from_secs(5);
/// What a server gets that has been silent for all of its time.
const ONCE_MORE: Duration = Duration::from_millis(200);
/// The same while there is no connection to it.
const ONCE_MORE_UNCONNECTED: Duration = Duration::from_millis(50);

/// Since when calls have waited without an answer to any.
#[derive(Debug, Default)]
pub struct Silence {
    since_and_last: Option<(Instant, Instant)>,
}

impl Silence {
    /// A call begins to wait, or goes on after it was told of an answer to another one: how long it may.
    pub fn wait(&mut self, now: Instant, limit: Duration, connected: bool) -> Duration {
        let since = match self.since_and_last {
            Some((since, last)) if now.duration_since(last) < TOGETHER => since,
            _ => now,
        };
        self.since_and_last = Some((since, now));
        let once_more = if connected { ONCE_MORE } else { ONCE_MORE_UNCONNECTED };
        limit.saturating_sub(now.duration_since(since)).max(once_more.min(limit))
    }

    /// A call has waited until now.
    pub fn waited(&mut self, now: Instant) {
        if let Some((_, last)) = &mut self.since_and_last {
            *last = now;
        }
    }

    /// The server has answered something.
    pub fn heard(&mut self) {
        self.since_and_last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn calls_one_after_the_other_wait_as_long_as_one() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        assert_eq!(silence.wait(start, LIMIT, true), LIMIT);
        silence.waited(start + secs(20));
        assert_eq!(silence.wait(start + secs(21), LIMIT, true), secs(39));
        silence.waited(start + secs(60));
        assert_eq!(silence.wait(start + secs(60), LIMIT, true), ONCE_MORE);
        assert_eq!(silence.wait(start + secs(61), LIMIT, false), ONCE_MORE_UNCONNECTED);
        silence.heard();
        assert_eq!(silence.wait(start + secs(62), LIMIT, true), LIMIT);
    }

    #[test]
    fn a_call_that_was_left_long_ago_says_nothing() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        silence.wait(start, LIMIT, true);
        assert_eq!(silence.wait(start + secs(3600), LIMIT, true), LIMIT);
    }

    #[test]
    fn no_call_waits_longer_than_the_limit() {
        let (mut silence, limit) = (Silence::default(), Duration::from_millis(10));
        let start = Instant::now();
        assert_eq!(silence.wait(start, limit, true), limit);
        assert_eq!(silence.wait(start + limit, limit, true), limit);
    }
}
