//! Checkpoints: the tables made durable, so that a restart replays little and old log segments can go.
//!
//! A thread of its own, asleep without a timer while nothing changes. The log is synced before, outside
//! of the core's lock: the tables on disk never have an entry that the log could lose. Commands wait only
//! while redb writes its dirty pages; readers don't wait at all.

use super::core::{CheckpointState, Core, Shared};
use cairn_common::error::FsResult;
use cairn_common::ids::LogIndex;
use futures::executor::block_on;
use futures::future::{Either, select};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::unconstrained;

/// Starts the thread.
pub fn start(shared: Arc<Shared>, after: Duration) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("meta-checkpoint".into()).spawn(move || {
        while shared.wait_for_checkpoint(after) {
            shared.checkpoint();
            // Who submitted meanwhile found the core taken.
            shared.drain();
        }
    })
}

impl Shared {
    /// False at the end.
    fn wait_for_checkpoint(&self, after: Duration) -> bool {
        let mut state = self.checkpoints.lock();
        loop {
            if state.stop || self.failure.borrow().is_some() {
                return false;
            }
            let deadline = state.changed_since.map(|since| since + after);
            if state.log_bytes >= self.checkpoint_bytes || deadline.is_some_and(|at| at <= Instant::now()) {
                return true;
            }
            match deadline {
                Some(at) => {
                    self.checkpoint_wanted.wait_until(&mut state, at);
                }
                None => self.checkpoint_wanted.wait(&mut state),
            }
        }
    }

    /// Makes a checkpoint of what is applied now, unless the machine has failed.
    pub fn checkpoint(&self) {
        let applied = self.published.read().state.applied;
        if self.wait_durable(applied).is_err() {
            return;
        }
        if let Some(applied) = self.checkpoint_locked(&mut self.core.lock()) {
            self.forget_log(applied);
        }
    }

    /// The last checkpoint: after it nothing is applied any more. False if it could not be made; then
    /// the tables stay as at the one before.
    pub fn close(&self) -> bool {
        let mut core = self.core.lock();
        let made = self.checkpoint_locked(&mut core);
        // No transaction runs while the lock is held for writing.
        let store = self.store.write().take();
        core.abandon();
        drop(core);
        self.log.close();
        // Dropped unless closed: then the file stays at its last checkpoint.
        if let (Some(applied), Some(store)) = (made, store) {
            store.close();
            self.forget_log(applied);
        }
        made.is_some()
    }

    fn checkpoint_locked(&self, core: &mut Core) -> Option<LogIndex> {
        let applied = core.state.applied;
        if self.failure.borrow().is_some() || self.wait_durable(applied).is_err() {
            return None;
        }
        if let Err(error) = self.store_checkpoint(core) {
            self.fail(format!("checkpoint of the metadata tables failed: {error}"));
            return None;
        }
        self.published.write().checkpoint = applied;
        Some(applied)
    }

    fn forget_log(&self, applied: LogIndex) {
        if let Err(error) = self.log.forget(applied) {
            // They are in nobody's way; the next checkpoint or start removes what it can.
            tracing::warn!("old metadata log segments stay: {error}");
        }
    }

    fn store_checkpoint(&self, core: &mut Core) -> FsResult<()> {
        let store = self.store.read();
        let Some(store) = store.as_ref() else { return Ok(()) };
        store.checkpoint(&core.state, core.sessions.changes())?;
        core.sessions.stored();
        let mut checkpoints = self.checkpoints.lock();
        *checkpoints = CheckpointState { stop: checkpoints.stop, ..CheckpointState::default() };
        Ok(())
    }

    /// Blocks until the log is durable up to `index`; an error if it is broken.
    fn wait_durable(&self, index: LogIndex) -> Result<(), ()> {
        self.log.request_sync(index);
        let mut durable = self.durable.clone();
        let mut failure = self.log.failure();
        block_on(unconstrained(async {
            let reached = pin!(durable.wait_for(|durable| *durable >= index));
            let failed = pin!(failure.wait_for(Option::is_some));
            match select(reached, failed).await {
                Either::Left((Ok(_), _)) => Ok(()),
                Either::Left((Err(_), _)) | Either::Right(_) => Err(()),
            }
        }))
    }
}
