#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
use super::*;
use cairn_common::ids::{Ino, VolumeId};

fn block(sequence: u32) -> BlockRef {
    BlockRef { volume: VolumeId(1), sequence, cookie: 7 }
}

fn volume(sealed: bool, deleted: u64) -> VolumeStat {
    VolumeStat { volume: VolumeId(1), sealed, bytes: 1 << 30, blocks: 2, live_bytes: 0, deleted }
}

#[test]
fn sparse_is_less_than_half() {
    let usage = |length, live| BlockUse { length, live };
    assert!(is_sparse(usage(100, 49)) && is_sparse(usage(101, 50)));
    assert!(!is_sparse(usage(100, 50)) && !is_sparse(usage(0, 0)));
    // Shared by many files.
    assert!(!is_sparse(usage(u32::MAX, u64::MAX)));
}

fn candidate(sequence: u32, live: u64, taken: u64) -> Candidate {
    Candidate { block: block(sequence), live, taken }
}

#[test]
fn a_sealed_volume_of_headers_is_cleared() {
    let uses =
        [(block(1), BlockUse { length: 9000, live: 9000 }), (block(2), BlockUse { length: 9000, live: 100 })];
    let sparse = [candidate(2, 100, 9000)];
    assert_eq!(candidates(&uses, &volume(true, 2)), sparse);
    assert_eq!(candidates(&uses, &volume(false, 3)), sparse, "more blocks will come");
    // What is given back then is worth it, even if all of a block is live.
    let share = 3 * PAGE as u64 / 2;
    assert_eq!(
        candidates(&uses, &volume(true, 3)),
        [candidate(1, 9000, 9000 + share), candidate(2, 100, 9000 + share)]
    );
    assert_eq!(candidates(&[], &volume(true, 3)), []);
}

#[test]
fn what_gives_back_most_comes_first() {
    let mut sparse =
        vec![candidate(1, 40, 100), candidate(2, 50, 1000), candidate(3, 4, 10), candidate(4, 9, 0)];
    best(&mut sparse, 3);
    assert_eq!(sparse, [candidate(2, 50, 1000), candidate(1, 40, 100), candidate(3, 4, 10)]);
}

#[test]
fn each_byte_of_a_file_is_asked_about_once() {
    let entry = |ino, offset, length| SummaryEntry { ino: Ino(ino), offset, at: 0, length };
    let range = |ino, offset, length| FileRange { ino: Ino(ino), offset, length };
    let entries = [
        entry(2, 0, 10),
        entry(1, 50, 10),
        entry(1, 0, 30),
        entry(1, 20, 20),
        entry(1, 25, 5),
        entry(1, 40, 5),
    ];
    assert_eq!(ranges(&entries), [range(1, 0, 40), range(1, 40, 5), range(1, 50, 10), range(2, 0, 10)]);
    assert_eq!(
        ranges(&[entry(1, u64::MAX, 9), entry(1, u64::MAX - 3, 9)]),
        [range(1, u64::MAX - 3, 9), range(1, u64::MAX, 9)]
    );
}

fn live(ino: u64, offset: u64, length: u32, at: u32) -> LivePiece {
    LivePiece { ino: Ino(ino), offset, length, at }
}

#[test]
fn what_is_live_of_several_blocks_lies_in_the_new_one_file_by_file() {
    let payload: Vec<u8> = (0..200).collect();
    let found = |live, pieces| LivePieces { live, pieces };
    let one =
        Source::new(block(1), found(30, vec![live(5, 100, 10, 0), live(4, 0, 20, 50)]), &payload).unwrap();
    let two = Source::new(block(2), found(15, vec![live(5, 0, 15, 100)]), &payload).unwrap();
    let mut batch = Batch::default();
    for source in [one, two] {
        assert!(batch.has_room(&source));
        batch.add(source, 200);
    }
    let packed = 45 + summary::encoded_len(3);
    assert_eq!((batch.len(), batch.gain()), (2, 400 - packed as u64));
    assert!(
        (batch.cost() - packed as f64 / 400.0).abs() < 1e-9 && (Batch::default().cost() - 1.0).abs() < 1e-9
    );
    let packed = batch.pack().unwrap();
    assert_eq!(packed.put.session, SessionId::NOBODY);
    let bytes = packed.put.payload.clone().into_bytes();
    let (content, tail) = bytes.split_at(45);
    assert_eq!(tail.len(), packed.put.summary_len as usize);
    let entry = |ino, offset, at, length| SummaryEntry { ino: Ino(ino), offset, at, length };
    assert_eq!(
        summary::decode(tail).unwrap(),
        [entry(4, 0, 0, 20), entry(5, 0, 20, 15), entry(5, 100, 35, 10)]
    );
    let expected: Vec<u8> = (50..70).chain(100..115).chain(0..10).collect();
    assert_eq!(content, expected);
    assert_eq!(piece_checksums(std::slice::from_ref(&bytes)), packed.put.checksums);

    let request = packed.stored_as(block(9));
    assert_eq!((request.block, request.length as usize), (block(9), bytes.len()));
    let moved = |ino, offset, length, from, from_at, to_at| Relocation {
        ino: Ino(ino),
        offset,
        length,
        from: block(from),
        from_at,
        to_at,
    };
    let expected = [moved(4, 0, 20, 1, 50, 0), moved(5, 0, 15, 2, 100, 20), moved(5, 100, 10, 1, 0, 35)];
    assert_eq!(request.pieces, expected);
}

#[test]
fn a_block_whose_live_bytes_are_not_all_found_stays() {
    let payload = [0; 200];
    let source = |live, piece| Source::new(block(1), LivePieces { live, pieces: vec![piece] }, &payload);
    assert!(source(30, live(5, 0, 30, 0)).is_some());
    assert!(source(30, live(5, 0, 29, 0)).is_none(), "shared");
    assert!(source(30, live(5, 0, 30, 171)).is_none(), "beyond the end");
    assert!(source(30, live(5, 0, 30, u32::MAX)).is_none());
}

#[test]
fn a_batch_is_at_most_one_block() {
    let whole = u32::try_from(BLOCK_MAX).unwrap();
    let payload = vec![0; BLOCK_MAX];
    // `count` pieces of `length` bytes.
    let source = |count: u32, length: u32| {
        let pieces = (0..count).map(|n| live(1, 0, length, n * length)).collect();
        let found = LivePieces { live: u64::from(count * length), pieces };
        Source::new(block(1), found, &payload).unwrap()
    };
    let mut batch = Batch::default();
    batch.add(source(1, whole - 8), whole.into());
    assert!(batch.has_room(&source(1, 8)) && !batch.has_room(&source(1, 9)));
    let mut batch = Batch::default();
    assert!(batch.has_room(&source(16_384, 256)), "alone");
    batch.add(source(4095, 1), whole.into());
    assert!(batch.has_room(&source(1, 1)) && !batch.has_room(&source(2, 1)));
    let mut batch = Batch::default();
    (0..SOURCES_MAX).for_each(|_| batch.add(source(1, 1), 10));
    assert!(!batch.has_room(&source(1, 1)));
    // The most that one source can be fits a block.
    let mut batch = Batch::default();
    batch.add(source(16_384, 256), whole.into());
    let packed = batch.pack().unwrap();
    assert_eq!(packed.put.payload.len(), BLOCK_MAX + summary::encoded_len(16_384));
}

/// A block of files of a few bytes is mostly summary. Counted as dead it would be moved for ever.
#[test]
fn a_block_of_the_smallest_files_is_not_moved_to_one_like_it() {
    let pieces: Vec<LivePiece> = (0..4000).map(|n| live(n.into(), 0, 10, n * 10)).collect();
    let payload = vec![0; 40_000];
    let length = (payload.len() + summary::encoded_len(4000)) as u64;
    assert!(is_sparse(BlockUse { length: u32::try_from(length).unwrap(), live: 40_000 }));
    let source = |count: usize| {
        let found = LivePieces { live: count as u64 * 10, pieces: pieces[..count].to_vec() };
        Source::new(block(1), found, &payload).unwrap()
    };
    assert!(!source(4000).is_worth_moving(length));
    assert!(source(2900).is_worth_moving(length) && !source(3100).is_worth_moving(length));
    // Of a single one the rest of the summary counts, too.
    assert!(!source(1).is_worth_moving(10 + summary::encoded_len(1) as u64));
}
