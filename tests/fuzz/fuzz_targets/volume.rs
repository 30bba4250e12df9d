//! A volume: its file with the records in it, its index, and its log of deletes; well made, then damaged.
#![no_main]

use cairn_common::ids::{ClusterId, NodeId, SessionId, VolumeId};
use cairn_common::limits::{FRAME_PAYLOAD_MAX, PIECE};
use cairn_common::proto::data::BlockStat;
use cairn_common::wire::checksum::{crc32c, verify_pieces};
use cairn_fsd::data::Owner;
use cairn_fsd::data::volume::bare::Bare;
use cairn_fsd::data::volume::format::{PAGE, Record, RecordKind, Superblock};
use cairn_fsd::data::volume::segment::Limits;
use cairn_fsd::data::volume::{Condition, Volume};
use cairn_fsd::disk::sim::SimDisk;
use cairn_fsd::disk::{Disk, write_all_at};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

const OWNER: Owner = Owner { cluster: ClusterId(7), node: NodeId(3) };
const ID: VolumeId = VolumeId(1);
const NAME: &str = "vol-00000001.cv";
const INDEX: &str = "vol-00000001.ci";
const DELETES: &str = "vol-00000001.cd";
const NONCE: u64 = 0x0102_0304_0506_0708;
const LIMITS: Limits = Limits { volume_size: 1 << 30, reserve: 0 };
const RECORDS_MAX: u8 = 6;
const DAMAGES_MAX: u8 = 4;
/// A volume of some blocks of one or two pieces, and copies of it.
const HELD_MAX: usize = 24 * MIB;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut volume = superblock();
    for _ in 0..input.u8() % (RECORDS_MAX + 1) {
        record(&mut input, &mut volume);
    }
    let disk = SimDisk::new();
    let kinds = input.u8();
    if kinds & 1 != 0 {
        store(&disk, DELETES, &deletes(&mut input));
    }
    if kinds & 2 != 0 {
        store(&disk, INDEX, &index(&mut input));
    }
    for _ in 0..input.u8() % (DAMAGES_MAX + 1) {
        damage(&mut input, &mut volume);
    }
    store(&disk, NAME, &volume);
    within(HELD_MAX, || {
        look(&disk);
        serve(&disk);
    });
});

fn superblock() -> Vec<u8> {
    let Owner { cluster, node } = OWNER;
    Superblock { cluster, node, volume: ID, created: 1, nonce: NONCE }.encode().to_vec()
}

/// Appends a record; most fields are the input's.
fn record(input: &mut Input<'_>, volume: &mut Vec<u8>) {
    let kind = [RecordKind::Block, RecordKind::Block, RecordKind::Stop, RecordKind::Seal, RecordKind::Mark];
    let kind = kind[usize::from(input.u8() % 5)];
    let payload = if kind == RecordKind::Block { payload(input) } else { Vec::new() };
    let offset = volume.len() as u64;
    let (sequence, cookie, session) = (input.u32(), input.u32(), SessionId(input.u64()));
    let (summary_len, durable) = (u32::from(input.u16()), u64::from(input.u8()) * PAGE as u64);
    let record = Record {
        kind,
        sequence,
        cookie,
        session,
        payload_len: u32::try_from(payload.len()).expect("small"),
        summary_len,
        // There is no other mark.
        durable: if kind == RecordKind::Mark { offset } else { durable },
        checksums: payload.chunks(PIECE).map(crc32c).collect(),
    };
    volume.extend(record.encode(NONCE, offset));
    volume.extend(payload);
    volume.resize(volume.len().next_multiple_of(PAGE), 0);
}

/// Some bytes, or some more than a piece.
fn payload(input: &mut Input<'_>) -> Vec<u8> {
    let (long, mut payload) = (input.u8().is_multiple_of(4), input.chunk().to_vec());
    payload.push(1);
    if long {
        payload.resize(payload.len() + PIECE, 2);
    }
    payload
}

/// A log of deletes with any records, most with the checksum that fits.
fn deletes(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = b"CAIRNDEL\0\0\0\x01".to_vec();
    out.extend(ID.0.to_be_bytes());
    out.extend(NONCE.to_be_bytes());
    out.extend(input.u32().to_be_bytes());
    out.extend(crc32c(&out).to_be_bytes());
    for _ in 0..input.u8() % 8 {
        let block: [u8; 8] = input.array();
        let checksum = crc32c(&[&block[..], &NONCE.to_be_bytes()].concat()) ^ u32::from(input.u8());
        out.extend(block);
        out.extend([0; 4]);
        out.extend(checksum.to_be_bytes());
    }
    let tail = input.chunk();
    out.extend(tail);
    out
}

/// An index with any entries and the checksums that fit: what they say is to be checked all the same.
fn index(input: &mut Input<'_>) -> Vec<u8> {
    let (end, count, checksums) = (input.u64(), input.u32(), input.u32());
    let body = input.chunk();
    let mut out = b"CAIRNIDX\0\0\0\x01".to_vec();
    out.extend(ID.0.to_be_bytes());
    out.extend(NONCE.to_be_bytes());
    out.extend(end.to_be_bytes());
    out.extend(count.to_be_bytes());
    out.extend(checksums.to_be_bytes());
    out.extend(crc32c(body).to_be_bytes());
    out.resize(60, 0);
    out.extend(crc32c(&out).to_be_bytes());
    out.extend(body);
    out
}

/// Other bytes somewhere, or another end.
fn damage(input: &mut Input<'_>, volume: &mut Vec<u8>) {
    let (kind, at) = (input.u8(), usize::try_from(input.u32()).expect("32 bits fit"));
    let at = at.min(volume.len());
    if kind.is_multiple_of(4) {
        volume.truncate(at);
        return;
    }
    let new = input.chunk();
    let end = (at + new.len()).min(volume.len());
    volume[at..end].copy_from_slice(&new[..end - at]);
}

fn store(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).expect("each name is there once");
    write_all_at(&*file, &[bytes], 0).expect("there is room");
}

/// Looked at without a daemon.
fn look(disk: &SimDisk) {
    let Ok(bare) = Bare::open(disk, NAME) else { return };
    let mut last = 0;
    for block in bare.blocks() {
        assert!(block.sequence > last, "in order");
        last = block.sequence;
        assert_eq!(bare.block(block.sequence), Some(block));
        if let Ok(payload) = bare.read(&block) {
            assert_eq!(payload.len(), block.payload_len as usize);
        }
    }
}

/// Opened by the daemon, and again: what was there is there.
fn serve(disk: &SimDisk) {
    let Some((volume, condition)) = open(disk) else { return };
    let blocks = volume.list(0, usize::MAX);
    assert_eq!(volume.stat().blocks + volume.stat().deleted, blocks.len() as u64);
    blocks.iter().for_each(|block| read(&volume, block));
    volume.punch_dead();
    if let Some(first) = blocks.first() {
        volume.delete(&[first.block]).expect("the disk is fine");
        assert!(!volume.is_live(first.block));
    }
    let kept = volume.list(0, usize::MAX);
    if condition == Condition::Unsealed {
        volume.seal().expect("the disk is fine");
    } else {
        volume.stop().expect("the disk is fine");
    }
    let (volume, condition) = open(disk).expect("it was fine before");
    assert!(matches!(condition, Condition::Sealed | Condition::Open), "{condition:?}");
    assert_eq!(volume.list(0, usize::MAX), kept);
}

fn open(disk: &SimDisk) -> Option<(Volume, Condition)> {
    Volume::open(Arc::new(disk.clone()), OWNER, ID, LIMITS).ok()
}

/// All of a block, as the daemon does for a mount, which compares it with the checksums.
fn read(volume: &Volume, stat: &BlockStat) {
    assert!((1..=FRAME_PAYLOAD_MAX).contains(&(stat.length as usize)), "block of {} bytes", stat.length);
    assert!(stat.summary_len <= stat.length);
    let Ok(span) = volume.locate(stat.block, 0, u32::MAX) else { return assert!(stat.deleted) };
    assert_eq!((span.offset, span.length), (0, stat.length as usize));
    assert_eq!(span.checksums.len(), span.length.div_ceil(PIECE));
    let mut payload = vec![0; span.length];
    if volume.read(&span, &mut payload).is_ok() {
        let _ = verify_pieces(&payload, &span.checksums);
    }
}
