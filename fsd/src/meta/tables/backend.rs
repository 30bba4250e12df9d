//! redb over the daemon's own file trait, so that a lying disk can stand in, and with a checksum for each page that is
//! read: redb has some, and compares them only when it is told to verify everything.
//!
//! A crash leaves each page that redb can reach with its sum, since redb never changes a page in place that the durable
//! root reaches, and each of its commits here is one of two phases: pages are durable before the header that makes them
//! reachable is written. So the sums are made durable within each sync, before it ends; those of pages that the root
//! reaches are the same before and after. Only the header, unit 0, is changed in place. It stays in memory until the sync,
//! when the sums of the header before and of the one to come are durable.
//!
//! Sums that are missing, damaged, or of other tables, are learnt: the database is opened, redb verifies all of it with its
//! own checksums, and what it read meanwhile is what the sums are from then on.
//!
//! A redb database that is dropped writes to its file once more. After a write or a sync that failed
//! nothing may be written as if all were well, so the backend has a switch: once [`Severed`], nothing
//! reaches the file any more, and dropping the database is the same as a killed process.

use super::files::{Files, TABLES};
use super::sums::{Sums, UNIT, sum_of};
use crate::disk::{DiskFile, read_exact_at, write_all_at};
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The switch of a [`Backend`].
#[derive(Clone, Default)]
pub struct Severed(Arc<AtomicBool>);

impl Severed {
    /// From now on all writes fail.
    pub fn sever(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::Error::other("closed without a checkpoint"));
        }
        Ok(())
    }
}

/// Why the tables can't be read any more, once they can't: after the first failed read redb fails whatever needs the file.
#[derive(Clone, Default)]
pub struct ReadFailure(Arc<OnceLock<FirstFailure>>);

struct FirstFailure {
    at: u64,
    line: String,
}

impl ReadFailure {
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.0.get().map(|first| first.line.as_str())
    }

    /// Where in the file.
    #[must_use]
    pub fn place(&self) -> Option<u64> {
        self.0.get().map(|first| first.at)
    }
}

/// Why a page can't be had.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("{} can't be read at byte {at}: {source}", TABLES)]
    Io { at: u64, source: io::Error },
    #[error("{} is damaged at byte {at}: {} bytes there don't match their checksum", TABLES, UNIT)]
    Damaged { at: u64 },
}

impl Unreadable {
    fn place(&self) -> u64 {
        match self {
            Unreadable::Io { at, .. } | Unreadable::Damaged { at } => *at,
        }
    }
}

impl From<Unreadable> for io::Error {
    fn from(error: Unreadable) -> io::Error {
        let kind = match &error {
            Unreadable::Io { source, .. } => source.kind(),
            Unreadable::Damaged { .. } => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// Why sums must be learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// As in directories that were made before there were any.
    Missing,
    Damaged,
    /// The header is not the one that they know: it is damaged, or the tables come from elsewhere.
    OtherHeader,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unknown::Missing => "were missing",
            Unknown::Damaged => "were damaged",
            Unknown::OtherHeader => "did not fit the header of the tables",
        })
    }
}

/// A file as redb wants it. Clones share it.
#[derive(Clone)]
pub struct Backend(Arc<Inner>);

struct Inner {
    files: Files,
    severed: Severed,
    failure: ReadFailure,
    /// Never held while a disk is waited for.
    state: Mutex<State>,
}

struct State {
    sums: Sums,
    header: Header,
    /// While sums are learnt, none is stored.
    learning: Option<Unknown>,
}

impl Backend {
    /// The first failed read is told to `failure`.
    pub fn open(files: Files, severed: Severed, failure: ReadFailure) -> io::Result<Backend> {
        let length = files.tables.len()?;
        let header = Header::read(&*files.tables, length)?;
        let (sums, learning) = match load(&*files.sums, length, header.durable)? {
            Ok(sums) => (sums, None),
            // Of tables that are only now made, everything will be known.
            Err(_) if length == 0 => (Sums::unknown(0), None),
            Err(why) => (Sums::unknown(units(length)?), Some(why)),
        };
        let state = Mutex::new(State { sums, header, learning });
        Ok(Backend(Arc::new(Inner { files, severed, failure, state })))
    }

    /// Why all must be verified now, if it must.
    #[must_use]
    pub fn learning(&self) -> Option<Unknown> {
        self.0.state.lock().learning
    }

    /// All was read and found right: from now on it must stay so.
    pub fn learnt(&self) -> io::Result<()> {
        self.0.state.lock().learnt();
        self.0.store_sums()
    }

    #[must_use]
    pub fn failure(&self) -> ReadFailure {
        self.0.failure.clone()
    }

    /// Bytes of the disk that the tables take.
    pub fn allocated(&self) -> io::Result<u64> {
        self.0.files.tables.allocated()
    }
}

/// The stored sums, if they are those of a file of this length and header.
fn load(file: &dyn DiskFile, length: u64, header: u32) -> io::Result<Result<Sums, Unknown>> {
    if file.is_empty()? {
        return Ok(Err(Unknown::Missing));
    }
    let mut stored = vec![0; usize::try_from(file.len()?).map_err(too_large)?];
    read_exact_at(file, &mut stored, 0)?;
    Ok(match Sums::decode(&stored, units(length)?) {
        None => Err(Unknown::Damaged),
        Some(sums) if !sums.header_fits(header) => Err(Unknown::OtherHeader),
        Some(sums) => Ok(sums),
    })
}

/// Units of a file, the last of which may be shorter.
fn units(length: u64) -> io::Result<usize> {
    usize::try_from(length.div_ceil(UNIT as u64)).map_err(too_large)
}

fn too_large(_: std::num::TryFromIntError) -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

impl State {
    fn learnt(&mut self) {
        self.learning = None;
        self.sums.set_header(self.header.durable, self.header.durable);
        self.sums.mark_all();
    }

    /// Whether a page may read like this.
    fn fits(&mut self, unit: usize, sum: u32) -> bool {
        match self.sums.get(unit) {
            0 => {
                debug_assert!(self.learning.is_some(), "unit {unit} is read, and was never written");
                self.sums.set(unit, sum);
                true
            }
            known => known == sum,
        }
    }
}

impl Inner {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Unreadable> {
        let cannot = |source| Unreadable::Io { at: offset, source };
        read_exact_at(&*self.files.tables, out, offset).map_err(cannot)?;
        if offset < UNIT as u64 {
            self.state.lock().header.show(offset, out);
        }
        for (unit, bytes) in pages(offset, out).map_err(cannot)? {
            let sum = sum_of(bytes);
            if unit > 0 && !self.state.lock().fits(unit, sum) {
                return Err(Unreadable::Damaged { at: (unit * UNIT) as u64 });
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (header, rest) = data.split_at(header_part(offset, data.len()));
        self.state.lock().header.change(offset, header);
        if rest.is_empty() {
            return Ok(());
        }
        let offset = offset + header.len() as u64;
        debug_assert!(
            offset.is_multiple_of(UNIT as u64) && rest.len().is_multiple_of(UNIT),
            "part of a page"
        );
        write_all_at(&*self.files.tables, &[rest], offset)?;
        for (unit, bytes) in pages(offset, rest)? {
            let sum = sum_of(bytes);
            self.state.lock().sums.set(unit, sum);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let (sum, changed) = {
            let mut state = self.state.lock();
            let State { sums, header, .. } = &mut *state;
            let sum = sum_of(&*header.image);
            sums.set_header(header.durable, sum);
            (sum, header.take_changed())
        };
        // First: whichever header a crash leaves, it is known.
        self.store_sums()?;
        if let Some((offset, bytes)) = changed {
            write_all_at(&*self.files.tables, &[&bytes], offset)?;
        }
        self.files.tables.sync_data()?;
        self.state.lock().header.durable = sum;
        Ok(())
    }

    /// Makes durable what is known.
    fn store_sums(&self) -> io::Result<()> {
        let runs = {
            let mut state = self.state.lock();
            if state.learning.is_some() {
                return Ok(());
            }
            state.sums.take_dirty()
        };
        if runs.is_empty() {
            return Ok(());
        }
        for run in runs {
            write_all_at(&*self.files.sums, &[&run.bytes], run.offset)?;
        }
        self.files.sums.sync_data()
    }

    /// The first failure is the one that counts: redb makes all others of it.
    fn failed(&self, error: &Unreadable) {
        let mut first = false;
        let FirstFailure { line, .. } = self.failure.0.get_or_init(|| {
            first = true;
            FirstFailure { at: error.place(), line: error.to_string() }
        });
        if first {
            tracing::error!(
                target: "cairn",
                "metadata tables: {line}; keep the directory; 'cairn fsck --meta-dir' names the files that this touches, \
                 docs/operating/recovery.md says what to do"
            );
        }
    }
}

/// The units that lie wholly in what is at `offset`: redb reads and writes no part of one, but for the header.
fn pages(offset: u64, bytes: &[u8]) -> io::Result<impl Iterator<Item = (usize, &[u8])>> {
    let first = units(offset)?;
    let skipped = usize::try_from(first as u64 * UNIT as u64 - offset).map_err(too_large)?;
    Ok((first..).zip(bytes.get(skipped..).unwrap_or_default().chunks_exact(UNIT)))
}

/// Unit 0 as redb has written it.
struct Header {
    image: Box<[u8; UNIT]>,
    /// What of it has yet to be written to the file.
    changed: Range<usize>,
    /// The sum of what the file has.
    durable: u32,
}

impl Header {
    fn read(file: &dyn DiskFile, length: u64) -> io::Result<Header> {
        let mut image = Box::new([0; UNIT]);
        let length = header_part(0, usize::try_from(length).map_err(too_large)?);
        read_exact_at(file, &mut image[..length], 0)?;
        let durable = sum_of(&*image);
        Ok(Header { image, changed: 0..0, durable })
    }

    /// Puts it over what was read from the file at `offset`.
    fn show(&self, offset: u64, out: &mut [u8]) {
        let shown = header_part(offset, out.len());
        if let Some(image) = usize::try_from(offset).ok().and_then(|at| self.image.get(at..at + shown)) {
            out[..shown].copy_from_slice(image);
        }
    }

    fn change(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let Ok(at) = usize::try_from(offset) else { return };
        let end = at + bytes.len();
        self.image[at..end].copy_from_slice(bytes);
        self.changed = if self.changed.is_empty() {
            at..end
        } else {
            self.changed.start.min(at)..self.changed.end.max(end)
        };
    }

    fn take_changed(&mut self) -> Option<(u64, Vec<u8>)> {
        let changed = std::mem::take(&mut self.changed);
        (!changed.is_empty()).then(|| (changed.start as u64, self.image[changed].to_vec()))
    }
}

/// How many of `length` bytes at `offset` are in the header.
fn header_part(offset: u64, length: usize) -> usize {
    usize::try_from(offset).map_or(0, |offset| UNIT.saturating_sub(offset).min(length))
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.files.tables.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out).inspect_err(|error| self.0.failed(error)).map_err(io::Error::from)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.severed.check()?;
        let units = units(len)?;
        // A longer file must not be found with sums that end before it.
        if self.0.state.lock().sums.resize(units) {
            self.0.store_sums()?;
        }
        self.0.files.tables.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.severed.check()?;
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.severed.check()?;
        self.0.write(offset, data)
    }
}
