//! Notices a disk that hangs: its calls give no error, they never return, and who waits for one can't tell.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tracing::warn;

/// A disk with a call that takes longer than this hangs, or is as good as that.
const STALL: Duration = Duration::from_secs(5);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The calls to a disk that are running.
#[derive(Debug, Default)]
pub struct Calls {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    /// In the order in which they began: with when, and what.
    running: BTreeMap<u64, (Instant, &'static str)>,
    /// Since when the disk hangs, once that was told.
    told: Option<Instant>,
}

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Hangs { what: &'static str, since: Duration },
    GoesOn { after: Duration },
}

impl std::fmt::Display for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            News::Hangs { what, since } => {
                write!(
                    f,
                    "a {what} has not returned for {} s: the disk hangs, and what needs it waits",
                    since.as_secs()
                )
            }
            News::GoesOn { after } => write!(f, "the disk goes on, after {} s", after.as_secs()),
        }
    }
}

impl Calls {
    /// A call begins, and ends when what is returned is dropped.
    pub fn begin(&self, what: &'static str) -> Running<'_> {
        let mut state = self.state.lock();
        state.begun += 1;
        let number = state.begun;
        state.running.insert(number, (Instant::now(), what));
        Running { calls: self, number }
    }

    /// Whether a call has been running for too long.
    pub fn stalled(&self, now: Instant) -> bool {
        self.state.lock().oldest().is_some_and(|(begun, _)| now.duration_since(begun) >= STALL)
    }

    fn look(&self, now: Instant) -> Option<News> {
        let mut state = self.state.lock();
        let hanging = state.oldest().filter(|(begun, _)| now.duration_since(*begun) >= STALL);
        match (hanging, state.told) {
            (Some((begun, what)), None) => {
                state.told = Some(begun);
                Some(News::Hangs { what, since: now.duration_since(begun) })
            }
            (None, Some(begun)) => {
                state.told = None;
                Some(News::GoesOn { after: now.duration_since(begun) })
            }
            _ => None,
        }
    }
}

impl State {
    fn oldest(&self) -> Option<(Instant, &'static str)> {
        self.running.first_key_value().map(|(_, call)| *call)
    }
}

/// See [`Calls::begin`].
#[must_use]
pub struct Running<'a> {
    calls: &'a Calls,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.calls.state.lock().running.remove(&self.number);
    }
}

/// Has the log tell of it, for as long as the disk is in use. In a thread of its own: all others may wait for the disk.
pub fn watch(calls: &Arc<Calls>, path: &std::path::Path) -> io::Result<()> {
    let (calls, path) = (Arc::downgrade(calls), path.display().to_string());
    std::thread::Builder::new().name("disk-watch".into()).spawn(move || run(&calls, &path)).map(drop)
}

fn run(calls: &Weak<Calls>, path: &str) {
    while let Some(calls) = calls.upgrade() {
        if let Some(news) = calls.look(Instant::now()) {
            warn!(target: "cairn", "{path}: {news}");
        }
        drop(calls);
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_is_told_of_once_and_so_is_its_end() {
        let calls = Calls::default();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let sync = calls.begin("sync");
        assert!(calls.look(at(3)).is_none() && !calls.stalled(at(3)));
        let write = calls.begin("write");
        let hangs = News::Hangs { what: "sync", since: Duration::from_secs(6) };
        // It began a moment after `start`.
        assert!(
            matches!(calls.look(at(7)), Some(News::Hangs { what: "sync", since }) if since.as_secs() == 6)
        );
        assert_eq!(
            hangs.to_string(),
            "a sync has not returned for 6 s: the disk hangs, and what needs it waits"
        );
        assert!(calls.stalled(at(7)) && calls.look(at(20)).is_none());
        drop(sync);
        // Another one hangs still.
        assert!(calls.look(at(30)).is_none());
        drop(write);
        let goes_on = calls.look(at(40)).map(|news| news.to_string());
        assert_eq!(goes_on.as_deref(), Some("the disk goes on, after 39 s"));
        assert!(calls.look(at(50)).is_none() && !calls.stalled(at(50)));
    }

    #[test]
    fn calls_that_return_are_no_news_however_many_there_are() {
        let calls = Calls::default();
        let start = Instant::now();
        for _ in 0..1000 {
            drop(calls.begin("write"));
        }
        assert!(calls.look(start + Duration::from_secs(100)).is_none());
    }
}
