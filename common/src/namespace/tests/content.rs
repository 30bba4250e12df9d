//! Content: the cases that a random model does not reach.

use super::super::op::{
    Commit, Extent, ExtentData, FallocateMode, FileCommit, Move, OpBody, OpReply, Piece, Relocation,
};
use super::super::tables::{BlockUse, Read};
use super::super::{extents, getattr, live_pieces, reap, relocate};
use super::{ROOT, World};
use crate::attr::{Attr, SetAttr, Timestamp};
use crate::error::FsError;
use crate::ids::{BlockRef, Ino, VolumeId};
use crate::limits::{
    ALLOCATED_MAX, BATCH_BYTES_MAX, COMMIT_PIECES_MAX, EXTENTS_PER_REPLY, FILE_SIZE_MAX, FRAME_HEADER_MAX,
    INLINE_BYTES_PER_REPLY,
};
use crate::proto::meta::{FileRange, LivePiece, LivePieces};
use crate::wire::checksum::crc64;
use crate::wire::codec::encode;
use bytes::Bytes;
use std::collections::BTreeSet;

fn block(sequence: u32) -> BlockRef {
    BlockRef { volume: VolumeId(1), sequence, cookie: 7 }
}

fn piece(ino: Ino, offset: u64, length: u64, block: BlockRef, at: u32) -> Piece {
    Piece { ino, extent: Extent { offset, length, data: ExtentData::Block { block, offset: at } } }
}

fn commit(blocks: Vec<(BlockRef, u32)>, pieces: Vec<Piece>) -> OpBody {
    OpBody::Commit(Commit { blocks, pieces, files: vec![] })
}

#[test]
fn pieces_that_follow_each_other_become_one_extent() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let pieces = vec![piece(file, 0, 10, block(1), 0), piece(file, 10, 5, block(1), 10)];
    world.apply(commit(vec![(block(1), 30)], pieces)).unwrap();
    world.apply(commit(vec![], vec![piece(file, 15, 15, block(1), 15)])).unwrap();
    let page = extents(&world.twin, file, 0, 100).unwrap();
    assert_eq!(page.extents, vec![piece(file, 0, 30, block(1), 0).extent]);
    assert_eq!(world.twin.block(block(1)), Ok(Some(BlockUse { length: 30, live: 30 })));
}

#[test]
fn a_block_whose_pieces_are_all_dropped_is_queued() {
    let mut world = World::new();
    let (file, gone) = (world.file(ROOT, "a"), Ino(99));
    world.apply(commit(vec![(block(1), 8)], vec![piece(gone, 0, 8, block(1), 0)])).unwrap();
    assert!(world.twin.dead().contains(&block(1)));
    let pieces = vec![piece(gone, 0, 8, block(2), 0), piece(file, 0, 8, block(2), 8)];
    let Ok(OpReply::Committed { files }) = world.apply(commit(vec![(block(2), 16)], pieces)) else {
        panic!()
    };
    assert_eq!(files.iter().map(|attr| (attr.ino, attr.size)).collect::<Vec<_>>(), [(file, 8)]);
    assert!(!world.twin.dead().contains(&block(2)));
}

#[test]
fn a_block_that_waits_for_being_deleted_is_brought_by_nobody() {
    let (mut world, file) = packed();
    let piece_of = |file| vec![piece(file, 0, 4096, block(1), 8)];
    world.set(file, SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert!(world.twin.dead().contains(&block(1)));
    let again = commit(vec![(block(1), 9000)], piece_of(file));
    assert_eq!(world.apply(again), Err(FsError::Invalid));
    let data = ExtentData::Block { block: block(1), offset: 8 };
    let append = OpBody::Append { ino: file, length: 4096, data, block_length: 9000, kill_suidgid: false };
    assert_eq!(world.apply(append), Err(FsError::Invalid));
    assert_eq!(world.attr(file).size, 0);
    world.check();
}

#[test]
fn a_piece_overwritten_in_its_own_commit_does_not_count() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let pieces = vec![piece(file, 0, 8, block(1), 0), piece(file, 0, 8, block(2), 0)];
    world.apply(commit(vec![(block(1), 8), (block(2), 8)], pieces)).unwrap();
    assert!(world.twin.dead().contains(&block(1)));
    assert_eq!(world.twin.totals().unwrap().block_bytes, 8);
}

#[test]
fn pieces_outside_of_their_block_are_refused() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let dir = world.dir(ROOT, "d");
    let mut refused = |blocks: Vec<(BlockRef, u32)>, piece: Piece| {
        assert_eq!(world.apply(commit(blocks, vec![piece])), Err(FsError::Invalid));
    };
    refused(vec![], piece(file, 0, 8, block(1), 0));
    refused(vec![(block(1), 8)], piece(file, 0, 8, block(1), 1));
    refused(vec![(block(1), 8)], piece(file, 0, u64::MAX, block(1), 1));
    refused(vec![(block(1), 8)], piece(file, 0, 0, block(1), 0));
    refused(vec![(block(1), 8)], piece(dir, 0, 8, block(1), 0));
    refused(vec![(block(1), 8), (block(1), 9)], piece(file, 0, 8, block(1), 0));
    let data = ExtentData::Inline(Bytes::from_static(b"four"));
    refused(vec![], Piece { ino: file, extent: Extent { offset: 0, length: 5, data } });
    let data = ExtentData::Reserved;
    refused(vec![], Piece { ino: file, extent: Extent { offset: 0, length: 5, data } });
    let far = piece(file, FILE_SIZE_MAX - 3, 4, block(1), 0);
    let result = world.apply(commit(vec![(block(1), 8)], vec![far.clone()]));
    assert_eq!(result, Err(FsError::FileTooLarge));
    world.apply(commit(vec![(block(1), 8)], vec![piece(file, 0, 4, block(1), 0)])).unwrap();
    let other_length = commit(vec![(block(1), 9)], vec![piece(file, 4, 4, block(1), 4)]);
    assert_eq!(world.apply(other_length), Err(FsError::Invalid));
    let mut last = far;
    last.extent.offset -= 1;
    world.apply(commit(vec![], vec![last])).unwrap();
    assert_eq!(world.attr(file).size, FILE_SIZE_MAX);
}

#[test]
fn a_commit_takes_the_times_it_is_given() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let at = |secs| Timestamp { secs, nanos: 5 };
    let mut commit = |mtime| {
        let change = FileCommit { ino: file, size_at_least: 9, mtime, kill_suidgid: false };
        let body = Commit { blocks: vec![], pieces: vec![], files: vec![change] };
        world.apply(OpBody::Commit(body)).unwrap();
        world.attr(file)
    };
    let later = commit(Some(at(2_000_000)));
    assert_eq!((later.mtime, later.ctime, later.size), (at(2_000_000), at(2_000_000), 9));
    let earlier = commit(Some(at(1_500_000)));
    assert_eq!((earlier.mtime, earlier.ctime), (at(1_500_000), at(2_000_000)));
    let none = commit(None);
    assert_eq!((none.mtime, none.ctime), (at(1_500_000), at(2_000_000)));
    assert_eq!(none.data_version, later.data_version);
}

#[test]
fn sizes_go_to_the_limit_and_not_beyond() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let size = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    assert_eq!(world.set(file, size(FILE_SIZE_MAX + 1)), Err(FsError::FileTooLarge));
    assert_eq!(world.set(file, size(FILE_SIZE_MAX)).unwrap().size, FILE_SIZE_MAX);
    let data = ExtentData::Inline(Bytes::from_static(b"x"));
    let append = OpBody::Append { ino: file, length: 1, data, block_length: 0, kill_suidgid: false };
    assert_eq!(world.apply(append), Err(FsError::FileTooLarge));
    let fallocate = |mode, offset, length| OpBody::Fallocate { ino: file, mode, offset, length };
    let allocate = FallocateMode::Allocate { keep_size: true };
    assert_eq!(world.apply(fallocate(allocate, FILE_SIZE_MAX, 1)), Err(FsError::FileTooLarge));
    assert_eq!(world.apply(fallocate(allocate, 1, u64::MAX)), Err(FsError::FileTooLarge));
    let insert = FallocateMode::InsertRange;
    assert_eq!(world.apply(fallocate(insert, 0, 4096)), Err(FsError::FileTooLarge));
}

/// What is set aside is counted without end otherwise, and `df` is wrong for good.
#[test]
fn no_more_is_set_aside_than_sums_can_say() {
    let mut world = World::new();
    let files: Vec<Ino> = ["a", "b", "c"].iter().map(|name| world.file(ROOT, name)).collect();
    let modes = [
        FallocateMode::Allocate { keep_size: true },
        FallocateMode::ZeroRange { keep_size: true },
        FallocateMode::Allocate { keep_size: false },
    ];
    for (ino, mode) in files.iter().copied().zip(modes) {
        let body = OpBody::Fallocate { ino, mode, offset: 0, length: FILE_SIZE_MAX };
        assert_eq!(world.apply(body), Err(FsError::NoSpace));
    }
    let fallocate = |ino, mode, offset, length| OpBody::Fallocate { ino, mode, offset, length };
    let half = ALLOCATED_MAX / 2;
    world.apply(fallocate(files[0], modes[0], 0, half)).unwrap();
    world.apply(fallocate(files[1], modes[1], 0, half)).unwrap();
    assert_eq!(world.apply(fallocate(files[2], modes[0], 0, 1)), Err(FsError::NoSpace));
    world.apply(fallocate(files[0], modes[0], 0, half)).expect("it is there already");
    world.apply(fallocate(files[1], modes[1], 0, half)).expect("it is there already");
    assert_eq!(world.apply(fallocate(files[0], modes[0], 0, half + 1)), Err(FsError::NoSpace));
    world.apply(fallocate(files[0], FallocateMode::PunchHole, 0, FILE_SIZE_MAX)).unwrap();
    world.apply(fallocate(files[2], modes[2], 0, half)).unwrap();
    assert_eq!(world.twin.totals().unwrap().allocated, ALLOCATED_MAX);
}

/// Space set aside beyond the end would be pushed over the limit.
#[test]
fn insert_range_looks_beyond_the_end_of_the_file() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let fallocate = |mode, offset, length| OpBody::Fallocate { ino: file, mode, offset, length };
    let allocate = |keep_size| FallocateMode::Allocate { keep_size };
    world.apply(fallocate(allocate(false), 0, 4096)).unwrap();
    world.apply(fallocate(allocate(true), FILE_SIZE_MAX - 4096, 4096)).unwrap();
    let insert = fallocate(FallocateMode::InsertRange, 0, 4096);
    assert_eq!(world.apply(insert), Err(FsError::FileTooLarge));
}

/// More extents than are looked at in one round.
#[test]
fn many_extents_are_cut_moved_and_reaped() {
    const COUNT: u64 = 3000;
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let length = u32::try_from(COUNT * 8192).unwrap();
    let pieces = (0..COUNT).map(|at| piece(file, at * 8192, 4096, block(1), at as u32 * 4096));
    world.apply(commit(vec![(block(1), length)], pieces.collect())).unwrap();
    let fallocate = |mode, offset, length| OpBody::Fallocate { ino: file, mode, offset, length };
    world.apply(fallocate(FallocateMode::CollapseRange, 0, 4096)).unwrap();
    assert_eq!(world.attr(file).allocated, (COUNT - 1) * 4096);
    let first = extents(&world.twin, file, 0, u64::MAX).unwrap().extents[0].clone();
    assert_eq!(first, piece(file, 4096, 4096, block(1), 4096).extent);
    world.apply(fallocate(FallocateMode::InsertRange, 4096, 4096)).unwrap();
    let first = extents(&world.twin, file, 0, u64::MAX).unwrap().extents[0].clone();
    assert_eq!(first, piece(file, 8192, 4096, block(1), 4096).extent);

    // One piece over all of them, and then a hole in it.
    world
        .apply(commit(
            vec![(block(2), length)],
            vec![piece(file, 4096, u64::from(length) - 4096, block(2), 0)],
        ))
        .unwrap();
    assert!(world.twin.dead().contains(&block(1)));
    world.apply(fallocate(FallocateMode::PunchHole, 8192, 8192)).unwrap();
    assert_eq!(extents(&world.twin, file, 0, u64::MAX).unwrap().extents.len(), 2);

    world.unlink(ROOT, "a").unwrap();
    assert_eq!(reap(&mut world.twin, file, 1), Ok(false));
    world.check();
    assert_eq!(reap(&mut world.twin, file, 1), Ok(true));
    world.check();
    assert!(world.twin.dead().contains(&block(2)));
    assert_eq!(reap(&mut world.twin, file, 1), Ok(true), "again is fine");
}

#[test]
fn pages_of_extents_end_where_the_next_begins() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let count = EXTENTS_PER_REPLY as u64 + 1;
    let pieces = (0..count).map(|at| piece(file, at * 2, 1, block(1), 0));
    world.apply(commit(vec![(block(1), 1)], pieces.collect())).unwrap();
    let page = extents(&world.twin, file, 0, u64::MAX).unwrap();
    assert_eq!((page.extents.len(), page.end), (EXTENTS_PER_REPLY, (count - 1) * 2));
    let rest = extents(&world.twin, file, page.end, u64::MAX).unwrap();
    assert_eq!((rest.extents.len(), rest.end), (1, u64::MAX));
}

/// A file of small synchronous writes has its data in its extents: pages are bounded by that, too.
#[test]
fn pages_of_inline_extents_fit_a_reply_and_lead_to_the_end() {
    const EACH: usize = 8 << 10;
    const SIZE: u64 = 10 << 20;
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    for offset in (0..SIZE).step_by(EACH) {
        let data = ExtentData::Inline(Bytes::from(vec![offset.to_be_bytes()[5]; EACH]));
        let extent = Extent { offset, length: EACH as u64, data };
        world.apply(commit(vec![], vec![Piece { ino: file, extent }])).unwrap();
    }
    let (mut at, mut pages) = (0, 0);
    while at < SIZE {
        let page = extents(&world.twin, file, at, u64::MAX).unwrap();
        assert!(encode(&page).unwrap().len() < INLINE_BYTES_PER_REPLY + (64 << 10));
        let offsets: Vec<u64> = page.extents.iter().map(|extent| extent.offset).collect();
        assert_eq!(offsets, (at..page.end.min(SIZE)).step_by(EACH).collect::<Vec<_>>());
        (at, pages) = (page.end, pages + 1);
    }
    assert_eq!(pages, 10);
}

#[test]
fn an_extent_as_large_as_an_operation_is_a_page() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    for offset in [0, INLINE_BYTES_PER_REPLY - 1, BATCH_BYTES_MAX * 2] {
        let length = if offset == 0 { INLINE_BYTES_PER_REPLY - 1 } else { BATCH_BYTES_MAX };
        let data = ExtentData::Inline(Bytes::from(vec![7; length]));
        let extent = Extent { offset: offset as u64, length: length as u64, data };
        world.apply(commit(vec![], vec![Piece { ino: file, extent }])).unwrap();
    }
    let page = extents(&world.twin, file, 0, u64::MAX).unwrap();
    assert_eq!((page.extents.len(), page.end), (2, 2 * BATCH_BYTES_MAX as u64));
    assert!(encode(&page).unwrap().len() < FRAME_HEADER_MAX);
    let page = extents(&world.twin, file, page.end, u64::MAX).unwrap();
    assert_eq!((page.extents.len(), page.end), (1, u64::MAX));
}

/// A file of 4 KiB in block 1, behind 8 bytes of another's.
fn packed() -> (World, Ino) {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let data = ExtentData::Block { block: block(1), offset: 8 };
    world
        .apply(OpBody::Append { ino: file, length: 4096, data, block_length: 9000, kill_suidgid: false })
        .unwrap();
    (world, file)
}

/// Offset and length of an extent, and where in a block it is.
type Place = (u64, u64, Option<(BlockRef, u32)>);

/// What a file has in a block. No other one has anything there.
fn live_of(world: &World, block: BlockRef, ino: Ino) -> Vec<LivePiece> {
    let LivePieces { live, pieces } =
        live_pieces(&world.twin, block, &[FileRange { ino, offset: 0, length: 4096 }]).unwrap();
    assert_eq!(live, pieces.iter().map(|piece| u64::from(piece.length)).sum::<u64>());
    pieces
}

fn away(piece: &LivePiece, to_at: u32) -> Relocation {
    let LivePiece { ino, offset, length, at } = *piece;
    Relocation { ino, offset, length, from: block(1), from_at: at, to_at }
}

#[test]
fn cleaning_moves_what_is_live_and_nothing_shows() {
    let (mut world, file) = packed();
    let found = live_of(&world, block(1), file);
    assert_eq!(found, [LivePiece { ino: file, offset: 0, length: 4096, at: 8 }]);
    assert_eq!(live_of(&world, block(2), file), []);
    let before = world.attr(file);
    relocate(&mut world.twin, block(2), 5000, &[away(&found[0], 100)]).unwrap();
    assert_eq!(world.attr(file), before);
    let page = extents(&world.twin, file, 0, u64::MAX).unwrap();
    let data = ExtentData::Block { block: block(2), offset: 100 };
    assert_eq!(page.extents, [Extent { offset: 0, length: 4096, data }]);
    assert_eq!(*world.twin.dead(), BTreeSet::from([block(1)]));
    world.check();
}

#[test]
fn only_what_is_still_there_moves() {
    let (mut world, file) = packed();
    let found = live_of(&world, block(1), file);
    // Between the look and the move two stretches are overwritten, and a file shares a third one.
    world
        .apply(OpBody::Fallocate { ino: file, mode: FallocateMode::PunchHole, offset: 0, length: 512 })
        .unwrap();
    let extent = Extent { offset: 1024, length: 4, data: ExtentData::Inline(Bytes::from_static(b"word")) };
    let pieces = vec![Piece { ino: file, extent }];
    world.apply(OpBody::Commit(Commit { blocks: vec![], pieces, files: vec![] })).unwrap();
    let other = world.file(ROOT, "b");
    let clone = OpBody::CloneRange { from: file, from_offset: 2048, to: other, to_offset: 0, length: 512 };
    world.apply(clone).unwrap();
    let move_it = away(&found[0], 0);
    relocate(&mut world.twin, block(2), 5000, &[move_it]).unwrap();
    world.check();
    let of = |ino, world: &World| -> Vec<Place> {
        let found = extents(&world.twin, ino, 0, u64::MAX).unwrap().extents.into_iter();
        let place = |data| match data {
            ExtentData::Block { block, offset } => Some((block, offset)),
            _ => None,
        };
        found.map(|extent| (extent.offset, extent.length, place(extent.data))).collect()
    };
    let moved = [(512, 512, Some((block(2), 512))), (1024, 4, None), (1028, 3068, Some((block(2), 1028)))];
    assert_eq!(of(file, &world), moved);
    // Who shares it keeps the old block.
    assert_eq!(of(other, &world), [(0, 512, Some((block(1), 2056)))]);
    assert_eq!(*world.twin.dead(), BTreeSet::from([]));
    // Again: nothing is where it was.
    relocate(&mut world.twin, block(2), 5000, &[move_it]).unwrap();
    assert_eq!(of(file, &world), moved);
    world.check();
}

#[test]
fn a_copy_that_came_too_late_is_deleted() {
    let (mut world, file) = packed();
    let found = live_of(&world, block(1), file);
    world.unlink(ROOT, "a").unwrap();
    assert!(reap(&mut world.twin, file, 10).unwrap());
    relocate(&mut world.twin, block(2), 5000, &[away(&found[0], 0)]).unwrap();
    assert_eq!(*world.twin.dead(), BTreeSet::from([block(1), block(2)]));
    world.check();
}

/// The answer of a relocation is lost; before it is repeated its block dies, and what it moved is as it was before.
#[test]
fn a_repeated_relocation_brings_no_dead_block() {
    let (mut world, file) = packed();
    let keeper = world.file(ROOT, "b");
    let copy = |from, to| OpBody::CloneRange { from, from_offset: 0, to, to_offset: 0, length: 4096 };
    let move_it = away(&live_of(&world, block(1), file)[0], 0);
    world.apply(copy(file, keeper)).unwrap();
    relocate(&mut world.twin, block(2), 5000, &[move_it]).unwrap();
    world.apply(copy(keeper, file)).unwrap();
    assert!(world.twin.dead().contains(&block(2)));
    relocate(&mut world.twin, block(2), 5000, &[move_it]).unwrap();
    assert_eq!(
        extents(&world.twin, file, 0, 4096).unwrap().extents[0].data,
        ExtentData::Block { block: block(1), offset: 8 }
    );
    world.check();
}

#[test]
fn impossible_relocations_change_nothing() {
    let (mut world, file) = packed();
    let piece = away(&live_of(&world, block(1), file)[0], 0);
    let mut refused = |to, length, piece| {
        assert_eq!(relocate(&mut world.twin, block(to), length, &[piece]), Err(FsError::Invalid));
    };
    refused(2, 4095, piece);
    refused(2, 5000, Relocation { to_at: 905, ..piece });
    refused(2, 5000, Relocation { length: 0, ..piece });
    refused(1, 9000, piece);
    refused(1, 8999, Relocation { from: block(3), ..piece });
    let many = vec![piece; COMMIT_PIECES_MAX + 1];
    assert_eq!(relocate(&mut world.twin, block(2), 5000, &many), Err(FsError::Invalid));
    let far = Relocation { offset: FILE_SIZE_MAX, ..piece };
    assert_eq!(relocate(&mut world.twin, block(2), 5000, &[far]), Err(FsError::FileTooLarge));
    world.check();
    assert_eq!(live_of(&world, block(1), file).len(), 1);
}

fn moved(world: &mut World, moves: Vec<Move>) -> (Vec<Attr>, Vec<Ino>) {
    let commit = Commit { blocks: vec![(block(1), 64)], pieces: vec![], files: vec![] };
    let Ok(OpReply::Moved { files, kept }) = world.apply(OpBody::CommitAndMove { commit, moves }) else {
        panic!()
    };
    (files, kept)
}

#[test]
fn only_bytes_that_are_still_the_same_move() {
    let mut world = World::new();
    let files = ["a", "b", "c", "d"].map(|text| world.file(ROOT, text));
    for ino in files {
        for part in [&b"wo"[..], b"rd"] {
            let data = ExtentData::Inline(Bytes::from_static(part));
            world
                .apply(OpBody::Append { ino, length: 2, data, block_length: 0, kill_suidgid: false })
                .unwrap();
        }
    }
    // Other bytes; a hole among them; and one that is gone.
    let data = ExtentData::Inline(Bytes::from_static(b"a"));
    let other = Piece { ino: files[1], extent: Extent { offset: 3, length: 1, data } };
    world.apply(commit(vec![], vec![other])).unwrap();
    let (mode, length) = (FallocateMode::PunchHole, 1);
    world.apply(OpBody::Fallocate { ino: files[2], mode, offset: 1, length }).unwrap();
    world.unlink(ROOT, "d").unwrap();
    reap(&mut world.twin, files[3], 100).unwrap();

    let before = files.map(|ino| getattr(&world.twin, ino));
    let sum = crc64(b"word");
    let moves = (0..4).map(|at| Move { ino: files[at], offset: 0, length: 4, block: block(1), at: 8, sum });
    let (told, kept) = moved(&mut world, moves.collect());
    assert_eq!((told.len(), kept), (3, files[1..3].to_vec()));
    let data_of = |ino| extents(&world.twin, ino, 0, 4).unwrap().extents;
    let in_block = ExtentData::Block { block: block(1), offset: 8 };
    assert_eq!(data_of(files[0]), [Extent { offset: 0, length: 4, data: in_block }]);
    assert!(
        files[1..3].iter().flat_map(|ino| data_of(*ino)).all(|e| matches!(e.data, ExtentData::Inline(_)))
    );
    for (ino, before) in files.into_iter().zip(before).take(3) {
        let after = world.attr(ino);
        let before = before.unwrap();
        let same = Attr { data_version: before.data_version, ..after };
        assert_eq!(same, before, "neither times nor size nor anything else");
        assert_eq!(after.data_version > before.data_version, ino == files[0]);
    }
    // What lies in a block already does not move again.
    let again = Move { ino: files[0], offset: 0, length: 4, block: block(1), at: 8, sum };
    assert_eq!(moved(&mut world, vec![again]).1, [files[0]]);
}

#[test]
fn a_block_of_which_nothing_was_moved_is_deleted() {
    let mut world = World::new();
    let ino = world.file(ROOT, "a");
    let moving = Move { ino, offset: 0, length: 4, block: block(1), at: 0, sum: crc64(b"word") };
    assert_eq!(moved(&mut world, vec![moving]).1, [ino]);
    assert_eq!(world.twin.block(block(1)).unwrap(), None);
    let outside = Move { length: 65, ..moving };
    let commit = Commit { blocks: vec![(block(1), 64)], pieces: vec![], files: vec![] };
    let op = OpBody::CommitAndMove { commit, moves: vec![outside] };
    assert_eq!(world.apply(op), Err(FsError::Invalid));
}

/// More than are looked at in one go, with one that reaches into the hole from either side.
#[test]
fn a_hole_in_very_many_extents() {
    let mut world = World::new();
    let ino = world.file(ROOT, "a");
    for round in 0..4_u64 {
        let pieces = (0..1000).map(|n| piece(ino, (round * 1000 + n) * 10, 8, block(1), (n * 9) as u32));
        world.apply(commit(vec![(block(1), 9000)], pieces.collect())).unwrap();
    }
    let (mode, offset) = (FallocateMode::PunchHole, 1004);
    world.apply(OpBody::Fallocate { ino, mode, offset, length: 37_000 }).unwrap();
    let left = extents(&world.twin, ino, 0, u64::MAX).unwrap().extents;
    let held: u64 = left.iter().map(|extent| extent.length).sum();
    assert_eq!((left.len(), held, world.attr(ino).allocated), (101 + 200, 100 * 8 + 4 + 4 + 199 * 8, held));
    assert!(left.iter().all(|extent| extent.end() <= 1004 || extent.offset >= 38_004));
    world.set(ino, SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert_eq!(world.attr(ino).allocated, 0);
}

#[test]
fn what_meets_after_a_collapse_is_joined() {
    let mut world = World::new();
    let ino = world.file(ROOT, "a");
    let fallocate = |mode, offset, length| OpBody::Fallocate { ino, mode, offset, length };
    world.apply(fallocate(FallocateMode::Allocate { keep_size: false }, 0, 3 * 4096)).unwrap();
    world.apply(fallocate(FallocateMode::CollapseRange, 4096, 4096)).unwrap();
    let reserved = Extent { offset: 0, length: 2 * 4096, data: ExtentData::Reserved };
    assert_eq!(extents(&world.twin, ino, 0, u64::MAX).unwrap().extents, vec![reserved]);

    // Bytes of a block that were apart in the file, and are side by side in the block.
    let pieces = vec![piece(ino, 0, 4096, block(1), 0), piece(ino, 8192, 4096, block(1), 4096)];
    world.apply(commit(vec![(block(1), 8192)], pieces)).unwrap();
    world.apply(fallocate(FallocateMode::CollapseRange, 4096, 4096)).unwrap();
    let joined = piece(ino, 0, 8192, block(1), 0).extent;
    assert_eq!(extents(&world.twin, ino, 0, u64::MAX).unwrap().extents, vec![joined]);
}
