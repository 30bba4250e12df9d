//! The record kept outside: what mounts were told and what they did, against which everything is checked.

use bytes::Bytes;
use cairn_common::attr::{Caller, Timestamp};
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, Ino, Seq, SessionId, VolumeId};
use cairn_common::namespace::init_root;
use cairn_common::namespace::op::{Op, OpResult};
use cairn_common::namespace::twin::Twin;
use cairn_common::proto::meta::InoRange;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Default)]
pub struct Record {
    pub sessions: BTreeMap<SessionId, SessionRecord>,
    /// Sessions whose end somebody asked for, and those whose end was answered.
    pub ending: BTreeSet<SessionId>,
    ended: BTreeSet<SessionId>,
    pub epoch: u64,
    inos: Vec<InoRange>,
    /// Which data daemon has each.
    pub volumes: BTreeMap<VolumeId, usize>,
    /// What a mount or the cleaner was told is stored, and whether it may have been deleted since.
    pub blocks: BTreeMap<BlockRef, Stored>,
    /// Deleted before anyone was told that they are stored.
    unheard: BTreeSet<BlockRef>,
    // How much has happened: a run in which nothing does proves nothing.
    pub events: u64,
    pub faults: u64,
    pub repeats: u64,
    pub data_repeats: u64,
    pub restarts: u64,
    pub failures: u64,
    pub checkpoints: u64,
    pub evictions: u64,
    pub replays: u64,
    pub answers: u64,
    pub commits: u64,
    pub deletes: u64,
    pub reads: u64,
    pub grants: u64,
    pub lost_locks: u64,
    pub looks: u64,
    /// Puts that a full disk refused, blocks that were deleted then, and first puts that it took again.
    pub puts_without_room: u64,
    pub deletes_when_full: u64,
    pub puts_with_room_again: u64,
    /// Cleanings after which files use the new block, and those of them in which some of it was changed meanwhile; those that
    /// came too late for all of it, and those that were given up on the way. Blocks that were cleaned on a full disk.
    pub cleanings: u64,
    pub cleanings_in_part: u64,
    pub cleanings_in_vain: u64,
    pub cleanings_lost: u64,
    pub cleanings_when_full: u64,
    /// Operations that were refused for want of room.
    pub refusals: u64,
    /// Blocks that nobody would have committed, and those that were stored after a disk had refused them, on another.
    pub leaks: u64,
    pub elsewhere: u64,
    /// Data daemons that died during a sync.
    pub died_syncing: u64,
    /// How long the journal is at least, as mounts were told.
    pub journal_told: u64,
}

pub struct Stored {
    /// All of it, the summary at its end included.
    pub bytes: Bytes,
    /// Its delete was asked for.
    pub deleted: bool,
    /// The data daemon said that it is deleted.
    pub gone: bool,
}

/// One session of a mount.
pub struct SessionRecord {
    /// All operations, the first has number 1.
    pub ops: Vec<Op>,
    /// The last that was sent.
    pub sent: Seq,
    /// The last that the mount was told is on stable storage.
    pub durable: Seq,
    /// The last that was answered.
    pub answered: Seq,
    /// The first of the last batch that was sent.
    pub batch: Seq,
    /// For which there was no room when they were applied, or no file any more.
    refused: BTreeSet<u64>,
    /// Of which the mount was told that they failed: they happen neither then nor later.
    pub failed: BTreeSet<u64>,
    /// Some of them for want of room.
    pub has_refusals: bool,
    /// The mount's own directory.
    pub dir: Option<Ino>,
    /// Numbers of operations that append to the journal.
    pub appends: BTreeSet<u64>,
    /// The mount goes on with it.
    pub alive: bool,
}

impl SessionRecord {
    fn new() -> SessionRecord {
        SessionRecord {
            ops: Vec::new(),
            sent: Seq(0),
            durable: Seq(0),
            answered: Seq(0),
            batch: Seq(0),
            refused: BTreeSet::new(),
            failed: BTreeSet::new(),
            has_refusals: false,
            dir: None,
            appends: BTreeSet::new(),
            alive: true,
        }
    }

    /// The server applied operations from `first` on, or did so before.
    pub fn note_results(&mut self, first: Seq, results: &[OpResult]) {
        for (seq, result) in (first.0..).zip(results) {
            if matches!(result, Err(FsError::NoSpace | FsError::Stale)) {
                self.refused.insert(seq);
            } else {
                self.refused.remove(&seq);
            }
        }
    }

    /// This operation changes nothing.
    pub fn is_void(&self, seq: u64) -> bool {
        self.refused.contains(&seq) || self.failed.contains(&seq)
    }

    /// The mount was told that all up to `durable` is on stable storage.
    pub fn told_durable(&mut self, durable: Seq) {
        self.durable = self.durable.max(durable);
    }
}

impl Record {
    /// Someone was told that a block is on stable storage.
    pub fn stores(&mut self, block: BlockRef, bytes: Bytes) {
        let deleted = self.unheard.contains(&block);
        let before = self.blocks.insert(block, Stored { bytes, deleted, gone: false });
        assert!(before.is_none(), "block {block} is given twice");
    }

    /// A range of inode numbers was given: nobody may have had one of them before.
    pub fn gives_inos(&mut self, range: InoRange) {
        let end = |range: &InoRange| range.first.0 + range.count;
        let overlaps = self.inos.iter().any(|old| old.first.0 < end(&range) && range.first.0 < end(old));
        assert!(!overlaps, "inode numbers {range:?} are given twice");
        self.inos.push(range);
    }

    pub fn opens_session(&mut self, session: SessionId) {
        let before = self.sessions.insert(session, SessionRecord::new());
        assert!(before.is_none(), "session {session} is given twice");
    }

    pub fn ended(&mut self, session: SessionId) {
        self.ended.insert(session);
    }

    /// The end of the session was answered.
    pub fn has_ended(&self, session: SessionId) -> bool {
        self.ended.contains(&session)
    }

    /// The data daemon says that these are deleted for good.
    pub fn deletes_end(&mut self, blocks: &[BlockRef]) {
        for block in blocks {
            if let Some(stored) = self.blocks.get_mut(block) {
                stored.gone = true;
            }
        }
    }

    /// The data daemon is about to delete these.
    pub fn deletes_begin(&mut self, blocks: &[BlockRef]) {
        for block in blocks {
            match self.blocks.get_mut(block) {
                Some(stored) => self.deletes += u64::from(!std::mem::replace(&mut stored.deleted, true)),
                None => drop(self.unheard.insert(*block)),
            }
        }
    }
}

/// An empty tree.
pub fn new_twin() -> Twin {
    let mut twin = Twin::new();
    init_root(&mut twin, Timestamp::default(), &Caller::default(), 0o755).expect("maps do not fail");
    twin
}

/// What a mount waits for.
pub struct Expected {
    pub seq: Seq,
    /// `None`: it depends on what others do.
    pub result: Option<OpResult>,
}
