//! Who owes an acknowledgement, and who waits for it.
//!
//! An event that a mount must act on (flush, uncache, invalidate, shared) is *owed* until the mount
//! acknowledges it, its session ends, or the mount refuses it: what it would have to give back cannot be stored now.
//! A request waits for a set of owed events at once until the last of them is settled, or the first is refused. Plain
//! bookkeeping: no I/O, no clock.

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

/// What a session has to do by an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Stop caching this file.
    Uncache(Ino),
    /// Store what it has of files.
    Flush,
    /// What needs no server, and so never fails.
    Forget,
}

#[derive(Debug)]
struct Owed {
    duty: Duty,
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

    /// A new event that `session` has to acknowledge.
    pub fn owe(&mut self, session: SessionId, duty: Duty) -> EventRef {
        let event = EventRef { session, id: self.next_event() };
        self.owed.insert(event, Owed { duty, waiting: Vec::new() });
        event
    }

    /// What `event` asks for, while it is owed.
    pub fn duty(&self, event: EventRef) -> Option<Duty> {
        self.owed.get(&event).map(|owed| owed.duty)
    }

    /// Waits for all of `on` that are still owed; `None` if none is. `batch`: the session whose batch
    /// waits (see [`Recalls::closes_a_circle`]).
    pub fn wait(&mut self, mut on: Vec<EventRef>, batch: Option<SessionId>) -> Option<WaitId> {
        on.retain(|event| self.owed.contains_key(event));
        // Files that were named twice, or one event for several.
        on.sort_unstable();
        on.dedup();
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

    /// `event` will not be done now. Answers who waited for it, and need not wait for anything else any more.
    pub fn refuse(&mut self, event: EventRef) -> Vec<WaitId> {
        let waiting = self.owed.remove(&event).map_or(Vec::new(), |owed| owed.waiting);
        for id in &waiting {
            self.cancel(*id);
        }
        waiting
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
        let (a, b) = (recalls.owe(A, Duty::Flush), recalls.owe(B, Duty::Uncache(Ino(7))));
        assert!(a.id > 10 && b.id > a.id);
        let wait = recalls.wait(vec![a, b], None).unwrap();
        let mut resumed = Vec::new();
        assert_eq!(recalls.duty(a), Some(Duty::Flush));
        assert_eq!(recalls.duty(b), Some(Duty::Uncache(Ino(7))));
        recalls.settle(a, &mut resumed);
        recalls.settle(a, &mut resumed);
        assert!(resumed.is_empty());
        recalls.settle_all(B, &mut resumed);
        assert_eq!(resumed, [wait]);
        assert!(recalls.is_empty());
        assert_eq!(recalls.wait(vec![a, b], None), None);
    }

    #[test]
    fn who_is_refused_waits_for_nothing_more() {
        let mut recalls = Recalls::new(0);
        let (b, c) = (recalls.owe(B, Duty::Flush), recalls.owe(C, Duty::Flush));
        let both = recalls.wait(vec![b, c], Some(A)).unwrap();
        let other = recalls.wait(vec![c], None).unwrap();
        assert_eq!(recalls.refuse(b), [both]);
        assert_eq!((recalls.refuse(b), recalls.duty(b)), (Vec::new(), None));
        assert!(!recalls.closes_a_circle(C, A));
        let mut resumed = Vec::new();
        recalls.settle(c, &mut resumed);
        assert_eq!(resumed, [other]);
        assert!(recalls.is_empty());
    }

    /// Found by random histories of leases (seed 36).
    #[test]
    fn who_waits_twice_for_an_event_is_refused_once() {
        let mut recalls = Recalls::new(0);
        let event = recalls.owe(B, Duty::Flush);
        let wait = recalls.wait(vec![event, event], None).unwrap();
        assert_eq!(recalls.refuse(event), [wait]);
    }

    #[test]
    fn batches_never_wait_in_a_circle() {
        let mut recalls = Recalls::new(0);
        let (b, c) = (recalls.owe(B, Duty::Flush), recalls.owe(C, Duty::Flush));
        recalls.wait(vec![b], Some(A)).unwrap();
        let second = recalls.wait(vec![c], Some(B)).unwrap();
        assert!(recalls.closes_a_circle(C, A));
        assert!(!recalls.closes_a_circle(A, C));
        recalls.cancel(second);
        assert!(!recalls.closes_a_circle(C, A));
    }
}
