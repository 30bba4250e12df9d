//! Attributes of directories, while this mount is the only one. The kernel asks for a directory's
//! attributes after each change in it, to check permissions; what our own operations do to them is known.

use super::recent::{Moment, Recent};
use cairn_common::attr::{Attr, FileKind, Timestamp};
use cairn_common::ids::{Ino, Seq};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;

/// Directories remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 << 10).expect("not zero");
/// What each entry adds to the size of a directory: as in the rules.
const ENTRY_SIZE: u64 = 32;

/// Directories whose attributes the kernel may keep for long. Files need no such list: attributes of one that
/// is not open go with its name (but for descriptors of `O_PATH`).
const GRANTED: NonZeroUsize = NonZeroUsize::new(64 << 10).expect("not zero");

/// See the module.
#[derive(Debug)]
pub struct Dirs {
    state: Mutex<State>,
    granted: Mutex<LruCache<Ino, ()>>,
}

#[derive(Debug)]
struct State {
    known: LruCache<Ino, Known>,
    /// Operations under way in a directory.
    pending: HashMap<Ino, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    attr: Attr,
    /// The last operation that is in `attr`.
    seq: Seq,
}

/// What an operation does to a directory in which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added(FileKind),
    Removed(FileKind),
    /// Not foreseen here: ask.
    Unknown,
    /// The operation failed.
    Nothing,
}

impl Default for Dirs {
    fn default() -> Dirs {
        let state = State { known: LruCache::new(REMEMBERED), pending: HashMap::new() };
        Dirs { state: Mutex::new(state), granted: Mutex::new(LruCache::new(GRANTED)) }
    }
}

impl Dirs {
    /// The kernel is about to be given attributes of `ino` for long. False if it must not: another
    /// directory would have to make room, and `take_back` could not tell the kernel.
    pub fn grant(&self, ino: Ino, take_back: impl FnOnce(Ino) -> bool) -> bool {
        let mut granted = self.granted.lock();
        if granted.get(&ino).is_some() {
            return true;
        }
        if granted.len() == GRANTED.get()
            && let Some((&oldest, ())) = granted.peek_lru()
        {
            if !take_back(oldest) {
                return false;
            }
            granted.pop_lru();
        }
        granted.put(ino, ());
        true
    }

    /// All that [`Dirs::grant`] let through; the list is empty then.
    pub fn take_granted(&self) -> Vec<Ino> {
        let mut granted = self.granted.lock();
        std::iter::from_fn(|| granted.pop_lru()).map(|(ino, ())| ino).collect()
    }

    /// Attributes as of all operations that were answered.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<Attr> {
        self.state.lock().known.get(&ino).map(|known| known.attr)
    }

    /// Takes in what the server answered to a question of `asked`.
    pub fn learn(&self, attr: Attr, asked: Moment, recent: &Recent) {
        let mut state = self.state.lock();
        if !state.pending.contains_key(&attr.ino) && !recent.changed_since(attr.ino, asked) {
            state.known.put(attr.ino, Known { attr, seq: Seq(0) });
        }
    }

    /// An operation in `dir` is about to be submitted.
    pub fn begin(&self, dir: Ino) {
        *self.state.lock().pending.entry(dir).or_default() += 1;
    }

    /// Operation `seq` of `time` has been answered.
    pub fn end(&self, dir: Ino, seq: Seq, time: Timestamp, change: Change) {
        let mut state = self.state.lock();
        if let Some(pending) = state.pending.get_mut(&dir) {
            *pending -= 1;
            if *pending == 0 {
                state.pending.remove(&dir);
            }
        }
        if change == Change::Nothing {
            return;
        }
        let Some(known) = state.known.get_mut(&dir) else { return };
        if seq < known.seq || change == Change::Unknown {
            // Answers were taken in in another order than the operations were applied in.
            state.known.pop(&dir);
            return;
        }
        known.seq = seq;
        known.attr = changed(known.attr, time, change);
    }

    /// Operation `seq` replied these attributes.
    pub fn replace(&self, attr: Attr, seq: Seq) {
        let mut state = self.state.lock();
        if let Some(known) = state.known.get_mut(&attr.ino)
            && seq > known.seq
        {
            *known = Known { attr, seq };
        }
    }

    /// Something unforeseen happened to `ino`.
    pub fn forget(&self, ino: Ino) {
        self.state.lock().known.pop(&ino);
    }

    /// Nothing is known any more.
    pub fn clear(&self) {
        self.state.lock().known.clear();
    }
}

/// The rules' `entry_added`, `entry_removed` and `modified`.
fn changed(mut attr: Attr, time: Timestamp, change: Change) -> Attr {
    match change {
        Change::Added(kind) => {
            attr.size += ENTRY_SIZE;
            attr.nlink += u32::from(kind == FileKind::Dir);
        }
        Change::Removed(kind) => {
            attr.size -= ENTRY_SIZE;
            attr.nlink -= u32::from(kind == FileKind::Dir);
        }
        Change::Unknown | Change::Nothing => {}
    }
    attr.ctime = attr.ctime.advance(time);
    attr.mtime = attr.ctime;
    attr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_another_directory_is_made_only_if_the_kernel_could_be_told() {
        let dirs = Dirs::default();
        let first = 2..2 + GRANTED.get() as u64;
        assert!(first.clone().all(|ino| dirs.grant(Ino(ino), |_| false)));
        assert!(dirs.grant(Ino(2), |_| false), "known already, and now the newest");
        assert!(!dirs.grant(Ino(1), |_| false));
        let mut told = None;
        assert!(dirs.grant(Ino(1), |ino| {
            told = Some(ino);
            true
        }));
        assert_eq!(told, Some(Ino(3)));
        let taken = dirs.take_granted();
        assert_eq!(taken.len(), GRANTED.get());
        assert!(taken.contains(&Ino(1)) && !taken.contains(&Ino(3)));
        assert_eq!(dirs.take_granted(), []);
    }
}
