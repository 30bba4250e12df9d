//! Opening a log after whatever happened: reads what the checkpoint does not have, cuts a torn tail.
//!
//! A loss of power leaves any subset of the sectors that were not synced, so the tail may end in a bad
//! record, and good ones may follow it. A bad record is cut only in the last segment, and only if no
//! record or mark behind it says that the bad one had been synced; else synced data was damaged, and the
//! daemon refuses to start rather than forget what it had promised.

use super::record::{self, Found, Record};
use super::segment::{self, HEADER, Header, Segment};
use crate::disk::{Disk, Mapping, trust_only_the_disk};
use crate::durable::settle_names;
use cairn_common::ids::{ClusterId, LogIndex};
use std::io;

/// Why a log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("{name}: {source}")]
    Io { name: String, source: io::Error },
    /// Not what this program wrote, or damaged after it was synced.
    #[error("metadata log: {0}")]
    Corrupt(String),
    /// The caller could not use an entry.
    #[error("metadata log entry {index}: {reason}")]
    Entry { index: LogIndex, reason: String },
}

/// Gets entries; an error says in words why one can't be used.
pub type Visit<'a> = dyn FnMut(LogIndex, &[u8]) -> Result<(), String> + 'a;

/// Where a log goes on.
pub struct Recovered {
    /// The last entry, or the checkpoint's if the log is empty.
    pub last: LogIndex,
    /// The last segment; `None` if there is none at all.
    pub(super) segment: Option<Segment>,
    /// First indexes of the segments before it.
    pub(super) older: Vec<LogIndex>,
    /// Bytes of a torn tail that were cut off.
    pub cut: u64,
}

/// Reads the log in `disk`. `visit` gets each entry above `applied`, in order. Afterwards everything that
/// is in the log is on stable storage.
pub fn recover(
    disk: &dyn Disk,
    cluster: ClusterId,
    applied: LogIndex,
    visit: &mut Visit<'_>,
) -> Result<Recovered, RecoverError> {
    settle_names(disk).map_err(|e| io_error("settle the names of files", e))?;
    let firsts = list(disk, applied)?;
    let Some((&last_first, older)) = firsts.split_last() else {
        return Ok(Recovered { last: applied, segment: None, older: Vec::new(), cut: 0 });
    };
    let mut reader = Reader { disk, cluster, applied, visit, previous: None };
    for (at, first) in firsts.iter().enumerate().take(older.len()) {
        let next = firsts[at + 1];
        // A segment that the checkpoint covers was only not removed yet.
        if next.0 > applied.0 + 1 {
            reader.whole_segment(*first, next)?;
        }
    }
    let tail = reader.last_segment(last_first)?;
    let last = tail.last;
    if last < applied {
        return Err(RecoverError::Corrupt(format!(
            "{} ends at entry {last}, but the checkpoint has entry {applied}: synced entries are lost",
            segment::name(last_first)
        )));
    }
    let cut = tail.garbage;
    let segment = tail.into_segment(disk).map_err(|e| io_error(&segment::name(last_first), e))?;
    Ok(Recovered { last, segment: Some(segment), older: older.to_vec(), cut })
}

/// First indexes of all segments, in order; they must reach back to the checkpoint.
fn list(disk: &dyn Disk, applied: LogIndex) -> Result<Vec<LogIndex>, RecoverError> {
    let names = disk.list().map_err(|e| io_error("list the directory", e))?;
    let mut firsts: Vec<LogIndex> = names.iter().filter_map(|n| segment::parse_name(n)).collect();
    firsts.sort_unstable();
    let begins = firsts.first().map_or(LogIndex(1), |first| *first);
    if firsts.is_empty() && applied.0 > 0 || begins.0 > applied.0 + 1 {
        return Err(RecoverError::Corrupt(format!("the segment with entry {} is missing", applied.0 + 1)));
    }
    Ok(firsts)
}

fn io_error(name: &str, source: io::Error) -> RecoverError {
    RecoverError::Io { name: name.to_owned(), source }
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    cluster: ClusterId,
    applied: LogIndex,
    visit: &'a mut Visit<'a>,
    /// Checksum of the last record of the segment before, if it was read.
    previous: Option<u32>,
}

/// How far the good records of a segment go.
struct Tail {
    header: Header,
    last: LogIndex,
    end: usize,
    chain: u32,
    capacity: u64,
    /// Bytes behind the end, up to about the last that is not zero.
    garbage: u64,
}

impl Reader<'_> {
    /// A segment that has a successor: it was synced when that one began, so nothing may be torn.
    fn whole_segment(&mut self, first: LogIndex, next: LogIndex) -> Result<(), RecoverError> {
        let (tail, _) = self.scan(first)?;
        self.previous = Some(tail.chain);
        if tail.last.next() == next {
            return Ok(());
        }
        Err(damaged(&tail, &format!("the next segment begins with entry {next}")))
    }

    fn last_segment(&mut self, first: LogIndex) -> Result<Tail, RecoverError> {
        let (mut tail, bytes) = self.scan(first)?;
        let rest = &bytes[tail.end + tail.mark_len(&bytes)..];
        let written = written_len(rest);
        tail.garbage = written as u64;
        if written > 0
            && let Some(later) = later_claim(&rest[..written], tail.header.nonce, tail.last.next())
        {
            return Err(damaged(&tail, &format!("{later} behind it says that it had been synced")));
        }
        Ok(tail)
    }

    /// Reads records up to the first that does not fit.
    fn scan(&mut self, first: LogIndex) -> Result<(Tail, Mapping), RecoverError> {
        let name = segment::name(first);
        let bytes = read_segment(self.disk, &name).map_err(|e| io_error(&name, e))?;
        let (header, mut chain) = Header::decode(&bytes).map_err(|what| corrupt(&name, &what))?;
        self.check_header(&name, first, header)?;
        let mut at = HEADER;
        let mut next = first;
        while let Some(record) = expected_record(&bytes, at, header.nonce, next, chain) {
            if record.index > self.applied {
                (self.visit)(record.index, record.payload)
                    .map_err(|reason| RecoverError::Entry { index: record.index, reason })?;
            }
            chain = record.checksum;
            at += record::stored_len(record.payload.len());
            next = next.next();
        }
        let at = at.min(bytes.len());
        let last = LogIndex(next.0 - 1);
        Ok((Tail { header, last, end: at, chain, capacity: bytes.len() as u64, garbage: 0 }, bytes))
    }

    fn check_header(&self, name: &str, first: LogIndex, header: Header) -> Result<(), RecoverError> {
        if header.cluster != self.cluster {
            let what = format!("belongs to cluster {}, not to {}", header.cluster, self.cluster);
            return Err(corrupt(name, &what));
        }
        if header.first != first {
            return Err(corrupt(name, &format!("begins with entry {}", header.first)));
        }
        if self.previous.is_some_and(|previous| previous != header.previous) {
            return Err(corrupt(name, "does not continue the segment before"));
        }
        Ok(())
    }
}

/// What is on the disk, all of it durable: a killed process may have left records un-synced, and one whose
/// sync failed records that are only in the kernel's memory and will not stay there.
fn read_segment(disk: &dyn Disk, name: &str) -> io::Result<Mapping> {
    trust_only_the_disk(&*disk.open(name)?)?;
    disk.map(name)
}

fn expected_record(bytes: &[u8], at: usize, nonce: u64, index: LogIndex, chain: u32) -> Option<Record<'_>> {
    match record::decode(bytes.get(at..)?, nonce) {
        Found::Record(record) if record.index == index && record.previous == chain => Some(record),
        _ => None,
    }
}

/// Bytes up to the last that is not zero, rounded up to a page; an empty tail is compared page by page,
/// since a segment is mostly that.
fn written_len(rest: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let pages = rest.chunks(ZEROS.len());
    let written = pages.rev().skip_while(|page| **page == ZEROS[..page.len()]).count();
    (written * ZEROS.len()).min(rest.len())
}

/// Looks behind a bad record for a good one, or a mark, that says entry `bad` was synced when it was written; names
/// it. The search goes through payloads too; the nonce keeps what users wrote there from being believed.
fn later_claim(rest: &[u8], nonce: u64, bad: LogIndex) -> Option<String> {
    (0..rest.len()).step_by(record::ALIGN).find_map(|at| {
        // Cheap tests first: each place of the segment's rest is tried.
        let bytes = &rest[at..];
        let index = u64::from_be_bytes(bytes.get(16..24)?.try_into().ok()?);
        let durable = u64::from_be_bytes(bytes.get(24..32)?.try_into().ok()?);
        if index <= bad.0 || durable < bad.0 || durable >= index {
            return None;
        }
        match record::decode(bytes, nonce) {
            Found::Record(record) => Some(format!("entry {}", record.index)),
            Found::Mark(_) => Some("the mark".into()),
            Found::Nothing | Found::Bad => None,
        }
    })
}

fn corrupt(name: &str, what: &str) -> RecoverError {
    RecoverError::Corrupt(format!("{name} {what}"))
}

fn damaged(tail: &Tail, why: &str) -> RecoverError {
    let what = format!("is damaged at byte {} (entry {}): {why}", tail.end, tail.last.next());
    corrupt(&segment::name(tail.header.first), &what)
}

impl Tail {
    /// Bytes of the mark that stands behind the last record; 0 without one.
    fn mark_len(&self, bytes: &[u8]) -> usize {
        let (last, nonce) = (self.last, self.header.nonce);
        match bytes.get(self.end..).map(|rest| record::decode(rest, nonce)) {
            Some(Found::Mark(mark)) if mark.durable == last && mark.previous == self.chain => record::MARK,
            _ => 0,
        }
    }

    /// Cuts what is torn, durably, so that nothing of it is ever taken for a record.
    fn into_segment(self, disk: &dyn Disk) -> io::Result<Segment> {
        let file = disk.open(&segment::name(self.header.first))?;
        let end = self.end as u64;
        if self.garbage > 0 {
            file.truncate(end)?;
            file.truncate(self.capacity)?;
            file.allocate(0, self.capacity)?;
            file.sync_data()?;
        }
        let (header, capacity, chain) = (self.header, self.capacity, self.chain);
        // Where a mark stands the next record is written all the same.
        Ok(Segment { file, header, end, capacity, written: end, chain, mark: None })
    }
}
