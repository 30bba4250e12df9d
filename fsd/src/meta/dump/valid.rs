//! What state and rows must be for the daemon to work with them, asked by who writes a dump and by who loads it: what is
//! written can be loaded. That rows fit together is for `cairn fsck` to say.

use super::rows::{Data, InodeLine, LockLine, Row};
use crate::meta::tables::State;
use cairn_common::attr::FileKind;
use cairn_common::ids::{Ino, NodeId, VolumeId};
use cairn_common::limits::{FILE_SIZE_MAX, NAME_MAX, SYMLINK_MAX, XATTR_NAME_MAX, XATTR_SIZE_MAX};
use cairn_common::namespace::COOKIES;

type Checked = Result<(), &'static str>;

/// The rules for the rows of one dump, which are shown to it in their order.
pub struct Rules {
    state: State,
    has_root: bool,
}

impl Rules {
    /// Says what is wrong with the state.
    pub fn new(state: State) -> Result<Rules, &'static str> {
        check_state(&state)?;
        Ok(Rules { state, has_root: false })
    }

    /// Says what is wrong with the next row. Numbers that the state would give again are refused.
    pub fn check(&mut self, row: &Row) -> Checked {
        check(row, &self.state)?;
        if !self.has_root {
            let is_root =
                matches!(row, Row::Inode(line) if line.ino == Ino::ROOT && line.kind == FileKind::Dir);
            expect(is_root, NO_ROOT)?;
            self.has_root = true;
        }
        Ok(())
    }

    /// There are no more rows.
    pub fn end(&self) -> Checked {
        expect(self.has_root, NO_ROOT)
    }
}

/// Inodes are the first table, so the root is the first row.
const NO_ROOT: &str = "the root, inode 1, is missing or no directory";

fn check(row: &Row, state: &State) -> Checked {
    match row {
        Row::Inode(line) => inode(line, state),
        Row::Dentry { parent, cookie, ino, kind: _, name } => {
            known(*parent, state)?;
            expect(COOKIES.contains(&cookie.0), "names have no such cookie")?;
            if *ino == Ino(0) { Ok(()) } else { known(*ino, state).and_then(|()| entry_name(&name.0)) }
        }
        Row::Extent { ino, offset, length, data } => {
            known(*ino, state)?;
            extent(*offset, *length, data)
        }
        Row::Xattr { ino, name, value } => {
            known(*ino, state)?;
            let named = (1..=XATTR_NAME_MAX).contains(&name.0.len()) && !name.0.contains(&0);
            expect(named, "this is no name of an extended attribute")?;
            expect(value.0.len() <= XATTR_SIZE_MAX, "the value is too long")
        }
        Row::Lock { ino, locks } => {
            known(*ino, state)?;
            expect(!locks.is_empty(), "there is no lock in it")?;
            let ranges = |lock: &LockLine| lock.start <= lock.end && state.was_given(lock.session);
            expect(locks.iter().all(ranges), "a lock ends before it starts, or its session was never given")
        }
        Row::LockBySession { session, ino } => {
            known(*ino, state)?;
            expect(state.was_given(*session), "the session was never given")
        }
        // Mounts may have stored blocks in volumes that tables from an old copy do not know.
        Row::Block { .. } | Row::Delete { .. } => Ok(()),
        Row::Orphan { ino } => known(*ino, state),
        Row::Node { node, identity: _, address } => {
            expect((NodeId(1)..state.next_node).contains(node), "the node was never given")?;
            expect((1..=NAME_MAX).contains(&address.len()), "this is no address")
        }
        Row::Volume { volume, node } => {
            expect((VolumeId(1)..state.next_volume).contains(volume), "the volume was never given")?;
            expect((NodeId(1)..state.next_node).contains(node), "the node was never given")
        }
        Row::Session(line) => {
            expect(state.was_given(line.session), "the session was never given")?;
            expect(leaves_room(line.applied.0), TOO_LARGE)
        }
    }
}

/// The daemon counts on from the counters.
fn check_state(state: &State) -> Checked {
    let State { epoch, applied, next_ino, next_session, next_node, next_volume, totals, .. } = state;
    expect(*next_ino > Ino::ROOT, "the root has a number, too")?;
    let begun = next_session.0 > 0 && next_node.0 > 0 && next_volume.0 > 0;
    expect(begun, "sessions, nodes and volumes have numbers from 1 on")?;
    let counted =
        [applied.0, next_ino.0, next_session.0, totals.inodes, totals.allocated, totals.block_bytes];
    expect(epoch.0 < EPOCHS && counted.into_iter().all(leaves_room), TOO_LARGE)
}

/// Ids of events begin at the epoch times 2^40.
const EPOCHS: u64 = 1 << 23;
const TOO_LARGE: &str = "a number is too large";

fn leaves_room(number: u64) -> bool {
    number <= i64::MAX.unsigned_abs()
}

fn expect(holds: bool, problem: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(problem) }
}

/// Only numbers that were given.
fn known(ino: Ino, state: &State) -> Checked {
    expect(ino != Ino(0) && ino < state.next_ino, "the inode number was never given")
}

fn inode(line: &InodeLine, state: &State) -> Checked {
    known(line.ino, state)?;
    expect(line.perm.is_perm(), "permissions have 12 bits")?;
    expect(line.size <= FILE_SIZE_MAX, "the file is too long")?;
    expect([line.allocated, line.data_version, line.entries].into_iter().all(leaves_room), TOO_LARGE)?;
    let target = line.target.0.len();
    let fits = if line.kind == FileKind::Symlink { target <= SYMLINK_MAX } else { target == 0 };
    expect(fits, "only a symbolic link has a target, of at most 4095 bytes")
}

fn entry_name(name: &[u8]) -> Checked {
    let named = (1..=NAME_MAX).contains(&name.len()) && !name.iter().any(|byte| matches!(byte, b'/' | 0));
    expect(named && name != b"." && name != b"..", "this is no name of an entry")
}

fn extent(offset: u64, length: u64, data: &Data) -> Checked {
    let end = offset.checked_add(length).filter(|end| *end <= FILE_SIZE_MAX);
    expect(length > 0 && end.is_some(), "the extent is empty, or ends beyond what a file can hold")?;
    match data {
        Data::Inline(bytes) => {
            expect(bytes.0.len() as u64 == length, "the extent has another length than its data")
        }
        Data::Block { .. } | Data::Reserved => Ok(()),
    }
}
