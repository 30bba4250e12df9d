//! A mount's session with the metadata daemon: takes it up, and again after each lost connection,
//! and moves operations, events and closes over it.
//!
//! Tasks, each ended by the token: `supervise` attaches; `run_batches` sends what the operation log
//! holds; `run_events` asks for events and starts a task for each; `run_closes` sends ended opens; `end_always`
//! ends the sessions of mounts that die beside this one.

use super::answers::{
    AfterAttach, AfterBatch, AfterSync, Over, Taken, attach_answered, batch_answered, opens_to_tell,
    sync_answered,
};
use super::calls::{Attached, CALL_DEADLINE, Calls, State};
use super::clock::ServerClock;
use super::closes::CloseQueue;
use super::events;
use super::inos::InoPool;
use super::keyed;
use super::neighbours;
use super::nodes::away;
use super::oplog::{OpLog, Refused};
use super::{EventSink, MetaClient, OpTicket, SyncFollows};
use crate::life::{LifeFiles, OwnLife};
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Epoch, Ino, Seq, SessionId};
use cairn_common::limits::OPENS_MAX;
use cairn_common::namespace::op::{LockRequest, Name, Op, OpBody};
use cairn_common::namespace::tables::HeldLock;
use cairn_common::proto::meta::{
    AttachReply, AttachRequest, Batch, ClientInfo, CloseItem, ClusterMap, DirPage, Event, EventBody,
    ExtentPage, FsStat, MetaStub, OpenReply, OpenState,
};
use cairn_common::rpc::{Live, Reconnecting, context_within, fs_error};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the server holds a call for events that has nothing to tell.
const EVENTS_WAIT: Duration = Duration::from_secs(15);
/// Operations kept for replay before the log is made durable on purpose.
const LOG_BOUND: usize = 32_768;
/// How long the server has to hear that a session ends, of which nothing is left to do.
const GOOD_BYE: Duration = Duration::from_secs(3);
/// How often, within the time that `soft` gives a server, it is looked whether it owes an answer.
const DUE_CHECKS: u32 = 16;
/// Pause before something that the server refused is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Session {
    calls: Arc<Calls>,
    client: ClientInfo,
    id: AtomicU64,
    clock: ServerClock,
    log: Mutex<OpLog>,
    /// The log has something to send.
    queued: Notify,
    passed: watch::Sender<Passed>,
    /// Who waits, or is about to wait, for stable storage.
    syncs: Arc<AtomicUsize>,
    inos: InoPool,
    closes: Arc<CloseQueue>,
    /// The answer to the first attach.
    first: AttachReply,
    /// The answer to the last one. A server that is behind it has another history: its tables were restored from an
    /// old copy, and what it counts from now on says nothing beside what was counted before.
    last: Mutex<Taken>,
    /// Proves the death of this process to those who come after it.
    life: OwnLife,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// How far the operations of a session have come.
#[derive(Clone, Copy, Debug)]
struct Passed {
    session: SessionId,
    /// All up to here were sent, at least once.
    sent: Seq,
    /// All up to here were answered.
    answered: Seq,
}

impl Passed {
    fn new(session: SessionId, applied: Seq) -> Passed {
        Passed { session, sent: applied, answered: applied }
    }

    /// Changes with each answer of the server.
    fn heard(&self) -> (SessionId, Seq) {
        (self.session, self.answered)
    }
}

impl Session {
    /// Opens a new session, after ending those that `files` prove to be dead.
    ///
    /// # Errors
    /// `Unavailable` if no server can be reached within `limit`; what the server says otherwise.
    pub async fn open(
        link: Reconnecting<MetaStub>,
        client: ClientInfo,
        timeout: Option<Duration>,
        limit: Duration,
        files: LifeFiles,
    ) -> FsResult<Arc<Session>> {
        let clock = ServerClock::default();
        let connected = tokio::time::timeout(limit, link.get()).await;
        let live = connected.unwrap_or(Err(FsError::Unavailable))?;
        neighbours::end_before(&files, &live).await;
        // The server answers when the mounts it knows have been told of one more: of one that died elsewhere
        // without a word it has to wait until its session is over.
        let request = AttachRequest { session: None, client: client.clone(), opens: Vec::new() };
        let taken = attach(&live, request, None, &clock).await?;
        let first = taken.reply.clone();
        let life = OwnLife::new(files);
        life.is_for(first.cluster, first.session, taken.opened);
        let calls = Arc::new(Calls::new(link, timeout));
        calls.state.send_replace(State::Attached(attached_of(&live, &taken)));
        Ok(Arc::new(Session {
            calls,
            client,
            id: AtomicU64::new(first.session.0),
            clock,
            log: Mutex::default(),
            queued: Notify::new(),
            passed: watch::Sender::new(Passed::new(first.session, Seq(0))),
            syncs: Arc::default(),
            inos: InoPool::default(),
            closes: Arc::default(),
            last: Mutex::new(taken),
            first,
            life,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Starts the tasks. Events go to `sink` from now on.
    pub fn start<S: EventSink>(self: &Arc<Self>, sink: Arc<S>) {
        if self.first.sole {
            sink.sole(self.first.generation);
        }
        self.spawn(|session| session.run_batches());
        self.spawn(|session| session.run_closes());
        self.spawn_work(neighbours::end_always(
            self.life.files().clone(),
            Arc::clone(&self.calls),
            self.first.cluster,
        ));
        let events = Arc::clone(&sink);
        self.spawn(|session| session.run_events(events));
        self.spawn(|session| session.supervise(sink));
    }

    fn spawn<F, Fut>(self: &Arc<Self>, task: F)
    where
        F: FnOnce(Arc<Session>) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let work = task(Arc::clone(self));
        self.spawn_work(work);
    }

    fn spawn_work(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cancelled = self.cancel.clone().cancelled_owned();
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancelled => {}
                () = work => {}
            }
        });
    }

    /// Ends the session: everything that was submitted is durable when this returns `Ok`.
    ///
    /// # Errors
    /// `TimedOut` if that takes longer than `limit`; the session is over here all the same.
    pub async fn end(&self, limit: Duration) -> FsResult<()> {
        let deadline = Instant::now() + limit;
        let synced = timeout_at(deadline, self.sync(self.last_submitted())).await;
        // First the tasks: one that heard of the end would take the session up again.
        self.cancel.cancel();
        self.tasks.close();
        let detached = timeout_at(deadline.min(Instant::now() + GOOD_BYE), async {
            self.tasks.wait().await;
            self.detach().await
        });
        let detached = detached.await;
        self.calls.state.send_replace(State::Ended);
        if let Ok(Ok(())) = detached {
            self.life.is_over();
        }
        synced.unwrap_or(Err(FsError::TimedOut))?;
        detached.unwrap_or(Err(FsError::TimedOut))
    }

    /// Not repeated: without an answer the next mount here ends the session, or the server by its time-out.
    async fn detach(&self) -> FsResult<()> {
        let State::Attached(attached) = self.calls.state.borrow().clone() else {
            return Err(FsError::Unavailable);
        };
        let ended = keyed::end(&attached.live, attached.session, attached.opened).await;
        ended.map_err(|error| fs_error(&error))?
    }

    /// The cluster map, if it is newer than `known`.
    ///
    /// # Errors
    /// As for every call.
    pub async fn cluster_map(&self, known: u64) -> FsResult<Option<ClusterMap>> {
        self.calls.call(|client, _| async move { client.cluster_map(context(), known).await }).await
    }

    // --- Taking the session up again

    async fn supervise<S: EventSink>(self: Arc<Self>, sink: Arc<S>) {
        let mut state = self.calls.state.subscribe();
        while state.wait_for(|state| matches!(state, State::Detached)).await.is_ok() {
            let live = match self.calls.link.get().await {
                Ok(live) => live,
                Err(error) => {
                    // Another cluster answers at the address: the right one may come back.
                    tracing::debug!(%error, "no connection");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    continue;
                }
            };
            match self.reattach(&live, &*sink).await {
                Ok(attached) => {
                    self.calls.state.send_replace(State::Attached(attached));
                    self.queued.notify_one();
                    tracing::info!(target: "cairn", session = self.session().0, "connected to the metadata daemon");
                }
                Err(error) => {
                    tracing::debug!(%error, "session not taken up again yet");
                    self.calls.link.invalidate(&live);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    async fn reattach<S: EventSink>(&self, live: &Live<MetaStub>, sink: &S) -> FsResult<Attached> {
        let opens = self.opens_without_closes(sink);
        let request = AttachRequest { session: Some(self.session()), client: self.client.clone(), opens };
        let before = self.last.lock().clone();
        let answer = attach(live, request, before.opened, &self.clock).await;
        let after = attach_answered(&mut self.log.lock(), &before, answer.as_ref().map_err(|error| *error));
        match after {
            AfterAttach::GoOn => {
                let taken = answer?;
                self.met(&taken);
                self.passed.send_replace(Passed::new(taken.reply.session, taken.reply.applied));
                self.tell_sharing(&taken.reply, sink).await;
                Ok(attached_of(live, &taken))
            }
            AfterAttach::Over(why) => {
                report_over(why);
                if why == Over::OtherHistory {
                    // Who waits for it need not wait for its time-out, which ends it in any case.
                    let _ = keyed::end(live, self.session(), before.opened).await;
                }
                self.start_anew(live, sink).await
            }
            AfterAttach::Again(error) => Err(error),
        }
    }

    /// The session is over: nothing of it can be committed any more. The mount goes on with a new one.
    async fn start_anew<S: EventSink>(&self, live: &Live<MetaStub>, sink: &S) -> FsResult<Attached> {
        tracing::error!(
            target: "cairn",
            session = self.session().0,
            "session was ended by the metadata daemon; changes that were not synced are lost"
        );
        sink.evicted();
        self.log.lock().clear();
        self.inos.clear();
        self.closes.clear();
        let request = AttachRequest { session: None, client: self.client.clone(), opens: Vec::new() };
        let taken = attach(live, request, None, &self.clock).await?;
        self.met(&taken);
        let reply = &taken.reply;
        self.life.is_for(reply.cluster, reply.session, taken.opened);
        self.id.store(reply.session.0, Ordering::Release);
        self.passed.send_replace(Passed::new(reply.session, Seq(0)));
        // Whatever others did since the old session ended was not told here.
        sink.shared(reply.generation).await;
        self.tell_sharing(reply, sink).await;
        Ok(attached_of(live, &taken))
    }

    /// The session goes on from what this start of the metadata daemon has answered.
    fn met(&self, taken: &Taken) {
        let before = std::mem::replace(&mut *self.last.lock(), taken.clone());
        if taken.is_of_an_old_copy(&before) {
            tracing::error!(
                target: "cairn",
                "start {} of the metadata daemon came after its start {}: it runs on an old copy of its directory, and \
                 what changed since is lost. Put the newest copy back, or unmount here and mount again",
                taken.reply.epoch, before.reply.epoch
            );
        }
    }

    async fn tell_sharing<S: EventSink>(&self, reply: &AttachReply, sink: &S) {
        if reply.sole {
            sink.sole(reply.generation);
        } else {
            sink.shared(reply.generation).await;
        }
    }

    /// What is open here. Closes that wait to be sent are in it already, so they are dropped; one that
    /// slips in between is lost, which leaves an open too many at the server, never one too few.
    fn opens_without_closes<S: EventSink>(&self, sink: &S) -> Vec<OpenState> {
        // What was answered before is counted among the opens by now, or closed.
        let opened = self.log.lock().opened();
        let opens = opens_to_tell(opened, sink.open_states());
        self.closes.clear();
        opens
    }

    // --- Operations

    async fn run_batches(self: Arc<Self>) {
        loop {
            self.queued.notified().await;
            while self.send_batch().await {}
        }
    }

    /// Sends one batch; true if there may be another.
    async fn send_batch(&self) -> bool {
        let Ok(attached) = self.calls.attached().await else { return false };
        let next = {
            let mut log = self.log.lock();
            log.batch_under_way().or_else(|| log.next_batch())
        };
        let Some((first, ops)) = next else { return false };
        let last = Seq(first.0 + ops.len() as u64 - 1);
        let sync_follows = self.syncs.load(Ordering::Relaxed) > 0;
        let batch = Batch { session: attached.session, first, ops, sync_follows };
        self.passed.send_modify(|passed| passed.sent = passed.sent.max(last));
        match attached.client().apply(context(), batch).await {
            Ok(answer) => {
                if answer.is_ok() {
                    self.calls.heard();
                }
                let after = batch_answered(&mut self.log.lock(), answer);
                self.after_batch(&attached, last, after).await;
            }
            Err(error) => {
                tracing::debug!(error = %fs_error(&error), "batch not answered");
                self.calls.broken(&attached);
            }
        }
        true
    }

    /// `last`: the last operation of the batch.
    async fn after_batch(&self, attached: &Attached, last: Seq, after: AfterBatch) {
        match after {
            AfterBatch::Answered(refused) => {
                refused.iter().for_each(report_refused);
                self.passed.send_modify(|passed| passed.answered = last);
                self.bound_log(attached).await;
            }
            AfterBatch::Pause(error) => {
                tracing::warn!(target: "cairn", %error, "the metadata daemon refuses changes for now");
                refused_pause(attached).await;
            }
            AfterBatch::TakeUpAgain(error) => {
                if error.is_none() {
                    tracing::error!(target: "cairn", "the metadata daemon's answer does not fit the batch");
                }
                self.calls.broken(attached);
            }
        }
    }

    /// Ready when operations waited for an answer, and there was none for long enough; never with `hard`.
    async fn silent_too_long(&self) {
        loop {
            let Some(limit) = self.calls.limit() else { return std::future::pending().await };
            let owes = self.log.lock().owes_answers();
            if !owes {
                tokio::time::sleep(limit / DUE_CHECKS).await;
                continue;
            }
            let patience = self.calls.patience().unwrap_or(limit);
            if tokio::time::timeout(patience, self.news()).await.is_err() {
                return self.calls.waited();
            }
        }
    }

    async fn next_ino(&self) -> FsResult<Ino> {
        loop {
            if let Some(ino) = self.inos.take() {
                return Ok(ino);
            }
            let _one_at_a_time = self.inos.refill.lock().await;
            if self.inos.is_empty() {
                let ask = |client: MetaStub, id| async move { client.allocate_inos(context(), id).await };
                self.inos.add(self.calls.call(ask).await?);
            }
        }
    }

    /// Keeps the memory for replay bounded.
    async fn bound_log(&self, attached: &Attached) {
        if self.log.lock().len() < LOG_BOUND {
            return;
        }
        let through = self.passed.borrow().answered;
        if let Ok(answer) = attached.client().sync(context(), attached.session, through).await {
            self.sync_answered(attached.session, through, answer);
        }
    }

    fn sync_answered(&self, session: SessionId, through: Seq, answer: FsResult<Seq>) -> AfterSync {
        let mut log = self.log.lock();
        // Under the lock: the log of an ended session is cleared before the next one has a number.
        let goes_on = self.session() == session;
        sync_answered(&mut log, goes_on, through, answer)
    }

    // --- Events

    async fn run_events<S: EventSink>(self: Arc<Self>, sink: Arc<S>) {
        let mut received = 0;
        let mut of = (Epoch(0), SessionId(0));
        loop {
            let Ok(attached) = self.calls.attached().await else { return };
            // Also of the session: a metadata directory that was put back repeats epochs, with other numbers of events.
            if of != (attached.epoch, attached.session) {
                (of, received) = ((attached.epoch, attached.session), 0);
            }
            let wait = u64::try_from(EVENTS_WAIT.as_millis()).unwrap_or(u64::MAX);
            let context = context_within(EVENTS_WAIT + Duration::from_secs(10));
            match attached.client().events(context, attached.session, received, wait).await {
                Ok(Ok(events)) => {
                    self.calls.heard();
                    for event in events {
                        if event.id > received {
                            received = event.id;
                            self.handle(event, &sink);
                        }
                    }
                }
                Ok(Err(error)) if error.is_transient() => refused_pause(&attached).await,
                Ok(Err(_)) | Err(_) => self.calls.broken(&attached),
            }
        }
    }

    fn handle<S: EventSink>(self: &Arc<Self>, event: Event, sink: &Arc<S>) {
        let (sink, session) = (Arc::clone(sink), Arc::clone(self));
        // Not in this task: a flush may take long, and what comes after it must not wait for it.
        self.spawn_work(async move {
            match event.body {
                EventBody::LockReleased { ino } => return sink.lock_released(ino),
                EventBody::Sole { generation } => return sink.sole(generation),
                _ => {}
            }
            events::carry_out(&session.calls, &event, &sink).await;
        });
    }

    // --- Closes

    /// Waits until the server has again what it lost with its power: a file that is made once more after it was closed
    /// would stay open there.
    async fn repeated(&self) {
        let mut passed = self.passed.subscribe();
        while self.log.lock().is_repeating() {
            if passed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn run_closes(self: Arc<Self>) {
        loop {
            self.closes.queued().await;
            loop {
                self.repeated().await;
                let Ok(attached) = self.calls.attached().await else { return };
                let items = self.closes.take();
                if items.is_empty() {
                    break;
                }
                match attached.client().close(context(), attached.session, items).await {
                    Ok(Ok(())) => {}
                    // Taking the session up again tells the server what is open.
                    Ok(Err(_)) | Err(_) => self.calls.broken(&attached),
                }
            }
        }
    }
}

/// A server that stops refuses everything, and then closes the connection: the next one is asked at once.
async fn refused_pause(attached: &Attached) {
    // Either way it is time to try again.
    let _ = tokio::time::timeout(REFUSED_PAUSE, attached.live.broken()).await;
}

fn report_over(why: Over) {
    match why {
        // What it means for programs is said with the new session.
        Over::Evicted => {}
        Over::OtherHistory => {
            tracing::error!(target: "cairn", "the metadata daemon has another history of this session");
        }
        Over::TooManyOpen => {
            tracing::error!(target: "cairn", "more than {OPENS_MAX} files are open: the session cannot be taken up again");
        }
    }
}

fn report_refused(refused: &Refused) {
    let Refused { op, error } = refused;
    // It may carry data; its beginning says which one it is.
    let operation = format!("{:.160}", format!("{:?}", op.body));
    tracing::error!(
        target: "cairn",
        %error,
        operation,
        "a change that was done before the metadata daemon lost power could not be repeated: it is lost"
    );
}

async fn attach(
    live: &Live<MetaStub>,
    request: AttachRequest,
    opened: Option<Timestamp>,
    clock: &ServerClock,
) -> FsResult<Taken> {
    let sent = SystemTime::now();
    let taken = keyed::take_up(live, request, opened).await.map_err(|e| fs_error(&e))??;
    clock.learn(sent, SystemTime::now(), taken.reply.time);
    Ok(taken)
}

fn attached_of(live: &Live<MetaStub>, taken: &Taken) -> Attached {
    let Taken { reply, opened, .. } = taken;
    Attached { live: live.clone(), session: reply.session, opened: *opened, epoch: reply.epoch }
}

fn context() -> tarpc::context::Context {
    context_within(CALL_DEADLINE)
}

impl MetaClient for Session {
    fn submit_at(&self, time: Timestamp, caller: &Caller, body: OpBody) -> OpTicket {
        let ticket = self.log.lock().push(Op { time, caller: caller.clone(), body });
        self.queued.notify_one();
        ticket
    }

    fn last_submitted(&self) -> Seq {
        self.log.lock().last()
    }

    fn sync_follows(&self) -> SyncFollows {
        SyncFollows::new(&self.syncs)
    }

    async fn sync(&self, through: Seq) -> FsResult<()> {
        let session = self.session();
        if self.log.lock().is_durable(through) {
            return Ok(());
        }
        let mut passed = self.passed.subscribe();
        loop {
            // On its way is enough: the server waits for the batch, so that both cost one round trip.
            let sent = passed.wait_for(|now| now.session != session || now.sent >= through).await;
            if sent.map_or(session, |now| now.session) != session {
                return Err(FsError::Evicted);
            }
            let answer =
                self.calls.call(|client, id| async move { client.sync(context(), id, through).await }).await;
            match self.sync_answered(session, through, answer) {
                AfterSync::Durable => return Ok(()),
                AfterSync::Again => {}
                AfterSync::Pause => tokio::time::sleep(REFUSED_PAUSE).await,
                AfterSync::Failed(error) => return Err(error),
            }
        }
    }

    async fn reachable(&self) -> FsResult<()> {
        self.calls.bounded(async { self.calls.attached().await.map(drop) }).await
    }

    async fn news(&self) {
        let mut passed = self.passed.subscribe();
        let before = passed.borrow_and_update().heard();
        // The other end is in here, too.
        let _heard = passed.wait_for(|now| now.heard() != before).await;
    }

    async fn given_up(&self) {
        self.silent_too_long().await;
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn session(&self) -> SessionId {
        SessionId(self.id.load(Ordering::Acquire))
    }

    fn try_new_ino(&self) -> Option<Ino> {
        self.inos.take()
    }

    async fn new_ino(&self) -> FsResult<Ino> {
        // All of it: who waits here for others that wait must not wait for each of them.
        self.calls.bounded(self.next_ino()).await
    }

    async fn lookup(&self, parent: Ino, name: Name) -> FsResult<Attr> {
        let ask = |client: MetaStub, id| {
            let name = name.clone();
            async move { client.lookup(context(), id, parent, name).await }
        };
        self.calls.call(ask).await
    }

    async fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        self.calls.call(|client, id| async move { client.getattr(context(), id, ino).await }).await
    }

    async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        self.calls.call(|client, id| async move { client.readlink(context(), id, ino).await }).await
    }

    async fn readdir(&self, ino: Ino, cookie: u64, max_bytes: u32, plus: bool) -> FsResult<DirPage> {
        let ask = |client: MetaStub, id| async move {
            client.readdir(context(), id, ino, cookie, max_bytes, plus).await
        };
        self.calls.call(ask).await
    }

    async fn getxattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        let ask = |client: MetaStub, id| {
            let name = name.clone();
            async move { client.getxattr(context(), id, ino, name).await }
        };
        self.calls.call(ask).await
    }

    async fn listxattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        self.calls.call(|client, id| async move { client.listxattr(context(), id, ino).await }).await
    }

    async fn test_lock(&self, ino: Ino, lock: LockRequest) -> FsResult<Option<HeldLock>> {
        self.calls.call(|client, id| async move { client.test_lock(context(), id, ino, lock).await }).await
    }

    async fn statfs(&self) -> FsResult<FsStat> {
        self.calls.call(|client, id| async move { client.statfs(context(), id).await }).await
    }

    async fn away(&self) -> FsResult<Option<u64>> {
        // Epoch 0 is nobody's: the whole map is answered.
        Ok(self.cluster_map(0).await?.and_then(|map| away(&map)))
    }

    async fn open(&self, ino: Ino, write: bool) -> FsResult<OpenReply> {
        // In a task of its own: who asks may be interrupted, but what the server has counted as open
        // must be closed again.
        let (calls, closes) = (Arc::clone(&self.calls), Arc::clone(&self.closes));
        let (answer, wait) = oneshot::channel();
        self.tasks.spawn(async move {
            let ask = |client: MetaStub, id| async move { client.open(context(), id, ino, write).await };
            if let Err(Ok(_)) = answer.send(calls.call(ask).await) {
                closes.add(CloseItem { ino, opens: 1, writers: u32::from(write) });
            }
        });
        wait.await.unwrap_or(Err(FsError::Unavailable))
    }

    fn close(&self, item: CloseItem) {
        self.closes.add(item);
    }

    async fn extents(&self, ino: Ino, start: u64, end: u64) -> FsResult<ExtentPage> {
        self.calls
            .call(|client, id| async move { client.extents(context(), id, ino, start, end).await })
            .await
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
