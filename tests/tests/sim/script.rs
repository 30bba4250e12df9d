//! A mount that does a little of everything in a fixed order, each thing when the one before is done: so that the power can go
//! at each single moment of it (`power.rs`).

use crate::mount::{MountTimer, Process, Purpose};
use crate::work::{self, Named};
use crate::world::{MILLI, World};
use bytes::Bytes;
use cairn_common::attr::{FileKind, SetAttr};
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{FallocateMode, OpBody, Rename, XattrMode};
use rand::Rng;

/// Longest time between two actions.
const PAUSE_MAX: u64 = 10 * MILLI;

/// What the mount does; names are unique in its directory and all below.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    File(&'static str),
    /// A directory in the mount's own, or in another.
    Dir(&'static str),
    FileIn(&'static str, &'static str),
    Link(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Remove(&'static str),
    Truncate(&'static str, u64),
    Punch(&'static str, u64, u64),
    Label(&'static str),
    /// A small write, within the operation.
    Append(&'static str, usize),
    /// One block with stretches of some files: stored first, committed then.
    Write(&'static [(&'static str, u64, u32)]),
    /// A file that is open and has no name.
    Unnamed,
    /// All that was done before is on stable storage.
    Sync,
    Checkpoint,
    /// Blocks that no file uses any more are deleted.
    Deleted,
    /// What is live of others was moved, where that gives back space.
    Cleaned,
}

/// More than four volumes of data, and some segments of the log.
pub const SCRIPT: &[Action] = &[
    // Names only.
    Action::File("one"),
    Action::Dir("dir"),
    Action::FileIn("dir", "two"),
    Action::Sync,
    Action::Rename("one", "uno"),
    Action::Link("two", "second name"),
    // Block, commit, sync.
    Action::Write(&[("uno", 0, 30_000)]),
    Action::Sync,
    Action::Write(&[("uno", 30_000, 5_000), ("two", 0, 9_000)]),
    // A database's journal: each write on stable storage before the next.
    Action::File("journal"),
    Action::Append("journal", 300),
    Action::Sync,
    Action::Append("journal", 4000),
    Action::Sync,
    Action::Append("journal", 40),
    Action::Sync,
    Action::Checkpoint,
    // Over what is there, and beyond the volume.
    Action::Write(&[("uno", 10_000, 4_096), ("two", 2_000, 100), ("journal", 0, 512)]),
    Action::Write(&[("two", 9_000, 60_000)]),
    Action::Sync,
    Action::Write(&[("uno", 0, 35_000)]),
    Action::Truncate("two", 20_000),
    Action::Label("uno"),
    Action::Sync,
    Action::Cleaned,
    // Replaced by a rename, as an editor saves.
    Action::File("new"),
    Action::Write(&[("new", 0, 50_000)]),
    Action::Sync,
    Action::Rename("new", "uno"),
    Action::Sync,
    Action::Deleted,
    // Into what may have holes now.
    Action::Write(&[("two", 100_000, 20_000), ("uno", 50_000, 20_000)]),
    Action::Punch("uno", 8_192, 16_384),
    Action::Exchange("uno", "two"),
    Action::Unnamed,
    Action::Checkpoint,
    Action::Remove("second name"),
    Action::Sync,
    Action::Truncate("journal", 0),
    Action::Append("journal", 800),
    Action::Remove("uno"),
    Action::Remove("two"),
    Action::Sync,
    Action::Deleted,
    Action::Checkpoint,
    Action::File("last"),
    Action::Write(&[("last", 0, 10_000)]),
    Action::Append("last", 100),
    Action::Sync,
    Action::Remove("dir"),
];

impl World {
    /// The next action, once the one before is done.
    pub fn scripted_step(&mut self, index: usize) {
        let after = self.rng.random_range(MILLI..PAUSE_MAX);
        self.mount_timer(index, after, MountTimer::Step);
        let ready = |process: &Process| process.own.is_some() && process.writes.is_empty();
        if !self.mounts[index].process.as_ref().is_some_and(ready) {
            return;
        }
        let at = SCRIPT.len() - self.mounts[index].steps_left as usize;
        if self.act(index, SCRIPT[at]) {
            self.mounts[index].steps_left -= 1;
            if self.mounts[index].steps_left == 0 {
                self.close_all(index);
            }
            self.mount_ready(index);
        }
    }

    /// False if it is not done yet.
    fn act(&mut self, index: usize, action: Action) -> bool {
        match action {
            Action::Write(stretches) => self.scripted_write(index, stretches),
            Action::Unnamed => self.make_unnamed(index),
            Action::Sync => return self.is_synced(index),
            Action::Checkpoint => return self.checkpoint_now(),
            Action::Deleted => return self.are_dead_blocks_gone(),
            Action::Cleaned => return self.clean_now(),
            _ => {
                let body = self.operation(index, action);
                self.submit(index, body, Purpose::Own);
            }
        }
        true
    }

    fn is_synced(&mut self, index: usize) -> bool {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let last = process.log.last();
        let synced = process.log.is_durable(last);
        if !synced {
            process.sync_wanted = Some(last);
            self.mount_ready(index);
        }
        synced
    }

    fn operation(&mut self, index: usize, action: Action) -> OpBody {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let fresh = process.fresh();
        let own = process.own.as_ref().expect("its session has a directory");
        let (dir, names) = (own.dir, own.names());
        let ino = |name| found(&names, name).ino;
        match action {
            Action::File(name) => work::create(dir, name.into(), fresh, FileKind::File),
            Action::Dir(name) => work::create(dir, name.into(), fresh, FileKind::Dir),
            Action::FileIn(parent, name) => work::create(ino(parent), name.into(), fresh, FileKind::File),
            Action::Link(name, new) => OpBody::Link { ino: ino(name), parent: dir, name: new.into() },
            Action::Rename(name, new) => rename(found(&names, name), dir, new, 0),
            Action::Exchange(one, two) => {
                let other = found(&names, two);
                rename(found(&names, one), other.parent, two, libc::RENAME_EXCHANGE)
            }
            Action::Remove(name) => work::remove(found(&names, name)),
            Action::Truncate(name, size) => {
                OpBody::SetAttr { ino: ino(name), set: SetAttr { size: Some(size), ..SetAttr::default() } }
            }
            Action::Punch(name, offset, length) => {
                OpBody::Fallocate { ino: ino(name), mode: FallocateMode::PunchHole, offset, length }
            }
            Action::Label(name) => OpBody::SetXattr {
                ino: ino(name),
                name: "user.label".into(),
                value: "of the script".into(),
                mode: XattrMode::Set,
            },
            Action::Append(name, length) => work::append(ino(name), Bytes::from(vec![length as u8; length])),
            other => unreachable!("{other:?} is no operation"),
        }
    }

    fn scripted_write(&mut self, index: usize, stretches: &[(&str, u64, u32)]) {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let names = process.own.as_ref().expect("its session has a directory").names();
        let stretches =
            stretches.iter().map(|(name, offset, length)| (found(&names, name).ino, *offset, *length));
        let stretches: work::Stretches = stretches.collect();
        self.write_stretches(index, stretches);
    }
}

fn found<'a>(names: &'a [Named], name: &str) -> &'a Named {
    names.iter().find(|named| named.name == name).expect("the script knows what is there")
}

fn rename(entry: &Named, new_parent: Ino, new_name: &'static str, flags: u32) -> OpBody {
    let (parent, name) = (entry.parent, entry.name.clone());
    OpBody::Rename(Rename { parent, name, new_parent, new_name: new_name.into(), flags, whiteout: Ino(0) })
}
