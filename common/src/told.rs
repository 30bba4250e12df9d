//! Things that are said in the log once each, and not without end.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::hash::Hash;

/// Most things that are said in one run of a process: of more, nobody reads on.
const TOLD_MAX: usize = 1000;

/// What has been said already.
#[derive(Debug)]
pub struct Told<K>(Mutex<HashSet<K>>);

impl<K> Default for Told<K> {
    fn default() -> Told<K> {
        Told(Mutex::default())
    }
}

impl<K: Eq + Hash> Told<K> {
    /// Whether to say it now.
    pub fn is_news(&self, what: K) -> bool {
        let mut told = self.0.lock();
        told.len() < TOLD_MAX && told.insert(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once_and_not_too_many_are() {
        let told = Told::default();
        assert!(told.is_news(1) && !told.is_news(1));
        assert_eq!((1..2 * TOLD_MAX).filter(|n| told.is_news(*n)).count(), TOLD_MAX - 1);
        assert_eq!(told.0.lock().len(), TOLD_MAX, "what is not said is not kept either");
    }
}
