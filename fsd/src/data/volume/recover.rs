//! What a volume file holds, found by reading its record headers.
//!
//! Records were written one after the other, and a put was acknowledged only when everything up to the
//! end of its record was durable. So the first torn record ends the volume, and what is cut had not been
//! acknowledged. Each header says how far the file was durable when it was made: payloads below the
//! greatest such offset are whole, only those above are read and verified.
//!
//! A broken header *below* that offset is not a torn write but damage: the scan goes on behind it, nothing
//! is cut, and the volume takes no more blocks. For the last blocks before the daemon was idle a mark says so, which
//! stands where the next record goes.

use super::format::{FIRST_RECORD, PAGE, Record, RecordKind};
use super::index::MemoryIndex;
use crate::disk::{DiskFile, read_exact_at};
use cairn_common::wire::checksum::verify_pieces;
use std::io;

/// How far behind a broken header the next whole one is looked for: more than is ever written without
/// being synced, so that a torn tail is told from damage.
const PROBE: u64 = 128 << 20;
/// Headers of small blocks are read many at a time, those of large blocks alone.
const WINDOW: usize = 256 << 10;
/// Blocks shorter than this are small in that sense.
const SMALL: u64 = 64 << 10;

/// Result of a scan.
pub struct Scan {
    pub index: MemoryIndex,
    /// Where the next record goes.
    pub end: u64,
    pub next_sequence: u32,
    /// The last record says that nothing follows.
    pub sealed: bool,
    /// The last record says that the daemon stopped in order.
    pub clean: bool,
    /// There are broken headers before the end.
    pub damaged: bool,
}

/// Reads all of a volume's headers. `is_dead` tells blocks whose payload may be punched away.
pub fn scan(file: &dyn DiskFile, nonce: u64, is_dead: impl Fn(&Record) -> bool) -> io::Result<Scan> {
    let mut scanner = Scanner { len: file.len()?, file, nonce, window: Vec::new(), window_at: 0 };
    let mut found = scanner.headers()?;
    let torn = scanner.first_torn(&found, is_dead)?;
    found.records.truncate(torn);
    Ok(found.finish())
}

struct Found {
    records: Vec<(u64, Record)>,
    damaged: bool,
}

impl Found {
    /// The greatest offset below which a header claims all to be durable.
    fn durable(&self) -> u64 {
        self.records.iter().map(|(_, record)| record.durable).max().unwrap_or(FIRST_RECORD)
    }

    fn finish(self) -> Scan {
        let last = self.records.last();
        let last_kind = last.map(|(_, record)| record.kind);
        let mut scan = Scan {
            index: MemoryIndex::default(),
            end: last.map_or(FIRST_RECORD, |(offset, record)| record.next(*offset)),
            next_sequence: last.map_or(0, |(_, record)| record.sequence).saturating_add(1),
            sealed: last_kind == Some(RecordKind::Seal),
            clean: last_kind == Some(RecordKind::Stop),
            damaged: self.damaged,
        };
        for (offset, record) in self.records.iter().filter(|(_, r)| r.kind == RecordKind::Block) {
            scan.index.push(record, *offset);
        }
        scan
    }
}

struct Scanner<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    nonce: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Scanner<'_> {
    fn headers(&mut self) -> io::Result<Found> {
        let mut found = Found { records: Vec::new(), damaged: false };
        let mut offset = FIRST_RECORD;
        let mut last = 0;
        let mut small = true;
        loop {
            if let Some(record) = self.record_at(offset, small)?.filter(|r| fits(r, last, found.damaged)) {
                last = record.sequence;
                small = record.stored_len() < SMALL;
                let (kind, at) = (record.kind, offset);
                offset = record.next(at);
                found.records.push((at, record));
                match kind {
                    RecordKind::Seal => return Ok(found),
                    RecordKind::Mark => {}
                    RecordKind::Block | RecordKind::Stop => continue,
                }
            }
            // No record stands here, or a mark: then what is behind it is of a put that was torn, or a disk has lost the
            // record that was written over it.
            match self.beyond_damage(offset, last)? {
                Some(next) => {
                    found.damaged = true;
                    offset = next;
                }
                None => return Ok(found),
            }
        }
    }

    /// The offset of the first whole record behind `broken` which proves that `broken` was durable.
    fn beyond_damage(&mut self, broken: u64, last: u32) -> io::Result<Option<u64>> {
        let mut first = None;
        let mut offset = broken + PAGE as u64;
        while offset < self.len.min(broken + PROBE) {
            if let Some(record) = self.record_at(offset, true)?
                && fits(&record, last, true)
            {
                first = first.or(Some(offset));
                if record.durable > broken {
                    return Ok(first);
                }
            }
            offset += PAGE as u64;
        }
        Ok(None)
    }

    /// The whole record at `offset`, if there is one that lies within the file.
    fn record_at(&mut self, offset: u64, with_neighbours: bool) -> io::Result<Option<Record>> {
        if offset + PAGE as u64 > self.len {
            return Ok(None);
        }
        let nonce = self.nonce;
        let page = self.page_at(offset, with_neighbours)?;
        let record = Record::decode(page, nonce, offset).ok();
        Ok(record.filter(|r| offset + r.stored_len() <= self.len))
    }

    fn page_at(&mut self, offset: u64, with_neighbours: bool) -> io::Result<&[u8; PAGE]> {
        let inside =
            offset >= self.window_at && offset + PAGE as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let wanted = if with_neighbours { WINDOW } else { PAGE };
            let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
            self.window.resize(wanted.min(left), 0);
            self.window_at = offset;
            read_exact_at(self.file, &mut self.window, offset)?;
        }
        let from = usize::try_from(offset - self.window_at).expect("inside the window");
        Ok(self.window[from..from + PAGE].try_into().expect("a page long"))
    }

    /// Position of the first record whose payload is not whole; the number of records if all are.
    fn first_torn(&self, found: &Found, is_dead: impl Fn(&Record) -> bool) -> io::Result<usize> {
        let durable = found.durable();
        let mut buffer = Vec::new();
        for (position, (offset, record)) in found.records.iter().enumerate() {
            let doubtful = offset + record.stored_len() > durable && !is_dead(record);
            if doubtful && !self.payload_is_whole(*offset, record, &mut buffer)? {
                return Ok(position);
            }
        }
        Ok(found.records.len())
    }

    fn payload_is_whole(&self, offset: u64, record: &Record, buffer: &mut Vec<u8>) -> io::Result<bool> {
        buffer.resize(record.payload_len as usize, 0);
        read_exact_at(self.file, buffer, offset + PAGE as u64)?;
        Ok(verify_pieces(buffer, &record.checksums).is_ok())
    }
}

/// Whether `record` may follow the block `last`.
fn fits(record: &Record, last: u32, damaged: bool) -> bool {
    match record.kind {
        RecordKind::Block if damaged => record.sequence > last,
        RecordKind::Block => Some(record.sequence) == last.checked_add(1),
        _ if damaged => record.sequence >= last,
        RecordKind::Stop | RecordKind::Seal | RecordKind::Mark => record.sequence == last,
    }
}
