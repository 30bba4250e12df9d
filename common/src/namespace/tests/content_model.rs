//! Content against a plain vector of bytes: commits, appends, truncation, all modes of `fallocate`,
//! clones, relocations and moves, on two files that share blocks.

use super::super::op::{
    Commit, Extent, ExtentData, FallocateMode, FileCommit, Move, OpBody, OpReply, OpResult, Piece, Relocation,
};
use super::super::{extents, live_pieces, reap, relocate};
use super::{ROOT, World};
use crate::attr::SetAttr;
use crate::error::FsError;
use crate::ids::{BlockRef, Ino, VolumeId};
use crate::proto::meta::{FileRange, LivePiece};
use crate::wire::checksum::crc64;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Space that a byte of a file has; holes have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Hole,
    Reserved,
    Data(u8),
}

/// A file as it should be: bytes that have space, also beyond the end.
#[derive(Clone, Debug, Default)]
struct Plain {
    size: usize,
    bytes: Vec<Byte>,
}

impl Plain {
    fn put(&mut self, at: usize, bytes: &[Byte]) {
        let end = at + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, Byte::Hole);
        }
        self.bytes[at..end].copy_from_slice(bytes);
    }

    fn write(&mut self, at: usize, bytes: &[Byte]) {
        self.put(at, bytes);
        self.size = self.size.max(at + bytes.len());
    }

    fn get(&self, at: usize) -> Byte {
        self.bytes.get(at).copied().unwrap_or(Byte::Hole)
    }

    fn fallocate(&mut self, mode: FallocateMode, at: usize, length: usize) -> Result<(), FsError> {
        let end = at + length;
        let aligned = at.is_multiple_of(4096) && length.is_multiple_of(4096);
        match mode {
            _ if length == 0 => return Err(FsError::Invalid),
            FallocateMode::Allocate { keep_size } => {
                for at in at..end {
                    if self.get(at) == Byte::Hole {
                        self.put(at, &[Byte::Reserved]);
                    }
                }
                self.size = if keep_size { self.size } else { self.size.max(end) };
            }
            FallocateMode::PunchHole => self.put(at, &vec![Byte::Hole; length]),
            FallocateMode::ZeroRange { keep_size } => {
                self.put(at, &vec![Byte::Reserved; length]);
                self.size = if keep_size { self.size } else { self.size.max(end) };
            }
            FallocateMode::CollapseRange => {
                if !aligned || end >= self.size {
                    return Err(FsError::Invalid);
                }
                self.bytes.resize(self.bytes.len().max(end), Byte::Hole);
                self.bytes.drain(at..end);
                self.size -= length;
            }
            FallocateMode::InsertRange => {
                if !aligned || at >= self.size {
                    return Err(FsError::Invalid);
                }
                self.bytes.resize(self.bytes.len().max(at), Byte::Hole);
                self.bytes.splice(at..at, vec![Byte::Hole; length]);
                self.size += length;
            }
        }
        Ok(())
    }

    fn truncate(&mut self, size: usize) {
        if size <= self.size {
            self.bytes.truncate(size);
        }
        self.size = size;
    }

    fn allocated(&self) -> u64 {
        self.bytes.iter().filter(|byte| **byte != Byte::Hole).count() as u64
    }
}

/// A world with two files, what they should be, and what is in the blocks.
struct Disk {
    world: World,
    files: [Ino; 2],
    plain: [Plain; 2],
    blocks: BTreeMap<BlockRef, Vec<u8>>,
    filler: u8,
}

impl Disk {
    fn new() -> Disk {
        let mut world = World::new();
        let files = [world.file(ROOT, "one"), world.file(ROOT, "two")];
        let plain = Default::default();
        Disk { world, files, plain, blocks: BTreeMap::new(), filler: 0 }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        self.filler = self.filler.wrapping_add(7) | 1;
        (0..length).map(|at| self.filler.wrapping_add((at % 251) as u8)).collect()
    }

    /// A new block, all of it new bytes.
    fn block(&mut self, length: usize) -> (BlockRef, Vec<u8>) {
        let sequence = u32::try_from(self.blocks.len()).unwrap() + 1;
        let block = BlockRef { volume: VolumeId(1), sequence, cookie: 9 };
        let bytes = self.bytes(length);
        self.blocks.insert(block, bytes.clone());
        (block, bytes)
    }

    /// Some data, in a block behind a few bytes of another use, or inline.
    fn data(&mut self, length: usize, inline: bool) -> (ExtentData, u32, Vec<u8>) {
        if inline {
            let bytes = self.bytes(length);
            return (ExtentData::Inline(Bytes::from(bytes.clone())), 0, bytes);
        }
        let (block, bytes) = self.block(length + 5);
        (ExtentData::Block { block, offset: 5 }, (length + 5) as u32, bytes[5..].to_vec())
    }

    fn read(&self, ino: Ino) -> (usize, Vec<Byte>) {
        let page = extents(&self.world.twin, ino, 0, u64::MAX).unwrap();
        let mut plain = Plain::default();
        for extent in page.extents {
            let (at, length) = (extent.offset as usize, extent.length as usize);
            let bytes: Vec<Byte> = match extent.data {
                ExtentData::Reserved => vec![Byte::Reserved; length],
                ExtentData::Inline(bytes) => bytes.iter().map(|byte| Byte::Data(*byte)).collect(),
                ExtentData::Block { block, offset } => {
                    let bytes = &self.blocks[&block][offset as usize..][..length];
                    bytes.iter().map(|byte| Byte::Data(*byte)).collect()
                }
            };
            plain.put(at, &bytes);
        }
        (page.size as usize, plain.bytes)
    }

    fn compare(&self) {
        for (ino, plain) in self.files.iter().zip(&self.plain) {
            let (size, bytes) = self.read(*ino);
            assert_eq!(size, plain.size, "size of {ino}");
            let longest = bytes.len().max(plain.bytes.len());
            let at = |bytes: &[Byte], at: usize| bytes.get(at).copied().unwrap_or(Byte::Hole);
            let differs = (0..longest).find(|&byte| at(&bytes, byte) != at(&plain.bytes, byte));
            assert_eq!(differs, None, "first byte of {ino} that differs");
            assert_eq!(self.world.attr(*ino).allocated, plain.allocated());
        }
        for block in self.world.twin.dead() {
            let used = |ino| extents(&self.world.twin, ino, 0, u64::MAX).unwrap().extents;
            let points =
                |extent: Extent| matches!(extent.data, ExtentData::Block { block: b, .. } if b == *block);
            assert!(!self.files.iter().any(|ino| used(*ino).into_iter().any(points)));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Pieces (file, offset, length) packed into one block.
    Commit(Vec<(usize, usize, usize)>),
    Inline(usize, usize, usize),
    Append(usize, usize, bool),
    Truncate(usize, usize),
    Fallocate(usize, FallocateMode, usize, usize),
    Clone(usize, usize, usize, usize, usize),
    Relocate(usize, usize, usize, bool),
    /// (file, offset, length), and whether the bytes are others.
    Move(usize, usize, usize, bool),
}

const LIMIT: usize = 6 * 4096;

fn modes() -> impl Strategy<Value = FallocateMode> {
    prop_oneof![
        any::<bool>().prop_map(|keep_size| FallocateMode::Allocate { keep_size }),
        Just(FallocateMode::PunchHole),
        any::<bool>().prop_map(|keep_size| FallocateMode::ZeroRange { keep_size }),
        Just(FallocateMode::CollapseRange),
        Just(FallocateMode::InsertRange),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Places on a coarse grid meet often, at their ends and across.
    let at = prop_oneof![
        4 => (0..LIMIT / 512).prop_map(|at| at * 512),
        2 => (0..LIMIT / 4096).prop_map(|at| at * 4096),
        1 => 0..LIMIT
    ]
    .boxed();
    let length = prop_oneof![
        4 => (1..12usize).prop_map(|length| length * 512),
        2 => (1..3usize).prop_map(|length| length * 4096),
        1 => 1..3000usize
    ]
    .boxed();
    let file = 0..2usize;
    let piece = (file.clone(), at.clone(), length.clone());
    let step = prop_oneof![
        6 => prop::collection::vec(piece, 1..5).prop_map(Step::Commit),
        1 => (file.clone(), at.clone(), length.clone()).prop_map(|(a, b, c)| Step::Inline(a, b, c)),
        1 => (file.clone(), length.clone(), any::<bool>()).prop_map(|(a, b, c)| Step::Append(a, b, c)),
        2 => (file.clone(), at.clone()).prop_map(|(a, b)| Step::Truncate(a, b)),
        6 => (file.clone(), modes(), at.clone(), length.clone())
            .prop_map(|(a, b, c, d)| Step::Fallocate(a, b, c, d)),
        3 => (file.clone(), at.clone(), file.clone(), at.clone(), length.clone())
            .prop_map(|(a, b, c, d, e)| Step::Clone(a, b, c, d, e)),
        1 => (file.clone(), at.clone(), length.clone(), any::<bool>())
            .prop_map(|(a, b, c, d)| Step::Relocate(a, b, c, d)),
        2 => (file, at, length, any::<bool>()).prop_map(|(a, b, c, d)| Step::Move(a, b, c, d)),
    ];
    prop::collection::vec(step, 1..25)
}

fn data_bytes(bytes: &[u8]) -> Vec<Byte> {
    bytes.iter().map(|byte| Byte::Data(*byte)).collect()
}

impl Disk {
    fn commit(&mut self, pieces: &[(usize, usize, usize)]) -> OpResult {
        let total = pieces.iter().map(|piece| piece.2).sum();
        let (block, bytes) = self.block(total);
        let mut body = Commit { blocks: vec![(block, total as u32)], pieces: vec![], files: vec![] };
        let mut offset = 0;
        for &(file, at, length) in pieces {
            let data = ExtentData::Block { block, offset: offset as u32 };
            let extent = Extent { offset: at as u64, length: length as u64, data };
            body.pieces.push(Piece { ino: self.files[file], extent });
            self.plain[file].write(at, &data_bytes(&bytes[offset..offset + length]));
            offset += length;
        }
        self.world.apply(OpBody::Commit(body))
    }

    fn inline(&mut self, file: usize, at: usize, length: usize) -> OpResult {
        let (data, _, bytes) = self.data(length, true);
        self.plain[file].write(at, &data_bytes(&bytes));
        let extent = Extent { offset: at as u64, length: length as u64, data };
        let ino = self.files[file];
        let size = FileCommit { ino, size_at_least: 700, mtime: None, kill_suidgid: false };
        self.plain[file].size = self.plain[file].size.max(700);
        let pieces = vec![Piece { ino, extent }];
        self.world.apply(OpBody::Commit(Commit { blocks: vec![], pieces, files: vec![size] }))
    }

    fn append(&mut self, file: usize, length: usize, inline: bool) -> OpResult {
        let (data, block_length, bytes) = self.data(length, inline);
        let end = self.plain[file].size;
        self.plain[file].write(end, &data_bytes(&bytes));
        let (ino, length) = (self.files[file], length as u64);
        self.world.apply(OpBody::Append { ino, length, data, block_length, kill_suidgid: false })
    }

    fn fallocate(&mut self, file: usize, mode: FallocateMode, at: usize, length: usize) -> OpResult {
        let expected = self.plain[file].fallocate(mode, at, length);
        let (offset, length) = (at as u64, length as u64);
        let body = OpBody::Fallocate { ino: self.files[file], mode, offset, length };
        let result = self.world.apply(body);
        assert_eq!(result.as_ref().map(drop), expected.as_ref().map(drop));
        result.or(Ok(OpReply::Done))
    }

    fn clone_range(&mut self, from: (usize, usize), to: (usize, usize), length: usize) -> OpResult {
        let source = &self.plain[from.0];
        let length_now = length.min(source.size.saturating_sub(from.1));
        let overlap = from.0 == to.0 && from.1 < to.1 + length_now && to.1 < from.1 + length_now;
        let read = |at| if source.get(at) == Byte::Reserved { Byte::Hole } else { source.get(at) };
        let bytes: Vec<Byte> = (from.1..from.1 + length_now).map(read).collect();
        let result = self.world.apply(OpBody::CloneRange {
            from: self.files[from.0],
            from_offset: from.1 as u64,
            to: self.files[to.0],
            to_offset: to.1 as u64,
            length: length as u64,
        });
        if overlap && length_now > 0 {
            assert_eq!(result, Err(FsError::Invalid));
            return Ok(OpReply::Done);
        }
        if length_now > 0 {
            self.plain[to.0].write(to.1, &bytes);
        }
        let Ok(OpReply::Copied { length, .. }) = result else { panic!("{result:?}") };
        assert_eq!(length, length_now as u64);
        result
    }

    /// Cleans the block of one extent in the range: what is live in both files moves, but for the first stretch if that is
    /// said to be elsewhere.
    fn relocate(&mut self, file: usize, at: usize, length: usize, wrong: bool) -> OpResult {
        let (start, end) = (at as u64, (at + length) as u64);
        let found = extents(&self.world.twin, self.files[file], start, end).unwrap().extents;
        let Some(from) = found.iter().find_map(|extent| match extent.data {
            ExtentData::Block { block, .. } => Some(block),
            _ => None,
        }) else {
            return Ok(OpReply::Done);
        };
        let ranges = self.files.map(|ino| FileRange { ino, offset: 0, length: u32::MAX });
        let pieces = live_pieces(&self.world.twin, from, &ranges).unwrap().pieces;
        let total = pieces.iter().map(|piece| piece.length as usize).sum();
        let (block, _) = self.block(total);
        let (mut copy, mut moves) = (Vec::new(), Vec::new());
        for LivePiece { ino, offset, length, at } in pieces {
            let to_at = copy.len() as u32;
            copy.extend_from_slice(&self.blocks[&from][at as usize..][..length as usize]);
            moves.push(Relocation { ino, offset, length, from, from_at: at, to_at });
        }
        if wrong {
            moves[0].from_at += 1;
        }
        self.blocks.insert(block, copy);
        relocate(&mut self.world.twin, block, total as u32, &moves).unwrap();
        assert_eq!(self.world.twin.dead().contains(&from), !wrong, "all that is live was found");
        Ok(OpReply::Done)
    }

    /// Moves the inline bytes at the beginning of the range, or tries with bytes that are not there.
    fn moves(&mut self, file: usize, at: usize, length: usize, wrong: bool) -> OpResult {
        let ino = self.files[file];
        let (start, end) = (at as u64, (at + length) as u64);
        let mut run: Option<(u64, Vec<u8>)> = None;
        for extent in extents(&self.world.twin, ino, start, end).unwrap().extents {
            let part = extent.within(start..end).unwrap();
            match (&part.data, &mut run) {
                (ExtentData::Inline(bytes), None) => run = Some((part.offset, bytes.to_vec())),
                (ExtentData::Inline(bytes), Some((from, all))) if *from + all.len() as u64 == part.offset => {
                    all.extend_from_slice(bytes);
                }
                _ => break,
            }
        }
        let Some((offset, mut bytes)) = run else { return Ok(OpReply::Done) };
        let (block, _) = self.block(bytes.len());
        self.blocks.insert(block, bytes.clone());
        if wrong {
            bytes[0] ^= 1;
        }
        let length = bytes.len();
        let moving = Move { ino, offset, length: length as u64, block, at: 0, sum: crc64(&bytes) };
        let commit = Commit { blocks: vec![(block, length as u32)], pieces: vec![], files: vec![] };
        let result = self.world.apply(OpBody::CommitAndMove { commit, moves: vec![moving] });
        let Ok(OpReply::Moved { kept, .. }) = &result else { panic!("{result:?}") };
        assert_eq!(!kept.is_empty(), wrong);
        result
    }

    fn step(&mut self, step: &Step) -> OpResult {
        match step {
            Step::Commit(pieces) => self.commit(pieces),
            Step::Inline(file, at, length) => self.inline(*file, *at, *length),
            Step::Append(file, length, inline) => self.append(*file, *length, *inline),
            Step::Truncate(file, size) => {
                self.plain[*file].truncate(*size);
                let set = SetAttr { size: Some(*size as u64), ..SetAttr::default() };
                self.world.set(self.files[*file], set).map(OpReply::Attr)
            }
            Step::Fallocate(file, mode, at, length) => self.fallocate(*file, *mode, *at, *length),
            Step::Clone(from, at, to, to_at, length) => {
                self.clone_range((*from, *at), (*to, *to_at), *length)
            }
            Step::Relocate(file, at, length, wrong) => self.relocate(*file, *at, *length, *wrong),
            Step::Move(file, at, length, wrong) => self.moves(*file, *at, *length, *wrong),
        }
    }

    /// Removes both files: nothing may be left of any block.
    fn finish(mut self) {
        for (text, ino) in ["one", "two"].into_iter().zip(self.files) {
            self.world.unlink(ROOT, text).unwrap();
            while !reap(&mut self.world.twin, ino, 2).unwrap() {
                self.world.check();
            }
            self.world.check();
        }
        let dead = self.world.twin.dead();
        let lost: Vec<_> = self.blocks.keys().filter(|block| !dead.contains(block)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}

proptest! {
    #[test]
    fn content_is_what_plain_bytes_say(steps in steps()) {
        let mut disk = Disk::new();
        for step in &steps {
            let versions = disk.files.map(|ino| disk.world.attr(ino).data_version);
            let before = disk.files.map(|ino| disk.read(ino));
            disk.step(step).unwrap();
            disk.compare();
            for at in 0..2 {
                let changed = disk.read(disk.files[at]) != before[at];
                let version = disk.world.attr(disk.files[at]).data_version;
                assert!(!changed || version == versions[at] + 1, "{step:?} moved the version by not one");
            }
        }
        disk.finish();
    }
}
