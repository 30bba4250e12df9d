//! Which sessions were refused a lock, and wait to be told when it may be free.

use cairn_common::ids::{Ino, SessionId};
use std::collections::BTreeMap;

/// Most (inode, session) pairs that wait; beyond it all are woken and ask again.
const WAITERS_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub struct LockWaiters {
    by_inode: BTreeMap<Ino, Vec<SessionId>>,
    count: usize,
}

impl LockWaiters {
    /// True if there are so many that all should be woken before another is added.
    pub fn is_full(&self) -> bool {
        self.count >= WAITERS_MAX
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_inode.is_empty() && self.count == 0
    }

    /// True if the session was not waiting already.
    pub fn add(&mut self, session: SessionId, ino: Ino) -> bool {
        let waiting = self.by_inode.entry(ino).or_default();
        let new = !waiting.contains(&session);
        if new {
            waiting.push(session);
            self.count += 1;
        }
        new
    }

    pub fn remove(&mut self, session: SessionId, ino: Ino) {
        let Some(waiting) = self.by_inode.get_mut(&ino) else { return };
        let before = waiting.len();
        waiting.retain(|other| *other != session);
        self.count -= before - waiting.len();
        if waiting.is_empty() {
            self.by_inode.remove(&ino);
        }
    }

    /// The session has ended.
    pub fn forget(&mut self, session: SessionId) {
        for waiting in self.by_inode.values_mut() {
            waiting.retain(|other| *other != session);
        }
        self.by_inode.retain(|_, waiting| !waiting.is_empty());
        self.count = self.by_inode.values().map(Vec::len).sum();
    }

    /// Who waits for `ino`; they don't any more.
    pub fn take(&mut self, ino: Ino) -> Vec<SessionId> {
        let waiting = self.by_inode.remove(&ino).unwrap_or_default();
        self.count -= waiting.len();
        waiting
    }

    /// An inode that somebody waits for.
    pub fn first(&self) -> Option<Ino> {
        self.by_inode.keys().next().copied()
    }
}
