//! The metadata log: segments built by the description in `docs/formats/log.md`, then damaged.
#![no_main]

use cairn_common::ids::{ClusterId, LogIndex};
use cairn_common::wire::checksum::crc32c;
use cairn_fsd::disk::sim::SimDisk;
use cairn_fsd::disk::{Disk, write_all_at};
use cairn_fsd::meta::log::{FileLog, Log, LogOptions, RecoverError, Recovered, recover};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(7);
const NONCE: u64 = 0x0102_0304_0506_0708;
const SEGMENTS_MAX: u8 = 3;
const RECORDS_MAX: u8 = 8;
const DAMAGES_MAX: u8 = 4;
/// Zeros behind the records of each segment.
const ROOM: usize = 256;
/// Of the byte that says how many segments there are: a mark stands behind the last record.
const MARKED: u8 = 0x80;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let applied = LogIndex(u64::from(input.u8() % 4));
    let mut files = segments(&mut input);
    let written: Vec<Vec<u8>> = files.iter().flat_map(|file| file.entries.clone()).collect();
    let damages = input.u8() % (DAMAGES_MAX + 1);
    for _ in 0..damages {
        damage(&mut input, &mut files);
    }
    let disk = SimDisk::new();
    for file in &files {
        store(&disk, &format!("log-{:016x}", file.first), &file.bytes);
    }
    within(8 * MIB, || recovered(&disk, applied, (damages == 0).then_some(&written)));
});

struct File {
    first: u64,
    bytes: Vec<u8>,
    entries: Vec<Vec<u8>>,
}

fn segments(input: &mut Input<'_>) -> Vec<File> {
    let (mut next, mut chain) = (1, 0);
    let mut files = Vec::new();
    let shape = input.u8();
    for _ in 0..=shape % SEGMENTS_MAX {
        let mut file = File { first: next, bytes: header(next, chain), entries: Vec::new() };
        chain = crc32c(&file.bytes[..60]);
        // Only the last segment may be without records.
        for _ in 0..=input.u8() % RECORDS_MAX {
            let (mark, payload) = (u64::from(input.u8()), input.chunk());
            let payload = if payload.is_empty() { b"empty" } else { payload };
            chain = record(&mut file.bytes, chain, next, next.saturating_sub(mark + 1), payload);
            file.entries.push(payload.to_vec());
            next += 1;
        }
        files.push(file);
    }
    if let Some(last) = files.last_mut().filter(|_| shape & MARKED != 0) {
        record(&mut last.bytes, chain, next, next - 1, b"");
    }
    files.iter_mut().for_each(|file| file.bytes.resize(file.bytes.len() + ROOM, 0));
    files
}

fn header(first: u64, previous: u32) -> Vec<u8> {
    let mut out = b"CAIRNLOG\0\0\0\x01".to_vec();
    out.extend(CLUSTER.0.to_be_bytes());
    out.extend(first.to_be_bytes());
    out.extend(previous.to_be_bytes());
    out.extend(NONCE.to_be_bytes());
    out.resize(60, 0);
    out.extend(crc32c(&out).to_be_bytes());
    out
}

fn record(out: &mut Vec<u8>, previous: u32, index: u64, durable: u64, payload: &[u8]) -> u32 {
    let mut covered = u32::try_from(payload.len()).expect("at most 65,535").to_be_bytes().to_vec();
    covered.extend(previous.to_be_bytes());
    covered.extend([0; 4]);
    covered.extend(index.to_be_bytes());
    covered.extend(durable.to_be_bytes());
    covered.extend(payload);
    let checksum = crc32c(&[&NONCE.to_be_bytes()[..], &covered].concat());
    out.extend(checksum.to_be_bytes());
    out.extend(covered);
    out.resize(out.len().next_multiple_of(8), 0);
    checksum
}

/// Other bytes somewhere, another end, or no file.
fn damage(input: &mut Input<'_>, files: &mut Vec<File>) {
    let (which, kind, at) = (usize::from(input.u8()), input.u8(), usize::from(input.u16()));
    let count = files.len();
    let Some(file) = (count > 0).then(|| &mut files[which % count]) else { return };
    let at = at.min(file.bytes.len());
    match kind % 4 {
        0 => file.bytes.truncate(at),
        1 => drop(files.remove(which % count)),
        _ => {
            let new = input.chunk();
            let end = (at + new.len()).min(file.bytes.len());
            file.bytes[at..end].copy_from_slice(&new[..end - at]);
        }
    }
}

fn store(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).expect("each name is there once");
    write_all_at(&*file, &[bytes], 0).expect("there is room");
}

/// What is found is `whole`, if that is known; it is found again, and the log goes on behind it.
fn recovered(disk: &SimDisk, applied: LogIndex, whole: Option<&Vec<Vec<u8>>>) {
    let found = read(disk, applied);
    if let Some(written) = whole {
        let known = usize::try_from(applied.0).expect("small");
        match &found {
            Ok((_, entries)) => assert_eq!(entries[..], written[known..]),
            Err(error) => assert!(written.len() < known, "{error}"),
        }
    }
    let Ok((_, entries)) = found else { return };
    let (again, same) = read(disk, applied).expect("it was fine before");
    assert_eq!(same, entries);
    assert_eq!(again.cut, 0, "what was torn is cut");
    let options =
        LogOptions { segment_bytes: 4096, sync_after: Duration::MAX, reserve_bytes: 0, thread: false };
    let log = FileLog::start(Arc::new(disk.clone()), CLUSTER, again, options).expect("there is room");
    log.propose(&[b"one more"]).expect("there is room");
    log.close();
    let (_, more) = read(disk, applied).expect("it was fine before");
    assert_eq!(more, [&entries[..], &[b"one more".to_vec()]].concat());
}

fn read(disk: &SimDisk, applied: LogIndex) -> Result<(Recovered, Vec<Vec<u8>>), RecoverError> {
    let mut entries = Vec::new();
    let mut next = applied;
    let recovered = recover(disk, CLUSTER, applied, &mut |index, entry| {
        next = next.next();
        assert_eq!(index, next, "one after the other");
        entries.push(entry.to_vec());
        Ok(())
    })?;
    assert_eq!(recovered.last, next);
    Ok((recovered, entries))
}
