//! Who has which file open, and who may cache its data: a state machine without I/O, clock or async.
//!
//! Events come in as method calls; what is to be done about them comes out as [`Command`]s, and a
//! request that has to wait gets a [`WaitId`] that a later [`Command::Resume`] names.
//!
//! ```text
//! open, close, look, before/after an operation, attach, end, acknowledge ──▶ Leases ──▶ Send, Resume, Reap, ...
//! ```
//!
//! The rules:
//! - A file that one session writes and another has open is *shared*: nobody caches it. Whoever cached
//!   it before is told to stop (`Uncache`), and the open that caused it waits until they have. If one can't, because
//!   what it has written finds no room, it goes on caching, and the open fails.
//! - So at most one session caches writes of a file, and then it is the only one that caches.
//! - Who looks at a file whose writes another session caches waits until that one has flushed them.
//! - Who changed a shared file waits until the others have dropped what they cached of it.
//! - Batches never wait for each other in a circle: the wait that would close one is left out.
//! - A session that is alone in the cluster is *sole*; a second one waits until the first knows.
//! - A file without names is reaped when no session has it open, and a while later: a program may have
//!   found its name just before. Until then it can be opened.

use super::lock_wait::LockWaiters;
use super::recall::{Duty, EventRef, Recalls, WaitId};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, Seq, SessionId};
use cairn_common::limits::OPENS_MAX;
use cairn_common::proto::meta::{CloseItem, DataLease, Event, EventBody, OpenState};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the owner of the machine has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Queue an event for a session. `owed`: it must be acknowledged in time, or the session is evicted.
    Send { session: SessionId, event: Event, owed: bool },
    /// Let this waiting request go on.
    Resume(WaitId),
    /// This waiting request does not get what it waits for.
    Refuse(WaitId, FsError),
    /// No session has this file without names open: a while from now, [`Leases::reap_begins`] tells
    /// whether its space can be given back.
    Reap(Ino),
    /// Every session that was known at the start has come back or ended: look for files to reap.
    ScanOrphans,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caching {
    Cached,
    /// Told to stop, not acknowledged yet.
    Recalling(EventRef),
    /// Told to stop. It has, but could not store what it had written: whoever needs the file asks again.
    Kept,
    Shared,
}

impl Caching {
    /// Nobody has asked it for what it has written, or it was in vain.
    fn may_have_written(self) -> bool {
        matches!(self, Caching::Cached | Caching::Kept)
    }
}

/// One session's opens of one file.
#[derive(Clone, Copy, Debug)]
struct Holder {
    session: SessionId,
    opens: u32,
    writers: u32,
    caching: Caching,
}

#[derive(Debug, Default)]
struct File {
    holders: Vec<Holder>,
    /// It has lost its last name.
    orphan: bool,
}

impl File {
    fn of(&mut self, session: SessionId) -> Option<&mut Holder> {
        self.holders.iter_mut().find(|holder| holder.session == session)
    }

    fn others(&self, session: SessionId) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(move |holder| holder.session != session)
    }

    /// Two sessions, one of which writes.
    fn is_contended(&self) -> bool {
        self.holders.len() > 1 && self.holders.iter().any(|holder| holder.writers > 0)
    }
}

#[derive(Debug)]
struct Member {
    /// It has attached since the start.
    attached: bool,
    open_files: u64,
    /// The opens of files that its operations up to here make are counted, since it attached.
    made: Seq,
    /// Files that were closed when it attached, and that it may have to make again.
    closed: BTreeSet<Ino>,
}

impl Member {
    fn new(attached: bool) -> Member {
        Member { attached, open_files: 0, made: Seq(0), closed: BTreeSet::new() }
    }
}

/// How far the end of a file without names has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaping {
    /// It can still be opened.
    Announced,
    Begun,
}

/// Which session believes to be alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sole {
    Nobody,
    Session(SessionId),
    Recalling(EventRef),
}

/// What an open gets; valid once `wait` is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub lease: DataLease,
    pub generation: u64,
    pub wait: Option<WaitId>,
}

/// What an attach gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub sole: bool,
    pub generation: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Leases {
    files: HashMap<Ino, File>,
    members: BTreeMap<SessionId, Member>,
    /// Attaches of new sessions under way.
    attaching: u32,
    absent: usize,
    sole: Sole,
    recalls: Recalls,
    generation: u64,
    settled: u64,
    lock_waiters: LockWaiters,
    reaping: HashMap<Ino, Reaping>,
    commands: Vec<Command>,
    resumed: Vec<WaitId>,
}

impl Leases {
    /// `known`: sessions that the durable state has; their mounts will attach again. Generations and
    /// event ids begin at `first`, above those of every earlier incarnation.
    pub fn new(first: u64, known: impl IntoIterator<Item = SessionId>) -> Leases {
        let members: BTreeMap<_, _> = known.into_iter().map(|s| (s, Member::new(false))).collect();
        // The only session may have been told before the restart that it is alone.
        let sole = match members.keys().next() {
            Some(only) if members.len() == 1 => Sole::Session(*only),
            _ => Sole::Nobody,
        };
        Leases {
            files: HashMap::new(),
            attaching: 0,
            absent: members.len(),
            members,
            sole,
            recalls: Recalls::new(first),
            generation: first,
            settled: 0,
            lock_waiters: LockWaiters::default(),
            reaping: HashMap::new(),
            commands: Vec::new(),
            resumed: Vec::new(),
        }
    }

    /// What has to be done now, in this order.
    pub fn take_commands(&mut self) -> Vec<Command> {
        self.commands.extend(self.resumed.drain(..).map(Command::Resume));
        std::mem::take(&mut self.commands)
    }

    /// No other session exists: nothing can conflict.
    pub fn is_alone(&self) -> bool {
        self.members.len() <= 1
    }

    /// Grows whenever a session stops caching writes of a file. If it has not grown since a read was
    /// made, and [`Leases::look`] then has nobody to ask, that read saw all writes.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Sessions that have not come back since the start.
    pub fn absent(&self) -> usize {
        self.absent
    }

    /// Files that `session` has open.
    pub fn open_files(&self, session: SessionId) -> u64 {
        self.members.get(&session).map_or(0, |member| member.open_files)
    }

    // Sessions ------------------------------------------------------------------------------------

    /// A new session wants in: wait, make it durable, then call [`Leases::attach`] (or
    /// [`Leases::attach_cancelled`]).
    pub fn attaching(&mut self) -> Option<WaitId> {
        self.attaching += 1;
        if let Sole::Session(session) = self.sole {
            let generation = self.next_generation();
            self.sole = Sole::Recalling(self.send(session, Duty::Forget, EventBody::Shared { generation }));
        }
        match self.sole {
            Sole::Recalling(event) => self.recalls.wait(vec![event], None),
            _ => None,
        }
    }

    /// The new session did not come to be.
    pub fn attach_cancelled(&mut self) {
        self.attaching = self.attaching.saturating_sub(1);
        self.find_sole();
    }

    /// A new session is durable.
    pub fn attach(&mut self, session: SessionId) -> Attached {
        self.attaching = self.attaching.saturating_sub(1);
        self.members.insert(session, Member::new(true));
        if self.members.len() == 1 && self.attaching == 0 {
            // The answer says so; no event needed.
            self.sole = Sole::Session(session);
        }
        Attached { sole: self.sole == Sole::Session(session), generation: self.next_generation() }
    }

    /// A known session is back, with everything that its mount has open.
    pub fn attach_again(&mut self, session: SessionId, opens: &[OpenState]) -> FsResult<Attached> {
        let member = self.members.get_mut(&session).ok_or(FsError::Evicted)?;
        let first_time = !std::mem::replace(&mut member.attached, true);
        // What is not answered yet is not among its opens.
        member.made = Seq(0);
        let closed = opens.iter().filter(|state| state.opens == 0 && state.writers == 0);
        member.closed = closed.map(|state| state.ino).collect();
        self.replace_opens(session, opens);
        if first_time {
            self.absent -= 1;
            self.scan_if_complete();
        }
        Ok(Attached { sole: self.sole == Sole::Session(session), generation: self.next_generation() })
    }

    /// A session has ended, durably: by detach or eviction.
    pub fn end(&mut self, session: SessionId) {
        let Some(member) = self.members.remove(&session) else { return };
        for ino in self.held_by(session) {
            self.release(session, ino, u32::MAX, u32::MAX);
        }
        self.recalls.settle_all(session, &mut self.resumed);
        self.lock_waiters.forget(session);
        // Its locks are gone, wherever they were.
        self.wake_all_lock_waiters();
        if self.sole == Sole::Session(session)
            || matches!(self.sole, Sole::Recalling(event) if event.session == session)
        {
            self.sole = Sole::Nobody;
        }
        self.find_sole();
        if !member.attached {
            self.absent -= 1;
            self.scan_if_complete();
        }
    }

    /// A session did what an event asked for. Unknown and repeated events are no error.
    pub fn acknowledge(&mut self, session: SessionId, id: u64) {
        let event = EventRef { session, id };
        if let Some(holder) = self.recalled_by(event) {
            holder.caching = Caching::Shared;
            self.settled += 1;
        }
        self.recalls.settle(event, &mut self.resumed);
        if self.sole == Sole::Recalling(event) {
            self.sole = Sole::Nobody;
            self.find_sole();
        }
    }

    /// A session can't do now what an event asks for: what it has written of a file can't be stored. It keeps that, and whoever waits
    /// for it is refused; others that come later ask again. False for what can always be done, which is still owed.
    pub fn refuse(&mut self, session: SessionId, id: u64, error: FsError) -> bool {
        let event = EventRef { session, id };
        if self.recalls.duty(event) == Some(Duty::Forget) {
            return false;
        }
        if let Some(holder) = self.recalled_by(event) {
            holder.caching = Caching::Kept;
        }
        let refused = self.recalls.refuse(event);
        self.commands.extend(refused.into_iter().map(|wait| Command::Refuse(wait, error)));
        true
    }

    /// The request that waited has gone.
    pub fn cancel(&mut self, wait: WaitId) {
        self.recalls.cancel(wait);
    }

    // Files ---------------------------------------------------------------------------------------

    /// Registers an open. The caller waits, then reads attributes and extents, then answers.
    pub fn open(&mut self, session: SessionId, ino: Ino, write: bool) -> FsResult<Opened> {
        if self.reaping.get(&ino) == Some(&Reaping::Begun) {
            return Err(FsError::Stale);
        }
        let holds = self.files.get_mut(&ino).is_some_and(|file| file.of(session).is_some());
        if !holds && self.open_files(session) >= OPENS_MAX as u64 {
            // With more, the mount could not take its session up again.
            return Err(FsError::TooManyOpen);
        }
        self.add(session, ino, 1, u32::from(write));
        let file = self.files.entry(ino).or_default();
        let conflict = file.is_contended();
        let holder = file.of(session).expect("added above");
        match holder.caching {
            // What it cached so far needs no recall: the answer tells.
            Caching::Cached if conflict => holder.caching = Caching::Shared,
            Caching::Shared | Caching::Kept if !conflict => holder.caching = Caching::Cached,
            _ => {}
        }
        let lease = if holder.caching == Caching::Cached { DataLease::Cached } else { DataLease::Shared };
        let on = if conflict { self.uncache(ino, Some(session)) } else { Vec::new() };
        let wait = self.recalls.wait(on, None);
        Ok(Opened { lease, generation: self.next_generation(), wait })
    }

    /// The session is about to make and open `ino` by operation `seq`. It counts once, however often the batch
    /// comes: the last copy may be looked at when the file is closed already, or when later batches are applied. Never undone:
    /// what is refused now comes again, or the session ends.
    pub fn creating(&mut self, session: SessionId, seq: Seq, ino: Ino) {
        let Some(member) = self.members.get_mut(&session).filter(|member| member.made < seq) else { return };
        member.made = seq;
        if member.closed.contains(&ino) {
            return;
        }
        if self.files.get_mut(&ino).is_none_or(|file| file.of(session).is_none()) {
            self.add(session, ino, 1, 1);
        }
    }

    /// Opens have ended.
    pub fn close(&mut self, session: SessionId, item: CloseItem) {
        self.release(session, item.ino, item.opens, item.writers);
    }

    /// The session is about to look at `inos`: whoever caches writes of them flushes first.
    pub fn look(&mut self, session: SessionId, inos: &[Ino]) -> Option<WaitId> {
        if self.is_alone() {
            return None;
        }
        let on = self.flush(session, inos);
        self.recalls.wait(on, None)
    }

    /// The session's batch is about to change `inos`: the same, before it is applied. Waiting in a
    /// circle of batches is left out (the flush still happens, after this change).
    pub fn before_change(&mut self, session: SessionId, inos: &[Ino]) -> Option<WaitId> {
        if self.is_alone() {
            return None;
        }
        let on = self.flush(session, inos);
        self.wait_for_batch(session, on)
    }

    /// The session's batch changed content or size of `inos` (each named once): others drop what they cached
    /// before it is answered. Dropping may have to wait for a write of that mount, which is in a batch: so here,
    /// too, waiting in a circle is left out (they drop it all the same, after the answer).
    pub fn after_change(&mut self, session: SessionId, inos: &[Ino]) -> Option<WaitId> {
        if self.is_alone() {
            return None;
        }
        let mut on = Vec::new();
        for ino in inos {
            let Some(file) = self.files.get(ino) else { continue };
            for other in file.others(session) {
                let event = self.recalls.owe(other.session, Duty::Forget);
                self.commands.push(send(event, EventBody::Invalidate { ino: *ino }));
                on.push(event);
            }
        }
        self.wait_for_batch(session, on)
    }

    // Files without names -------------------------------------------------------------------------

    /// `ino` has lost its last name (or never had one).
    pub fn orphan(&mut self, ino: Ino) {
        match self.files.get_mut(&ino) {
            Some(file) => file.orphan = true,
            None => self.reap(ino),
        }
    }

    /// `ino` has a name again.
    pub fn linked(&mut self, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.orphan = false;
        }
        if self.reaping.get(&ino) == Some(&Reaping::Announced) {
            self.reaping.remove(&ino);
        }
    }

    /// Files that are as good as gone: no name, not open, and only not reaped yet.
    pub fn leaving(&self) -> Vec<Ino> {
        self.reaping.keys().copied().filter(|ino| !self.files.contains_key(ino)).collect()
    }

    /// The time of an announced [`Command::Reap`] has come. False if the file has been opened meanwhile (it is
    /// announced again after the last close) or has got a name.
    pub fn reap_begins(&mut self, ino: Ino) -> bool {
        if self.reaping.get(&ino) != Some(&Reaping::Announced) {
            return false;
        }
        if let Some(file) = self.files.get_mut(&ino) {
            file.orphan = true;
            self.reaping.remove(&ino);
            return false;
        }
        self.reaping.insert(ino, Reaping::Begun);
        true
    }

    /// `ino` is reaped (or was no orphan after all).
    pub fn reaped(&mut self, ino: Ino) {
        self.reaping.remove(&ino);
    }

    // Locks ---------------------------------------------------------------------------------------

    /// The session is about to try for a lock on `ino`. Registered before the attempt, so that a
    /// release in between is not missed. True if it was not waiting already.
    pub fn lock_attempt(&mut self, session: SessionId, ino: Ino) -> bool {
        if self.lock_waiters.is_full() {
            self.wake_all_lock_waiters();
        }
        self.lock_waiters.add(session, ino)
    }

    /// The attempt did not end in a refusal.
    pub fn lock_granted(&mut self, session: SessionId, ino: Ino) {
        self.lock_waiters.remove(session, ino);
    }

    /// A lock on `ino` may have been released: who was refused tries again.
    pub fn lock_released(&mut self, ino: Ino) {
        for session in self.lock_waiters.take(ino) {
            self.tell(session, EventBody::LockReleased { ino });
        }
    }

    fn wake_all_lock_waiters(&mut self) {
        while let Some(ino) = self.lock_waiters.first() {
            self.lock_released(ino);
        }
    }

    // Inside --------------------------------------------------------------------------------------

    /// Who stops caching a file by `event`, which is owed.
    fn recalled_by(&mut self, event: EventRef) -> Option<&mut Holder> {
        let Some(Duty::Uncache(ino)) = self.recalls.duty(event) else { return None };
        let holder = self.files.get_mut(&ino)?.of(event.session)?;
        (holder.caching == Caching::Recalling(event)).then_some(holder)
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Sends an event that must be acknowledged.
    fn send(&mut self, session: SessionId, duty: Duty, body: EventBody) -> EventRef {
        let event = self.recalls.owe(session, duty);
        self.commands.push(send(event, body));
        event
    }

    /// Sends an event that needs no acknowledgement.
    fn tell(&mut self, session: SessionId, body: EventBody) {
        let event = Event { id: self.recalls.next_event(), body };
        self.commands.push(Command::Send { session, event, owed: false });
    }

    fn find_sole(&mut self) {
        if self.sole != Sole::Nobody || self.attaching > 0 || self.members.len() != 1 {
            return;
        }
        if let Some((&session, _)) = self.members.first_key_value() {
            self.sole = Sole::Session(session);
            let generation = self.next_generation();
            self.tell(session, EventBody::Sole { generation });
        }
    }

    fn scan_if_complete(&mut self) {
        if self.absent == 0 {
            self.commands.push(Command::ScanOrphans);
        }
    }

    fn reap(&mut self, ino: Ino) {
        // A session that is not back yet may have it open; ScanOrphans comes when all are.
        if self.absent == 0 && !self.reaping.contains_key(&ino) {
            self.reaping.insert(ino, Reaping::Announced);
            self.commands.push(Command::Reap(ino));
        }
    }

    fn add(&mut self, session: SessionId, ino: Ino, opens: u32, writers: u32) {
        let file = self.files.entry(ino).or_default();
        if let Some(holder) = file.of(session) {
            holder.opens = holder.opens.saturating_add(opens);
            holder.writers = holder.writers.saturating_add(writers);
            return;
        }
        file.holders.push(Holder { session, opens, writers, caching: Caching::Cached });
        if let Some(member) = self.members.get_mut(&session) {
            member.open_files += 1;
        }
    }

    fn release(&mut self, session: SessionId, ino: Ino, opens: u32, writers: u32) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let Some(holder) = file.of(session) else { return };
        let wrote = holder.writers > 0;
        holder.opens = holder.opens.saturating_sub(opens);
        holder.writers = holder.writers.saturating_sub(writers);
        if wrote && holder.writers == 0 {
            self.settled += 1;
        }
        if holder.opens > 0 || holder.writers > 0 {
            return;
        }
        file.holders.retain(|holder| holder.session != session);
        if let Some(member) = self.members.get_mut(&session) {
            member.open_files -= 1;
        }
        if file.holders.is_empty() {
            let orphan = file.orphan;
            self.files.remove(&ino);
            if orphan {
                self.reap(ino);
            }
        }
    }

    /// What `session` has open, in order: the same events lead to the same commands.
    fn held_by(&mut self, session: SessionId) -> Vec<Ino> {
        let mut held: Vec<Ino> =
            self.files.iter_mut().filter_map(|(ino, file)| file.of(session).map(|_| *ino)).collect();
        held.sort_unstable();
        held
    }

    /// Sets what `session` has open, after a restart or a lost connection.
    fn replace_opens(&mut self, session: SessionId, opens: &[OpenState]) {
        let wanted: BTreeMap<Ino, &OpenState> =
            opens.iter().filter(|o| o.opens > 0 || o.writers > 0).map(|o| (o.ino, o)).collect();
        for ino in self.held_by(session).into_iter().filter(|ino| !wanted.contains_key(ino)) {
            self.release(session, ino, u32::MAX, u32::MAX);
        }
        for (&ino, state) in &wanted {
            self.add(session, ino, 0, 0);
            let file = self.files.entry(ino).or_default();
            let holder = file.of(session).expect("added above");
            (holder.opens, holder.writers) = (state.opens, state.writers);
            // What each believed before the restart is unknown: who may cache is told to stop.
            if file.is_contended() {
                self.uncache(ino, None);
            }
        }
    }

    /// Tells all but `except` to stop caching `ino`; answers what is owed for it, also from before.
    fn uncache(&mut self, ino: Ino, except: Option<SessionId>) -> Vec<EventRef> {
        let mut on = Vec::new();
        let holders = self.files.get_mut(&ino).map_or(&mut [][..], |file| &mut file.holders);
        for holder in holders.iter_mut().filter(|holder| Some(holder.session) != except) {
            if holder.caching.may_have_written() {
                self.generation += 1;
                let event = self.recalls.owe(holder.session, Duty::Uncache(ino));
                let body = EventBody::Uncache { ino, generation: self.generation };
                self.commands.push(send(event, body));
                holder.caching = Caching::Recalling(event);
            }
            if let Caching::Recalling(event) = holder.caching {
                on.push(event);
            }
        }
        on
    }

    /// Asks others that cache writes of `inos` to flush, each by one event; answers what is owed.
    fn flush(&mut self, session: SessionId, inos: &[Ino]) -> Vec<EventRef> {
        let mut on = Vec::new();
        let mut wanted: BTreeMap<SessionId, Vec<Ino>> = BTreeMap::new();
        for ino in inos {
            let Some(file) = self.files.get(ino) else { continue };
            for writer in file.others(session).filter(|other| other.writers > 0) {
                match writer.caching {
                    Caching::Cached | Caching::Kept => wanted.entry(writer.session).or_default().push(*ino),
                    Caching::Recalling(event) => on.push(event),
                    Caching::Shared => {}
                }
            }
        }
        for (writer, inos) in wanted {
            on.push(self.send(writer, Duty::Flush, EventBody::Flush { inos }));
        }
        on
    }

    /// The wait of `session`'s batch, without those that would in the end wait for that batch themselves.
    fn wait_for_batch(&mut self, session: SessionId, mut on: Vec<EventRef>) -> Option<WaitId> {
        on.retain(|event| !self.recalls.closes_a_circle(session, event.session));
        self.recalls.wait(on, Some(session))
    }
}

fn send(event: EventRef, body: EventBody) -> Command {
    Command::Send { session: event.session, event: Event { id: event.id, body }, owed: true }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
