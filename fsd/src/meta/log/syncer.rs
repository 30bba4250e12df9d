//! Group commit: one at a time calls `fdatasync` for all that wait.
//!
//! Who wants to wait and finds nobody at it syncs on its own thread ([`Syncer::begin`]): a lone `fsync`
//! then costs no hand-over between threads. Everyone else asks ([`Syncer::request`]) and is covered by
//! the next sync, which this module's thread makes. That thread also syncs what nobody waits for, `after`
//! the oldest entry, and marks the end of the log when nothing was appended for so long and all is durable.
//! Then it sleeps without any timer.
//!
//! A failed sync is final: the kernel may have dropped the pages and marked them clean, so a second
//! sync that succeeds would prove nothing. The log is broken then, and says so; nothing is published as
//! durable any more. The kernel tells an error of writing back only once per open file, so of two syncs
//! at once one would succeed in vain: whoever syncs the file, also before a new one, needs the turn.

use super::LogError;
use crate::disk::DiskFile;
use cairn_common::ids::LogIndex;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Leaves a mark behind this entry, if it is still the last.
pub type MarkEnd = Box<dyn Fn(LogIndex) -> Result<(), LogError> + Send + Sync>;

/// Handle of the thread.
pub struct Syncer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Somebody's turn has ended; for who has to have the next.
    turn_over: Condvar,
    durable: watch::Sender<LogIndex>,
    failure: watch::Sender<Option<String>>,
    after: Duration,
    mark_end: MarkEnd,
}

struct State {
    /// The segment being written.
    file: Arc<dyn DiskFile>,
    /// Last entry written to it.
    appended: LogIndex,
    /// Somebody waits for this entry.
    wanted: LogIndex,
    /// When the oldest entry that is not durable was appended.
    waiting_since: Option<Instant>,
    /// When the last entry was appended, until the end behind it is marked.
    unmarked_since: Option<Instant>,
    /// Somebody is syncing.
    syncing: bool,
    /// The thread will wake up by itself in time for what is appended now.
    timed: bool,
    stop: bool,
}

/// What the thread does next.
enum Task {
    Sync(Turn),
    /// Nothing was appended for a while, and all up to here is durable.
    MarkEnd(LogIndex),
}

/// The right to sync, and the duty: nobody else does until this is used or dropped.
pub struct Turn {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    through: LogIndex,
}

impl Syncer {
    /// Begins with everything up to `durable` on stable storage. Without a `thread`, nothing is synced but by those who
    /// have the turn.
    pub fn start(
        file: Arc<dyn DiskFile>,
        durable: LogIndex,
        after: Duration,
        thread: bool,
        mark_end: MarkEnd,
    ) -> io::Result<Syncer> {
        let state = State {
            file,
            appended: durable,
            wanted: LogIndex(0),
            waiting_since: None,
            unmarked_since: None,
            syncing: false,
            timed: false,
            stop: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            turn_over: Condvar::new(),
            durable: watch::Sender::new(durable),
            failure: watch::Sender::new(None),
            after,
            mark_end,
        });
        let of_thread = shared.clone();
        let start =
            || std::thread::Builder::new().name("meta-log-sync".into()).spawn(move || of_thread.run());
        let thread = thread.then(start).transpose()?;
        Ok(Syncer { shared, thread: Mutex::new(thread) })
    }

    /// Entries up to `through` have been written to the current file.
    pub fn appended(&self, through: LogIndex) {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        state.appended = through;
        state.unmarked_since = Some(now);
        if state.waiting_since.is_none() {
            state.waiting_since = Some(now);
            if !state.timed {
                self.shared.changed.notify_one();
            }
        }
    }

    /// The caller's turn to sync all that is appended, unless somebody is at it or the log is broken.
    pub fn begin(&self) -> Option<Turn> {
        let mut state = self.shared.state.lock();
        if state.syncing || self.has_failed() {
            return None;
        }
        Some(self.shared.turn(&mut state))
    }

    /// Asks for entries up to `through` to be made durable at once.
    pub fn request(&self, through: LogIndex) {
        if self.durable() >= through {
            return;
        }
        let mut state = self.shared.state.lock();
        state.wanted = state.wanted.max(through);
        self.shared.changed.notify_one();
    }

    /// Makes all that is appended durable on this thread, once nobody else is at it; false if the log is
    /// broken. Blocks.
    pub fn sync_all(&self) -> bool {
        let mut state = self.shared.state.lock();
        while state.syncing {
            self.shared.turn_over.wait(&mut state);
        }
        if self.has_failed() {
            return false;
        }
        let turn = self.shared.turn(&mut state);
        drop(state);
        turn.sync();
        !self.has_failed()
    }

    /// From now on entries go to `file`. All before must be durable, by [`Syncer::sync_all`].
    pub fn switch(&self, file: Arc<dyn DiskFile>) {
        self.shared.state.lock().file = file;
    }

    /// Entries up to here are on stable storage.
    pub fn durable(&self) -> LogIndex {
        *self.shared.durable.borrow()
    }

    pub fn watch_durable(&self) -> watch::Receiver<LogIndex> {
        self.shared.durable.subscribe()
    }

    pub fn watch_failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }

    /// True once the log is broken.
    pub fn has_failed(&self) -> bool {
        self.shared.failure.borrow().is_some()
    }

    /// Says that the log is broken; the first reason stays.
    pub fn fail(&self, line: String) {
        self.shared.fail(line);
    }

    /// Makes everything durable (unless the log is broken) and ends the thread.
    pub fn stop(&self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            thread.join().expect("the sync thread does not panic");
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(self: &Arc<Self>) {
        while let Some(task) = self.next() {
            match task {
                Task::Sync(turn) => turn.sync(),
                Task::MarkEnd(last) => {
                    if let Err(error) = (self.mark_end)(last) {
                        self.fail(format!("the metadata log failed: {error}"));
                    }
                }
            }
        }
    }

    /// Waits until there is something to do; `None` at the end.
    fn next(self: &Arc<Self>) -> Option<Task> {
        let mut state = self.state.lock();
        // Appends tend to go on: one more deadline spares each next append the wake-up that arms it.
        let linger = Instant::now() + self.after;
        loop {
            let durable = *self.durable.borrow();
            let dirty = state.appended > durable;
            if self.failure.borrow().is_some() || (state.stop && !dirty) {
                return None;
            }
            let now = Instant::now();
            let since = if dirty { state.waiting_since } else { state.unmarked_since };
            let deadline = since.map_or(linger, |since| since + self.after);
            let wanted = state.stop || deadline <= now || state.wanted > durable;
            if dirty && wanted && !state.syncing {
                return Some(Task::Sync(self.turn(&mut state)));
            }
            if !dirty && deadline <= now && state.unmarked_since.take().is_some() {
                return Some(Task::MarkEnd(durable));
            }
            // While somebody syncs, its end wakes us.
            state.timed = deadline > now;
            if state.timed {
                self.changed.wait_until(&mut state, deadline);
            } else {
                self.changed.wait(&mut state);
            }
            state.timed = false;
        }
    }

    fn turn(self: &Arc<Self>, state: &mut State) -> Turn {
        state.syncing = true;
        // What is appended from here on waits for the next sync, and not longer than `after`.
        state.waiting_since = None;
        Turn { shared: self.clone(), file: state.file.clone(), through: state.appended }
    }

    /// Under the lock of the state, as [`Shared::fail`]: after a failure the mark stays where it is.
    fn publish(&self, _state: &State, through: LogIndex) {
        if self.failure.borrow().is_some() {
            return;
        }
        self.durable.send_if_modified(|durable| {
            let grows = through > *durable;
            *durable = through.max(*durable);
            grows
        });
    }

    fn fail(&self, line: String) {
        let _state = self.state.lock();
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(line);
            first
        });
        self.changed.notify_one();
    }
}

impl Turn {
    /// Syncs. Blocks.
    pub fn sync(self) {
        match self.file.sync_data() {
            Ok(()) => self.shared.publish(&self.shared.state.lock(), self.through),
            Err(error) => self.shared.fail(format!("sync of the metadata log failed: {error}")),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.syncing = false;
        self.shared.turn_over.notify_all();
        // Who asked meanwhile is covered by the thread, and so is what was appended.
        if state.wanted > *self.shared.durable.borrow() || state.stop || !state.timed {
            self.shared.changed.notify_one();
        }
    }
}
