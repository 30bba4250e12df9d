//! Checkpoints: the tables made durable, so that a restart replays little and old log segments can go.
//!
//! A thread of its own, asleep without a timer while nothing changes. It holds the core only to set aside
//! what has changed, and to put the new tables below: neither commands nor readers wait for redb.

use super::core::{CheckpointState, Core, FailOnPanic, Shared};
use crate::meta::tables::{Base, Memtable, State, Store};
use cairn_common::ids::LogIndex;
use futures::executor::block_on;
use futures::future::{Either, select};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::unconstrained;

/// On a full disk a checkpoint begins so long after the first change, at the latest.
const HURRY: Duration = Duration::from_secs(1);
/// Measuring what is free in the tables' file is followed by a pause of so many times what it took.
const MEASURE_PAUSE: u32 = 2;

/// Starts the thread.
pub fn start(shared: Arc<Shared>, after: Duration) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("meta-checkpoint".into()).spawn(move || {
        while shared.wait_for_checkpoint(after) {
            // Its panic has failed the machine, which says so.
            drop(catch_unwind(AssertUnwindSafe(|| shared.checkpoint())));
            shared.go_on();
        }
    })
}

/// What a checkpoint stores: rows, and the state that they lead to.
struct Frozen {
    state: State,
    rows: Arc<Memtable>,
}

impl Shared {
    /// False at the end.
    fn wait_for_checkpoint(&self, after: Duration) -> bool {
        let mut state = self.checkpoints.lock();
        loop {
            if state.stop || self.failure.borrow().is_some() {
                return false;
            }
            let after = if state.hurry { after.min(HURRY) } else { after };
            let deadline = state.changed_since.map(|since| since + after);
            if state.urgency >= self.checkpoint_bytes || deadline.is_some_and(|at| at <= Instant::now()) {
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
    pub fn checkpoint(self: &Arc<Shared>) {
        let mut store = self.store.lock();
        // The failure is known before another can have the store.
        let _panicked = FailOnPanic(self);
        let Some(store) = store.as_mut() else { return };
        let frozen = self.freeze(&mut self.core.lock());
        // Who submitted while we held the core relies on us, also if the machine has just failed.
        self.drain();
        let Some(frozen) = frozen else { return };
        if let Some(base) = self.write(store, &frozen) {
            self.thaw(&mut self.core.lock(), base, frozen.state.applied);
        }
        self.go_on();
        self.forget_log();
        self.renew(store);
        self.measure(store);
    }

    /// On a full disk, looks how much is free in the tables' file.
    fn measure(&self, store: &Store) {
        let wanted = self.core.lock().room.wants_idle() && self.failure.borrow().is_none();
        let began = Instant::now();
        let mut next = self.next_measure.lock();
        if !wanted || next.is_some_and(|next| began < next) {
            return;
        }
        match store.idle_bytes() {
            Ok(bytes) => self.core.lock().room.found_idle(bytes),
            Err(error) => self.fail(format!("metadata tables: {error}")),
        }
        *next = Some(Instant::now() + began.elapsed() * MEASURE_PAUSE);
    }

    /// Commands that waited for a checkpoint go on: it is finished, or the machine has failed.
    fn go_on(self: &Arc<Shared>) {
        // Who has the core may have looked before; whoever gets it after us sees what is now.
        drop(self.core.lock());
        self.drain();
    }

    /// The last checkpoint: after it nothing is applied any more. False if it could not be made; then
    /// the tables stay as at the one before.
    pub fn close(&self) -> bool {
        let Some(store) = self.store.lock().take() else {
            return self.failure.borrow().is_none();
        };
        let mut core = self.core.lock();
        let last = catch_unwind(AssertUnwindSafe(|| {
            let _panicked = FailOnPanic(self);
            let frozen = self.freeze(&mut core)?;
            self.write(&store, &frozen).map(|_base| frozen.state.applied)
        }));
        let made = last.ok().flatten();
        core.view = None;
        self.published.write().view = None;
        core.abandon();
        drop(core);
        self.log.close();
        self.renewal.lock().forget();
        // Dropped unless closed: then the file stays at its last checkpoint.
        if let Some(applied) = made {
            store.close();
            self.published.write().checkpoint = applied;
            self.forget_log();
        }
        made.is_some()
    }

    /// Sets aside what changed since the last checkpoint. `None` if the machine has failed: then the one
    /// before may not have come to its end.
    fn freeze(&self, core: &mut Core) -> Option<Frozen> {
        if self.failure.borrow().is_some() {
            return None;
        }
        if let Err(error) = core.store_sessions() {
            self.fail(format!("checkpoint of the metadata tables failed: {error}"));
            return None;
        }
        let view = core.view.as_mut()?;
        core.room.stored(view.active_bytes() as u64);
        let rows = view.freeze();
        self.published.write().view = core.shown();
        let mut checkpoints = self.checkpoints.lock();
        *checkpoints = CheckpointState { stop: checkpoints.stop, ..CheckpointState::default() };
        Some(Frozen { state: core.state, rows })
    }

    /// Makes what was set aside durable. The log comes first: the tables on disk never have an entry that
    /// it could lose.
    fn write(&self, store: &Store, frozen: &Frozen) -> Option<Arc<Base>> {
        if self.wait_durable(frozen.state.applied).is_err() {
            self.fail("metadata log: a sync failed, so there is no checkpoint".into());
            return None;
        }
        match store.checkpoint(&frozen.state, &frozen.rows) {
            Ok(base) => Some(base),
            Err(error) => {
                self.fail(format!("checkpoint of the metadata tables failed: {error}"));
                None
            }
        }
    }

    pub(super) fn thaw(&self, core: &mut Core, base: Arc<Base>, applied: LogIndex) {
        let Some(view) = core.view.as_mut() else { return };
        view.thaw(base);
        let mut published = self.published.write();
        published.view = core.shown();
        published.checkpoint = applied;
    }

    /// Removes what the last finished checkpoint has.
    fn forget_log(&self) {
        let applied = self.published.read().checkpoint;
        if let Err(error) = self.log.forget(applied) {
            // They are in nobody's way; the next checkpoint or start removes what it can.
            tracing::warn!("old metadata log segments stay: {error}");
        }
    }

    /// Blocks until the log is durable up to `index`; an error if it is broken.
    fn wait_durable(&self, index: LogIndex) -> Result<(), ()> {
        if *self.durable.borrow() < index
            && let Some(turn) = self.log.begin_sync()
        {
            turn.sync();
        }
        // Covered by whoever is at it, or the next.
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
