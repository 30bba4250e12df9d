//! Which inodes changed lately through this mount. An answer of the server that was asked for before a
//! change and arrives after it is out of date, and nothing else may tell: the inode may not be in the
//! table any more.

use cairn_common::ids::Ino;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;

/// Changes remembered; an older question than all of these counts as overtaken.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 << 10).expect("not zero");

/// A moment between changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

#[derive(Debug)]
pub struct Recent {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    clock: u64,
    /// Everything forgotten is at most this old.
    floor: u64,
    changed: LruCache<Ino, u64>,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent { state: Mutex::new(State { clock: 0, floor: 0, changed: LruCache::new(REMEMBERED) }) }
    }
}

impl Recent {
    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(self.state.lock().clock)
    }

    /// `ino` has changed.
    pub fn mark(&self, ino: Ino) {
        let mut state = self.state.lock();
        state.clock += 1;
        let clock = state.clock;
        if let Some((gone, at)) = state.changed.push(ino, clock)
            && gone != ino
        {
            state.floor = state.floor.max(at);
        }
    }

    /// Everything may have changed.
    pub fn mark_all(&self) {
        let mut state = self.state.lock();
        state.clock += 1;
        state.floor = state.clock;
    }

    /// Whether `ino` may have changed after `since`.
    #[must_use]
    pub fn changed_since(&self, ino: Ino, since: Moment) -> bool {
        let state = self.state.lock();
        state.floor > since.0 || state.changed.peek(&ino).is_some_and(|at| *at > since.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_after_a_moment_are_seen_also_when_forgotten() {
        let recent = Recent::default();
        let before = recent.now();
        recent.mark(Ino(5));
        assert!(recent.changed_since(Ino(5), before));
        assert!(!recent.changed_since(Ino(6), before));
        assert!(!recent.changed_since(Ino(5), recent.now()));
        for ino in 0..REMEMBERED.get() as u64 {
            recent.mark(Ino(100 + ino));
        }
        assert!(recent.changed_since(Ino(5), before));
        let before = recent.now();
        assert!(!recent.changed_since(Ino(5), before));
        recent.mark_all();
        assert!(recent.changed_since(Ino(5), before));
    }
}
