//! Names in directories that this mount made, while it is the only one: all of them are known, so a name
//! that is not among them need not be asked for. The kernel looks each name up before it makes it.
//!
//! What is kept errs on one side only: a name that is gone may still count as there, and is asked for.

use cairn_common::ids::{Ino, Seq};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Names remembered, in all directories together.
const NAMES_MAX: usize = 128 << 10;
/// Directories remembered.
const DIRS_MAX: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub struct Names {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dirs: LruCache<Ino, Dir>,
    names: usize,
    era: Era,
}

/// A directory that this mount has made, or is making.
#[derive(Debug, Default)]
struct Dir {
    /// It was made, and empty then.
    born: bool,
    names: HashMap<Box<[u8]>, Added>,
}

/// Operations that may have added a name.
#[derive(Clone, Copy, Debug, Default)]
struct Added {
    /// So many have not been answered.
    under_way: u32,
    /// The last one that has been.
    last: Seq,
}

/// The time between two moments at which all was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Era(u64);

impl Default for Names {
    fn default() -> Names {
        let state = State { dirs: LruCache::unbounded(), names: 0, era: Era::default() };
        Names { state: Mutex::new(state) }
    }
}

impl Names {
    /// To be asked for before a directory is made.
    #[must_use]
    pub fn era(&self) -> Era {
        self.state.lock().era
    }

    /// `dir` is about to be made. Names may be added before the answer is here: who asked for it may be killed, and
    /// another find it.
    pub fn expect(&self, dir: Ino) {
        let mut state = self.state.lock();
        state.forget(dir);
        state.dirs.put(dir, Dir::default());
        state.make_room();
    }

    /// `dir` was made, as expected since `era`, and was empty; in vain if all was forgotten since: others may have been
    /// in it.
    pub fn born(&self, dir: Ino, era: Era) {
        let mut state = self.state.lock();
        if state.era == era
            && let Some(dir) = state.dirs.get_mut(&dir)
        {
            dir.born = true;
        }
    }

    /// Whether `dir` certainly has no such name.
    #[must_use]
    pub fn lacks(&self, dir: Ino, name: &[u8]) -> bool {
        self.state.lock().dirs.get(&dir).is_some_and(|dir| dir.born && !dir.names.contains_key(name))
    }

    /// An operation that may add a name is about to be submitted.
    pub fn adding(&self, dir: Ino, name: &[u8]) {
        let mut state = self.state.lock();
        let Some(Dir { names, .. }) = state.dirs.get_mut(&dir) else { return };
        if let Some(added) = names.get_mut(name) {
            added.under_way += 1;
        } else {
            names.insert(name.into(), Added { under_way: 1, last: Seq(0) });
            state.names += 1;
            state.make_room();
        }
    }

    /// It was operation `seq`, and has been answered, whatever with.
    pub fn added(&self, dir: Ino, name: &[u8], seq: Seq) {
        let mut state = self.state.lock();
        if let Some(added) = state.dirs.get_mut(&dir).and_then(|dir| dir.names.get_mut(name)) {
            added.under_way = added.under_way.saturating_sub(1);
            added.last = added.last.max(seq);
        }
    }

    /// Operation `seq` has removed a name. One that a later operation adds stays.
    pub fn removed(&self, dir: Ino, name: &[u8], seq: Seq) {
        let mut state = self.state.lock();
        let Some(Dir { names, .. }) = state.dirs.get_mut(&dir) else { return };
        if names.get(name).is_some_and(|added| added.under_way == 0 && added.last < seq) {
            names.remove(name);
            state.names -= 1;
        }
    }

    /// `dir` is gone.
    pub fn forget(&self, dir: Ino) {
        self.state.lock().forget(dir);
    }

    /// Others may change names from now on, or may have done so.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.dirs.clear();
        state.names = 0;
        state.era.0 += 1;
    }
}

impl State {
    fn forget(&mut self, dir: Ino) {
        if let Some(dir) = self.dirs.pop(&dir) {
            self.names -= dir.names.len();
        }
    }

    /// Forgets whole directories, the longest unused first.
    fn make_room(&mut self) {
        while self.names > NAMES_MAX || self.dirs.len() > DIRS_MAX {
            let Some((_, dir)) = self.dirs.pop_lru() else { return };
            self.names -= dir.names.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: Ino = Ino(7);

    fn born() -> Names {
        let names = Names::default();
        bear(&names, DIR);
        names
    }

    fn bear(names: &Names, dir: Ino) {
        names.expect(dir);
        names.born(dir, names.era());
    }

    #[test]
    fn only_directories_that_were_born_here_lack_names() {
        let names = born();
        assert!(names.lacks(DIR, b"a"));
        assert!(!names.lacks(Ino(8), b"a"));
        names.forget(DIR);
        assert!(!names.lacks(DIR, b"a"));
    }

    #[test]
    fn a_name_is_there_from_before_it_is_added_until_it_is_removed() {
        let names = born();
        names.adding(DIR, b"a");
        assert!(!names.lacks(DIR, b"a") && names.lacks(DIR, b"b"));
        names.added(DIR, b"a", Seq(3));
        assert!(!names.lacks(DIR, b"a"));
        names.removed(DIR, b"a", Seq(4));
        assert!(names.lacks(DIR, b"a"));
    }

    #[test]
    fn a_removal_that_is_heard_of_late_takes_nothing_away() {
        let names = born();
        names.adding(DIR, b"a");
        names.removed(DIR, b"a", Seq(9));
        assert!(!names.lacks(DIR, b"a"), "the one under way comes after it");
        names.added(DIR, b"a", Seq(10));
        names.removed(DIR, b"a", Seq(9));
        assert!(!names.lacks(DIR, b"a"));
    }

    #[test]
    fn a_directory_whose_making_others_saw_is_not_known() {
        let names = Names::default();
        let era = names.era();
        names.expect(DIR);
        names.clear();
        names.born(DIR, era);
        assert!(!names.lacks(DIR, b"a"));
        names.expect(DIR);
        names.born(DIR, era);
        assert!(!names.lacks(DIR, b"a"));
    }

    /// Found by review: a name was taken for missing that was made before the answer to `mkdir` was heard of.
    #[test]
    fn names_made_before_their_directory_is_heard_of_are_there() {
        let names = Names::default();
        names.expect(DIR);
        assert!(!names.lacks(DIR, b"a"), "it is not there for certain");
        names.adding(DIR, b"a");
        names.added(DIR, b"a", Seq(2));
        names.born(DIR, names.era());
        assert!(!names.lacks(DIR, b"a") && names.lacks(DIR, b"b"));
    }

    /// Found by review: the answer to the first of two operations hid that the second was under way.
    #[test]
    fn a_name_stays_while_any_operation_that_adds_it_is_under_way() {
        let names = born();
        names.adding(DIR, b"a");
        names.adding(DIR, b"a");
        names.added(DIR, b"a", Seq(1));
        names.removed(DIR, b"a", Seq(2));
        names.added(DIR, b"a", Seq(3));
        assert!(!names.lacks(DIR, b"a"));
        names.removed(DIR, b"a", Seq(4));
        assert!(names.lacks(DIR, b"a"));
    }

    #[test]
    fn memory_is_bounded() {
        let names = born();
        bear(&names, Ino(8));
        for n in 0..=NAMES_MAX {
            names.adding(Ino(8), &n.to_be_bytes());
        }
        assert!(!names.lacks(DIR, b"a") && !names.lacks(Ino(8), b"a"), "both made room");
        assert_eq!(names.state.lock().names, 0);
        for n in 0..DIRS_MAX as u64 + 10 {
            bear(&names, Ino(100 + n));
        }
        assert_eq!(names.state.lock().dirs.len(), DIRS_MAX);
    }
}
