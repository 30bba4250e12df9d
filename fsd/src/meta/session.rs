//! Who is connected: event queues, contact times, evictions, and the wait after a restart.
//!
//! One lock covers the lease machine and the queues, so that events leave in the order in which the
//! machine decided them. It is held for map operations only, never over I/O or an await.
//!
//! ```text
//! request ─▶ enter ─▶ Leases ─▶ commands ─▶ queues (events), oneshots (waiters), channel (reaper)
//! ```

use super::lease::{Attached, Command, Leases};
use super::recall::WaitId;
use cairn_common::env::Clock;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::SessionId;
use cairn_common::proto::meta::{ClientInfo, Event, OpenState};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Most events that wait for one session; a mount that lets more pile up is evicted.
const QUEUE_MAX: usize = 65_536;
/// Most events in one answer.
const EVENTS_PER_REPLY: usize = 256;
/// Longest wait of one call for events.
const EVENT_WAIT_MAX: Duration = Duration::from_secs(20);

/// Times of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionTimes {
    /// Without contact for this long: evicted.
    pub timeout: Duration,
    /// In contact, but with an event unacknowledged for this long: evicted. Far longer: it may wait for a data
    /// daemon to take what others are to see.
    pub recall: Duration,
    /// Longest wait for known sessions after a start.
    pub grace: Duration,
}

impl Default for SessionTimes {
    fn default() -> SessionTimes {
        SessionTimes {
            timeout: Duration::from_secs(30),
            recall: Duration::from_secs(300),
            grace: Duration::from_secs(10),
        }
    }
}

/// Work for the reaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReapWork {
    /// This inode has no names and is not open anywhere.
    Inode(cairn_common::ids::Ino),
    /// Look at all inodes without names.
    Scan,
    /// The same, when mounts that are back have had time to repeat the batch that was under way: it may have made a
    /// temporary file that is not among their opens yet.
    ScanLater,
}

/// Why a session is to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overdue {
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    #[error("it did not give back for {0:?} what another mount needs")]
    Owes(Duration),
    #[error("more than {QUEUE_MAX} events wait for it")]
    Behind,
}

/// Times are those of the sessions' clock.
#[derive(Debug)]
struct Live {
    client: ClientInfo,
    /// Over which it attached last; 0 before it has.
    connection: u64,
    contact: Duration,
    queue: VecDeque<Event>,
    /// Unacknowledged events that must be acknowledged, and since when.
    owed: BTreeMap<u64, Duration>,
    arrived: Arc<Notify>,
    /// Its end is being logged: nothing of it is answered any more.
    evicting: bool,
}

impl Live {
    fn new(client: ClientInfo, now: Duration) -> Live {
        Live {
            client,
            connection: 0,
            contact: now,
            queue: VecDeque::new(),
            owed: BTreeMap::new(),
            arrived: Arc::new(Notify::new()),
            evicting: false,
        }
    }

    /// It is as if it had just done all that it owes time for.
    fn heard(&mut self, now: Duration) {
        self.contact = now;
        self.owed.values_mut().for_each(|since| *since = now);
    }

    /// When it will have been silent, or in debt, for too long.
    fn expires(&self, times: SessionTimes) -> Duration {
        let silent = self.contact + times.timeout;
        self.owed.first_key_value().map_or(silent, |(_, since)| silent.min(*since + times.recall))
    }

    /// Why it is to be evicted, if it is.
    fn overdue(&self, times: SessionTimes, now: Duration) -> Option<Overdue> {
        let owed = self.owed.first_key_value();
        if self.contact + times.timeout <= now {
            Some(Overdue::Silent(times.timeout))
        } else if owed.is_some_and(|(_, since)| *since + times.recall <= now) {
            Some(Overdue::Owes(times.recall))
        } else {
            (self.queue.len() > QUEUE_MAX).then_some(Overdue::Behind)
        }
    }
}

struct State {
    leases: Leases,
    live: HashMap<SessionId, Live>,
    waiting: HashMap<WaitId, oneshot::Sender<FsResult<()>>>,
    /// When it was last looked at who is silent.
    swept: Duration,
}

impl State {
    fn resume(&mut self, id: WaitId, result: FsResult<()>) {
        if let Some(sender) = self.waiting.remove(&id) {
            // Nobody listens any more: then nobody needs it.
            let _ = sender.send(result);
        }
    }
}

/// What `status` tells of a session.
#[derive(Clone, Debug)]
pub struct Contact {
    pub session: SessionId,
    pub client: ClientInfo,
    pub idle: Duration,
    pub open_files: u64,
}

/// See the module.
pub struct Sessions {
    state: Mutex<State>,
    times: SessionTimes,
    clock: Arc<dyn Clock>,
    recovering: AtomicBool,
    recovered: watch::Sender<bool>,
    /// Wakes the task that evicts: a session came to be, or must go at once.
    sweep: Notify,
    reaper: mpsc::UnboundedSender<ReapWork>,
    stopping: CancellationToken,
}

impl Sessions {
    /// `known`: sessions in the durable state. Ids of events and generations begin at `first`.
    pub fn new(
        first: u64,
        known: Vec<(SessionId, ClientInfo)>,
        times: SessionTimes,
        reaper: mpsc::UnboundedSender<ReapWork>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Sessions> {
        let leases = Leases::new(first, known.iter().map(|(session, _)| *session));
        let recovering = !known.is_empty();
        let now = clock.monotonic();
        let live = known.into_iter().map(|(session, client)| (session, Live::new(client, now))).collect();
        Arc::new(Sessions {
            state: Mutex::new(State { leases, live, waiting: HashMap::new(), swept: now }),
            times,
            clock,
            recovering: AtomicBool::new(recovering),
            recovered: watch::Sender::new(!recovering),
            sweep: Notify::new(),
            reaper,
            stopping: CancellationToken::new(),
        })
    }

    pub fn times(&self) -> SessionTimes {
        self.times
    }

    /// The server's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Ends all waits for events: the daemon stops.
    pub fn stop_waiting(&self) {
        self.stopping.cancel();
    }

    /// Waits until all sessions known at the start are back, or the grace is over.
    pub async fn recovered(&self) {
        if self.recovering.load(Ordering::Acquire) {
            // The sender lives as long as `self`: no error.
            let _ = self.recovered.subscribe().wait_for(|done| *done).await;
        }
    }

    /// Ends the wait for known sessions.
    pub fn end_recovery(&self) {
        self.recovering.store(false, Ordering::Release);
        self.recovered.send_replace(true);
    }

    /// Asks the lease machine something on behalf of a session. Counts as contact.
    pub fn enter<R>(&self, session: SessionId, ask: impl FnOnce(&mut Leases) -> R) -> FsResult<R> {
        self.enter_over(session, u64::MAX, ask)
    }

    /// The same for what must not count if it comes late, over a connection before the one over which the session attached last.
    ///
    /// # Errors
    /// `Evicted`; `Stale` in that case.
    pub fn enter_over<R>(
        &self,
        session: SessionId,
        connection: u64,
        ask: impl FnOnce(&mut Leases) -> R,
    ) -> FsResult<R> {
        let mut state = self.state.lock();
        let live = state.live.get_mut(&session).filter(|live| !live.evicting).ok_or(FsError::Evicted)?;
        if connection < live.connection {
            return Err(FsError::Stale);
        }
        live.contact = self.now();
        let answer = ask(&mut state.leases);
        self.carry_out(&mut state);
        Ok(answer)
    }

    /// The same for something that may have to wait.
    pub fn enter_wait<R>(
        self: &Arc<Self>,
        session: SessionId,
        ask: impl FnOnce(&mut Leases) -> (R, Option<WaitId>),
    ) -> FsResult<(R, Option<Waiting>)> {
        let mut state = self.state.lock();
        let live = state.live.get_mut(&session).filter(|live| !live.evicting);
        live.ok_or(FsError::Evicted)?.contact = self.now();
        let (answer, wait) = ask(&mut state.leases);
        let waiting = wait.map(|id| self.register(&mut state, id));
        self.carry_out(&mut state);
        Ok((answer, waiting))
    }

    /// Tells the lease machine something that belongs to no request of a session.
    pub fn tell<R>(&self, tell: impl FnOnce(&mut Leases) -> R) -> R {
        let mut state = self.state.lock();
        let answer = tell(&mut state.leases);
        self.carry_out(&mut state);
        answer
    }

    /// The same for something that may have to wait.
    pub fn tell_wait(self: &Arc<Self>, tell: impl FnOnce(&mut Leases) -> Option<WaitId>) -> Option<Waiting> {
        let mut state = self.state.lock();
        let wait = tell(&mut state.leases);
        let waiting = wait.map(|id| self.register(&mut state, id));
        self.carry_out(&mut state);
        waiting
    }

    // Coming and going ----------------------------------------------------------------------------

    /// Waits until no session believes to be alone any more. Answers a guard that is to be given to
    /// [`Sessions::attach`] when the new session is durable.
    pub async fn attaching(self: &Arc<Self>) -> Attaching {
        let waiting = self.tell_wait(Leases::attaching);
        let attaching = Attaching { sessions: self.clone(), done: false };
        if let Some(waiting) = waiting {
            // To forget cannot be refused.
            let _ = waiting.done().await;
        }
        attaching
    }

    /// A new session is durable.
    pub fn attach(
        &self,
        mut attaching: Attaching,
        session: SessionId,
        connection: u64,
        client: ClientInfo,
    ) -> Attached {
        attaching.done = true;
        let mut state = self.state.lock();
        state.live.insert(session, Live { connection, ..Live::new(client, self.now()) });
        let attached = state.leases.attach(session);
        self.carry_out(&mut state);
        self.sweep.notify_one();
        attached
    }

    /// A known session is back.
    ///
    /// # Errors
    /// `Evicted`; `Stale` for an attach from a connection before the one of the last: what it says is open is out of date, and
    /// nobody waits for the answer.
    pub fn attach_again(
        &self,
        session: SessionId,
        connection: u64,
        client: ClientInfo,
        opens: &[OpenState],
    ) -> FsResult<Attached> {
        let mut state = self.state.lock();
        let live = state.live.get_mut(&session).filter(|live| !live.evicting).ok_or(FsError::Evicted)?;
        if connection < live.connection {
            return Err(FsError::Stale);
        }
        live.contact = self.now();
        live.connection = connection;
        live.client = client;
        let attached = state.leases.attach_again(session, opens);
        self.carry_out(&mut state);
        if state.leases.absent() == 0 {
            self.end_recovery();
        }
        attached
    }

    /// Refuses everything of a session from now on. False if it is unknown or ending already.
    pub fn refuse(&self, session: SessionId) -> bool {
        let mut state = self.state.lock();
        let Some(live) = state.live.get_mut(&session).filter(|live| !live.evicting) else { return false };
        live.evicting = true;
        live.arrived.notify_waiters();
        true
    }

    /// True if its end is being logged.
    pub fn is_ending(&self, session: SessionId) -> bool {
        self.state.lock().live.get(&session).is_some_and(|live| live.evicting)
    }

    /// The end of a session is durable.
    pub fn end(&self, session: SessionId) {
        let mut state = self.state.lock();
        if let Some(live) = state.live.remove(&session) {
            live.arrived.notify_waiters();
        }
        state.leases.end(session);
        self.carry_out(&mut state);
        if state.leases.absent() == 0 {
            self.end_recovery();
        }
    }

    /// The end of a session could not be logged: it is tried again later.
    pub fn unrefuse(&self, session: SessionId) {
        if let Some(live) = self.state.lock().live.get_mut(&session) {
            live.evicting = false;
        }
    }

    /// Sessions to be evicted, in order, and how long to wait before looking again.
    /// `None`: there is nothing to watch.
    ///
    /// A process that was stopped itself heard nobody meanwhile: then all get their time again.
    pub fn expired(&self) -> (Vec<(SessionId, Overdue)>, Option<Duration>) {
        let mut state = self.state.lock();
        let now = self.now();
        let interval = (self.times.timeout.min(self.times.recall) / 4).max(Duration::from_millis(5));
        let stopped = now - std::mem::replace(&mut state.swept, now) > interval * 2;
        if stopped {
            state.live.values_mut().for_each(|live| live.heard(now));
        }
        let overdue = |live: &Live| if live.evicting { None } else { live.overdue(self.times, now) };
        let mut expired: Vec<(SessionId, Overdue)> =
            state.live.iter().filter_map(|(id, live)| Some((*id, overdue(live)?))).collect();
        expired.sort_unstable_by_key(|(session, _)| *session);
        // At the next one's time, and not an interval later: others wait for its end. Those whose time is over
        // are tried again after the interval, if their end fails.
        let due = state.live.values().map(|live| live.expires(self.times)).filter(|at| *at > now).min();
        let next = due.map_or(interval, |at| (at - now).min(interval));
        (expired, (!state.live.is_empty()).then_some(next))
    }

    /// Waits until [`Sessions::expired`] should be asked again.
    pub async fn sweep_after(&self, next: Option<Duration>) {
        match next {
            Some(pause) => {
                let _ = tokio::time::timeout(pause, self.sweep.notified()).await;
            }
            None => self.sweep.notified().await,
        }
    }

    /// All sessions, for `status`.
    pub fn contacts(&self) -> Vec<Contact> {
        let state = self.state.lock();
        let now = self.now();
        let mut contacts: Vec<Contact> = (state.live.iter())
            .map(|(session, live)| Contact {
                session: *session,
                client: live.client.clone(),
                idle: now.saturating_sub(live.contact),
                open_files: state.leases.open_files(*session),
            })
            .collect();
        contacts.sort_by_key(|contact| contact.session);
        contacts
    }

    /// Has all inodes without names looked at.
    pub fn scan_orphans(&self) {
        // The reaper goes away only when the daemon does.
        let _ = self.reaper.send(ReapWork::Scan);
    }

    // Events --------------------------------------------------------------------------------------

    /// Waits for events of a session; those up to `received` have arrived there.
    pub async fn events(&self, session: SessionId, received: u64, wait: Duration) -> FsResult<Vec<Event>> {
        let arrived = {
            let mut state = self.state.lock();
            let live = state.live.get_mut(&session).filter(|live| !live.evicting);
            let live = live.ok_or(FsError::Evicted)?;
            live.contact = self.now();
            while live.queue.front().is_some_and(|event| event.id <= received) {
                live.queue.pop_front();
            }
            live.arrived.clone()
        };
        // Well below the time-out: each call is the sign of life.
        let end = tokio::time::Instant::now() + wait.min(EVENT_WAIT_MAX).min(self.times.timeout / 3);
        loop {
            let notified = arrived.notified();
            tokio::pin!(notified);
            // Before looking: what arrives after the look wakes us.
            notified.as_mut().enable();
            let events = self.queued(session)?;
            if !events.is_empty() {
                return Ok(events);
            }
            let notified = self.stopping.run_until_cancelled(notified);
            match tokio::time::timeout_at(end, notified).await {
                Ok(Some(())) => {}
                Ok(None) => return Err(FsError::Unavailable),
                Err(_) => return Ok(events),
            }
        }
    }

    fn queued(&self, session: SessionId) -> FsResult<Vec<Event>> {
        let state = self.state.lock();
        let live = state.live.get(&session).filter(|live| !live.evicting).ok_or(FsError::Evicted)?;
        Ok(live.queue.iter().take(EVENTS_PER_REPLY).cloned().collect())
    }

    /// A session has done what an event asked for.
    pub fn acknowledge(&self, session: SessionId, event: u64) -> FsResult<()> {
        let mut state = self.state.lock();
        let live = state.live.get_mut(&session).filter(|live| !live.evicting).ok_or(FsError::Evicted)?;
        live.contact = self.now();
        live.owed.remove(&event);
        state.leases.acknowledge(session, event);
        self.carry_out(&mut state);
        Ok(())
    }

    /// A session can't do what an event asks for, and why.
    pub fn refuse_event(&self, session: SessionId, event: u64, error: FsError) -> FsResult<()> {
        let mut state = self.state.lock();
        let live = state.live.get_mut(&session).filter(|live| !live.evicting).ok_or(FsError::Evicted)?;
        live.contact = self.now();
        if !state.leases.refuse(session, event, error) {
            return Err(FsError::Invalid);
        }
        if let Some(live) = state.live.get_mut(&session) {
            live.owed.remove(&event);
        }
        self.carry_out(&mut state);
        Ok(())
    }

    // Inside --------------------------------------------------------------------------------------

    fn register(self: &Arc<Self>, state: &mut State, id: WaitId) -> Waiting {
        let (sender, resumed) = oneshot::channel();
        state.waiting.insert(id, sender);
        Waiting { sessions: self.clone(), id, resumed, over: false }
    }

    fn carry_out(&self, state: &mut State) {
        for command in state.leases.take_commands() {
            match command {
                Command::Send { session, event, owed } => self.queue(state, session, event, owed),
                Command::Resume(id) => state.resume(id, Ok(())),
                Command::Refuse(id, error) => state.resume(id, Err(error)),
                // The reaper goes away only when the daemon does; the next start looks at all again.
                Command::Reap(ino) => {
                    let _ = self.reaper.send(ReapWork::Inode(ino));
                }
                Command::ScanOrphans => {
                    let _ = self.reaper.send(ReapWork::ScanLater);
                }
            }
        }
    }

    fn queue(&self, state: &mut State, session: SessionId, event: Event, owed: bool) {
        let Some(live) = state.live.get_mut(&session) else { return };
        if owed {
            live.owed.insert(event.id, self.now());
        }
        live.queue.push_back(event);
        live.arrived.notify_waiters();
        if live.queue.len() > QUEUE_MAX {
            self.sweep.notify_one();
        }
    }
}

/// A request that waits for acknowledgements. Dropped, it waits no more.
pub struct Waiting {
    sessions: Arc<Sessions>,
    id: WaitId,
    resumed: oneshot::Receiver<FsResult<()>>,
    over: bool,
}

impl Waiting {
    /// Waits until all have acknowledged or are evicted: at most about the recall time-out.
    ///
    /// # Errors
    /// Why one of them keeps what it was asked for. Transient: it may be able to give it back soon.
    pub async fn done(mut self) -> FsResult<()> {
        // The sender goes away only after it has been used.
        let result = (&mut self.resumed).await.unwrap_or(Ok(()));
        self.over = true;
        result
    }

    /// The same for whoever goes on without what can't be stored for good.
    pub async fn settled(self) -> FsResult<()> {
        self.done().await.or_else(|error| if error.is_transient() { Err(error) } else { Ok(()) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.over {
            let mut state = self.sessions.state.lock();
            state.waiting.remove(&self.id);
            state.leases.cancel(self.id);
        }
    }
}

/// A new session that is not durable yet.
pub struct Attaching {
    sessions: Arc<Sessions>,
    done: bool,
}

impl Drop for Attaching {
    fn drop(&mut self) {
        if !self.done {
            self.sessions.tell(Leases::attach_cancelled);
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
