//! An answer that is computed before a recall may reach the kernel after it: the notification finds
//! nothing to drop, and then the kernel keeps the stale answer for as long as it was allowed to.
//!
//! The gate closes that hole. The adapter notes its generation when a request begins, and looks again
//! when it sends: after a [`ReplyGate::revoke`] between the two, the answer goes out with times of 0. Check and
//! send happen under a shared lock that `revoke` takes exclusively, so what an earlier generation allowed
//! is in the kernel's hands before `revoke` returns, where notifications find it.
//!
//! The lock is held over a write to the FUSE device, which copies and does not wait: not for
//! another request, nor for a notification.

use super::ops::{AttrReply, Created, DirEntry, Entry, LockInfo, Lookup, Opened, ReadData, StatFs};
use super::reply::Answer;
use bytes::Bytes;
use cairn_common::error::FsResult;
use parking_lot::RwLock;
use std::time::Duration;

/// See the module. One per mount, shared by the file system (which revokes) and the adapter.
#[derive(Debug, Default)]
pub struct ReplyGate {
    generation: RwLock<u64>,
}

/// The generation in which a request began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

impl ReplyGate {
    /// No answer to a request that has begun by now lets the kernel cache anything, unless it has been
    /// sent already. To be called on each recall, after the cached state has changed and before
    /// the kernel is notified.
    pub fn revoke(&self) {
        *self.generation.write() += 1;
    }

    /// To be taken before a request looks at anything cached.
    pub fn stamp(&self) -> Stamp {
        Stamp(*self.generation.read())
    }

    /// Sends an answer.
    pub(super) fn send<T: Timed, R: Answer<T>>(&self, begun: Stamp, reply: R, mut result: FsResult<T>) {
        if !T::TIMED {
            return reply.answer(result);
        }
        let generation = self.generation.read();
        if let (true, Ok(value)) = (*generation != begun.0, &mut result) {
            value.expire();
        }
        reply.answer(result);
        drop(generation);
    }
}

/// A result that may allow the kernel to cache something.
pub trait Timed {
    /// False if it never does.
    const TIMED: bool = true;
    /// Takes that permission out of it.
    fn expire(&mut self);
}

macro_rules! untimed {
    ($($value:ty),*) => {
        $(impl Timed for $value {
            const TIMED: bool = false;
            fn expire(&mut self) {}
        })*
    };
}

// The pages of a READ are locked until it is answered: an invalidation waits for it.
untimed!((), u32, u64, Bytes, Vec<Bytes>, ReadData, StatFs, Option<LockInfo>);

impl Timed for Entry {
    fn expire(&mut self) {
        (self.entry_ttl, self.attr_ttl) = (Duration::ZERO, Duration::ZERO);
    }
}

impl Timed for Lookup {
    fn expire(&mut self) {
        match self {
            Lookup::Found(entry) => entry.expire(),
            Lookup::Missing { ttl } => *ttl = Duration::ZERO,
        }
    }
}

impl Timed for AttrReply {
    fn expire(&mut self) {
        self.ttl = Duration::ZERO;
    }
}

impl Timed for Opened {
    fn expire(&mut self) {
        (self.mode.keep_cache, self.mode.cache_dir) = (false, false);
    }
}

impl Timed for Created {
    fn expire(&mut self) {
        self.entry.expire();
        self.opened.expire();
    }
}

impl Timed for Vec<DirEntry> {
    fn expire(&mut self) {
        self.iter_mut().filter_map(|entry| entry.child.as_mut()).for_each(Timed::expire);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Stands for a reply: keeps what was sent.
    struct Sent(&'static Mutex<Option<Duration>>);

    impl Answer<Lookup> for Sent {
        fn answer(self, result: FsResult<Lookup>) {
            if let (Ok(Lookup::Missing { ttl }), Ok(mut slot)) = (result, self.0.lock()) {
                *slot = Some(ttl);
            }
        }
    }

    #[test]
    fn only_answers_that_began_before_a_revoke_lose_their_time() {
        static SENT: Mutex<Option<Duration>> = Mutex::new(None);
        let (gate, ttl) = (ReplyGate::default(), Duration::from_secs(60));
        let sent = |begun| {
            gate.send(begun, Sent(&SENT), Ok(Lookup::Missing { ttl }));
            SENT.lock().ok().and_then(|mut slot| slot.take())
        };
        let before = gate.stamp();
        assert_eq!(sent(before), Some(ttl));
        gate.revoke();
        assert_eq!(sent(before), Some(Duration::ZERO));
        assert_eq!(sent(gate.stamp()), Some(ttl));
    }
}
