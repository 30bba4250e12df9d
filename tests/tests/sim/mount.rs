//! A mount: the real operation log and the real rules for what an answer means, and around them what the mount's tasks do:
//! one batch under way at a time, syncs, events, acknowledgements, and taking the session up again.

mod blocks;
mod hear;
mod link;
mod send;

use crate::record::Expected;
use crate::say;
use crate::work::{self, Own};
use crate::world::{DriftingClock, Event, MILLI, Micros, SECOND, World};
pub use blocks::Write;
use bytes::Bytes;
use cairn_common::attr::FileKind;
use cairn_common::env::Clock;
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, Epoch, Ino, Seq, SessionId};
use cairn_common::namespace::op::{OpBody, OpResult};
use cairn_common::proto::meta::{CloseItem, InoRange};
use cairn_mountd::client::OpTicket;
use cairn_mountd::client::answers::Taken;
use cairn_mountd::client::nodes::Nodes;
use cairn_mountd::client::oplog::OpLog;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A connection over which nothing comes for so long is given up: what the calls for events do.
const DEADLINE: Micros = 25 * SECOND;
const EVENTS_WAIT_MS: u64 = 15_000;
/// Pause after a refusal.
const REFUSED_PAUSE: Micros = SECOND;
/// A waiter for a lock tries again after this long, should the word of a release have been lost.
const LOCK_RETRY: Micros = SECOND;

/// A connection that is still to be made.
const NOT_CONNECTED: u64 = u64::MAX;

#[derive(Debug)]
pub enum MountTimer {
    Start,
    Step,
    Reattach,
    Deadline {
        link: u64,
        call: u64,
    },
    SyncAgain,
    BatchAgain,
    LockAgain,
    /// What an event asks for is done.
    Done(u64),
    /// A mount beside this one has died.
    NeighbourDied(SessionId),
    PutAgain {
        id: u64,
        turn: u64,
    },
}

/// The place of a mount, whether or not its process lives.
pub struct Mount {
    index: usize,
    pub life: u64,
    pub clock: Arc<DriftingClock>,
    pub steps_left: u32,
    pub process: Option<Process>,
}

/// What a call was about.
#[derive(Debug)]
enum Asked {
    Attach(Option<SessionId>),
    Apply(Seq),
    Sync(Seq),
    Inos,
    Events,
    Acknowledge(u64),
    Detach(SessionId),
    Map,
    /// An open, perhaps for writing.
    Open(Ino, bool),
    Close,
    /// The size of the journal, which is no less than this.
    Look(u64),
}

/// Why an operation was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Own,
    Shared,
    Lock,
}

/// Whether this mount believes to hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    Free,
    Asked,
    Refused,
    /// By this operation; not `certain` while a server that lost power may have to be told again.
    Held {
        seq: Seq,
        certain: bool,
    },
}

pub struct Process {
    link: u64,
    /// The life of the server that it goes to.
    server: u64,
    attached: bool,
    attaching: bool,
    pub session: Option<SessionId>,
    /// What the last attach was answered.
    last: Option<Taken>,
    pub log: OpLog,
    pub tickets: VecDeque<(Expected, OpTicket, Purpose)>,
    calls: BTreeMap<u64, Asked>,
    pub next_call: u64,
    sent: Seq,
    received: (Epoch, u64),
    owed: BTreeSet<u64>,
    pub sync_wanted: Option<Seq>,
    sync_paused: bool,
    batch_paused: bool,
    pub inos: Option<InoRange>,
    pub own: Option<Own>,
    pub writes: BTreeMap<u64, Write>,
    pub reads: BTreeMap<u64, (BlockRef, u32, u32)>,
    pub lock: Lock,
    /// The data daemons, as the mount knows them.
    nodes: Nodes,
    detaches: BTreeSet<SessionId>,
    /// What is open here: how often, and how often for writing.
    pub opens: BTreeMap<Ino, (u32, u32)>,
    /// Open files of this mount that have no name.
    pub unnamed: BTreeSet<Ino>,
    /// Opens that end when the operation is answered.
    pub closing: Vec<(Ino, Seq)>,
    /// Opens that have ended and that the server must still hear of.
    closes: Vec<CloseItem>,
    /// Files without names that were closed: they may be gone.
    pub gone: BTreeSet<Ino>,
}

impl Process {
    fn new() -> Process {
        Process {
            link: 1,
            server: NOT_CONNECTED,
            attached: false,
            attaching: false,
            session: None,
            last: None,
            log: OpLog::default(),
            tickets: VecDeque::new(),
            calls: BTreeMap::new(),
            next_call: 1,
            sent: Seq(0),
            received: (Epoch(0), 0),
            owed: BTreeSet::new(),
            sync_wanted: None,
            sync_paused: false,
            batch_paused: false,
            inos: None,
            own: None,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            lock: Lock::Free,
            nodes: Nodes::default(),
            detaches: BTreeSet::new(),
            opens: BTreeMap::new(),
            unnamed: BTreeSet::new(),
            closing: Vec::new(),
            closes: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    /// The session is over: the next one begins with nothing.
    fn forget_session(&mut self) {
        self.session = None;
        self.last = None;
        self.log.clear();
        self.tickets.clear();
        self.sent = Seq(0);
        self.owed.clear();
        self.sync_wanted = None;
        self.inos = None;
        self.own = None;
        self.writes.clear();
        self.lock = Lock::Free;
        self.opens.clear();
        self.unnamed.clear();
        self.closing.clear();
        self.closes.clear();
        self.gone.clear();
    }

    /// Something is to be done now.
    fn note(&mut self, timer: &MountTimer) {
        match timer {
            MountTimer::SyncAgain => self.sync_paused = false,
            MountTimer::BatchAgain => self.batch_paused = false,
            MountTimer::Done(event) => {
                self.owed.insert(*event);
            }
            MountTimer::NeighbourDied(session) => {
                self.detaches.insert(*session);
            }
            _ => {}
        }
    }

    fn is_asking(&self, what: impl Fn(&Asked) -> bool) -> bool {
        self.calls.values().any(what)
    }

    /// Nothing is to be done and nothing is waited for.
    fn is_idle(&self) -> bool {
        self.attached
            && self.own.is_some()
            && self.log.is_empty()
            && self.tickets.is_empty()
            && self.writes.is_empty()
            && self.reads.is_empty()
            && self.owed.is_empty()
            && self.detaches.is_empty()
            && self.sync_wanted.is_none()
            && self.opens.is_empty()
            && self.closes.is_empty()
            && !self.is_asking(|asked| matches!(asked, Asked::Close))
    }
}

impl Mount {
    pub fn new(index: usize, clock: Arc<DriftingClock>, steps: u32) -> Mount {
        Mount { index, life: 1, clock, steps_left: steps, process: None }
    }

    pub fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    pub fn is_done(&self) -> bool {
        self.steps_left == 0 && self.process.as_ref().is_some_and(Process::is_idle)
    }

    pub fn session(&self) -> Option<SessionId> {
        self.process.as_ref().and_then(|process| process.session)
    }

    /// It had this file open, without a name.
    pub fn has_closed(&self, ino: Ino) -> bool {
        self.process.as_ref().is_some_and(|process| process.gone.contains(&ino))
    }

    /// What it waits for, in words.
    pub fn waits_for(&self) -> String {
        let Some(process) = &self.process else { return format!("mount {} is dead", self.index) };
        format!(
            "mount {}: {} steps left, session {:?}, attached {}, {} tickets, {} operations kept, {:?} asked, \
             sync {:?}, {} writes, {} reads, owes {:?}, detaches {:?}, lock {:?}",
            self.index,
            self.steps_left,
            process.session,
            process.attached,
            process.tickets.len(),
            process.log.len(),
            process.calls,
            process.sync_wanted,
            process.writes.len(),
            process.reads.len(),
            process.owed,
            process.detaches,
            process.lock,
        )
    }
}

impl World {
    pub fn mount_timer(&mut self, index: usize, own: Micros, timer: MountTimer) {
        let mount = &self.mounts[index];
        let (after, life) = (mount.clock.until(own), mount.life);
        self.schedule(after, Event::Mount { index, life, timer });
    }

    pub fn process(&mut self, index: usize) -> Option<&mut Process> {
        self.mounts[index].process.as_mut()
    }

    pub fn mount_timer_ends(&mut self, index: usize, timer: MountTimer) {
        match timer {
            MountTimer::Start => return self.mount_starts(index),
            MountTimer::Step => return self.step(index),
            MountTimer::Reattach => return self.attach(index),
            MountTimer::LockAgain => return self.lock_again(index),
            MountTimer::PutAgain { id, turn } => return self.put_again(index, id, turn),
            MountTimer::Deadline { link, call } => {
                let late = |process: &mut Process| process.link == link && process.calls.contains_key(&call);
                if self.process(index).is_some_and(late) {
                    say!(self, "mount {index}: no answer in time");
                    assert!(!self.plan.calm, "somebody waited too long: {}", self.who_waits());
                    self.break_link(index);
                }
            }
            MountTimer::SyncAgain
            | MountTimer::BatchAgain
            | MountTimer::Done(_)
            | MountTimer::NeighbourDied(_) => {
                if let Some(process) = self.process(index) {
                    process.note(&timer);
                }
            }
        }
        self.mount_ready(index);
    }

    fn mount_starts(&mut self, index: usize) {
        if self.mounts[index].process.is_none() {
            if self.plan.cut.is_some() {
                // The script begins again with the session.
                self.mounts[index].steps_left = self.plan.steps;
            }
            self.mounts[index].process = Some(Process::new());
            self.attach(index);
            self.mount_timer(index, 0, MountTimer::Step);
        }
    }

    pub fn mount_dies(&mut self, index: usize) {
        let Some(process) = self.mounts[index].process.take() else { return };
        self.mounts[index].life += 1;
        if let Some(session) = process.session {
            self.session_over(session);
            let beside: Vec<usize> =
                (0..self.mounts.len()).filter(|at| self.mounts[*at].is_alive()).collect();
            if !beside.is_empty() && self.chance(50) {
                let other = beside[self.rng.random_range(0..beside.len())];
                let after = self.rng.random_range(10 * MILLI..300 * MILLI);
                self.mount_timer(other, after, MountTimer::NeighbourDied(session));
            }
        }
        let after = self.rng.random_range(50 * MILLI..40 * SECOND);
        self.mount_timer(index, after, MountTimer::Start);
    }

    /// It is unmounted, and does not come back.
    pub fn mount_leaves(&mut self, index: usize) {
        let Some(process) = self.mounts[index].process.take() else { return };
        self.mounts[index].life += 1;
        process.session.into_iter().for_each(|session| self.session_over(session));
    }

    fn session_over(&mut self, session: SessionId) {
        say!(self, "session {session} is over");
        self.record.sessions.get_mut(&session).expect("it was opened").alive = false;
    }

    // Operations ----------------------------------------------------------------------------------

    /// The first thing that a session does.
    fn make_own_dir(&mut self, index: usize) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let Some(session) = process.session.filter(|_| process.own.is_none()) else { return };
        let dir = process.fresh();
        process.own = Some(Own::new(dir));
        let record = self.record.sessions.get_mut(&session).expect("it was opened");
        record.dir = Some(dir);
        let name = Bytes::from(format!("session{session}"));
        let body = work::create(Ino::ROOT, name, dir, FileKind::Dir);
        self.submit(index, body, Purpose::Own);
    }

    /// Puts an operation into the log of the mount, and its answer among those that are waited for.
    pub fn submit(&mut self, index: usize, body: OpBody, purpose: Purpose) -> Seq {
        let time = self.mounts[index].clock.now();
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let session = process.session.expect("it is attached");
        let op = work::op(time, body);
        let result: Option<OpResult> = match purpose {
            Purpose::Own => process.own.as_mut().map(|own| own.apply(session, &op)),
            Purpose::Shared | Purpose::Lock => None,
        };
        self.record.sessions.get_mut(&session).expect("it was opened").ops.push(op.clone());
        let ticket = process.log.push(op);
        let seq = ticket.seq;
        process.tickets.push_back((Expected { seq, result }, ticket, purpose));
        seq
    }

    /// How long after its last try a waiter for a lock tries again.
    pub fn plan_lock_retry(&mut self, index: usize) {
        self.mount_timer(index, LOCK_RETRY, MountTimer::LockAgain);
    }
}

impl Process {
    /// Files that can be written, in order.
    pub fn files(&self) -> Vec<Ino> {
        let mut files = self.own.as_ref().map(Own::files).unwrap_or_default();
        files.extend(&self.unnamed);
        files.sort_unstable();
        files
    }

    /// A file that it made and opened is not there.
    pub fn never_opened(&mut self, ino: Ino) {
        self.opens.remove(&ino);
        self.unnamed.remove(&ino);
        self.closing.retain(|(closing, _)| *closing != ino);
    }

    /// A new inode number.
    pub fn fresh(&mut self) -> Ino {
        let range = self.inos.as_mut().expect("it has numbers");
        let ino = range.first;
        range.first = Ino(ino.0 + 1);
        range.count -= 1;
        ino
    }
}

/// The links of calls to data daemons: this to the first, and so on.
pub const DATA_LINKS: u64 = 1 << 62;

fn data_link(at: usize) -> u64 {
    DATA_LINKS + at as u64
}

/// A refusal that only means: later.
pub fn passes(error: FsError) -> bool {
    error.is_transient() || matches!(error, FsError::Sealed | FsError::Io | FsError::NoSpace)
}
