//! Loading a dump into an empty directory.
//!
//! First of all a file `LOADING` is made, durably: whoever opens a directory that has it refuses it. Then the log, empty,
//! behind the last entry that the tables will have, and the tables under another name, which get theirs when the last
//! line has been read and fits. `LOADING` goes when all is durable. What a load left that was killed, the next one
//! removes.

use super::line::{EndLine, Header, StateLine};
use super::rows::{Row, Stored};
use super::valid::Rules;
use super::{LINE_MAX, VERSION};
use crate::disk::{Disk, RealDisk};
use crate::durable::{self, DirLock, LOCK, LockError, TEMPORARY};
use crate::meta::log::{LogError, begin_log};
use crate::meta::machine::LOADING;
use crate::meta::tables::{Files, Memtable, SUMS, State, Store, StoreError, TABLES, Table};
use cairn_common::error::FsError;
use cairn_common::wire::checksum::Crc64;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Rows that take so many bytes are stored at a time.
const PAGE: usize = 16 << 20;
/// Bytes of redb's cache.
const CACHE: usize = 64 << 20;

/// Why a dump was not loaded. One line each.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("line {line}: {what}")]
    Line { line: u64, what: String },
    #[error("line {line}: {source}")]
    Read { line: u64, source: io::Error },
    #[error("it is not empty: there is {0}")]
    NotEmpty(String),
    #[error("{what}: {source}")]
    Disk { what: String, source: io::Error },
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("store the tables: {0}")]
    Tables(FsError),
}

/// Reads a dump and makes a metadata directory of it. `dir` must be missing or empty, or have what a load left that was
/// killed; it is missing or empty again if this one fails. Answers how many rows there are.
pub fn load_dir(input: &mut dyn BufRead, dir: &Path) -> Result<u64, LoadError> {
    let (new, lock) = (!dir.exists(), dir.join(LOCK));
    let new_lock = !lock.exists();
    durable::create_dir(dir).map_err(disk_failed("make", &dir.display().to_string()))?;
    let held = DirLock::acquire(dir)?;
    let disk = RealDisk::open(dir).map_err(disk_failed("open", &dir.display().to_string()));
    let loaded = disk.and_then(|disk| load(input, &disk));
    if loaded.is_err() {
        // Who can't remove them finds an empty directory, or an empty file `LOCK` in it.
        if new_lock {
            let _ = std::fs::remove_file(lock);
        }
        if new {
            let _ = std::fs::remove_dir(dir);
        }
    }
    drop(held);
    loaded
}

/// Reads a dump and makes a metadata directory of it in `disk`, which must have no files but the lock, and what a load
/// left that was killed. Answers how many rows there are. If it fails, no file of it is left.
pub fn load(input: &mut dyn BufRead, disk: &dyn Disk) -> Result<u64, LoadError> {
    begin(disk)?;
    let loaded = load_into(input, disk);
    // What can't be removed stays marked, and the next load tries it again.
    let _ = if loaded.is_ok() { Ok(()) } else { remove_parts(disk).and_then(|()| unmark(disk)) };
    loaded
}

/// Marks the directory, which then has no other file but the lock.
fn begin(disk: &dyn Disk) -> Result<(), LoadError> {
    let names = disk.list().map_err(disk_failed("list", "the directory"))?;
    let marked = names.iter().any(|name| name == LOADING);
    let is_expected = |name: &str| name == LOCK || marked && (name == LOADING || is_part(name));
    if let Some(name) = names.into_iter().find(|name| !is_expected(name)) {
        return Err(LoadError::NotEmpty(name));
    }
    if marked {
        return remove_parts(disk);
    }
    disk.create(LOADING).map_err(disk_failed("create", LOADING))?;
    disk.sync_dir().map_err(disk_failed("sync", "the directory"))
}

/// Removes, durably, all that a load makes but the mark.
fn remove_parts(disk: &dyn Disk) -> Result<(), LoadError> {
    for name in disk.list().map_err(disk_failed("list", "the directory"))?.iter().filter(|name| is_part(name))
    {
        disk.remove(name).map_err(disk_failed("remove", name))?;
    }
    disk.sync_dir().map_err(disk_failed("sync", "the directory"))
}

/// The directory is what it looks like from now on.
fn unmark(disk: &dyn Disk) -> Result<(), LoadError> {
    disk.remove(LOADING).map_err(disk_failed("remove", LOADING))?;
    disk.sync_dir().map_err(disk_failed("sync", "the directory"))
}

/// In a directory that was marked when it was empty, these are of a load. Anything else somebody has put there.
fn is_part(name: &str) -> bool {
    name.starts_with("log-") || [TABLES, SUMS].contains(&name.strip_suffix(TEMPORARY).unwrap_or(name))
}

fn load_into(input: &mut dyn BufRead, disk: &dyn Disk) -> Result<u64, LoadError> {
    let mut lines = Lines { input, number: 0, line: Vec::new(), sum: Crc64::default() };
    let version = lines.header()?;
    if version != VERSION {
        return Err(lines.wrong(format!("dump version {version}, this program reads {VERSION}")));
    }
    let StateLine { state } = lines.parsed()?;
    let state = State::from(state);
    let mut rules = Rules::new(state).map_err(|what| lines.wrong(what.to_owned()))?;
    begin_log(disk, state.cluster, state.applied)?;
    let files = Files::create(disk).map_err(disk_failed("create", TABLES))?;
    let store = Store::open(files, CACHE)?;
    store.init(state, |_tx| Ok(())).map_err(LoadError::Tables)?;
    let rows = read_rows(&mut lines, &mut rules, &state, &store)?;
    store.close();
    Files::publish(disk).map_err(disk_failed("rename", TABLES))?;
    unmark(disk)?;
    Ok(rows)
}

fn disk_failed(what: &str, name: &str) -> impl FnOnce(io::Error) -> LoadError {
    let what = format!("{what} {name}");
    |source| LoadError::Disk { what, source }
}

/// Stores all rows, and reads the last line.
fn read_rows(
    lines: &mut Lines<'_>,
    rules: &mut Rules,
    state: &State,
    store: &Store,
) -> Result<u64, LoadError> {
    let mut page = Memtable::default();
    let mut last: Option<(Table, Vec<u8>)> = None;
    let mut rows = 0;
    loop {
        let sum = lines.sum.clone();
        lines.next()?;
        if lines.line.starts_with(br#"{"end":"#) {
            lines.check_end(rows, sum)?;
            rules.end().map_err(|what| lines.wrong(what.to_owned()))?;
            break;
        }
        let Stored { table, key, value } = lines.row(rules)?;
        let place = (table as usize, &key);
        if last.as_ref().is_some_and(|(table, key)| (*table as usize, key) >= place) {
            return Err(lines.wrong("this row is there twice, or out of order".into()));
        }
        rows += 1;
        page.put(table, &key, Some(&value));
        last = Some((table, key));
        if page.bytes() >= PAGE {
            store.checkpoint(state, &std::mem::take(&mut page)).map_err(LoadError::Tables)?;
        }
    }
    store.checkpoint(state, &page).map_err(LoadError::Tables)?;
    Ok(rows)
}

struct Lines<'a> {
    input: &'a mut dyn BufRead,
    /// Of the current line, counted from 1.
    number: u64,
    /// Without its end.
    line: Vec<u8>,
    /// Of all lines so far, with their ends.
    sum: Crc64,
}

impl Lines<'_> {
    fn wrong(&self, what: String) -> LoadError {
        LoadError::Line { line: self.number, what }
    }

    /// Reads the next line. A dump ends with its last line only, so there is one.
    fn next(&mut self) -> Result<(), LoadError> {
        self.number += 1;
        self.line.clear();
        let mut limited = Read::take(&mut *self.input, LINE_MAX as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.line);
        read.map_err(|source| LoadError::Read { line: self.number, source })?;
        self.sum.update(&self.line);
        match self.line.pop() {
            Some(b'\n') => Ok(()),
            Some(_) if self.line.len() >= LINE_MAX => Err(self.wrong("is too long".into())),
            Some(_) | None => Err(self.wrong("the dump is cut off here".into())),
        }
    }

    fn header(&mut self) -> Result<u32, LoadError> {
        self.next()?;
        match serde_json::from_slice(&self.line) {
            Ok(Header { cairn_dump }) => Ok(cairn_dump.version),
            Err(_) => Err(self.wrong("this is no dump of cairn's metadata".into())),
        }
    }

    /// The next line.
    fn parsed<T: DeserializeOwned>(&mut self) -> Result<T, LoadError> {
        self.next()?;
        self.parse()
    }

    /// The current line.
    fn parse<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        serde_json::from_slice(&self.line).map_err(|error| {
            // It counts lines of its own: there is only one.
            let text = error.to_string();
            let text = text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column()));
            let text = text.map_or(error.to_string(), |text| format!("{text} at column {}", error.column()));
            self.wrong(text)
        })
    }

    /// The row in the current line.
    fn row(&self, rules: &mut Rules) -> Result<Stored, LoadError> {
        let row: Row = self.parse()?;
        rules.check(&row).map_err(|what| self.wrong(what.to_owned()))?;
        row.stored().map_err(|error| self.wrong(format!("can't be stored: {error}")))
    }

    /// The current line is the last: it must fit all before, and nothing may follow.
    fn check_end(&mut self, rows: u64, sum: Crc64) -> Result<(), LoadError> {
        let EndLine { end } = self.parse()?;
        if end.rows != rows {
            return Err(self.wrong(format!("there are {rows} rows, the last line says {}", end.rows)));
        }
        if end.crc64.0 != sum.finish() {
            return Err(self.wrong("the checksum does not match: a line was changed".into()));
        }
        match self.input.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(self.wrong("there are more lines behind the last".into())),
            Err(source) => Err(LoadError::Read { line: self.number, source }),
        }
    }
}
