//! Which blocks of a volume are deleted: a small log beside it.
//!
//! A record only ever says "this block may go", so any whole record is believed wherever it stands, and
//! a torn one is skipped: its delete was not acknowledged and will be asked for again. After a failed
//! write nobody knows what the file holds, so the next delete writes a new one in its place.

use super::format::{FormatError, Reader, Writer, read_u32};
use crate::disk::{Disk, DiskFile, read_whole, trust_only_the_disk, write_all_at};
use crate::durable;
use cairn_common::ids::VolumeId;
use cairn_common::wire::checksum::crc32c_of_parts;
use std::io;
use std::sync::Arc;
use tracing::{error, warn};

const MAGIC: [u8; 8] = *b"CAIRNDEL";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const HEADER_CRC: usize = 28;
const RECORD: usize = 16;

/// A deleted block: sequence and cookie.
pub type Tombstone = (u32, u32);

/// The log of one volume, owned by whoever deletes.
pub struct TombstoneLog {
    name: String,
    volume: VolumeId,
    nonce: u64,
    /// The file and where the next record goes; `None` if it is to be written anew.
    file: Option<(Arc<dyn DiskFile>, u64)>,
}

impl TombstoneLog {
    /// The log of a new volume: no file until something is deleted.
    pub fn new(name: String, volume: VolumeId, nonce: u64) -> TombstoneLog {
        TombstoneLog { name, volume, nonce, file: None }
    }

    /// Opens the log and reads what it holds.
    pub fn open(
        disk: &dyn Disk,
        name: String,
        volume: VolumeId,
        nonce: u64,
    ) -> io::Result<(TombstoneLog, Vec<Tombstone>)> {
        let mut log = TombstoneLog::new(name, volume, nonce);
        let file = match disk.open(&log.name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((log, Vec::new())),
            Err(error) => return Err(error),
        };
        // A delete whose sync failed was not confirmed, and must not be on the word of the kernel's memory.
        trust_only_the_disk(&*file)?;
        let bytes = read_whole(disk, &log.name)?;
        let header = log.check_header(&bytes);
        let records = bytes.get(HEADER..).unwrap_or_default().chunks(RECORD);
        let found: Vec<Tombstone> = records.clone().filter_map(|r| decode(r, nonce)).collect();
        // Only a log without torn records is appended to.
        match header {
            Ok(()) if found.len() == records.len() => {
                log.file = Some((file, bytes.len() as u64));
            }
            Ok(()) => {
                let broken = records.len() - found.len();
                warn!("{}: {broken} records are torn or damaged; those deletes are forgotten", log.name);
            }
            // Nobody refers to a deleted block any more: to forget some deletes costs only space.
            Err(error) => error!(
                "{}: {error}; {} deletes are still known, the file will be replaced",
                log.name,
                found.len()
            ),
        }
        Ok((log, found))
    }

    fn check_header(&self, bytes: &[u8]) -> Result<(), FormatError> {
        if bytes.len() < HEADER || bytes[..8] != MAGIC {
            return Err(FormatError::Magic);
        }
        if crc32c_of_parts(&[&bytes[..HEADER_CRC]]) != read_u32(bytes, HEADER_CRC) {
            return Err(FormatError::Checksum);
        }
        let mut fields = Reader::new(&bytes[8..HEADER]);
        match fields.u32() {
            VERSION => {}
            other => return Err(FormatError::Version(other)),
        }
        if fields.u32() != self.volume.0 || fields.u64() != self.nonce {
            return Err(FormatError::Field);
        }
        Ok(())
    }

    /// Makes `new` tombstones durable; `old` are all that are durable already.
    pub fn append(
        &mut self,
        disk: &dyn Disk,
        old: impl FnOnce() -> Vec<Tombstone>,
        new: &[Tombstone],
    ) -> io::Result<()> {
        let encoded = self.encode(new);
        // Taken out: put back only once all has gone well.
        let next = match self.file.take() {
            Some((file, end)) => {
                write_all_at(&*file, &[&encoded], end)?;
                file.sync_data()?;
                (file, end + encoded.len() as u64)
            }
            None => {
                let header = self.encode_header();
                let kept = self.encode(&old());
                durable::replace(disk, &self.name, &[&header, &kept, &encoded])?;
                let end = (header.len() + kept.len() + encoded.len()) as u64;
                (disk.open(&self.name)?, end)
            }
        };
        self.file = Some(next);
        Ok(())
    }

    fn encode_header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let mut fields = Writer::new(&mut header);
        fields.put(&MAGIC);
        fields.put(&VERSION.to_be_bytes());
        fields.put(&self.volume.0.to_be_bytes());
        fields.put(&self.nonce.to_be_bytes());
        let crc = crc32c_of_parts(&[&header[..HEADER_CRC]]);
        header[HEADER_CRC..].copy_from_slice(&crc.to_be_bytes());
        header
    }

    fn encode(&self, tombstones: &[Tombstone]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(tombstones.len() * RECORD);
        for (sequence, cookie) in tombstones {
            bytes.extend_from_slice(&sequence.to_be_bytes());
            bytes.extend_from_slice(&cookie.to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&record_crc(*sequence, *cookie, self.nonce).to_be_bytes());
        }
        bytes
    }
}

fn decode(record: &[u8], nonce: u64) -> Option<Tombstone> {
    if record.len() < RECORD {
        return None;
    }
    let (sequence, cookie) = (read_u32(record, 0), read_u32(record, 4));
    (read_u32(record, 8) == 0 && read_u32(record, 12) == record_crc(sequence, cookie, nonce))
        .then_some((sequence, cookie))
}

/// The nonce is part of it: a record of another volume is not valid here.
fn record_crc(sequence: u32, cookie: u32, nonce: u64) -> u32 {
    crc32c_of_parts(&[&sequence.to_be_bytes(), &cookie.to_be_bytes(), &nonce.to_be_bytes()])
}

/// Which blocks of an index are deleted: one bit for each, by its position. Not by its sequence: in a damaged volume
/// sequences may jump, and memory must not follow.
#[derive(Default)]
pub struct DeadSet {
    words: Vec<u64>,
}

impl DeadSet {
    fn bit(position: usize) -> (usize, u64) {
        (position / 64, 1 << (position % 64))
    }

    /// True if the block at `position` is in the set.
    #[must_use]
    pub fn contains(&self, position: usize) -> bool {
        let (word, bit) = DeadSet::bit(position);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Adds the block at `position`; false if it was there.
    pub fn insert(&mut self, position: usize) -> bool {
        let (word, bit) = DeadSet::bit(position);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::sim::{Call, SimDisk};

    fn open(disk: &SimDisk) -> (TombstoneLog, Vec<Tombstone>) {
        TombstoneLog::open(disk, "vol.cd".into(), VolumeId(2), 99).unwrap()
    }

    #[test]
    fn golden_bytes() {
        let disk = SimDisk::new();
        open(&disk).0.append(&disk, Vec::new, &[(1, 0xaabb_ccdd)]).unwrap();
        let hex: String = disk.map("vol.cd").unwrap().iter().map(|b| format!("{b:02x}")).collect();
        let header = "434149524e44454c0000000100000002000000000000006300000000".to_owned() + "28bd6f80";
        assert_eq!(hex, header + "00000001aabbccdd00000000b4800eb3");
    }

    #[test]
    fn reopens_with_all_that_was_appended() {
        let disk = SimDisk::new();
        let (mut log, found) = open(&disk);
        assert!(found.is_empty());
        log.append(&disk, Vec::new, &[(1, 10), (3, 30)]).unwrap();
        log.append(&disk, || unreachable!("the file is good"), &[(2, 20)]).unwrap();
        let (mut log, found) = open(&disk.power_cycle(1));
        assert_eq!(found, [(1, 10), (3, 30), (2, 20)]);
        assert!(TombstoneLog::open(&disk, "vol.cd".into(), VolumeId(2), 98).unwrap().1.is_empty());
        log.append(&disk, || unreachable!("the file is good"), &[(4, 40)]).unwrap();
    }

    #[test]
    fn a_torn_record_is_skipped_and_the_log_rewritten() {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk);
        log.append(&disk, Vec::new, &[(1, 10), (2, 20), (3, 30)]).unwrap();
        disk.corrupt("vol.cd", HEADER + RECORD, &[7]);
        let (mut log, found) = open(&disk);
        assert_eq!(found, [(1, 10), (3, 30)]);
        log.append(&disk, || found.clone(), &[(4, 40)]).unwrap();
        assert_eq!(open(&disk).1, [(1, 10), (3, 30), (4, 40)]);
    }

    #[test]
    fn after_a_failed_sync_the_next_delete_writes_a_new_file() {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk);
        log.append(&disk, Vec::new, &[(1, 10)]).unwrap();
        disk.fail_once(Call::Sync, 0, io::ErrorKind::Other);
        assert!(log.append(&disk, || vec![(1, 10)], &[(2, 20)]).is_err());
        log.append(&disk, || vec![(1, 10)], &[(2, 20)]).unwrap();
        for seed in 0..8 {
            assert_eq!(open(&disk.power_cycle(seed)).1, [(1, 10), (2, 20)]);
        }
    }

    #[test]
    fn dead_set() {
        let mut set = DeadSet::default();
        assert!(!set.contains(1000));
        assert!(set.insert(1000) && set.insert(64) && !set.insert(1000));
        assert!(set.contains(64) && set.contains(1000) && !set.contains(65) && !set.contains(usize::MAX));
    }
}
