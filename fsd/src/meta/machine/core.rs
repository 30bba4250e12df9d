//! The core: one at a time takes what waits, appends it to the log, applies it in one transaction and
//! answers everyone.
//!
//! There is no thread for this: whoever submits a command tries to become the one (flat combining), so an
//! idle machine answers without any hand-over between threads. Those who come meanwhile only queue up.

use super::published::Published;
use super::renew::Renewal;
use super::room::{Room, Waiting};
use crate::disk::Disk;
use crate::meta::apply::{self, Admission, Applied, Command, Fatal, Reply, Sessions};
use crate::meta::log::{Log, LogError};
use crate::meta::tables::{ReadFailure, State, Store, Tx, View};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{LogIndex, SessionId};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// Most commands and bytes in one group: bounds the time of one transaction.
const GROUP_COMMANDS: usize = 256;
const GROUP_BYTES: usize = 4 << 20;
/// The same while the disk is nearly full.
const SMALL_GROUP_COMMANDS: usize = 16;
const SMALL_GROUP_BYTES: usize = 64 << 10;
/// Groups that one caller runs before it leaves the work to another.
const GROUPS_PER_TURN: usize = 8;
/// How many times `checkpoint_bytes` the rows that wait for the next checkpoint, and their log, may count.
/// Beyond, commands wait until it has begun.
const ACTIVE_MAX: u64 = 4;

/// A command that waits.
pub struct Submission {
    pub command: Command,
    pub entry: Vec<u8>,
    /// Somebody will wait until its entry is on stable storage.
    pub sync_follows: bool,
    pub answer: oneshot::Sender<FsResult<Applied>>,
}

impl Submission {
    /// Of a batch only the operations that grow the state are refused, each for itself, when it is applied:
    /// a mount whose batch were refused as a whole would repeat it for ever, and could remove nothing.
    fn refuse_growth(&mut self) -> FsResult<()> {
        let Command::Batch { full, .. } = &mut self.command else { return Err(FsError::NoSpace) };
        *full = true;
        self.entry = self.command.encode()?;
        Ok(())
    }
}

/// A command that is in the log.
struct Proposed {
    index: LogIndex,
    command: Command,
    answer: oneshot::Sender<FsResult<Applied>>,
}

/// What only one at a time touches.
pub struct Core {
    pub state: State,
    /// `None` after the shutdown.
    pub view: Option<View>,
    pub sessions: Sessions,
    proposed: VecDeque<Proposed>,
    pub room: Room,
}

/// Everything that the machine's callers and threads share.
pub struct Shared {
    pub log: Box<dyn Log>,
    /// The log's mark.
    pub durable: watch::Receiver<LogIndex>,
    /// The log has decided entries outside of `propose`; nobody has looked since.
    pub decided: AtomicBool,
    /// What needs room was refused, had it been among the last commands.
    pub full: AtomicBool,
    pub disk: Arc<dyn Disk>,
    /// `None` after the shutdown. Held as long as a checkpoint runs.
    pub store: Mutex<Option<Store>>,
    /// Lock order: store, then renewal, then core, then published; the queue's is taken alone.
    pub core: Mutex<Core>,
    pub queue: Mutex<VecDeque<Submission>>,
    pub published: RwLock<Published>,
    /// Entries up to here are applied and published.
    pub applied: watch::Sender<LogIndex>,
    pub failure: watch::Sender<Option<String>>,
    pub checkpoints: Mutex<CheckpointState>,
    pub checkpoint_wanted: Condvar,
    /// Before then nobody measures what is free in the tables' file.
    pub next_measure: Mutex<Option<Instant>>,
    pub renewal: Mutex<Renewal>,
    /// Why the tables can't be read any more, if they can't.
    pub tables_failure: ReadFailure,
    pub runtime: tokio::runtime::Handle,
    pub checkpoint_bytes: u64,
}

/// What the checkpoint thread looks at.
#[derive(Default)]
pub struct CheckpointState {
    /// Bytes of log since the last checkpoint began.
    pub log_bytes: u64,
    /// From `checkpoint_bytes` on the next should begin: see [`Room::urgency`].
    pub urgency: u64,
    /// First change since the last checkpoint began.
    pub changed_since: Option<Instant>,
    /// Somebody may wait for space that it would free.
    pub hurry: bool,
    pub stop: bool,
}

impl Core {
    pub fn new(state: State, view: View, sessions: Sessions) -> Core {
        Core { state, view: Some(view), sessions, proposed: VecDeque::new(), room: Room::new(0) }
    }

    /// The tables, for readers.
    pub fn shown(&self) -> Option<Arc<View>> {
        self.view.clone().map(Arc::new)
    }

    /// Puts the sessions that changed since the last checkpoint among the rows of the next.
    pub fn store_sessions(&mut self) -> FsResult<()> {
        let Some(view) = self.view.as_mut() else { return Ok(()) };
        for (session, row) in self.sessions.changes() {
            view.put_session(session, row)?;
        }
        self.sessions.stored();
        Ok(())
    }

    /// Gives up on what the log has not decided: whether it happens is for the next start to see.
    pub fn abandon(&mut self) {
        self.proposed.clear();
    }
}

/// A panic while the core is held is a bug that leaves it half changed: the log has more than was
/// applied. The restart applies it again, or refuses to. One in a checkpoint (redb panics on some damage)
/// would leave what it set aside for ever, and the next would never come.
pub struct FailOnPanic<'a>(pub &'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the metadata machine panicked; what it was doing is in the log".into());
        }
    }
}

impl Shared {
    /// Works off the queue unless somebody else does.
    pub fn drain(self: &Arc<Shared>) {
        for _ in 0..GROUPS_PER_TURN {
            let Some(mut core) = self.core.try_lock() else { return };
            if self.must_wait(&core) {
                // The checkpoint's thread drains when it is done.
                return;
            }
            let panicked = FailOnPanic(self);
            self.decided.store(false, Ordering::SeqCst);
            self.run_group(&mut core);
            drop(panicked);
            drop(core);
            // Who queued up while we held the core relies on us; look again now that it is free.
            if self.queue.lock().is_empty() && !self.decided.load(Ordering::SeqCst) {
                return;
            }
        }
        let shared = self.clone();
        self.runtime.spawn(async move { shared.drain() });
    }

    /// Memory, log and what a checkpoint may cost are bounded: who changes rows faster than checkpoints store them waits
    /// for one, which its thread has been told to begin.
    fn must_wait(&self, core: &Core) -> bool {
        let most = ACTIVE_MAX * self.checkpoint_bytes;
        let rows = core.view.as_ref().map_or(0, View::active_bytes) as u64;
        rows.max(self.checkpoints.lock().urgency) >= most && self.failure.borrow().is_none()
    }

    /// The log has decided entries that were proposed before.
    pub fn committed(self: &Arc<Shared>) {
        self.decided.store(true, Ordering::SeqCst);
        self.drain();
    }

    fn run_group(&self, core: &mut Core) {
        self.look_at_the_disk(&mut core.room);
        self.full.store(core.room.is_full(), Ordering::Relaxed);
        let group = self.take_group(core.room.is_near());
        let group = self.admit(core, group);
        if !group.is_empty() {
            self.propose(core, group);
        }
        self.apply_committed(core);
    }

    /// Once in a while, and before each group while it is nearly full.
    fn look_at_the_disk(&self, room: &mut Room) {
        if room.wants_a_look() {
            // One that does not answer this fails what is written next, which says so.
            room.looked(self.disk.space().ok().map(|space| space.available));
            if room.is_news() {
                tracing::warn!(
                    target: "cairn",
                    "less than {} MiB of the metadata directory's disk are free: what needs room is refused (ENOSPC), \
                     removing works; docs/operating/recovery.md tells what to do",
                    room.reserve() >> 20
                );
            }
        }
    }

    fn take_group(&self, small: bool) -> Vec<Submission> {
        let (most_commands, most_bytes) =
            if small { (SMALL_GROUP_COMMANDS, SMALL_GROUP_BYTES) } else { (GROUP_COMMANDS, GROUP_BYTES) };
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let count = queue
            .iter()
            .take(most_commands)
            .take_while(|submission| {
                bytes += submission.entry.len();
                bytes <= most_bytes
            })
            .count();
        let count = count.max(1).min(queue.len());
        queue.drain(..count).collect()
    }

    /// Answers what needs no entry in the log: a failed machine, repeated batches, strangers, and what a
    /// full disk has no room for. Only a short cut: applying decides.
    fn admit(&self, core: &mut Core, group: Vec<Submission>) -> Vec<Submission> {
        let failed = self.failure.borrow().is_some();
        let open = core.view.is_some();
        let mut rest: Vec<Submission> = Vec::with_capacity(group.len());
        for mut submission in group {
            let early = if failed {
                Some(Err(FsError::Io))
            } else if !open {
                Some(Err(FsError::Unavailable))
            } else {
                // Repeated batches first: what was done before is answered as before, however full it is now.
                early_answer(core, &rest, &submission.command)
                    .or_else(|| make_fit(&core.room, &mut submission).err().map(Err))
            };
            match early {
                // Nobody listens any more: no harm.
                Some(answer) => drop(submission.answer.send(answer)),
                None => rest.push(submission),
            }
        }
        rest
    }

    fn propose(&self, core: &mut Core, group: Vec<Submission>) {
        let entries: Vec<&[u8]> = group.iter().map(|submission| submission.entry.as_slice()).collect();
        let bytes: usize = entries.iter().map(|entry| entry.len()).sum();
        match self.log.propose(&entries) {
            Ok(first) => {
                if let Some(last) = group.iter().rposition(|submission| submission.sync_follows) {
                    self.log.request_sync(LogIndex(first.0 + last as u64));
                }
                core.room.logged(bytes as u64);
                self.count(core, bytes as u64);
                let indexes = (first.0..).map(LogIndex);
                core.proposed.extend(group.into_iter().zip(indexes).map(|(submission, index)| Proposed {
                    index,
                    command: submission.command,
                    answer: submission.answer,
                }));
            }
            Err(error) => {
                let answer = match error {
                    LogError::NoSpace => {
                        self.make_room();
                        FsError::NoSpace
                    }
                    LogError::TooLarge(_) => FsError::TooBig,
                    LogError::Failed { .. } => {
                        self.fail(format!("metadata log: {error}"));
                        FsError::Io
                    }
                };
                group.into_iter().for_each(|submission| drop(submission.answer.send(Err(answer))));
            }
        }
    }

    /// Not even a small segment fits: a checkpoint, if it has anything to store, gives back the log before it.
    fn make_room(&self) {
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.log_bytes > 0 {
            checkpoints.urgency = u64::MAX;
            self.checkpoint_wanted.notify_one();
        }
    }

    /// Counts what waits for the next checkpoint: so many more bytes of log, and the rows of now.
    fn count(&self, core: &Core, log_bytes: u64) {
        let mut checkpoints = self.checkpoints.lock();
        checkpoints.log_bytes += log_bytes;
        let (rows, row_bytes) =
            core.view.as_ref().map_or((0, 0), |view| (view.active_rows() as u64, view.active_bytes() as u64));
        let waiting = Waiting { log_bytes: checkpoints.log_bytes, rows, row_bytes };
        checkpoints.urgency = core.room.urgency(waiting, self.checkpoint_bytes);
        let sooner = core.room.is_full() && !checkpoints.hurry;
        checkpoints.hurry |= sooner;
        let first = checkpoints.changed_since.is_none();
        checkpoints.changed_since.get_or_insert_with(Instant::now);
        if first || sooner || checkpoints.urgency >= self.checkpoint_bytes {
            self.checkpoint_wanted.notify_one();
        }
    }

    /// Applies what the log has decided, in one transaction, and answers.
    fn apply_committed(&self, core: &mut Core) {
        let committed = self.log.committed();
        let count = core.proposed.partition_point(|proposed| proposed.index <= committed);
        if count == 0 {
            return;
        }
        let ready: Vec<Proposed> = core.proposed.drain(..count).collect();
        let (commands, answers): (Vec<_>, Vec<_>) =
            ready.into_iter().map(|p| ((p.index, p.command), (p.index, p.answer))).unzip();
        let mut touched = touched_sessions(&commands);
        match apply_all(core, commands) {
            Ok(replies) => {
                touched.extend(replies.iter().filter_map(new_session));
                self.publish(core, &touched);
                for ((index, answer), reply) in answers.into_iter().zip(replies) {
                    // Nobody may listen any more: no harm.
                    drop(answer.send(reply.map(|(reply, effects)| Applied { index, reply, effects })));
                }
            }
            Err(Fatal(error)) => {
                self.fail(format!("metadata tables: {error}; what they lack is in the log"));
                answers.into_iter().for_each(|(_, answer)| drop(answer.send(Err(FsError::Io))));
            }
        }
    }

    /// Before the answers go out, so that who has one finds it published.
    fn publish(&self, core: &Core, touched: &[SessionId]) {
        let durable = *self.durable.borrow();
        let view = core.shown();
        self.count(core, 0);
        let mut published = self.published.write();
        published.state = core.state;
        let old = std::mem::replace(&mut published.view, view);
        for session in touched {
            // The group's last entry, not the session's: two batches of one session may be in it.
            let row = core.sessions.get(*session);
            published.session_changed(*session, row, core.state.applied, durable);
        }
        drop(published);
        // What only the old view had is freed here, where nobody waits for the lock.
        drop(old);
        self.applied.send_replace(core.state.applied);
    }

    /// The machine can't go on: the first reason stays.
    pub fn fail(&self, mut line: String) {
        if let Some(reason) = self.tables_failure.get() {
            line = format!("metadata tables: {reason} ({line})");
        }
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!("{line}");
                *failure = Some(line);
            }
            first
        });
    }
}

/// Runs commands in one transaction; the core's state and view are as before if that fails.
pub fn apply_all(
    core: &mut Core,
    commands: Vec<(LogIndex, Command)>,
) -> Result<Vec<FsResult<(Reply, apply::Effects)>>, Fatal> {
    let view = core.view.clone().ok_or(Fatal(FsError::Unavailable))?;
    let mut tx = Tx::new(view, core.state);
    let mut replies = Vec::with_capacity(commands.len());
    for (index, command) in commands {
        tx.state.applied = index;
        let reply = apply::apply(&mut tx, &mut core.sessions, command)?;
        let effects = tx.take_effects();
        replies.push(reply.map(|reply| (reply, effects)));
    }
    let (state, view) = tx.finish();
    core.state = state;
    core.view = Some(view);
    Ok(replies)
}

/// While the disk is nearly full, takes from a command what may grow the state, or refuses it.
fn make_fit(room: &Room, submission: &mut Submission) -> FsResult<()> {
    if submission.command.needs_space() && room.is_full() { submission.refuse_growth() } else { Ok(()) }
}

fn early_answer(core: &Core, before: &[Submission], command: &Command) -> Option<FsResult<Applied>> {
    let Command::Batch { session, first, ops, .. } = command else { return None };
    // What is queued before it may change the answer.
    if !core.proposed.is_empty() || before.iter().any(|s| concerns(&s.command, *session)) {
        return None;
    }
    match core.sessions.admit(*session, *first, ops.len()) {
        Ok(Admission::New { .. }) => None,
        Ok(Admission::Repeated(results)) => Some(Ok(Applied {
            index: core.state.applied,
            reply: Reply::Results(results),
            effects: apply::Effects::default(),
        })),
        Err(error) => Some(Err(error)),
    }
}

fn concerns(command: &Command, session: SessionId) -> bool {
    matches!(command, Command::Batch { session: s, .. } | Command::EndSession { session: s } if *s == session)
}

fn touched_sessions(commands: &[(LogIndex, Command)]) -> Vec<SessionId> {
    let session = |(_, command): &(LogIndex, Command)| match command {
        Command::Batch { session, .. } | Command::EndSession { session } => Some(*session),
        _ => None,
    };
    commands.iter().filter_map(session).collect()
}

fn new_session(reply: &FsResult<(Reply, apply::Effects)>) -> Option<SessionId> {
    match reply {
        Ok((Reply::Session(session), _)) => Some(*session),
        _ => None,
    }
}
