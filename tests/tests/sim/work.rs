//! What programs on a mount do: random operations in a directory of its own, whose every answer is known beforehand, and
//! some where all work together.

use crate::record::new_twin;
use bytes::Bytes;
use cairn_common::attr::{Caller, FileKind, SetAttr, SetTime, Timestamp};
use cairn_common::ids::{BlockRef, Ino, SessionId};
use cairn_common::namespace;
use cairn_common::namespace::op::{
    Commit, Create, Extent, ExtentData, FallocateMode, FileCommit, Op, OpBody, OpResult, Piece, Rename,
    XattrMode,
};
use cairn_common::namespace::tables::Read;
use cairn_common::namespace::twin::Twin;
use cairn_common::summary::SummaryEntry;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

/// Most names in the own directory: what is made beyond is removed first.
const NAMES_MAX: usize = 24;

/// An entry below the own directory.
#[derive(Clone)]
pub struct Named {
    pub parent: Ino,
    pub name: Bytes,
    pub ino: Ino,
    pub kind: FileKind,
}

/// The own directory as it is when all that was submitted is applied.
pub struct Own {
    pub dir: Ino,
    twin: Twin,
}

impl Own {
    pub fn new(dir: Ino) -> Own {
        Own { dir, twin: new_twin() }
    }

    /// The answer that the operation must have.
    pub fn apply(&mut self, session: SessionId, op: &Op) -> OpResult {
        namespace::apply(&mut self.twin, session, op)
    }

    pub fn names(&self) -> Vec<Named> {
        names(&self.twin, self.dir)
    }

    pub fn files(&self) -> Vec<Ino> {
        let mut files: Vec<Ino> =
            self.names().iter().filter(|named| named.kind == FileKind::File).map(|named| named.ino).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// True if an operation concerns an inode that has no name.
    pub fn has_nameless(&self, body: &OpBody) -> bool {
        let inos = match body {
            OpBody::SetAttr { ino, .. }
            | OpBody::SetXattr { ino, .. }
            | OpBody::RemoveXattr { ino, .. }
            | OpBody::Append { ino, .. }
            | OpBody::Fallocate { ino, .. }
            | OpBody::Link { ino, .. } => vec![*ino],
            OpBody::CloneRange { from, to, .. } => vec![*from, *to],
            OpBody::Commit(commit) => commit.files.iter().map(|file| file.ino).collect(),
            _ => Vec::new(),
        };
        let named: BTreeSet<Ino> = self.names().iter().map(|named| named.ino).collect();
        inos.iter().any(|ino| !named.contains(ino))
    }

    pub fn uses(&self, block: BlockRef) -> bool {
        self.extents().iter().any(|(used, ..)| *used == block)
    }

    /// Some extent that lies in a block.
    pub fn some_extent(&self, rng: &mut StdRng) -> Option<(BlockRef, u32, u32)> {
        let found = self.extents();
        (!found.is_empty()).then(|| found[rng.random_range(0..found.len())])
    }

    /// All extents that lie in blocks.
    fn extents(&self) -> Vec<(BlockRef, u32, u32)> {
        let mut found = Vec::new();
        for ino in self.files() {
            let visit = &mut |extent: Extent| {
                if let ExtentData::Block { block, offset } = extent.data {
                    found.push((block, offset, extent.length as u32));
                }
                true
            };
            self.twin.scan_extents(ino, 0, u64::MAX, visit).expect("maps do not fail");
        }
        found
    }

    /// Some operation on what is there. `fresh` gives inode numbers.
    pub fn random(&self, rng: &mut StdRng, fresh: &mut dyn FnMut() -> Ino) -> OpBody {
        let names = self.names();
        let mut dirs = vec![self.dir];
        dirs.extend(names.iter().filter(|named| named.kind == FileKind::Dir).map(|named| named.ino));
        let dir = dirs[rng.random_range(0..dirs.len())];
        let name = some_name(rng);
        let entry = (!names.is_empty()).then(|| names[rng.random_range(0..names.len())].clone());
        let Some(entry) = entry else { return create(dir, name, fresh(), FileKind::File) };
        if names.len() > NAMES_MAX {
            return remove(&entry);
        }
        match rng.random_range(0..20) {
            0..4 => create(dir, name, fresh(), FileKind::File),
            4 => create(dir, name, fresh(), FileKind::Dir),
            5 => OpBody::Symlink { parent: dir, name, ino: fresh(), target: "over/there".into() },
            6 => OpBody::Link { ino: entry.ino, parent: dir, name },
            7 | 8 => remove(&entry),
            9 | 10 => rename(&entry, dir, name, rng, fresh),
            11 => OpBody::SetAttr { ino: entry.ino, set: set_attr(entry.kind, rng) },
            12 => OpBody::SetXattr {
                ino: entry.ino,
                name: "user.x".into(),
                value: some_name(rng),
                mode: XattrMode::Set,
            },
            13 => OpBody::RemoveXattr { ino: entry.ino, name: "user.x".into() },
            14 => clone(&self.files(), entry.ino, rng),
            15 => fallocate(entry.ino, rng),
            _ => append(entry.ino, Bytes::from(vec![rng.random(); rng.random_range(1..600)])),
        }
    }
}

/// All entries below `dir`, in order.
pub fn names<T: Read + ?Sized>(tables: &T, dir: Ino) -> Vec<Named> {
    let (mut names, mut next) = (Vec::new(), vec![dir]);
    while let Some(parent) = next.pop() {
        let visit = &mut |dentry: cairn_common::namespace::tables::Dentry| {
            if dentry.ino != Ino(0) {
                names.push(Named { parent, name: dentry.name, ino: dentry.ino, kind: dentry.kind });
                if dentry.kind == FileKind::Dir {
                    next.push(dentry.ino);
                }
            }
            true
        };
        tables.scan_dentries(parent, 0, visit).expect("readable tables");
    }
    names
}

pub fn op(time: Timestamp, body: OpBody) -> Op {
    Op { time, caller: Caller { uid: 1000, gid: 1000, pid: 1 }, body }
}

pub fn some_name(rng: &mut StdRng) -> Bytes {
    Bytes::from(["a", "b", "c", "d", "e", "f"][rng.random_range(0..6)])
}

pub fn create(parent: Ino, name: Bytes, ino: Ino, kind: FileKind) -> OpBody {
    let (perm, umask) = (0o755, 0o22);
    OpBody::Create(Create { parent, name, ino, kind, perm, umask, rdev: 0, exclusive: true, open: false })
}

pub fn remove(entry: &Named) -> OpBody {
    let (parent, name) = (entry.parent, entry.name.clone());
    if entry.kind == FileKind::Dir { OpBody::Rmdir { parent, name } } else { OpBody::Unlink { parent, name } }
}

fn rename(entry: &Named, dir: Ino, to: Bytes, rng: &mut StdRng, fresh: &mut dyn FnMut() -> Ino) -> OpBody {
    let flags =
        [0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT][rng.random_range(0..5)];
    let whiteout = if flags == libc::RENAME_WHITEOUT { fresh() } else { Ino(0) };
    let (parent, name) = (entry.parent, entry.name.clone());
    OpBody::Rename(Rename { parent, name, new_parent: dir, new_name: to, flags, whiteout })
}

fn set_attr(kind: FileKind, rng: &mut StdRng) -> SetAttr {
    let size = (kind == FileKind::File && rng.random_bool(0.6)).then(|| rng.random_range(0..20_000));
    SetAttr { perm: Some(rng.random_range(0..0o1000)), size, mtime: Some(SetTime::Now), ..SetAttr::default() }
}

fn clone(files: &[Ino], to: Ino, rng: &mut StdRng) -> OpBody {
    let from = if files.is_empty() { to } else { files[rng.random_range(0..files.len())] };
    let (from_offset, to_offset) = (rng.random_range(0..4096), rng.random_range(0..4096));
    OpBody::CloneRange { from, from_offset, to, to_offset, length: rng.random_range(1..8192) }
}

fn fallocate(ino: Ino, rng: &mut StdRng) -> OpBody {
    let keep_size = rng.random_bool(0.5);
    let mode = match rng.random_range(0..3) {
        0 => FallocateMode::Allocate { keep_size },
        1 => FallocateMode::ZeroRange { keep_size },
        _ => FallocateMode::PunchHole,
    };
    OpBody::Fallocate { ino, mode, offset: rng.random_range(0..10_000), length: rng.random_range(1..8_000) }
}

pub fn append(ino: Ino, bytes: Bytes) -> OpBody {
    let length = bytes.len() as u64;
    OpBody::Append { ino, length, data: ExtentData::Inline(bytes), block_length: 0, kill_suidgid: false }
}

/// The stretches of a block: which file's, how long.
pub type Stretches = Vec<(Ino, u64, u32)>;

/// Writes of some files that go into one block.
pub fn stretches(files: &[Ino], rng: &mut StdRng) -> Stretches {
    let count = rng.random_range(1..4.min(files.len() + 1));
    let mut chosen = Stretches::new();
    for _ in 0..count {
        let ino = files[rng.random_range(0..files.len())];
        chosen.push((ino, rng.random_range(0..12_000), rng.random_range(1..6_000)));
    }
    chosen
}

/// What a block of these is written for, as its summary says.
pub fn entries(stretches: &Stretches) -> Vec<SummaryEntry> {
    let mut end = 0;
    let entry = |&(ino, offset, length): &(Ino, u64, u32)| {
        let at = end;
        end += length;
        SummaryEntry { ino, offset, at, length }
    };
    stretches.iter().map(entry).collect()
}

/// The commit that makes a block of so many bytes visible, of those files that still have a name.
pub fn commit(
    (block, length): (BlockRef, u32),
    stretches: &Stretches,
    files: &[Ino],
    time: Timestamp,
) -> Option<OpBody> {
    let (mut pieces, mut commits) = (Vec::new(), Vec::<FileCommit>::new());
    for SummaryEntry { ino, offset, at, length } in entries(stretches) {
        if files.binary_search(&ino).is_err() {
            continue;
        }
        let data = ExtentData::Block { block, offset: at };
        let extent = Extent { offset, length: u64::from(length), data };
        let end = extent.offset + extent.length;
        pieces.push(Piece { ino, extent });
        match commits.iter_mut().find(|commit| commit.ino == ino) {
            Some(commit) => commit.size_at_least = commit.size_at_least.max(end),
            None => {
                commits.push(FileCommit { ino, size_at_least: end, mtime: Some(time), kill_suidgid: false });
            }
        }
    }
    let body = Commit { blocks: vec![(block, length)], pieces, files: commits };
    (!body.pieces.is_empty()).then_some(OpBody::Commit(body))
}
