//! A segment: one file of the log, with its space set aside, so that an append neither runs out of
//! space half way nor changes the file's length (which would cost each sync a journal commit more).

use super::LogError;
use super::record;
use crate::disk::{Disk, DiskFile, is_full, write_all_at};
use crate::durable::TEMPORARY;
use cairn_common::ids::{ClusterId, LogIndex};
use std::io;
use std::sync::Arc;

/// Bytes before the first record.
pub const HEADER: usize = 64;
const MAGIC: [u8; 8] = *b"CAIRNLOG";
const VERSION: u32 = 1;
/// Zeros written behind a record when it comes to where none are yet. Space that was only set aside has to be
/// marked as written by the file system with the first bytes in it, and a sync waits for that; in zeros it
/// writes the bytes and nothing else.
const ZEROS_AHEAD: usize = 256 << 10;
static ZEROS: [u8; ZEROS_AHEAD] = [0; ZEROS_AHEAD];

/// What a segment's file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub cluster: ClusterId,
    /// Index of the first record.
    pub first: LogIndex,
    /// Checksum of the last record of the segment before; 0 for the first of a log.
    pub previous: u32,
    /// Random, and never sent to anyone: who does not know it can't make bytes that pass for a record.
    pub nonce: u64,
}

impl Header {
    /// The bytes, and the checksum that the first record refers to.
    #[must_use]
    pub fn encode(&self) -> ([u8; HEADER], u32) {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_be_bytes());
        out[12..28].copy_from_slice(&self.cluster.0.to_be_bytes());
        out[28..36].copy_from_slice(&self.first.0.to_be_bytes());
        out[36..40].copy_from_slice(&self.previous.to_be_bytes());
        out[40..48].copy_from_slice(&self.nonce.to_be_bytes());
        let checksum = crc_fast::crc32_iscsi(&out[..60]);
        out[60..].copy_from_slice(&checksum.to_be_bytes());
        (out, checksum)
    }

    /// Reads a header; the error says in words what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<(Header, u32), String> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err("is too short to be a log segment".into());
        };
        if bytes[..8] != MAGIC {
            return Err("is not a log segment".into());
        }
        let version = be32(bytes, 8);
        if version != VERSION {
            return Err(format!("has format version {version}, this program reads {VERSION}"));
        }
        let checksum = be32(bytes, 60);
        if crc_fast::crc32_iscsi(&bytes[..60]) != checksum {
            return Err("has a damaged header".into());
        }
        let cluster = u128::from_be_bytes(bytes[12..28].try_into().expect("16 bytes"));
        let header = Header {
            cluster: ClusterId(cluster),
            first: LogIndex(be64(bytes, 28)),
            previous: be32(bytes, 36),
            nonce: be64(bytes, 40),
        };
        Ok((header, checksum))
    }
}

fn be32(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes inside the header"))
}

fn be64(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes inside the header"))
}

/// The file name of the segment that begins with entry `first`.
#[must_use]
pub fn name(first: LogIndex) -> String {
    format!("log-{:016x}", first.0)
}

/// The first index that a segment's file name says; `None` for other files.
#[must_use]
pub fn parse_name(name: &str) -> Option<LogIndex> {
    let digits = name.strip_prefix("log-")?;
    let first = u64::from_str_radix(digits, 16).ok()?;
    (self::name(LogIndex(first)) == name).then_some(LogIndex(first))
}

/// A segment that is written.
pub struct Segment {
    pub file: Arc<dyn DiskFile>,
    pub header: Header,
    /// Where the next record goes.
    pub end: u64,
    /// Bytes set aside.
    pub capacity: u64,
    /// Up to here something was written: records, or zeros for those to come.
    pub written: u64,
    /// Checksum of the last record, or of the header.
    pub chain: u32,
    /// The mark that stands at the end.
    pub mark: Option<[u8; record::MARK]>,
}

impl Segment {
    /// Makes a segment that is durable, name and all, before this returns. On `NoSpace` nothing of it stays.
    pub fn create(disk: &dyn Disk, header: Header, capacity: u64) -> Result<Segment, LogError> {
        let name = name(header.first);
        let temporary = format!("{name}{TEMPORARY}");
        let made = make(disk, &temporary, header, capacity);
        let result = made.and_then(|(file, chain)| {
            // Under its name only when whole: a file called `log-*` always has a valid header.
            disk.rename(&temporary, &name)?;
            disk.sync_dir()?;
            let end = HEADER as u64;
            Ok(Segment { file, header, end, capacity, written: end, chain, mark: None })
        });
        result.map_err(|error| {
            if !is_full(&error) {
                return LogError::failed(format!("create log segment {name}"), error);
            }
            match disk.remove(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    LogError::failed(format!("remove {temporary}"), error)
                }
                _ => LogError::NoSpace,
            }
        })
    }

    /// True if it has no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == HEADER as u64
    }

    /// The checksum that a segment begun now names as that of the record before it.
    #[must_use]
    pub fn link(&self) -> u32 {
        // One without records is replaced: it has the same name.
        if self.is_empty() { self.header.previous } else { self.chain }
    }

    /// Bytes of records that fit, with a mark behind them.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.end + record::MARK as u64)
    }

    /// True if records of `bytes` bytes in all fit, and a mark behind them.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.end + (bytes + record::MARK) as u64 <= self.capacity
    }

    /// Writes encoded records at the end, whole or not at all.
    pub fn append(&mut self, records: &[u8], chain: u32) -> Result<(), LogError> {
        let end = self.end + records.len() as u64;
        let zeros = self.zeros_behind(end);
        match write_all_at(&*self.file, &[records, zeros], self.end) {
            Ok(()) => {
                self.end = end;
                self.written = self.written.max(end + zeros.len() as u64);
                self.chain = chain;
                self.mark = None;
                Ok(())
            }
            Err(error) if is_full(&error) => self.take_back(),
            Err(error) => Err(LogError::failed(format!("append to {}", name(self.header.first)), error)),
        }
    }

    /// Writes behind the last record, which is that of entry `last`, that all are on stable storage. The mark itself need not get
    /// there soon: the kernel is told to begin, and a loss of power before that leaves things as they were.
    pub fn mark(&mut self, last: LogIndex) -> Result<(), LogError> {
        // One that an older program made may have no room behind its last record.
        if self.mark.is_some() || !self.has_room(0) {
            return Ok(());
        }
        let mark = record::mark(self.header.nonce, last, self.chain);
        match write_all_at(&*self.file, &[&mark], self.end) {
            Ok(()) => {
                self.mark = Some(mark);
                self.file.start_writeback(self.end, mark.len() as u64);
                Ok(())
            }
            Err(error) if is_full(&error) => Ok(()),
            Err(error) => {
                Err(LogError::failed(format!("mark the end of {}", name(self.header.first)), error))
            }
        }
    }

    /// What to write behind records that end at `end`: nothing as long as they stay where zeros are.
    fn zeros_behind(&self, end: u64) -> &'static [u8] {
        let until = if end > self.written { (end + ZEROS_AHEAD as u64).min(self.capacity) } else { end };
        let length = usize::try_from(until.saturating_sub(end)).expect("at most as long as the zeros");
        &ZEROS[..length]
    }

    /// The disk is full although the space was set aside (a file system that can't do that): what was
    /// written in part must not be found after a restart, since the caller is told it did not happen.
    fn take_back(&self) -> Result<(), LogError> {
        let before = self.mark.unwrap_or([0; record::MARK]);
        let erased = write_all_at(&*self.file, &[&before], self.end);
        match erased {
            Ok(()) => Err(LogError::NoSpace),
            Err(error) => Err(LogError::failed(format!("take back from {}", name(self.header.first)), error)),
        }
    }
}

fn make(
    disk: &dyn Disk,
    temporary: &str,
    header: Header,
    capacity: u64,
) -> io::Result<(Arc<dyn DiskFile>, u32)> {
    match disk.remove(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(temporary)?;
    let (bytes, chain) = header.encode();
    file.truncate(capacity)?;
    file.allocate(0, capacity)?;
    write_all_at(&*file, &[&bytes], 0)?;
    file.sync_data()?;
    Ok((file, chain))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::sim::{Call, SimDisk};

    fn header() -> Header {
        Header { cluster: ClusterId(0x0a0b), first: LogIndex(0x11), previous: 0x2233_4455, nonce: 0x66_77 }
    }

    #[test]
    fn golden_bytes() {
        let (bytes, checksum) = header().encode();
        let mut expected = Vec::new();
        expected.extend_from_slice(b"CAIRNLOG");
        expected.extend_from_slice(&[0, 0, 0, 1]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x11]);
        expected.extend_from_slice(&[0x22, 0x33, 0x44, 0x55]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0x66, 0x77]);
        expected.extend_from_slice(&[0; 12]);
        expected.extend_from_slice(&checksum.to_be_bytes());
        assert_eq!(bytes[..], expected);
        assert_eq!(checksum, 0x266b_d283);
        assert_eq!(Header::decode(&bytes).unwrap(), (header(), checksum));
    }

    #[test]
    fn damaged_headers_are_named() {
        let (mut bytes, _) = header().encode();
        assert!(Header::decode(&bytes[..63]).unwrap_err().contains("too short"));
        bytes[30] ^= 1;
        assert!(Header::decode(&bytes).unwrap_err().contains("damaged"));
        bytes[11] = 9;
        assert!(Header::decode(&bytes).unwrap_err().contains("version 9"));
        bytes[0] = 0;
        assert!(Header::decode(&bytes).unwrap_err().contains("not a log segment"));
    }

    #[test]
    fn zeros_go_ahead_of_records() {
        let disk = SimDisk::new();
        let ahead = ZEROS_AHEAD as u64;
        let capacity = 3 * ahead / 2;
        let mut segment = Segment::create(&disk, header(), capacity).unwrap();
        let behind = |records: u64| HEADER as u64 + records;
        segment.append(&[1; 100], 1).unwrap();
        assert_eq!((segment.end, segment.written), (behind(100), behind(100) + ahead));
        segment.append(&[2; 1000], 2).unwrap();
        assert_eq!((segment.end, segment.written), (behind(1100), behind(100) + ahead));
        let long = vec![3; ZEROS_AHEAD];
        segment.append(&long, 3).unwrap();
        assert_eq!((segment.end, segment.written), (behind(1100) + ahead, capacity));
        assert!(segment.has_room(8) && !segment.has_room(long.len()));
        let mut rest = vec![0xff; usize::try_from(capacity - segment.end).unwrap()];
        crate::disk::read_exact_at(&*segment.file, &mut rest, segment.end).unwrap();
        assert!(rest.iter().all(|byte| *byte == 0));
        assert_eq!(segment.file.len().unwrap(), capacity);
    }

    #[test]
    fn names_sort_by_index() {
        assert_eq!(name(LogIndex(255)), "log-00000000000000ff");
        assert_eq!(parse_name("log-00000000000000ff"), Some(LogIndex(255)));
        for other in ["log-ff", "log-00000000000000FF", "LOCK", "log-00000000000000ff.tmp"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn no_space_leaves_nothing() {
        let disk = SimDisk::new();
        disk.fail_once(Call::Allocate, 0, io::ErrorKind::StorageFull);
        let refused = Segment::create(&disk, header(), 4096).map(|_| ()).unwrap_err();
        assert!(matches!(refused, LogError::NoSpace), "{refused}");
        assert!(disk.list().unwrap().is_empty());
        Segment::create(&disk, header(), 4096).unwrap();
        assert_eq!(disk.list().unwrap(), [name(header().first)]);
    }
}
