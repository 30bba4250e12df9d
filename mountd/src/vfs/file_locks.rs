//! Where the locks on one file are decided: here while no other mount can ask for them, at the server
//! otherwise. Pure: who asks the server is `locks.rs`.
//!
//! A sole mount keeps its locks to itself: setting one costs no round trip. When another mount comes, it
//! tells the server what is held before it lets that mount in. From then on the server decides about the
//! file, until nobody here holds a lock on it any more.

use cairn_common::error::FsResult;
use cairn_common::ids::SessionId;
use cairn_common::namespace::op::{LockOwner, LockRequest, LockType};
use cairn_common::namespace::tables::HeldLock;
use cairn_common::namespace::{lock_in_the_way, locks_after};
use std::collections::HashSet;

/// Locks taken through this mount on one file.
#[derive(Debug, Default)]
pub struct FileLocks {
    /// What follows is of this session: all locks end with it.
    session: SessionId,
    place: Place,
    /// Who may hold some, wherever.
    owners: HashSet<LockOwner>,
    /// What is held; empty if the server decides.
    held: Vec<HeldLock>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Here,
    /// The server is being told.
    Moving,
    Server,
}

/// Who answers a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<T> {
    /// It is answered.
    Here(T),
    /// The server has to be asked.
    Server,
    /// First the server has to be told of these locks, then [`FileLocks::moved`] and asked again.
    Move(Vec<LockRequest>),
    /// Somebody is telling the server: ask again when that is done.
    Wait,
}

/// What is left to do when an owner's locks were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The server may hold some of them, too.
    pub tell_server: bool,
    /// Who waits for a lock should try again.
    pub wake: bool,
}

impl FileLocks {
    /// Sets, changes or releases a lock. `sole`: no other mount is there.
    pub fn set(&mut self, session: SessionId, sole: bool, request: &LockRequest) -> Decision<FsResult<()>> {
        let decision = self.decide(session, sole);
        if request.kind != LockType::Unlock {
            self.owners.insert(request.owner);
        }
        match decision {
            Decision::Here(()) => {
                Decision::Here(locks_after(&self.held, session, request).map(|after| self.held = after))
            }
            Decision::Server => Decision::Server,
            Decision::Move(locks) => Decision::Move(locks),
            Decision::Wait => Decision::Wait,
        }
    }

    /// The lock that `request` would wait for.
    pub fn test(
        &mut self,
        session: SessionId,
        sole: bool,
        request: &LockRequest,
    ) -> Decision<FsResult<Option<HeldLock>>> {
        match self.decide(session, sole) {
            Decision::Here(()) => Decision::Here(lock_in_the_way(&self.held, session, request)),
            Decision::Server => Decision::Server,
            Decision::Move(locks) => Decision::Move(locks),
            Decision::Wait => Decision::Wait,
        }
    }

    /// Another mount is let in: what the server has to be told first, if anything.
    pub fn hand_over(&mut self, session: SessionId) -> Decision<()> {
        match self.decide(session, false) {
            Decision::Server => Decision::Here(()),
            other => other,
        }
    }

    /// The server has been told, for `session`, of what [`Decision::Move`] named.
    pub fn moved(&mut self, session: SessionId) {
        if self.session == session && self.place == Place::Moving {
            self.place = Place::Server;
            self.held.clear();
        }
    }

    /// What is still to be told while it moves: an owner may have gone meanwhile. Empty once it is over.
    #[must_use]
    pub fn to_move(&self, session: SessionId) -> Vec<LockRequest> {
        if self.session == session && self.place == Place::Moving { self.requests() } else { Vec::new() }
    }

    /// Whether the server is being told of what is held.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.place == Place::Moving
    }

    /// Whether `owner` has taken locks.
    #[must_use]
    pub fn knows(&self, owner: LockOwner) -> bool {
        self.owners.contains(&owner)
    }

    /// Whether an owner's locks can be dropped without a word to the server.
    #[must_use]
    pub fn are_here(&self) -> bool {
        self.place == Place::Here
    }

    /// Drops all locks of `owner`.
    pub fn release(&mut self, owner: LockOwner) -> Released {
        let known = self.owners.remove(&owner);
        let before = self.held.len();
        self.held.retain(|lock| lock.owner != owner);
        Released { tell_server: known && self.place != Place::Here, wake: self.held.len() < before }
    }

    fn decide(&mut self, session: SessionId, sole: bool) -> Decision<()> {
        if self.session != session {
            *self = FileLocks { session, ..FileLocks::default() };
        }
        match self.place {
            Place::Moving => Decision::Wait,
            Place::Here if sole => Decision::Here(()),
            Place::Here if self.held.is_empty() => {
                self.place = Place::Server;
                Decision::Server
            }
            Place::Here => {
                self.place = Place::Moving;
                Decision::Move(self.requests())
            }
            // The server holds none of ours, or will have dropped them before it reads what comes next.
            Place::Server if sole && self.owners.is_empty() => {
                self.place = Place::Here;
                Decision::Here(())
            }
            Place::Server => Decision::Server,
        }
    }

    fn requests(&self) -> Vec<LockRequest> {
        self.held.iter().map(request_for).collect()
    }
}

/// The request that sets `lock`.
fn request_for(lock: &HeldLock) -> LockRequest {
    LockRequest {
        owner: lock.owner,
        kind: if lock.write { LockType::Write } else { LockType::Read },
        start: lock.start,
        end: lock.end,
        pid: lock.pid,
    }
}

#[cfg(test)]
#[path = "file_locks_tests.rs"]
mod tests;
