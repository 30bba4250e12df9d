//! What must hold: after each start of a daemon, whenever a mount is told something, and at the end.
//!
//! - Exactly once, in order: the directory of a session is what its first so many operations make, one by one.
//! - Durable means durable: no fewer than the mount was told are on stable storage.
//! - One lock holder.
//! - No block without its cookie: each extent's block is one that its mount or the cleaner was told is stored, with its bytes,
//!   and was never given to be deleted.
//! - Cleaning changes no file, and leaves nothing that it could move.
//! - Counts equal a recount (`namespace::check`).
//! - Nobody waits for ever, and in the end nothing is left over.

use crate::content::{Blocks, tree};
use crate::data::Data;
use crate::mount::{Lock, Mount};
use crate::record::{SessionRecord, Stored, new_twin};
use crate::say;
use crate::work::names;
use crate::world::{SECOND, World};
use bytes::Bytes;
use cairn_common::attr::FileKind;
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, Ino, Seq, SessionId};
use cairn_common::namespace;
use cairn_common::namespace::op::{Extent, ExtentData, OpBody};
use cairn_common::namespace::tables::{BlockUse, Read};
use cairn_common::namespace::twin::Twin;
use cairn_common::proto::data::GetRequest;
use cairn_fsd::meta::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a record in the journal: session and operation.
pub const TAG: usize = 16;

/// What the first `count` operations of a session make of its directory.
fn after(session: SessionId, record: &SessionRecord, count: usize) -> Twin {
    let mut twin = new_twin();
    for (seq, op) in (1..).zip(&record.ops[..count]) {
        if record.is_void(seq) {
            continue;
        }
        // Some are refused, as they were to the mount.
        let _result = namespace::apply(&mut twin, session, op);
    }
    twin
}

fn read<T>(
    machine: &Machine,
    f: impl FnOnce(&cairn_fsd::meta::tables::Snapshot) -> cairn_common::error::FsResult<T>,
) -> T {
    machine.read(f).expect("readable tables")
}

impl World {
    /// A metadata daemon has recovered, and nobody has spoken to it yet.
    pub fn check_after_restart(&mut self) {
        self.record.restarts += 1;
        let machine = self.meta.machine().expect("it was just started").clone();
        assert!(machine.epoch().0 > self.record.epoch, "epoch {} again", machine.epoch());
        self.record.epoch = machine.epoch().0;
        self.check_tables(&machine);
        // What it has lost with the power comes back when mounts tell it again.
        let journal = self.meta.shared.journal;
        let size = read(&machine, |snapshot| snapshot.inode(journal)).map_or(0, |inode| inode.attr.size);
        self.record.journal_told = self.record.journal_told.min(size);
        for mount in &mut self.mounts {
            doubt_lock(mount, &machine);
        }
    }

    fn check_tables(&mut self, machine: &Machine) {
        assert_eq!(machine.check().expect("readable tables"), Vec::<String>::new(), "the tree is damaged");
        self.note_results_kept(machine);
        self.check_failed(machine);
        for (session, record) in &self.record.sessions {
            match machine.session(*session) {
                Some(info) => {
                    let (applied, durable) = (info.applied, record.durable);
                    assert!(
                        applied >= durable,
                        "session {session}: {durable} was durable, {applied} is there"
                    );
                    assert!(applied <= record.sent, "session {session}: {applied} was never sent");
                    check_dir(machine, *session, record, applied, &self.record.blocks);
                }
                None => {
                    let asked = self.record.ending.contains(session);
                    assert!(asked, "session {session} is gone, and nobody ended it");
                }
            }
        }
        for session in self.record.sessions.keys().filter(|session| self.record.has_ended(**session)) {
            assert!(machine.session(*session).is_none(), "session {session} had ended and is back");
        }
        self.check_root(machine);
        self.check_journal(machine);
        self.check_blocks_used(machine);
    }

    /// What a mount was told has failed, is not done later.
    fn check_failed(&self, machine: &Machine) {
        for (session, record) in &self.record.sessions {
            for seq in &record.failed {
                let OpBody::Create(create) = &record.ops[*seq as usize - 1].body else { continue };
                let found = read(machine, |snapshot| snapshot.inode(create.ino));
                // The own directory is made again under the same number.
                let again = Some(create.ino) == record.dir;
                assert!(found.is_none() || again, "session {session}: {seq} had failed, and is done");
            }
        }
    }

    /// Nobody made anything in the root but what all share and a directory for each session.
    fn check_root(&self, machine: &Machine) {
        let mut known = vec![self.meta.shared.journal, self.meta.shared.lock, self.meta.shared.dir];
        known.extend(self.record.sessions.values().filter_map(|record| record.dir));
        let found = read(machine, |snapshot| Ok(names(snapshot, Ino::ROOT)));
        let foreign = found.iter().find(|named| named.parent == Ino::ROOT && !known.contains(&named.ino));
        assert!(foreign.is_none(), "{:?} is in the root", foreign.map(|named| named.name.clone()));
    }

    /// Each record of the journal is there once, in its session's order, and none is missing.
    fn check_journal(&self, machine: &Machine) {
        let mut found: BTreeMap<SessionId, Vec<u64>> = BTreeMap::new();
        let bytes = read(machine, |snapshot| Ok(inline_bytes(snapshot, self.meta.shared.journal)));
        for tag in bytes.chunks(TAG) {
            let number = |at: usize| u64::from_be_bytes(tag[at..at + 8].try_into().expect("eight bytes"));
            found.entry(SessionId(number(0))).or_default().push(number(8));
        }
        for (session, record) in &self.record.sessions {
            let seqs = found.remove(session).unwrap_or_default();
            assert!(seqs.is_sorted_by(|one, two| one < two), "session {session}: journal has {seqs:?}");
            let last = match machine.session(*session) {
                Some(info) => info.applied.0,
                None => seqs.last().copied().unwrap_or(0).max(record.durable.0),
            };
            let expected = record.appends.range(..=last).copied();
            let expected: Vec<u64> = expected.filter(|seq| !record.is_void(*seq)).collect();
            assert_eq!(seqs, expected, "session {session}: journal up to {last}");
        }
        assert!(found.is_empty(), "the journal has records of {:?}", found.keys());
    }

    fn check_blocks_used(&self, machine: &Machine) {
        for (block, _) in used_blocks(machine) {
            let Some(stored) = self.record.blocks.get(&block) else {
                panic!("block {block} is used, but nobody was told that it is stored");
            };
            assert!(!stored.deleted, "block {block} is used, but was given to be deleted");
        }
    }

    /// What is given to be deleted is of no use to anyone any more.
    pub fn check_dead(&self, blocks: &[BlockRef]) {
        let Some(machine) = self.meta.machine() else { return };
        for block in blocks {
            let usage = read(machine, |snapshot| snapshot.block(*block));
            assert_eq!(usage, None, "block {block} is given to be deleted, and used");
        }
    }

    /// A data daemon has recovered.
    pub fn check_blocks_kept(&self, at: usize) {
        let here = |(block, _): &(&BlockRef, &Stored)| self.record.volumes[&block.volume] == at;
        for (block, stored) in self.record.blocks.iter().filter(here) {
            if !stored.deleted {
                self.check_block(*block, &stored.bytes);
            } else if stored.gone {
                let answer = self.datas[at].look(GetRequest { block: *block, offset: 0, length: 1 });
                let gone = matches!(answer, Some(Err(FsError::NotFound)));
                assert!(gone, "block {block} was deleted and is back");
            }
        }
        for (stat, blocks) in self.datas[at].contents() {
            let bytes = blocks.iter().map(|block| u64::from(block.length)).sum();
            assert_eq!((stat.blocks, stat.live_bytes), (blocks.len() as u64, bytes), "{}", stat.volume);
        }
    }

    fn check_block(&self, block: BlockRef, bytes: &Bytes) {
        let (data, length) = (&self.datas[self.record.volumes[&block.volume]], bytes.len() as u32);
        let answer = data.look(GetRequest { block, offset: 0, length }).expect("the data daemon is up");
        assert_eq!(answer.map(|(first, bytes)| (first, bytes.len())), Ok((0, bytes.len())), "block {block}");
        let answer = data.look(GetRequest { block, offset: 0, length });
        assert!(matches!(answer, Some(Ok((_, found))) if found == bytes), "block {block} has other bytes");
        let strange = BlockRef { cookie: block.cookie ^ 1, ..block };
        let answer = data.look(GetRequest { block: strange, offset: 0, length });
        assert!(matches!(answer, Some(Err(_))), "block {block} is given to who does not know its cookie");
    }

    /// Mount `index` was told that it has the lock.
    pub fn check_one_holder(&self, index: usize) {
        let holds = |mount: &Mount| {
            let lock = mount.process.as_ref().map(|process| process.lock);
            let ending = mount.session().is_none_or(|session| self.record.ending.contains(&session));
            matches!(lock, Some(Lock::Held { certain: true, .. })) && !ending
        };
        if !holds(&self.mounts[index]) {
            return;
        }
        let others = (0..self.mounts.len()).filter(|other| *other != index && holds(&self.mounts[*other]));
        let others: Vec<usize> = others.collect();
        assert!(others.is_empty(), "mount {index} is told that it has the lock, but so were {others:?}");
    }

    /// The data daemon has deleted all blocks that no file uses any more. False while nobody can tell.
    pub fn are_dead_blocks_gone(&self) -> bool {
        let queue = |machine| read(machine, |snapshot| snapshot.delete_queue_len());
        self.meta.machine().is_some_and(|machine| queue(machine) == 0)
    }

    /// Everybody has what they wanted, and nothing is left to be cleaned up.
    pub fn is_tidy(&self) -> bool {
        let Some(machine) = self.meta.machine() else { return false };
        let alive: BTreeSet<SessionId> = self.mounts.iter().filter_map(Mount::session).collect();
        self.datas.iter().all(Data::is_up)
            && self.mounts.iter().all(Mount::is_done)
            && machine.sessions().iter().all(|info| alive.contains(&info.session))
            && read(
                machine,
                |snapshot| Ok(snapshot.orphan_count()? == 0 && snapshot.delete_queue_len()? == 0),
            )
            && self.is_clean()
    }

    /// Bytes of a block that files use. `None` while nobody can tell.
    pub fn bytes_used(&self, block: BlockRef) -> Option<u64> {
        let usage = read(self.meta.machine()?, |snapshot| snapshot.block(block));
        Some(usage.map_or(0, |usage| usage.live))
    }

    /// There is no block whose live bytes could be moved elsewhere. False while nobody can tell.
    pub fn is_clean(&self) -> bool {
        let Some(machine) = self.meta.machine() else { return false };
        let uses = read(machine, |snapshot| snapshot.blocks_after(BlockRef::default(), usize::MAX));
        self.datas.iter().all(|data| data.is_clean(&uses))
    }

    pub fn who_waits(&self) -> String {
        let mut lines: Vec<String> = self.mounts.iter().map(Mount::waits_for).collect();
        if let Some(machine) = self.meta.machine() {
            let sessions: Vec<SessionId> = machine.sessions().iter().map(|info| info.session).collect();
            let left = read(machine, |snapshot| Ok((snapshot.orphan_count()?, snapshot.delete_queue_len()?)));
            lines.push(format!("sessions {sessions:?}, {} orphans, {} dead blocks", left.0, left.1));
        }
        lines.join("\n")
    }

    /// All is done. Whatever was synced survives one more loss of power everywhere.
    pub fn check_at_the_end(&mut self) {
        let machine = self.meta.machine().expect("all is up").clone();
        self.check_tables(&machine);
        self.check_ended(&machine);
        for (session, record) in self.record.sessions.iter().filter(|(_, record)| record.alive) {
            assert_eq!(record.durable.0, record.ops.len() as u64, "session {session} is not all durable");
        }
        let locks = read(&machine, |snapshot| snapshot.locks(self.meta.shared.lock));
        assert_eq!(locks, [], "a lock is held that no mount knows of");
        let used = used_blocks(&machine);
        drop(machine);
        self.datas.iter_mut().for_each(|data| data.rests = true);
        say!(self, "the end: {} blocks in use", used.len());
        let disk = self.powerless_disk();
        self.meta_dies(disk);
        (0..self.datas.len()).for_each(|at| self.data_loses_power(at));
        self.run_until(self.now + 5 * SECOND);
        for (block, _) in used {
            self.check_block(block, &self.record.blocks[&block].bytes);
        }
    }

    /// What is left of a session that has ended is what some of its first operations make, and all that were durable.
    fn check_ended(&self, machine: &Machine) {
        for (session, record) in self.record.sessions.iter() {
            let Some(dir) = record.dir.filter(|_| machine.session(*session).is_none()) else { continue };
            let blocks = &self.record.blocks;
            let found = read(machine, |snapshot| Ok(tree(snapshot, dir, blocks)));
            let mut count = record.durable.0 as usize;
            let mut twin = after(*session, record, count);
            while tree(&twin, dir, blocks) != found {
                assert!(
                    count < record.sent.0 as usize,
                    "session {session}: no prefix of it leaves {found:#?}"
                );
                count += 1;
                if !record.is_void(count as u64) {
                    let _result = namespace::apply(&mut twin, *session, &record.ops[count - 1]);
                }
            }
        }
    }
}

fn check_dir(machine: &Machine, session: SessionId, record: &SessionRecord, applied: Seq, blocks: &Blocks) {
    let Some(dir) = record.dir else { return };
    let twin = after(session, record, applied.0 as usize);
    let found = read(machine, |snapshot| Ok(tree(snapshot, dir, blocks)));
    let expected = tree(&twin, dir, blocks);
    assert!(
        found == expected,
        "session {session}, applied {applied}: there is\n{found:#?}\nthere should be\n{expected:#?}"
    );
}

pub fn used_blocks(machine: &Machine) -> Vec<(BlockRef, BlockUse)> {
    read(machine, |snapshot| snapshot.blocks_after(BlockRef::default(), usize::MAX))
}

/// The content of a file that is all inside the metadata.
fn inline_bytes<T: Read + ?Sized>(tables: &T, ino: Ino) -> Vec<u8> {
    let mut bytes = Vec::new();
    let visit = &mut |extent: Extent| {
        let ExtentData::Inline(data) = extent.data else { panic!("not inline: {extent:?}") };
        assert_eq!(extent.offset, bytes.len() as u64, "a hole in the journal");
        bytes.extend_from_slice(&data);
        true
    };
    tables.scan_extents(ino, 0, u64::MAX, visit).expect("readable tables");
    let inode = tables.inode(ino).expect("readable tables").expect("it is never removed");
    assert_eq!((inode.attr.kind, inode.attr.size), (FileKind::File, bytes.len() as u64));
    bytes
}

/// A lock that the server lost with its power is not one until the mount has told it again.
fn doubt_lock(mount: &mut Mount, machine: &Machine) {
    let Some(process) = mount.process.as_mut() else { return };
    let applied = process.session.and_then(|session| machine.session(session)).map(|info| info.applied);
    if let (Lock::Held { seq, .. }, Some(applied)) = (process.lock, applied)
        && seq > applied
    {
        process.lock = Lock::Held { seq, certain: false };
    }
}
