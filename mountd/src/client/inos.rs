//! Inode numbers that the server gave to this session, to be given to what it makes.

use cairn_common::ids::Ino;
use cairn_common::proto::meta::InoRange;
use parking_lot::Mutex;

/// The rest of the session's range.
#[derive(Debug, Default)]
pub struct InoPool {
    rest: Mutex<Option<InoRange>>,
    /// Held while a new range is asked for, so that one request serves all who wait.
    pub refill: tokio::sync::Mutex<()>,
}

impl InoPool {
    /// The next number, if there is one.
    pub fn take(&self) -> Option<Ino> {
        let mut rest = self.rest.lock();
        let range = rest.as_mut().filter(|range| range.count > 0)?;
        let ino = range.first;
        range.first = Ino(ino.0 + 1);
        range.count -= 1;
        Some(ino)
    }

    /// True if the next `take` has nothing.
    pub fn is_empty(&self) -> bool {
        self.rest.lock().is_none_or(|range| range.count == 0)
    }

    /// A new range. What is left of the old one is given up: numbers are plenty.
    pub fn add(&self, range: InoRange) {
        *self.rest.lock() = Some(range);
    }

    /// The session is over, and its range with it.
    pub fn clear(&self) {
        *self.rest.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_once_then_none() {
        let pool = InoPool::default();
        assert_eq!(pool.take(), None);
        pool.add(InoRange { first: Ino(10), count: 2 });
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(Ino(10)), Some(Ino(11)), None));
        assert!(pool.is_empty());
    }
}
