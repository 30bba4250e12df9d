//! Tests of the rules over the twin: each operation is followed by a check of all invariants, and an
//! operation that fails must leave the twin as it was.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
#![allow(clippy::cast_possible_truncation, reason = "tests use small numbers")]

mod acls;
mod attrs;
mod check_rules;
mod content;
mod content_model;
mod directories;
mod locks;
mod names;
mod rename_all;
mod tree_model;
mod users;

use super::check::check;
use super::op::{Create, Name, Op, OpBody, OpReply, OpResult, Rename};
use super::twin::Twin;
use super::{apply, getattr, init_root};
use crate::attr::{Attr, Caller, FileKind, SetAttr, Timestamp};
use crate::error::FsError;
use crate::ids::{Ino, SessionId};
use bytes::Bytes;

pub(super) const ROOT: Ino = Ino::ROOT;

/// A twin with a clock, and inode numbers to give.
pub(super) struct World {
    pub twin: Twin,
    pub caller: Caller,
    pub session: SessionId,
    pub now: Timestamp,
    last_ino: u64,
}

pub(super) fn name(text: &str) -> Name {
    Bytes::copy_from_slice(text.as_bytes())
}

impl World {
    pub fn new() -> World {
        World::over(Twin::new())
    }

    pub fn over(mut twin: Twin) -> World {
        let now = Timestamp { secs: 1_000_000, nanos: 0 };
        let caller = Caller { uid: 1000, gid: 1000, pid: 1 };
        init_root(&mut twin, now, &Caller::default(), 0o755).unwrap();
        World { twin, caller, session: SessionId(1), now, last_ino: 1 }
    }

    pub fn next_ino(&mut self) -> Ino {
        self.last_ino += 1;
        Ino(self.last_ino)
    }

    /// Applies, one second later than what came before, and checks what must always hold.
    pub fn apply(&mut self, body: OpBody) -> OpResult {
        self.now.secs += 1;
        let before = self.twin.clone();
        let op = Op { time: self.now, caller: self.caller.clone(), body };
        let result = apply(&mut self.twin, self.session, &op);
        if result.is_err() {
            assert!(self.twin == before, "{op:?} failed with {result:?}, but changed something");
        }
        self.check();
        result
    }

    pub fn check(&self) {
        let problems = check(&self.twin).unwrap();
        assert!(problems.is_empty(), "{problems:#?}");
    }

    pub fn make(&mut self, parent: Ino, text: &str, kind: FileKind) -> Result<Ino, FsError> {
        let ino = self.next_ino();
        let body = Create {
            parent,
            name: name(text),
            ino,
            kind,
            perm: 0o755,
            umask: 0,
            rdev: 0,
            exclusive: true,
            open: false,
        };
        self.apply(OpBody::Create(body)).map(|_| ino)
    }

    pub fn file(&mut self, parent: Ino, text: &str) -> Ino {
        self.make(parent, text, FileKind::File).unwrap()
    }

    pub fn dir(&mut self, parent: Ino, text: &str) -> Ino {
        self.make(parent, text, FileKind::Dir).unwrap()
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        getattr(&self.twin, ino).unwrap()
    }

    pub fn set(&mut self, ino: Ino, set: SetAttr) -> Result<Attr, FsError> {
        self.apply(OpBody::SetAttr { ino, set }).map(|reply| match reply {
            OpReply::Attr(attr) => attr,
            other => panic!("{other:?}"),
        })
    }

    pub fn unlink(&mut self, parent: Ino, text: &str) -> OpResult {
        self.apply(OpBody::Unlink { parent, name: name(text) })
    }

    pub fn rmdir(&mut self, parent: Ino, text: &str) -> OpResult {
        self.apply(OpBody::Rmdir { parent, name: name(text) })
    }

    pub fn link(&mut self, ino: Ino, parent: Ino, text: &str) -> OpResult {
        self.apply(OpBody::Link { ino, parent, name: name(text) })
    }

    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), flags: u32) -> OpResult {
        let whiteout = if flags & libc::RENAME_WHITEOUT == 0 { Ino(0) } else { self.next_ino() };
        self.apply(OpBody::Rename(Rename {
            parent: from.0,
            name: name(from.1),
            new_parent: to.0,
            new_name: name(to.1),
            flags,
            whiteout,
        }))
    }
}
