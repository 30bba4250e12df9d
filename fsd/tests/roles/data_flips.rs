//! Single bits that a disk changes in the files of a volume: no read gives out other bytes than were stored, and a durable
//! block that is lost is told, by a volume that is refused, by its headers that are called damaged, or by the checksums.

use crate::data_common::{content, owner};
use bytes::Bytes;
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::wire::checksum::{piece_checksums, verify_pieces};
use cairn_fsd::data::volume::bare::Bare;
use cairn_fsd::data::volume::format::{PAGE, Record, RecordKind, record_len};
use cairn_fsd::data::volume::segment::{Done, Limits};
use cairn_fsd::data::volume::{Condition, Volume, VolumeError};
use cairn_fsd::disk::sim::{Call, SimDisk};
use cairn_fsd::disk::{Disk, Overlay};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

const ID: VolumeId = VolumeId(3);
const VOLUME: &str = "vol-00000003.cv";
const INDEX: &str = "vol-00000003.ci";
const DELETES: &str = "vol-00000003.cd";
const LIMITS: Limits = Limits { volume_size: 160 << 10, reserve: 0 };
/// The last two are made durable by one sync: no header says of the last but one that it is.
const LENGTHS: [usize; 5] = [5, 4096, 70_000, 300, 5000];
/// Position of the block that is deleted.
const DELETED: usize = 1;

/// A volume, and what must be in it.
struct Stored {
    disk: SimDisk,
    volume: Volume,
    blocks: Vec<BlockRef>,
}

impl Stored {
    /// All is durable.
    fn new() -> Stored {
        let disk = SimDisk::new();
        let volume = Volume::create(Arc::new(disk.clone()), owner(), ID, 0, 99, LIMITS).unwrap();
        let mut stored = Stored { disk, volume, blocks: Vec::new() };
        for position in 0..LENGTHS.len() {
            assert!(stored.write());
            if position != LENGTHS.len() - 2 {
                stored.volume.segment().make_durable(&stored.volume);
            }
        }
        stored.volume.delete(&[stored.blocks[DELETED]]).unwrap();
        stored
    }

    /// All is durable, and the end is marked.
    fn marked() -> Stored {
        let stored = Stored::new();
        stored.volume.segment().mark_end();
        stored
    }

    /// Appends the next block; false if the volume does not take it.
    fn write(&mut self) -> bool {
        let payload = [bytes_of(self.blocks.len())];
        let record = Record {
            kind: RecordKind::Block,
            sequence: 0,
            cookie: 0xab,
            session: SessionId(3),
            payload_len: u32::try_from(payload[0].len()).unwrap(),
            summary_len: 0,
            durable: 0,
            checksums: piece_checksums(&payload),
        };
        let (segment, named) = (self.volume.segment(), Cell::new(BlockRef::default()));
        let done = |block| -> Done {
            named.set(block);
            Box::new(|_| ())
        };
        let taken = segment.append(&self.disk, &mut segment.writer(), record, &payload, done).is_ok();
        if taken {
            self.blocks.push(BlockRef { volume: ID, ..named.get() });
        }
        taken
    }

    /// A disk with the file `name` as it is, but for one bit of a byte; nothing that is done to it stays.
    fn flipped(&self, name: &str, at: usize) -> Flipped {
        let was = self.disk.map(name).unwrap()[at];
        self.disk.corrupt(name, at, &[was ^ 1 << (at % 8)]);
        let below = Arc::new(self.disk.clone());
        Flipped { disk: Arc::new(Overlay::new(below)), base: self.disk.clone(), name: name.into(), at, was }
    }

    /// Which live blocks can't be read, when the volume is opened from `disk`: each is right, or refused.
    fn lost(&self, volume: &Volume, context: &str) -> BTreeSet<usize> {
        let live = (0..self.blocks.len()).filter(|position| *position != DELETED);
        live.filter(|position| !self.is_right(volume, *position, context)).collect()
    }

    /// False if the block is not there, or its bytes do not match their checksums.
    fn is_right(&self, volume: &Volume, position: usize, context: &str) -> bool {
        let Ok(span) = volume.locate(self.blocks[position], 0, u32::MAX) else { return false };
        let mut bytes = vec![0; span.length];
        volume.read(&span, &mut bytes).unwrap();
        let matches = verify_pieces(&bytes, &span.checksums).is_ok();
        assert!(!matches || bytes == bytes_of(position), "{context}: block {position} has other bytes");
        matches
    }
}

/// The flip lasts as long as this.
struct Flipped {
    disk: Arc<Overlay>,
    base: SimDisk,
    name: String,
    at: usize,
    was: u8,
}

impl Flipped {
    fn open(&self) -> Result<(Volume, Condition), VolumeError> {
        Volume::open(self.disk.clone(), owner(), ID, LIMITS)
    }

    fn looks_damaged(&self) -> bool {
        Bare::open(&*self.disk, VOLUME).unwrap().damaged
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        self.base.corrupt(&self.name, self.at, &[self.was]);
    }
}

fn bytes_of(position: usize) -> Bytes {
    content(position as u64, LENGTHS[position % LENGTHS.len()])
}

/// Where the header of a block is; of the one behind the last, where the mark is.
fn header_of(position: usize) -> usize {
    let before: u64 = LENGTHS[..position].iter().map(|length| record_len(*length)).sum();
    PAGE + usize::try_from(before).unwrap()
}

/// Bytes of a header that say anything.
fn header_len(position: usize) -> usize {
    64 + 4 * LENGTHS[position].div_ceil(64 << 10)
}

#[test]
fn a_flip_in_the_last_header_is_damage_once_the_end_is_marked() {
    let stored = Stored::marked();
    let last = LENGTHS.len() - 1;
    let length = stored.disk.map(VOLUME).unwrap().len();
    for position in [last - 1, last] {
        for at in (0..header_len(position)).map(|byte| header_of(position) + byte) {
            let context = format!("byte {at}");
            let flipped = stored.flipped(VOLUME, at);
            assert!(flipped.looks_damaged(), "{context}");
            let (volume, condition) = flipped.open().unwrap();
            assert_eq!(condition, Condition::Unsealed, "{context}");
            assert!(volume.segment().is_closed(), "{context}: it takes blocks");
            assert_eq!(stored.lost(&volume, &context), [position].into(), "{context}");
            // What was there is known: this is no old copy of the directory.
            assert_eq!(volume.segment().next_sequence() as usize, LENGTHS.len() + 1, "{context}");
            assert_eq!(flipped.disk.map(VOLUME).unwrap().len(), length, "{context}: it is cut");
        }
    }
}

/// What the mark is for: without one, nothing tells this from a put that was torn.
#[test]
fn a_flip_in_the_last_header_is_taken_for_a_torn_put_before_that() {
    let stored = Stored::new();
    let flipped = stored.flipped(VOLUME, header_of(LENGTHS.len() - 1));
    assert!(!flipped.looks_damaged());
    assert_eq!(flipped.open().unwrap().1, Condition::Recovered);
}

#[test]
fn the_end_is_marked_only_when_all_is_durable_and_once() {
    let mut stored = Stored::new();
    let is_marked = |stored: &Stored, at: usize| {
        let file = stored.disk.map(VOLUME).unwrap();
        file.get(at..at + PAGE).is_some_and(|page| page.iter().any(|byte| *byte != 0))
    };
    let end = header_of(LENGTHS.len());
    stored.disk.fail_once(Call::Write, 0, io::ErrorKind::Other);
    stored.volume.segment().mark_end();
    assert!(!is_marked(&stored, end), "a failed mark is no failure of the volume");
    stored.volume.segment().mark_end();
    assert!(is_marked(&stored, end));
    stored.disk.fail_always(Call::Write, 0, io::ErrorKind::Other);
    let failures = stored.disk.failures();
    stored.volume.segment().mark_end();
    assert_eq!(stored.disk.failures(), failures, "it stands there");
    stored.disk.heal();
    assert!(stored.write());
    stored.volume.segment().mark_end();
    let next = end + PAGE + PAGE;
    assert!(!is_marked(&stored, next), "the block is not durable");
    stored.volume.segment().make_durable(&stored.volume);
    {
        let _writer = stored.volume.segment().writer();
        stored.volume.segment().mark_end();
    }
    assert!(!is_marked(&stored, next), "somebody writes");
    stored.volume.segment().mark_end();
    assert!(is_marked(&stored, next));

    let empty = Volume::create(Arc::new(SimDisk::new()), owner(), ID, 0, 99, LIMITS).unwrap();
    empty.segment().mark_end();
    assert_eq!(empty.stat().bytes, PAGE as u64);
}

#[test]
fn a_volume_goes_on_over_its_mark() {
    for how in ["goes on", "was killed", "lost its power", "stopped", "is sealed"] {
        let mut stored = Stored::marked();
        let end = header_of(LENGTHS.len());
        let reopen = |disk: SimDisk, expected| {
            let (volume, condition) = Volume::open(Arc::new(disk.clone()), owner(), ID, LIMITS).unwrap();
            assert_eq!((condition, volume.stat().bytes), (expected, end as u64), "{how}");
            (disk, volume)
        };
        match how {
            "was killed" => (stored.disk, stored.volume) = reopen(stored.disk.kill(), Condition::Recovered),
            "lost its power" => {
                (stored.disk, stored.volume) = reopen(stored.disk.power_cycle(7), Condition::Recovered);
            }
            "stopped" => stored.volume.stop().unwrap(),
            "is sealed" => stored.volume.seal().unwrap(),
            _ => {}
        }
        if ["was killed", "lost its power"].contains(&how) {
            // No put may come for long: recovery has marked the end again.
            assert!(stored.flipped(VOLUME, header_of(LENGTHS.len() - 1) + 9).looks_damaged(), "{how}");
        }
        if !stored.volume.segment().is_closed() {
            assert!(stored.write());
            stored.volume.segment().make_durable(&stored.volume);
            assert_eq!(stored.volume.stat().bytes, (end + PAGE + PAGE) as u64, "{how}");
        }
        let bare = Bare::open(&stored.disk, VOLUME).unwrap();
        assert!(!bare.damaged, "{how}");
        assert_eq!(bare.blocks().len(), stored.blocks.len(), "{how}");
        assert_eq!(stored.lost(&stored.volume, how), BTreeSet::new());
    }
}

/// A mark that comes back: the disk has lost the write over it.
#[test]
fn durable_blocks_behind_a_mark_are_not_cut() {
    let mut stored = Stored::marked();
    let end = header_of(LENGTHS.len());
    let mark = stored.disk.map(VOLUME).unwrap()[end..end + PAGE].to_vec();
    for _ in 0..2 {
        assert!(stored.write());
        stored.volume.segment().make_durable(&stored.volume);
    }
    stored.disk.corrupt(VOLUME, end, &mark);
    let disk = Arc::new(stored.disk.kill());
    assert!(Bare::open(&*disk, VOLUME).unwrap().damaged);
    let (volume, condition) = Volume::open(disk, owner(), ID, LIMITS).unwrap();
    assert_eq!(condition, Condition::Unsealed);
    let there = stored.blocks.iter().filter(|block| volume.is_live(**block)).count();
    assert_eq!(there, LENGTHS.len() - 1 + 1, "all but the deleted one and the one that was lost");
}

/// Any part of a mark, of what is written over it, and of what is written behind that may be there after a loss of power.
#[test]
fn power_loss_at_any_change_around_a_mark_is_no_damage() {
    for (seed, changes) in (0..16).flat_map(|seed| (0..6).map(move |changes| (seed, changes))) {
        let context = format!("seed {seed}, power off at {changes}");
        let mut stored = Stored::marked();
        stored.disk.power_off_after(changes);
        let first = stored.write();
        stored.volume.segment().mark_end();
        let second = first && stored.write();
        stored.volume.segment().make_durable(&stored.volume);
        let is_durable = second && !stored.volume.segment().has_failed();
        stored.volume.segment().mark_end();

        let disk = stored.disk.power_cycle(seed);
        assert!(!Bare::open(&disk, VOLUME).unwrap().damaged, "{context}");
        let (volume, condition) = Volume::open(Arc::new(disk), owner(), ID, LIMITS).unwrap();
        assert_eq!(condition, Condition::Recovered, "{context}");
        let lost = stored.lost(&volume, &context);
        assert!(!is_durable || lost.is_empty(), "{context}: {lost:?}");
        assert!(lost.iter().all(|position| *position >= LENGTHS.len()), "{context}: {lost:?}");
    }
}

/// Bytes to flip in the volume's file: all of what it says about itself and of short payloads; of the rest some.
fn places(stored: &Stored, rng: &mut StdRng) -> BTreeSet<usize> {
    let length = stored.disk.map(VOLUME).unwrap().len();
    let headers = (0..LENGTHS.len()).flat_map(|block| header_of(block)..header_of(block) + header_len(block));
    let short = (0..LENGTHS.len()).filter(|block| LENGTHS[*block] < 1000);
    let short = short.flat_map(|block| header_of(block) + PAGE..header_of(block) + PAGE + LENGTHS[block]);
    let mark = header_of(LENGTHS.len())..header_of(LENGTHS.len()) + 64;
    let rest = (0..length).step_by(rng.random_range(11..40));
    (0..64).chain(headers).chain(short).chain(mark).chain(rest).collect()
}

fn rng() -> StdRng {
    let seed = rand::random();
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn no_flipped_bit_of_a_volume_loses_a_block_silently() {
    let stored = Stored::marked();
    // Makes the mark durable.
    drop(Bare::open(&stored.disk, VOLUME).unwrap());
    let (mut refused, mut damaged, mut mismatched) = (0, 0, 0);
    for at in places(&stored, &mut rng()) {
        let context = format!("byte {at}");
        let flipped = stored.flipped(VOLUME, at);
        let (volume, condition) = match flipped.open() {
            Ok(found) => found,
            Err(error) => {
                assert!(matches!(error, VolumeError::Superblock(_)) && at < PAGE, "{context}: {error}");
                refused += 1;
                continue;
            }
        };
        let lost = stored.lost(&volume, &context);
        assert!(!volume.is_live(stored.blocks[DELETED]), "{context}");
        assert!(lost.len() <= 1, "{context}: {lost:?}");
        for position in lost {
            if volume.is_live(stored.blocks[position]) {
                mismatched += 1;
            } else {
                damaged += 1;
                assert_eq!(condition, Condition::Unsealed, "{context}: block {position} is gone");
                assert!(flipped.looks_damaged(), "{context}");
            }
        }
    }
    assert!(refused == 64 && damaged > 200 && mismatched > 2000, "{refused} {damaged} {mismatched}");
}

/// The index is made again from the volume.
#[test]
fn no_flipped_bit_of_an_index_changes_what_is_read() {
    let stored = Stored::marked();
    stored.volume.seal().unwrap();
    let mut again = 0;
    for at in 0..stored.disk.map(INDEX).unwrap().len() {
        let context = format!("byte {at}");
        let flipped = stored.flipped(INDEX, at);
        let (volume, condition) = flipped.open().unwrap();
        assert_eq!(stored.lost(&volume, &context), BTreeSet::new(), "{context}");
        assert!(!volume.is_live(stored.blocks[DELETED]), "{context}");
        assert!(volume.segment().is_closed(), "{context}");
        again += usize::from(condition == Condition::Unsealed);
    }
    assert_eq!(again, stored.disk.map(INDEX).unwrap().len(), "each byte counts");
}

/// Headers are not read any more; payloads are.
#[test]
fn no_flipped_bit_of_a_sealed_volume_is_given_out() {
    let stored = Stored::marked();
    stored.volume.seal().unwrap();
    let (mut refused, mut mismatched) = (0, 0);
    for at in places(&stored, &mut rng()) {
        let context = format!("byte {at}");
        let flipped = stored.flipped(VOLUME, at);
        let Ok((volume, _)) = flipped.open() else {
            assert!(at < PAGE, "{context}");
            refused += 1;
            continue;
        };
        let lost = stored.lost(&volume, &context);
        assert!(lost.iter().all(|position| volume.is_live(stored.blocks[*position])), "{context}");
        mismatched += lost.len();
    }
    assert!(refused == 64 && mismatched > 2000, "{refused} {mismatched}");
}

/// A delete may be forgotten, which the log tells; the block that comes back is a hole, which its checksums tell.
#[test]
fn no_flipped_bit_of_the_deletes_touches_another_block() {
    let stored = Stored::marked();
    let mut forgotten = 0;
    for at in 0..stored.disk.map(DELETES).unwrap().len() {
        let context = format!("byte {at}");
        let flipped = stored.flipped(DELETES, at);
        let (volume, condition) = flipped.open().unwrap();
        assert_eq!(condition, Condition::Recovered, "{context}");
        assert_eq!(stored.lost(&volume, &context), BTreeSet::new(), "{context}");
        if volume.is_live(stored.blocks[DELETED]) {
            forgotten += 1;
            assert!(!stored.is_right(&volume, DELETED, &context), "{context}");
        }
    }
    assert_eq!(forgotten, 16, "one record");
}
