//! Who owes an acknowledgement, and who waits for it.
//!
//! An event that a mount must act on (flush, uncache, invalidate, shared) is *owed* until the mount
//! acknowledges it or its session ends. A request waits for a set of owed events at once and is
//! resumed when the last of them is settled. Plain bookkeeping: no I/O, no clock.

use cairn_common::ids::{Ino, SessionId};
use std::collections::{BTreeMap, HashMap};

/// Names a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaitId(pub u64);

/// An event sent to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventRef {
    pub session: SessionId,
    pub id: u64,
}

#[derive(Debug)]
struct Owed {
    /// The file that the session stops caching by it.
    uncache: Option<Ino>,
    waiting: Vec<WaitId>,
}

#[derive(Debug)]
struct Wait {
    /// What is not settled yet.
    on: Vec<EventRef>,
    /// The session whose batch waits: nothing else of its operation log moves meanwhile.
    batch: Option<SessionId>,
}

/// See the module.
#[derive(Debug)]
pub struct Recalls {
    last_event: u64,
    last_wait: u64,
    owed: BTreeMap<EventRef, Owed>,
    waits: HashMap<WaitId, Wait>,
    batches: HashMap<SessionId, WaitId>,
}

impl Recalls {
    /// Event ids grow from `first`, which must be above those of any earlier incarnation.
    pub fn new(first: u64) -> Recalls {
        Recalls {
            last_event: first,
            last_wait: 0,
            owed: BTreeMap::new(),
            waits: HashMap::new(),
            batches: HashMap::new(),
        }
    }

    /// A new event id.
    pub fn next_event(&mut self) -> u64 {
        self.last_event += 1;
        self.last_event
    }

    /// A new event that `session` has to acknowledge. `uncache`: the file it stops caching by it.
    pub fn owe(&mut self, session: SessionId, uncache: Option<Ino>) -> EventRef {
        let event = EventRef { session, id: self.next_event() };
        self.owed.insert(event, Owed { uncache, waiting: Vec::new() });
        event
    }

    /// The file that `event` asks to stop caching, while it is owed.
    pub fn uncached_by(&self, event: EventRef) -> Option<Ino> {
        self.owed.get(&event).and_then(|owed| owed.uncache)
    }

    /// Waits for all of `on` that are still owed; `None` if none is. `batch`: the session whose batch
    /// waits (see [`Recalls::closes_a_circle`]).
    pub fn wait(&mut self, mut on: Vec<EventRef>, batch: Option<SessionId>) -> Option<WaitId> {
        on.retain(|event| self.owed.contains_key(event));
        if on.is_empty() {
            return None;
        }
        self.last_wait += 1;
        let id = WaitId(self.last_wait);
        for event in &on {
            if let Some(owed) = self.owed.get_mut(event) {
                owed.waiting.push(id);
            }
        }
        if let Some(session) = batch {
            self.batches.insert(session, id);
        }
        self.waits.insert(id, Wait { on, batch });
        Some(id)
    }

    /// True if `session`'s batch would wait for itself by waiting for `target`: to flush, or to drop pages that
    /// are being written, needs an answer to a batch of `target`, which may be waiting already, in the end for
    /// `session`.
    pub fn closes_a_circle(&self, session: SessionId, target: SessionId) -> bool {
        let mut seen = vec![target];
        let mut next = 0;
        while let Some(at) = seen.get(next).copied() {
            next += 1;
            if at == session {
                return true;
            }
            let wait = self.batches.get(&at).and_then(|id| self.waits.get(id));
            for event in wait.iter().flat_map(|w| &w.on) {
                if !seen.contains(&event.session) {
                    seen.push(event.session);
                }
            }
        }
        false
    }

    /// `event` is acknowledged. Adds requests that may go on now to `resumed`.
    pub fn settle(&mut self, event: EventRef, resumed: &mut Vec<WaitId>) {
        let Some(owed) = self.owed.remove(&event) else { return };
        for id in owed.waiting {
            let Some(wait) = self.waits.get_mut(&id) else { continue };
            wait.on.retain(|other| *other != event);
            if wait.on.is_empty() {
                self.cancel(id);
                resumed.push(id);
            }
        }
    }

    /// All that `session` owes is settled: it has ended.
    pub fn settle_all(&mut self, session: SessionId, resumed: &mut Vec<WaitId>) {
        let range = EventRef { session, id: 0 }..=EventRef { session, id: u64::MAX };
        let events: Vec<EventRef> = self.owed.range(range).map(|(event, _)| *event).collect();
        for event in events {
            self.settle(event, resumed);
        }
    }

    /// The request waits no more (its caller has gone).
    pub fn cancel(&mut self, id: WaitId) {
        let Some(wait) = self.waits.remove(&id) else { return };
        for event in &wait.on {
            if let Some(owed) = self.owed.get_mut(event) {
                owed.waiting.retain(|other| *other != id);
            }
        }
        if let Some(session) = wait.batch
            && self.batches.get(&session) == Some(&id)
        {
            self.batches.remove(&session);
        }
    }

    /// True if nobody owes anything and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.waits.is_empty() && self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const C: SessionId = SessionId(3);

    #[test]
    fn resumes_when_the_last_event_is_settled() {
        let mut recalls = Recalls::new(10);
        let (a, b) = (recalls.owe(A, None), recalls.owe(B, Some(Ino(7))));
        assert!(a.id > 10 && b.id > a.id);
        let wait = recalls.wait(vec![a, b], None).unwrap();
        let mut resumed = Vec::new();
        assert_eq!((recalls.uncached_by(a), recalls.uncached_by(b)), (None, Some(Ino(7))));
        recalls.settle(a, &mut resumed);
        recalls.settle(a, &mut resumed);
        assert!(resumed.is_empty());
        recalls.settle_all(B, &mut resumed);
        assert_eq!(resumed, [wait]);
        assert!(recalls.is_empty());
        assert_eq!(recalls.wait(vec![a, b], None), None);
    }

    #[test]
    fn batches_never_wait_in_a_circle() {
        let mut recalls = Recalls::new(0);
        let (b, c) = (recalls.owe(B, None), recalls.owe(C, None));
        recalls.wait(vec![b], Some(A)).unwrap();
        let second = recalls.wait(vec![c], Some(B)).unwrap();
        assert!(recalls.closes_a_circle(C, A));
        assert!(!recalls.closes_a_circle(A, C));
        recalls.cancel(second);
        assert!(!recalls.closes_a_circle(C, A));
    }
}
