//! Opening a machine's directory: made, recovered, replayed.
//!
//! ```text
//! LOCK        held while a daemon runs
//! LOADING     there while a dump is loaded, and if that was killed
//! tables      redb
//! tables.sums checksums of its pages
//! log-*       segments of the operation log
//! ```

use super::checkpoint;
use super::core::{CheckpointState, Core, Shared, apply_all};
use super::published::Published;
use super::renew::Renewal;
use super::room::Room;
use super::{Machine, MachineConfig, OpenError, Owned};
use crate::disk::{Disk, RealDisk};
use crate::durable::{DirLock, create_dir_all, settle_names};
use crate::meta::apply::{Command, Fatal, Sessions};
use crate::meta::log::{FileLog, Log, LogOptions, RecoverError, Recovered, recover};
use crate::meta::tables::{Files, State, Store, TABLES, View};
use cairn_common::attr::Timestamp;
use cairn_common::error::FsError;
use cairn_common::ids::{ClusterId, Epoch, Ino, LogIndex, NodeId, SessionId, VolumeId};
use cairn_common::namespace::tables::Totals;
use parking_lot::{Condvar, Mutex, RwLock};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// As long as there is a file of this name, the others are what a dump is being loaded into.
pub(in crate::meta) const LOADING: &str = "LOADING";
/// What a directory of the data role begins with: see `docs/formats/volume.md`.
pub(super) const DATA_FILE: &str = "NODE";
/// Entries of the log that are replayed in one transaction.
const REPLAY_GROUP: usize = 1024;

/// What a new cluster begins with.
pub struct Birth {
    pub cluster: ClusterId,
    /// Times of the root directory.
    pub time: Timestamp,
}

impl Machine {
    /// Opens the machine's directory, made anew (with a root directory) if it is missing or empty;
    /// replays what the last checkpoint does not have, and begins a new epoch. Blocks. To be called
    /// inside a tokio runtime.
    pub fn open(dir: &Path, config: MachineConfig) -> Result<Machine, OpenError> {
        let failed = |source| OpenError::Io { path: dir.to_owned(), source };
        DirLock::refuse(dir, DATA_FILE, "data")?;
        create_dir_all(dir).map_err(failed)?;
        let lock = DirLock::acquire(dir)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::watched(dir).map_err(failed)?);
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let time = Timestamp {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        };
        let birth = Birth { cluster: ClusterId(rand::random()), time };
        Machine::open_on(disk, Some(lock), config, &birth)
    }

    /// [`Machine::open`] on any disk; `birth` counts only if the directory is empty.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        lock: Option<DirLock>,
        config: MachineConfig,
        birth: &Birth,
    ) -> Result<Machine, OpenError> {
        contained(|| Machine::open_with(disk, lock, config, birth, |log| Box::new(log)))
    }

    /// [`Machine::open_on`], with another log in front of the files.
    pub(super) fn open_with(
        disk: Arc<dyn Disk>,
        lock: Option<DirLock>,
        config: MachineConfig,
        birth: &Birth,
        wrap: impl FnOnce(FileLog) -> Box<dyn Log>,
    ) -> Result<Machine, OpenError> {
        refuse_half_loaded(&*disk)?;
        if !has_store(&*disk)? {
            create_store(&*disk, &config, birth)?;
        }
        let Found { store, mut core, checkpoint, recovered, replayed } = find(&*disk, config.cache_bytes)?;
        let tables_failure = store.read_failure();
        core.room = Room::new(config.reserve_bytes);
        let log = wrap(start_log(&disk, &config, core.state.cluster, recovered)?);
        let published = Published::new(core.state, core.shown(), checkpoint, core.sessions.iter());
        let applied = watch::Sender::new(core.state.applied);
        let shared = Arc::new(Shared {
            durable: log.durable(),
            log,
            decided: AtomicBool::new(false),
            full: AtomicBool::new(false),
            disk,
            store: Mutex::new(Some(store)),
            core: Mutex::new(core),
            queue: Mutex::default(),
            published: RwLock::new(published),
            applied,
            failure: watch::Sender::new(None),
            // What was replayed waits as well: else lives that are all short would never make a checkpoint.
            checkpoints: Mutex::new(CheckpointState { log_bytes: replayed, ..CheckpointState::default() }),
            checkpoint_wanted: Condvar::new(),
            next_measure: Mutex::default(),
            renewal: Mutex::new(Renewal::new(config.slack_bytes)),
            tables_failure,
            runtime: tokio::runtime::Handle::current(),
            checkpoint_bytes: config.checkpoint_bytes,
        });
        let waker = Arc::downgrade(&shared);
        shared.log.on_committed(Box::new(move || {
            if let Some(shared) = waker.upgrade() {
                shared.committed();
            }
        }));
        let start = || checkpoint::start(shared.clone(), config.checkpoint_after);
        let thread = (config.threads.then(start).transpose())
            .map_err(|source| OpenError::Io { path: "checkpoint thread".into(), source })?;
        let machine = Machine::new(shared, Owned { thread, lock });
        machine.begin_epoch()?;
        Ok(machine)
    }
}

/// What the files of a directory lead to.
pub(super) struct Found {
    pub store: Store,
    /// The state with all that is in the log.
    pub core: Core,
    /// The last entry that the tables have themselves.
    pub checkpoint: LogIndex,
    /// Where the log goes on.
    pub recovered: Recovered,
    /// Bytes of log behind the checkpoint.
    pub replayed: u64,
}

/// Reads the tables as of the last checkpoint, and applies what the log has behind it.
pub(super) fn find(disk: &dyn Disk, cache_bytes: usize) -> Result<Found, OpenError> {
    let store = open_store(disk, cache_bytes)?;
    let failure = store.read_failure();
    find_in(store, disk).map_err(|error| match failure.get() {
        Some(line) => OpenError::Corrupt(format!("metadata tables: {line}")),
        None => error,
    })
}

fn find_in(store: Store, disk: &dyn Disk) -> Result<Found, OpenError> {
    let (state, rows) = store.load()?;
    let base = store.base().map_err(unreadable)?;
    let mut core = Core::new(state, View::new(base), Sessions::new(rows));
    let (recovered, replayed) = replay_log(disk, &mut core)?;
    Ok(Found { store, core, checkpoint: state.applied, recovered, replayed })
}

/// redb panics on some damage that its checksums would show; the operator gets a line all the same.
pub(super) fn contained<T>(open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(OpenError::Corrupt(format!("metadata tables: {TABLES} is damaged, reading it panicked")))
    })
}

fn unreadable(error: FsError) -> OpenError {
    OpenError::Corrupt(format!("metadata tables: they cannot be read: {error}"))
}

pub(super) fn tables_failed(source: io::Error) -> OpenError {
    OpenError::Io { path: TABLES.into(), source }
}

/// To be called before anything else is looked at.
pub(super) fn refuse_half_loaded(disk: &dyn Disk) -> Result<(), OpenError> {
    let names = disk.list().map_err(tables_failed)?;
    if names.iter().any(|name| name == LOADING) { Err(OpenError::HalfLoaded) } else { Ok(()) }
}

/// Whether there are tables, after what is half made has been removed and the rest made durable.
fn has_store(disk: &dyn Disk) -> Result<bool, OpenError> {
    settle_names(disk).map_err(tables_failed)?;
    match disk.open(TABLES) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(tables_failed(error)),
    }
}

/// The tables that are there.
pub(super) fn open_store(disk: &dyn Disk, cache_bytes: usize) -> Result<Store, OpenError> {
    Ok(Store::open(Files::open(disk).map_err(tables_failed)?, cache_bytes)?)
}

fn create_store(disk: &dyn Disk, config: &MachineConfig, birth: &Birth) -> Result<(), OpenError> {
    let names = disk.list().map_err(tables_failed)?;
    if let Some(name) = names.iter().find(|name| name.starts_with("log-")) {
        return Err(OpenError::Corrupt(format!("there is a log ({name}) but no {TABLES}")));
    }
    let store = Store::open(Files::create(disk).map_err(tables_failed)?, config.cache_bytes)?;
    store
        .init(first_state(birth.cluster), |tx| crate::meta::apply::init(tx, birth.time))
        .map_err(|error| OpenError::Corrupt(format!("cannot make the tables: {error}")))?;
    store.close();
    Files::publish(disk).map_err(tables_failed)
}

fn first_state(cluster: ClusterId) -> State {
    State {
        cluster,
        epoch: Epoch(0),
        applied: LogIndex(0),
        next_ino: Ino(Ino::ROOT.0 + 1),
        next_session: SessionId(1),
        next_node: NodeId(1),
        next_volume: VolumeId(1),
        totals: Totals::default(),
    }
}

/// Recovers the log and applies what the tables lack: so many bytes of it.
fn replay_log(disk: &dyn Disk, core: &mut Core) -> Result<(Recovered, u64), OpenError> {
    let mut group = Vec::new();
    let mut bytes = 0;
    let (cluster, applied) = (core.state.cluster, core.state.applied);
    let recovered = recover(disk, cluster, applied, &mut |index, entry| {
        group.push((index, Command::decode(entry)?));
        bytes += entry.len() as u64;
        if group.len() >= REPLAY_GROUP {
            replay(core, std::mem::take(&mut group))?;
        }
        Ok(())
    })?;
    replay(core, group).map_err(OpenError::Corrupt)?;
    Ok((recovered, bytes))
}

/// The log goes on where it was recovered to.
fn start_log(
    disk: &Arc<dyn Disk>,
    config: &MachineConfig,
    cluster: ClusterId,
    recovered: Recovered,
) -> Result<FileLog, OpenError> {
    if recovered.cut > 0 {
        tracing::warn!(
            "metadata log: cut {} bytes of a torn tail after entry {}",
            recovered.cut,
            recovered.last
        );
    }
    let options = LogOptions {
        segment_bytes: config.segment_bytes,
        sync_after: config.sync_after,
        reserve_bytes: config.reserve_bytes,
        thread: config.threads,
    };
    FileLog::start(disk.clone(), cluster, recovered, options)
        .map_err(|error| OpenError::Corrupt(error.to_string()))
}

fn replay(core: &mut Core, group: Vec<(LogIndex, Command)>) -> Result<(), String> {
    if group.is_empty() {
        return Ok(());
    }
    let replies = apply_all(core, group);
    replies.map(drop).map_err(|Fatal(error)| format!("cannot be applied: {error}"))
}

impl From<RecoverError> for OpenError {
    fn from(error: RecoverError) -> OpenError {
        match error {
            RecoverError::Io { name, source } => OpenError::Io { path: name.into(), source },
            other => OpenError::Corrupt(other.to_string()),
        }
    }
}

impl From<crate::meta::tables::StoreError> for OpenError {
    fn from(error: crate::meta::tables::StoreError) -> OpenError {
        OpenError::Corrupt(error.to_string())
    }
}
