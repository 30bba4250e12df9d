//! The metadata machine: commands are appended to the log, applied to the tables, answered.
//!
//! ```text
//! submit ──▶ queue ──▶ log.propose ──▶ (committed) ──▶ apply to tables ──▶ publish ──▶ answer
//!                        │ write(2)                      │ in memory, over redb
//!                        └─▶ sync thread: fdatasync      └─▶ checkpoint thread: into redb, durably
//! ```
//!
//! What if the process dies: before the append, nothing happened. After it, the restart applies the entry
//! and the repeated batch gets its replies. A power loss may also take entries that were not synced: then
//! the tables are at the last checkpoint, the log ends earlier, and the mounts send again what they keep.
//!
//! A disk that fails (append, sync, tables) ends the machine: nothing is retried as if nothing had
//! happened. [`Machine::failed`] tells the daemon to stop.

pub mod bare;
mod checkpoint;
mod core;
mod open;
mod published;
mod renew;
mod room;

#[cfg(test)]
pub(super) mod tests;

pub use open::Birth;
pub(super) use open::LOADING;

use self::core::{Shared, Submission};
use super::apply::{Applied, Command, Reply};
use super::log::Turn;
use super::tables::Snapshot;
use crate::durable::DirLock;
use cairn_common::attr::Timestamp;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{ClusterId, Epoch, LogIndex, Seq, SessionId, VolumeId};
use cairn_common::proto::meta::ClientInfo;
use futures::executor::block_on;
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::RuntimeFlavor;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{block_in_place, unconstrained};

/// Sizes and times of the machine; the defaults suit a daemon.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Bytes of redb's cache.
    pub cache_bytes: usize,
    /// Bytes of one log segment.
    pub segment_bytes: u64,
    /// A checkpoint begins when the log has grown by this many bytes since the last.
    pub checkpoint_bytes: u64,
    /// A checkpoint begins this long after the first change since the last.
    pub checkpoint_after: Duration,
    /// Appended entries are durable at most about this much later.
    pub sync_after: Duration,
    /// Commands and operations that grow the state are refused with `NoSpace` when the disk has less than
    /// this left. The rest is for those that remove, and for checkpoints.
    pub reserve_bytes: u64,
    /// The tables are written anew when so many bytes of their file, and half of it, hold nothing.
    pub slack_bytes: u64,
    /// Threads of its own sync the log and make checkpoints. Without them nothing happens by itself: whoever has the
    /// machine calls [`Machine::sync_log`] and [`Machine::checkpoint`], as a simulation does.
    pub threads: bool,
}

impl Default for MachineConfig {
    fn default() -> MachineConfig {
        MachineConfig {
            cache_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            checkpoint_bytes: 16 << 20,
            checkpoint_after: Duration::from_secs(60),
            sync_after: Duration::from_secs(1),
            reserve_bytes: 128 << 20,
            slack_bytes: 2 << 20,
            threads: true,
        }
    }
}

/// Why a directory could not be opened. Each is one clear line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Lock(#[from] crate::durable::LockError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// Nothing in it can be relied on.
    #[error(
        "'cairn meta load' began to fill this directory and was ended before all was there: run it again"
    )]
    HalfLoaded,
    /// The files do not say what this program wrote.
    #[error("{0}")]
    Corrupt(String),
}

/// A session as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    pub session: SessionId,
    pub client: ClientInfo,
    pub opened: Timestamp,
    /// The last operation applied.
    pub applied: Seq,
    /// The last operation that is on stable storage.
    pub durable: Seq,
}

/// Positions in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub applied: LogIndex,
    pub durable: LogIndex,
    pub checkpoint: LogIndex,
}

/// Most commands that wait in the queue; who comes then waits before it.
const QUEUE_MAX: usize = 1024;

/// The machine. Clones share it.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    permits: Semaphore,
    owned: Mutex<Owned>,
}

/// What ends with the machine.
struct Owned {
    thread: Option<JoinHandle<()>>,
    lock: Option<DirLock>,
}

impl Machine {
    fn new(shared: Arc<Shared>, owned: Owned) -> Machine {
        let inner = Inner { shared, permits: Semaphore::new(QUEUE_MAX), owned: Mutex::new(owned) };
        Machine { inner: Arc::new(inner) }
    }

    /// Applies a command. `OpenSession`, `EndSession`, `AllocateInos`, `RegisterNode` and
    /// `CreateVolume` are durable when this answers; the others are so about `sync_after` later, or
    /// after [`Machine::sync`]. The command may be applied even if the future is dropped.
    ///
    /// Errors: what the command's rules say; `NoSpace` if the disk has no room (nothing happened; of a batch
    /// only the operations that grow the state are refused, as long as the log has room for it);
    /// `Io` if the machine has failed; `Unavailable` after [`Machine::shutdown`].
    pub async fn submit(&self, command: Command) -> FsResult<Applied> {
        let durable = command.must_be_durable();
        let applied = self.submit_then_sync(command, durable).await?;
        if durable {
            self.sync(applied.index).await?;
        }
        Ok(applied)
    }

    /// Applies a command like [`Machine::submit`], without waiting until it is durable. With `sync_follows`
    /// the sync of its entry begins while it is applied: whoever asks for it then waits less.
    pub async fn submit_then_sync(&self, command: Command, sync_follows: bool) -> FsResult<Applied> {
        let entry = command.encode()?;
        let permit = self.inner.permits.acquire().await.map_err(|_| FsError::Unavailable)?;
        let (answer, answered) = oneshot::channel();
        self.inner.shared.queue.lock().push_back(Submission { command, entry, sync_follows, answer });
        self.inner.shared.drain();
        let applied = answered.await.map_err(|_| FsError::Unavailable)??;
        drop(permit);
        Ok(applied)
    }

    /// The first command of each start.
    fn begin_epoch(&self) -> Result<(), OpenError> {
        // Unconstrained: tokio's budget of the task that opens us is never renewed while it blocks here.
        let began = block_on(unconstrained(async {
            let applied = self.submit_then_sync(Command::Start, false).await?;
            // On this thread: nobody else is there yet.
            self.sync_log();
            self.sync(applied.index).await?;
            Ok(applied)
        }));
        match began {
            Ok(Applied { reply: Reply::Epoch(_), .. }) => Ok(()),
            Ok(_) => Err(OpenError::Corrupt("the first command was answered wrongly".into())),
            Err::<_, FsError>(error) => {
                let why = self.inner.shared.failure.borrow().clone().unwrap_or_else(|| error.to_string());
                Err(OpenError::Corrupt(format!("cannot begin to serve: {why}")))
            }
        }
    }

    /// Waits until everything up to `through` is on stable storage. `Io` if the log has failed.
    pub async fn sync(&self, through: LogIndex) -> FsResult<()> {
        let shared = &self.inner.shared;
        if *shared.durable.borrow() >= through {
            return Ok(());
        }
        if self.sync_here() && *shared.durable.borrow() >= through {
            return Ok(());
        }
        shared.log.request_sync(through);
        let mut durable = shared.durable.clone();
        let mut failure = shared.log.failure();
        tokio::select! {
            biased;
            reached = durable.wait_for(|durable| *durable >= through) => {
                reached.map(drop).map_err(|_| FsError::Unavailable)
            }
            _ = failure.wait_for(Option::is_some) => {
                shared.fail("metadata log: a sync failed".into());
                Err(FsError::Io)
            }
        }
    }

    /// Syncs the log on this thread unless somebody is at it; false if it did not. Other tasks of this
    /// thread go on elsewhere meanwhile.
    fn sync_here(&self) -> bool {
        match may_block_in_place().then(|| self.inner.shared.log.begin_sync()).flatten() {
            Some(turn) => block_in_place(|| turn.sync()),
            None => return false,
        }
        true
    }

    /// Waits until the session's operations up to `through` are on stable storage; answers up to which
    /// they are. The batch that brings them may still be on its way, or wait for another mount: it is
    /// waited for at most `arrival`. `OutOfOrder` if `through` has not been applied by then, `Evicted` for an
    /// unknown session.
    pub async fn sync_session(&self, session: SessionId, through: Seq, arrival: Duration) -> FsResult<Seq> {
        let applied = self.applied_entry(session, through, arrival).await?;
        if let Some(index) = applied {
            self.sync(index).await?;
        }
        Ok(self.durable_seq(session).unwrap_or(through))
    }

    /// The entry that must be durable for operation `through` to be so, once it is applied.
    async fn applied_entry(
        &self,
        session: SessionId,
        through: Seq,
        arrival: Duration,
    ) -> FsResult<Option<LogIndex>> {
        let shared = &self.inner.shared;
        let look = || shared.published.read().entry_of(session, through).ok_or(FsError::Evicted);
        // Looked at first, so that the usual case costs no subscription.
        if let Ok(entry) = look()? {
            return Ok(entry);
        }
        let mut applied = shared.applied.subscribe();
        let deadline = tokio::time::Instant::now() + arrival;
        loop {
            if let Ok(entry) = look()? {
                return Ok(entry);
            }
            match tokio::time::timeout_at(deadline, applied.changed()).await {
                Ok(changed) => changed.map_err(|_ended| FsError::Unavailable)?,
                Err(_late) => return Err(FsError::OutOfOrder),
            }
        }
    }

    /// The last operation of the session that is on stable storage.
    #[must_use]
    pub fn durable_seq(&self, session: SessionId) -> Option<Seq> {
        self.session(session).map(|info| info.durable)
    }

    /// Reads the state as of the last transaction. Don't keep what `f` gets longer than needed: it
    /// pins old rows and pages. `Corrupt` if what is read is damaged; `Io` if the disk failed, and the machine with it.
    pub fn read<T>(&self, f: impl FnOnce(&Snapshot) -> FsResult<T>) -> FsResult<T> {
        let (state, view) = {
            let published = self.inner.shared.published.read();
            (published.state, published.view.clone().ok_or(FsError::Unavailable)?)
        };
        let snapshot = Snapshot::new(view, state.totals);
        let answer = read_contained(|| f(&snapshot));
        // Damage: from then on nothing that is not in memory can be read, so a restart must tell what is lost.
        if answer.is_err() && self.inner.shared.tables_failure.get().is_some() {
            self.inner.shared.fail("read for a request".into());
        }
        answer
    }

    /// [`Machine::read`] of much: other tasks of this thread go on elsewhere meanwhile.
    pub fn read_long<T>(&self, f: impl FnOnce(&Snapshot) -> FsResult<T>) -> FsResult<T> {
        if may_block_in_place() { block_in_place(|| self.read(f)) } else { self.read(f) }
    }

    /// Everything that is wrong with the tree, one line each. Reads all of it: for tests and repair.
    pub fn check(&self) -> FsResult<Vec<String>> {
        self.read(cairn_common::namespace::check::check)
    }

    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionInfo> {
        let durable = *self.inner.shared.durable.borrow();
        self.inner.shared.published.read().session(session, durable)
    }

    /// Whether this was a session that is over. Not true of [`SessionId::NOBODY`], nor of one that is above all that were
    /// given: tables that were restored from an old copy know nothing of later sessions.
    #[must_use]
    pub fn has_ended(&self, session: SessionId) -> bool {
        let durable = *self.inner.shared.durable.borrow();
        let published = self.inner.shared.published.read();
        published.state.was_given(session) && published.session(session, durable).is_none()
    }

    /// All sessions, in order.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let durable = *self.inner.shared.durable.borrow();
        self.inner.shared.published.read().sessions(durable)
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.shared.published.read().state.cluster
    }

    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.inner.shared.published.read().state.epoch
    }

    /// Volumes from this number on were never given out.
    #[must_use]
    pub fn next_volume(&self) -> VolumeId {
        self.inner.shared.published.read().state.next_volume
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        let durable = *self.inner.shared.durable.borrow();
        let published = self.inner.shared.published.read();
        Progress { applied: published.state.applied, durable, checkpoint: published.checkpoint }
    }

    /// The caller's turn to make durable all that is in the log, unless somebody is at it.
    pub fn begin_log_sync(&self) -> Option<Turn> {
        self.inner.shared.log.begin_sync()
    }

    /// Bytes of commands that the log takes before it waits for whoever has the turn.
    pub fn log_room(&self) -> u64 {
        self.inner.shared.log.room()
    }

    /// The disk has no room for anything that grows; as it was when the last commands came.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.inner.shared.full.load(Ordering::Relaxed)
    }

    /// Makes durable all that is in the log, on this thread, unless somebody is at it. Blocks.
    pub fn sync_log(&self) {
        if let Some(turn) = self.begin_log_sync() {
            turn.sync();
        }
    }

    /// Leaves a mark at the end of the log, if all of it is durable. The log's own thread does so when it is idle. Blocks.
    pub fn mark_log(&self) {
        self.inner.shared.log.mark_end();
    }

    /// Makes a checkpoint now, unless the machine has failed. Blocks.
    pub fn checkpoint(&self) {
        self.inner.shared.checkpoint();
    }

    /// Waits until the machine has failed (a disk that lost or refused writes): the daemon must stop
    /// with this line.
    pub async fn failed(&self) -> String {
        let mut machine = self.inner.shared.failure.subscribe();
        let mut log = self.inner.shared.log.failure();
        let line = tokio::select! {
            biased;
            // It knows best what has failed.
            line = log.wait_for(Option::is_some) => line.ok().and_then(|line| line.clone()),
            line = machine.wait_for(Option::is_some) => line.ok().and_then(|line| line.clone()),
        };
        line.unwrap_or_else(|| "the metadata machine is gone".into())
    }

    /// Takes no more commands, makes a checkpoint, closes the files: the next start replays nothing.
    /// Later calls answer `Unavailable`. `Io` if the machine has failed: then the files stay as they are.
    pub async fn shutdown(&self) -> FsResult<()> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || inner.close()).await.map_err(|_| FsError::Io)?
    }
}

/// True if this thread may block: other tasks of it then go on elsewhere.
fn may_block_in_place() -> bool {
    tokio::runtime::Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// redb panics on some damage; whoever asked gets an answer, and the others go on.
fn read_contained<T>(read: impl FnOnce() -> FsResult<T>) -> FsResult<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        tracing::error!("metadata tables: reading them panicked; they may be damaged");
        Err(FsError::Corrupt)
    })
}

impl Inner {
    fn close(&self) -> FsResult<()> {
        self.permits.close();
        self.stop_thread();
        let closed = self.shared.close();
        self.owned.lock().lock = None;
        // Whoever queued up too late gets an answer.
        self.shared.drain();
        if closed { Ok(()) } else { Err(FsError::Io) }
    }

    fn stop_thread(&self) {
        self.shared.checkpoints.lock().stop = true;
        self.shared.checkpoint_wanted.notify_all();
        if let Some(thread) = self.owned.lock().thread.take() {
            // It ends by itself, whatever happened in it.
            drop(thread.join());
        }
    }
}

impl Drop for Inner {
    /// Without a shutdown this is a crash: the next start replays the log.
    fn drop(&mut self) {
        self.stop_thread();
    }
}
