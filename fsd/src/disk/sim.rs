//! A disk in memory that fails as real ones do: for tests.
//!
//! - What was not synced is lost at a power failure, or kept, 512-byte sector by sector, as a seed says;
//!   so writes tear, and a later write may survive an earlier one.
//! - Names are durable only after `sync_dir`; without it any of the changes survive, or some prefix of them.
//! - The n-th call of a kind can be made to fail, and the power can go at the n-th change.
//! - A sync may take its time: what is written meanwhile is not covered by it.
//! - It can have a size: files are sparse, and a write into a hole needs a block.

use super::{Disk, DiskFile, Mapping, Space};
use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// What a disk keeps whole or loses.
const SECTOR: usize = 512;
/// What it gives space in.
const BLOCK: usize = 4096;

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Sync,
    Allocate,
    Punch,
    /// Creations, renames, removals and syncs of the directory.
    Name,
}

impl Call {
    pub const ALL: [Call; 6] = [Call::Read, Call::Write, Call::Sync, Call::Allocate, Call::Punch, Call::Name];
}

/// A directory in memory. Clones see the same directory.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

struct SimFile {
    id: u64,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

/// Holds up the syncs of one file.
#[derive(Default)]
struct Gate {
    held: Mutex<Option<u64>>,
    released: Condvar,
}

impl Gate {
    fn hold(&self, file: Option<u64>) {
        *self.held.lock() = file;
        self.released.notify_all();
    }

    fn pass(&self, file: u64) {
        self.released.wait_while(&mut self.held.lock(), |held| *held == Some(file));
    }
}

#[derive(Clone)]
struct State {
    files: HashMap<u64, FileState>,
    next_id: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    faults: Vec<Fault>,
    /// Calls that a fault has failed.
    failures: u64,
    changes: u64,
    power_off_at: Option<u64>,
    off: bool,
    available: u64,
    /// Bytes that all files may take; `available` counts no more.
    capacity: Option<u64>,
}

impl Default for State {
    fn default() -> State {
        State {
            files: HashMap::new(),
            next_id: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            faults: Vec::new(),
            failures: 0,
            changes: 0,
            power_off_at: None,
            off: false,
            available: u64::MAX / 2,
            capacity: None,
        }
    }
}

#[derive(Clone, Default)]
struct FileState {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Its blocks that have space.
    blocks: BTreeSet<usize>,
    /// So many of the un-synced changes were made before the sync that is under way.
    covered: Option<usize>,
    /// It has a bad sector.
    unreadable: bool,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone)]
enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone)]
struct Fault {
    call: Call,
    countdown: u64,
    repeat: bool,
    error: io::ErrorKind,
}

impl SimDisk {
    /// An empty directory.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Lets `count` calls of this kind pass, then fails one with `error`.
    pub fn fail_once(&self, call: Call, count: u64, error: io::ErrorKind) {
        self.state.lock().faults.push(Fault { call, countdown: count, repeat: false, error });
    }

    /// Lets `count` calls of this kind pass, then fails all with `error`.
    pub fn fail_always(&self, call: Call, count: u64, error: io::ErrorKind) {
        self.state.lock().faults.push(Fault { call, countdown: count, repeat: true, error });
    }

    /// How many calls have failed because of that. A sweep over the n-th call has come to its end when there was none.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.state.lock().failures
    }

    /// Ends all failures asked for.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Syncs of this file wait from now on.
    pub fn hold_syncs(&self, name: &str) {
        let file = self.state.lock().names.get(name).copied();
        self.gate.hold(file);
    }

    /// Syncs that wait go on.
    pub fn release_syncs(&self) {
        self.gate.hold(None);
    }

    /// A sync of this file begins now; it ends, and has its effect, with the next call of [`DiskFile::sync_data`].
    pub fn begin_sync(&self, name: &str) {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(name).copied() else { return };
        let file = state.file(id);
        file.covered = Some(file.unsynced.len());
    }

    /// What [`Disk::space`] says from now on.
    pub fn set_available(&self, bytes: u64) {
        self.state.lock().available = bytes;
    }

    /// The files take no more than this from now on, except after a power failure. What has no name any more takes nothing.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = Some(bytes);
    }

    /// From now on the files take no more than so many bytes beside what they take already; `None`: as many as they want.
    pub fn limit(&self, more: Option<u64>) {
        let mut state = self.state.lock();
        state.capacity = more.map(|more| state.used() + more);
    }

    /// The power goes after `count` more changes (writes, syncs, names); the next one happens in part.
    pub fn power_off_after(&self, count: u64) {
        let mut state = self.state.lock();
        state.power_off_at = Some(state.changes + count);
    }

    /// True if the power has gone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// The directory as found after a power failure now: what `seed` makes of the un-synced changes. It also says whether this
    /// is a file system that makes names durable in their order, as journals do, or in any, as POSIX allows.
    #[must_use]
    pub fn power_cycle(&self, seed: u64) -> SimDisk {
        let state = self.state.lock();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut after = State { next_id: state.next_id, ..State::default() };
        let in_order = rng.random_bool(0.5);
        after.names =
            if in_order { state.surviving_names(&mut rng) } else { state.any_surviving_names(&mut rng) };
        let keep = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        for id in after.names.values() {
            let content = state.files[id].surviving(keep, &mut rng);
            let file = FileState { durable: content.clone(), content, ..FileState::default() };
            after.files.insert(*id, file);
        }
        after.durable_names = after.names.clone();
        SimDisk { state: Arc::new(Mutex::new(after)), gate: Arc::default() }
    }

    /// The directory as the next process finds it when this one is killed: all that was written is
    /// there, and what was not synced still is not. Whoever still holds this disk can do nothing more.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        let mut state = self.state.lock();
        state.off = true;
        let mut after = State { off: false, power_off_at: None, faults: Vec::new(), ..state.clone() };
        after.files.values_mut().for_each(|file| file.covered = None);
        SimDisk { state: Arc::new(Mutex::new(after)), gate: Arc::default() }
    }

    /// Changes stored bytes behind everyone's back, as a disk that rots.
    pub fn corrupt(&self, name: &str, offset: usize, bytes: &[u8]) {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(name).copied() else { return };
        let Some(file) = state.files.get_mut(&id) else { return };
        write_into(&mut file.content, offset, bytes);
        write_into(&mut file.durable, offset, bytes);
    }

    /// The file that has this name now gets a bad sector: reads fail, and who maps it is killed.
    pub fn make_unreadable(&self, name: &str) {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(name).copied() else { return };
        state.file(id).unreadable = true;
    }

    fn file(&self, id: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { id, state: self.state.clone(), gate: self.gate.clone() })
    }
}

impl State {
    /// Fails if a fault says so, or the power is off.
    fn check(&mut self, call: Call) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("power is off"));
        }
        let mut failed = None;
        for fault in self.faults.iter_mut().filter(|f| f.call == call) {
            if fault.countdown == 0 {
                failed = failed.or(Some(fault.error));
                if !fault.repeat {
                    fault.countdown = u64::MAX;
                }
            } else {
                fault.countdown = fault.countdown.saturating_sub(1);
            }
        }
        self.failures += u64::from(failed.is_some());
        failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Counts a change; when the power is due, it goes *during* this one.
    fn count_change(&mut self) {
        if self.power_off_at.is_some_and(|at| self.changes >= at) {
            self.off = true;
        }
        self.changes += 1;
    }

    /// The result of a change: an error if the power went while it was made.
    fn outcome(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("power went off")) } else { Ok(()) }
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        self.check(Call::Name)?;
        self.count_change();
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
        self.outcome()
    }

    fn surviving_names(&self, rng: &mut StdRng) -> BTreeMap<String, u64> {
        let mut names = self.durable_names.clone();
        let count = rng.random_range(0..=self.unsynced_names.len());
        for change in &self.unsynced_names[..count] {
            change.apply(&mut names);
        }
        names
    }

    fn any_surviving_names(&self, rng: &mut StdRng) -> BTreeMap<String, u64> {
        let mut names = self.durable_names.clone();
        for change in self.unsynced_names.iter().filter(|_| rng.random_bool(0.5)) {
            change.apply(&mut names);
        }
        names
    }

    fn lookup(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&mut self, id: u64) -> &mut FileState {
        self.files.entry(id).or_default()
    }

    fn used(&self) -> u64 {
        let blocks: usize =
            self.names.values().filter_map(|id| self.files.get(id)).map(|f| f.blocks.len()).sum();
        (blocks * BLOCK) as u64
    }

    fn free(&self) -> u64 {
        let Some(capacity) = self.capacity else { return self.available };
        capacity.saturating_sub(self.used())
    }

    /// Gives the range of a file the space that it lacks, all of it or none.
    fn give_space(&mut self, id: u64, offset: usize, len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let free = if self.capacity.is_some() { self.free() } else { u64::MAX };
        let blocks = &mut self.file(id).blocks;
        let lacking: Vec<usize> =
            (offset / BLOCK..=(offset + len - 1) / BLOCK).filter(|block| !blocks.contains(block)).collect();
        if (lacking.len() * BLOCK) as u64 > free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        blocks.extend(lacking);
        Ok(())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Set(name, id) => {
                names.insert(name.clone(), *id);
            }
            NameChange::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl FileState {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.content, |_| true);
        self.unsynced.push(change);
    }

    /// The changes that a sync which ends now has to do with.
    fn take_covered(&mut self) -> Vec<Change> {
        let count = self.covered.take().unwrap_or(self.unsynced.len());
        self.unsynced.drain(..count).collect()
    }

    fn surviving(&self, keep: f64, rng: &mut StdRng) -> Vec<u8> {
        let mut content = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Change::Write { .. } => change.apply(&mut content, |_| rng.random_bool(keep)),
                Change::Truncate(_) if rng.random_bool(keep) => change.apply(&mut content, |_| true),
                Change::Truncate(_) => {}
            }
        }
        content
    }
}

impl Change {
    /// Applies those sectors of the change that `keep` wants.
    fn apply(&self, content: &mut Vec<u8>, mut keep: impl FnMut(usize) -> bool) {
        match self {
            Change::Truncate(len) => content.resize(*len, 0),
            Change::Write { offset, data } => {
                let mut at = 0;
                while at < data.len() {
                    let sector = (offset + at) / SECTOR;
                    let end = ((sector + 1) * SECTOR - offset).min(data.len());
                    if keep(sector) {
                        write_into(content, offset + at, &data[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

fn write_into(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("test files fit in memory")
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        if state.lookup(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.file(id);
        state.change_name(NameChange::Set(name.to_owned(), id))?;
        Ok(self.file(id))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        let id = state.lookup(name)?;
        Ok(self.file(id))
    }

    fn map(&self, name: &str) -> io::Result<Mapping> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        let id = state.lookup(name)?;
        let file = state.file(id);
        assert!(!file.unreadable, "SIGBUS: {name} is mapped over a bad sector");
        Ok(Box::new(file.content.clone()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.lookup(from)?;
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.lookup(name)?;
        state.change_name(NameChange::Remove(name.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(Call::Name)?;
        state.count_change();
        state.outcome()?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn space(&self) -> io::Result<Space> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        Ok(Space { capacity: state.capacity.unwrap_or(u64::MAX / 2), available: state.free() })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        let file = state.file(self.id);
        if file.unreadable {
            return Err(io::Error::other("bad sector"));
        }
        let content = &file.content;
        let from = to_index(offset).min(content.len());
        let count = buf.len().min(content.len() - from);
        buf[..count].copy_from_slice(&content[from..from + count]);
        Ok(count)
    }

    fn read_cached(&self, _buf: &mut [u8], _offset: u64) -> Option<usize> {
        None
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.check(Call::Write)?;
        state.count_change();
        let data: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        let count = data.len();
        state.give_space(self.id, to_index(offset), count)?;
        state.file(self.id).change(Change::Write { offset: to_index(offset), data });
        state.outcome()?;
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass(self.id);
        let mut state = self.state.lock();
        state.check(Call::Sync).inspect_err(|_| {
            // As Linux does: the pages are marked clean though they never reached the disk.
            drop(state.file(self.id).take_covered());
        })?;
        state.count_change();
        state.outcome()?;
        let file = state.file(self.id);
        for change in file.take_covered() {
            change.apply(&mut file.durable, |_| true);
        }
        Ok(())
    }

    fn forget_cache(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        let file = state.file(self.id);
        let mut content = file.durable.clone();
        for change in &file.unsynced {
            change.apply(&mut content, |_| true);
        }
        file.content = content;
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(Call::Allocate)?;
        state.count_change();
        state.give_space(self.id, to_index(offset), to_index(len))?;
        let file = state.file(self.id);
        if file.content.len() < to_index(offset + len) {
            file.change(Change::Truncate(to_index(offset + len)));
        }
        state.outcome()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(Call::Punch)?;
        state.count_change();
        let file = state.file(self.id);
        let from = to_index(offset).min(file.content.len());
        let to = to_index(offset + len).min(file.content.len());
        file.change(Change::Write { offset: from, data: vec![0; to - from] });
        file.blocks.retain(|block| *block < from.div_ceil(BLOCK) || *block >= to / BLOCK);
        state.outcome()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(Call::Write)?;
        state.count_change();
        let file = state.file(self.id);
        file.change(Change::Truncate(to_index(len)));
        file.blocks.retain(|block| *block < to_index(len).div_ceil(BLOCK));
        state.outcome()
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        Ok(state.file(self.id).content.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.check(Call::Read)?;
        Ok((state.file(self.id).blocks.len() * BLOCK) as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::write_all_at;

    #[test]
    fn synced_bytes_survive_and_others_tear_by_sector() {
        let disk = SimDisk::new();
        let file = disk.create("f").unwrap();
        write_all_at(&*file, &[&[1; 2048]], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        write_all_at(&*file, &[&[2; 2048]], 0).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let content = disk.power_cycle(seed).map("f").unwrap().to_vec();
            assert!(content.chunks(SECTOR).all(|s| s.iter().all(|b| *b == s[0])));
            seen.insert(content.iter().step_by(SECTOR).copied().collect::<Vec<_>>());
        }
        assert!(seen.len() > 4, "{seen:?}");
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let disk = SimDisk::new();
        let file = disk.create("f").unwrap();
        disk.sync_dir().unwrap();
        let write = |byte: u8, at: u64| write_all_at(&*file, &[&[byte; SECTOR]], at * SECTOR as u64).unwrap();
        let firsts =
            |disk: &SimDisk| -> Vec<u8> { disk.map("f").unwrap().chunks(SECTOR).map(|s| s[0]).collect() };
        write(1, 0);
        disk.begin_sync("f");
        write(2, 1);
        assert!((0..32).any(|seed| firsts(&disk.power_cycle(seed)).is_empty()), "it has not ended");
        let killed = disk.kill();
        killed.open("f").unwrap().sync_data().unwrap();
        assert_eq!(
            firsts(&killed.power_cycle(0)),
            [1, 2],
            "the sync of a process that is gone covers nothing"
        );
    }

    #[test]
    fn what_is_written_during_a_sync_is_for_the_next() {
        let disk = SimDisk::new();
        let file = disk.create("f").unwrap();
        disk.sync_dir().unwrap();
        let write = |byte: u8, at: u64| write_all_at(&*file, &[&[byte; SECTOR]], at * SECTOR as u64).unwrap();
        let lengths = || (0..32).map(|seed| disk.power_cycle(seed).map("f").unwrap().len() / SECTOR);
        write(1, 0);
        disk.begin_sync("f");
        write(2, 1);
        file.sync_data().unwrap();
        assert!(lengths().all(|length| length >= 1) && lengths().any(|length| length == 1));
        file.sync_data().unwrap();
        assert!(lengths().all(|length| length == 2));
        // One that fails loses what it covers, and nothing else.
        write(3, 2);
        disk.begin_sync("f");
        write(4, 3);
        disk.fail_once(Call::Sync, 0, io::ErrorKind::Other);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.power_cycle(0).map("f").unwrap()[2 * SECTOR..][..SECTOR], [0; SECTOR]);
        assert_eq!(disk.power_cycle(0).map("f").unwrap()[3 * SECTOR..], [4; SECTOR]);
    }

    #[test]
    fn a_disk_with_a_size_runs_full_and_gets_space_back() {
        let disk = SimDisk::new();
        disk.set_capacity(10 * BLOCK as u64);
        let free = || disk.space().unwrap().available / BLOCK as u64;
        let file = disk.create("f").unwrap();
        file.truncate(100 * BLOCK as u64).unwrap();
        assert_eq!(free(), 10, "a hole takes nothing");
        write_all_at(&*file, &[&[1; 2]], BLOCK as u64 - 1).unwrap();
        file.allocate(4 * BLOCK as u64, 6 * BLOCK as u64).unwrap();
        assert_eq!(free(), 2);
        write_all_at(&*file, &[&[1; 10]], 0).unwrap();
        write_all_at(&*file, &[&[1; BLOCK]], 4 * BLOCK as u64).unwrap();
        assert_eq!(free(), 2, "they had space");
        let full = write_all_at(&*file, &[&[1; 3 * BLOCK]], 50 * BLOCK as u64).unwrap_err();
        assert_eq!((full.kind(), free()), (io::ErrorKind::StorageFull, 2));
        file.punch(4 * BLOCK as u64 + 1, 2 * BLOCK as u64).unwrap();
        assert_eq!(free(), 3);
        file.truncate(1).unwrap();
        assert_eq!(free(), 9);
        disk.remove("f").unwrap();
        assert_eq!(free(), 10);
        let file = disk.create("g").unwrap();
        write_all_at(&*file, &[&[1; 2 * BLOCK]], 0).unwrap();
        disk.limit(Some(3 * BLOCK as u64));
        assert_eq!(free(), 3);
        disk.limit(None);
        file.allocate(0, 100 * BLOCK as u64).unwrap();
    }

    #[test]
    fn names_need_a_sync_of_the_directory() {
        let disk = SimDisk::new();
        disk.create("f").unwrap();
        let lost = (0..32).filter(|seed| disk.power_cycle(*seed).map("f").is_err()).count();
        assert!((1..32).contains(&lost));
        disk.sync_dir().unwrap();
        assert!((0..32).all(|seed| disk.power_cycle(seed).map("f").is_ok()));
    }

    #[test]
    fn names_keep_their_order_or_not() {
        let disk = SimDisk::new();
        let names = ["first", "second", "third"];
        names.iter().for_each(|name| drop(disk.create(name).unwrap()));
        let survivors = |seed| disk.power_cycle(seed).list().unwrap();
        let found: BTreeSet<Vec<String>> = (0..128).map(survivors).collect();
        assert_eq!(found.len(), 8, "any of them: {found:?}");
        let is_in_order = |found: &Vec<String>| found.iter().zip(names).all(|(found, name)| found == name);
        let in_order = (0..128).map(survivors).filter(is_in_order).count();
        assert!(
            (80..112).contains(&in_order),
            "half of them must be, and half of the others are: {in_order}"
        );
        disk.sync_dir().unwrap();
        assert!((0..32).all(|seed| survivors(seed).len() == 3));
    }
}
