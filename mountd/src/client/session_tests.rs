//! The session against a server that the test answers for.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::*;
use crate::life::{BootId, Held};
use cairn_common::ids::ClusterId;
use cairn_common::namespace::op::OpReply;
use cairn_common::proto::meta::{
    BatchReply, MetaServiceRequest as Asked, MetaServiceResponse as Answer, TakenUp,
};
use cairn_common::proto::version;
use cairn_common::rpc::{ConnectOptions, Peer, ServeOptions, serve};
use cairn_common::wire::hello::{Hello, Identity, ServiceKind};
use std::future::pending;
use tarpc::server::InFlightRequest;
use tokio::net::TcpListener;

/// When the server opened each of its sessions.
const OPENED: Timestamp = Timestamp { secs: 5, nanos: 6 };

/// Ends each session with its connection, and never answers a `sync` of the first one.
#[derive(Default)]
struct Forgetful {
    sessions: AtomicU64,
    sync_asked: Notify,
    /// Sessions that were opened (by their numbers) and ended (negative), in order.
    history: Mutex<Vec<i64>>,
    detach_fails: bool,
    /// It speaks version 4, and knows no newer calls.
    is_old: bool,
    /// When those that were ended had been opened, as far as it was told.
    ended_of: Mutex<Vec<Option<Timestamp>>>,
    /// Keeps sessions; each attach is answered with the next of these generations.
    generations: Mutex<Vec<u64>>,
    /// Batches are answered while this is not held.
    held: tokio::sync::Mutex<()>,
    /// Operations that were applied.
    applied: AtomicU64,
    /// Sessions that asked for events, and the last that each had then.
    events_asked: Mutex<Vec<(SessionId, u64)>>,
}

impl Forgetful {
    fn attach(&self, request: &AttachRequest) -> FsResult<AttachReply> {
        let generation = self.generations.lock().pop();
        let session = match (request.session, generation) {
            (Some(session), Some(_)) => session,
            (Some(_), None) => return Err(FsError::Evicted),
            (None, _) => {
                let session = SessionId(self.sessions.fetch_add(1, Ordering::SeqCst) + 1);
                self.history.lock().push(number(session));
                session
            }
        };
        Ok(AttachReply {
            session,
            cluster: ClusterId(1),
            epoch: Epoch(1),
            applied: Seq(0),
            durable: Seq(0),
            time: Timestamp::default(),
            session_timeout_ms: 30_000,
            sole: false,
            generation: generation.unwrap_or(1),
        })
    }

    /// All of one start, whatever its generations say.
    fn take_up(&self, request: &AttachRequest, opened: Option<Timestamp>) -> FsResult<TakenUp> {
        if self.is_old || opened != request.session.map(|_| OPENED) {
            return Err(FsError::Invalid);
        }
        Ok(TakenUp { reply: self.attach(request)?, opened: OPENED, incarnation: 9 })
    }

    fn end(&self, session: SessionId, opened: Option<Timestamp>) -> FsResult<()> {
        if self.detach_fails {
            return Err(FsError::Io);
        }
        self.ended_of.lock().push(opened);
        self.history.lock().push(-number(session));
        Ok(())
    }

    async fn answer(&self, asked: Asked) -> Answer {
        match asked {
            Asked::Attach { request } => Answer::Attach(self.attach(&request)),
            Asked::Detach { session } => Answer::Detach(self.end(session, None)),
            Asked::TakeUp { request, opened } => Answer::TakeUp(self.take_up(&request, opened)),
            Asked::End { .. } if self.is_old => Answer::End(Err(FsError::Invalid)),
            Asked::End { key } => Answer::End(self.end(key.session, Some(key.opened))),
            Asked::Apply { batch } => {
                let _free = self.held.lock().await;
                self.applied.fetch_add(batch.ops.len() as u64, Ordering::SeqCst);
                let results = batch.ops.iter().map(|_| Ok(OpReply::Done)).collect();
                Answer::Apply(Ok(BatchReply { results, durable: Seq(0) }))
            }
            Asked::Sync { session: SessionId(1), .. } => {
                self.sync_asked.notify_one();
                pending().await
            }
            Asked::Sync { through, .. } => Answer::Sync(Ok(through)),
            Asked::Events { session, received, .. } => {
                self.events_asked.lock().push((session, received));
                if received > 0 || session != SessionId(1) {
                    return pending().await;
                }
                let body = EventBody::LockReleased { ino: Ino(2) };
                Answer::Events(Ok(vec![Event { id: 100, body }]))
            }
            _ => pending().await,
        }
    }
}

fn number(session: SessionId) -> i64 {
    i64::try_from(session.0).unwrap()
}

struct NoSink;

impl EventSink for NoSink {
    async fn flush(&self, _: Vec<Ino>) -> FsResult<()> {
        Ok(())
    }
    async fn uncache(&self, _: Ino, _: u64) -> FsResult<()> {
        Ok(())
    }
    fn give_up(&self, _: Ino, _: FsError) {}
    async fn invalidate(&self, _: Ino) {}
    fn lock_released(&self, _: Ino) {}
    async fn shared(&self, _: u64) {}
    async fn hand_over_locks(self: Arc<Self>) {}
    fn sole(&self, _: u64) {}
    fn open_states(&self) -> Vec<OpenState> {
        Vec::new()
    }
    fn evicted(&self) {}
}

async fn session_with(server: Arc<Forgetful>, shutdown: CancellationToken, files: LifeFiles) -> Arc<Session> {
    patient_session(server, shutdown, files, None).await
}

async fn patient_session(
    server: Arc<Forgetful>,
    shutdown: CancellationToken,
    files: LifeFiles,
    timeout: Option<Duration>,
) -> Arc<Session> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let newest = if server.is_old { 4 } else { version::NEWEST };
    let handle = move |request: InFlightRequest<Asked, Answer>| {
        let server = Arc::clone(&server);
        async move {
            let answer = tarpc::server::serve(move |_, asked| async move { Ok(server.answer(asked).await) });
            request.execute(answer).await;
        }
    };
    let hello = Hello { newest, ..Hello::new(ServiceKind::Meta, ClusterId(1), "test server") };
    let identity = Identity::saying(hello);
    tokio::spawn(serve(listener, ServeOptions::new(identity), shutdown, move |_: Peer| handle.clone()));
    let identity = Identity::new(ServiceKind::Meta, ClusterId(1), "test client");
    let link = Reconnecting::new(ConnectOptions::new(vec![address], 0, identity), MetaStub::from);
    let session = Session::open(link, ClientInfo::default(), timeout, Duration::from_secs(20), files);
    let session = session.await.unwrap();
    session.start(Arc::new(NoSink));
    session
}

/// What was to be synced is lost, whatever the next session with its own numbers has made durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_does_not_outlive_its_session() {
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone(), LifeFiles::none()).await;
    let body = OpBody::RemoveXattr { ino: Ino(2), name: "user.a".into() };
    session.submit(&Caller::default(), body).await.unwrap();
    let syncing = tokio::spawn({
        let session = Arc::clone(&session);
        async move { session.sync(Seq(1)).await }
    });
    server.sync_asked.notified().await;
    let attached = session.calls.attached().await.unwrap();
    session.calls.broken(&attached);
    let synced = tokio::time::timeout(Duration::from_secs(20), syncing).await.unwrap().unwrap();
    assert_eq!(synced, Err(FsError::Evicted));
    assert_eq!(session.session(), SessionId(2));
    shutdown.cancel();
}

/// A directory for life files, in which two mounts of this machine once lived.
struct RunDir {
    dir: tempfile::TempDir,
    files: LifeFiles,
}

impl RunDir {
    fn new() -> RunDir {
        let dir = tempfile::tempdir().unwrap();
        let files = LifeFiles::at(dir.path().to_owned(), BootId(1), "m:/ at /mnt".into());
        RunDir { dir, files }
    }

    fn mount(&self, session: u64) -> Held {
        self.mount_opened(session, Some(OPENED))
    }

    fn mount_opened(&self, session: u64, opened: Option<Timestamp>) -> Held {
        self.files.hold(ClusterId(1), SessionId(session), opened).unwrap()
    }

    /// Sessions that have a file.
    fn sessions(&self) -> Vec<u64> {
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let number = |name: &str| u64::from_str_radix(name.rsplit('-').next().unwrap(), 16).unwrap();
        let mut sessions: Vec<u64> = names.map(|name| number(name.to_str().unwrap())).collect();
        sessions.sort_unstable();
        sessions
    }
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "did not happen in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Before the session is opened: the server may have to wait for the dead one to open another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_are_ended_first() {
    let run = RunDir::new();
    let (_lives, dead) = (run.mount(70), run.mount(71));
    drop(dead);
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone(), run.files.clone()).await;
    assert_eq!(*server.history.lock(), [-71, 1]);
    assert_eq!(run.sessions(), [1, 70]);
    session.end(Duration::from_secs(20)).await.unwrap();
    assert_eq!(run.sessions(), [70], "a clean end leaves nothing");
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dies_beside_a_mount_is_ended_at_once() {
    let run = RunDir::new();
    let (first, second) = (run.mount(70), run.mount(71));
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let _session = session_with(Arc::clone(&server), shutdown.clone(), run.files.clone()).await;
    for (held, history) in [(first, vec![1, -70]), (second, vec![1, -70, -71])] {
        drop(held);
        eventually(|| *server.history.lock() == history).await;
    }
    eventually(|| run.sessions() == [1]).await;
    shutdown.cancel();
}

/// Before its own session, those that died before; then one beside it; then its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_ended_by_its_number_and_the_time_of_its_opening() {
    for (is_old, expected) in
        [(false, vec![Some(OPENED), None, Some(OPENED), Some(OPENED)]), (true, vec![None; 4])]
    {
        let run = RunDir::new();
        drop((run.mount(70), run.mount_opened(71, None)));
        let beside = run.mount(72);
        let (server, shutdown) =
            (Arc::new(Forgetful { is_old, ..Forgetful::default() }), CancellationToken::new());
        let session = session_with(Arc::clone(&server), shutdown.clone(), run.files.clone()).await;
        drop(beside);
        eventually(|| server.ended_of.lock().len() == 3).await;
        session.end(Duration::from_secs(20)).await.unwrap();
        let mut ended = server.ended_of.lock().clone();
        // The directory is read in any order.
        ended[..2].sort_unstable_by_key(Option::is_none);
        assert_eq!(ended, expected, "old: {is_old}");
        shutdown.cancel();
    }
}

/// So that the next mount names the session as the server did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_file_says_when_the_session_was_opened() {
    for (is_old, opened) in [(false, Some(OPENED)), (true, None)] {
        let run = RunDir::new();
        let server = Arc::new(Forgetful { is_old, detach_fails: true, ..Forgetful::default() });
        let shutdown = CancellationToken::new();
        let session = session_with(server, shutdown.clone(), run.files.clone()).await;
        session.end(Duration::from_secs(20)).await.unwrap_err();
        drop(session);
        let found = run.files.dead(ClusterId(1));
        assert_eq!((found[0].session, found[0].opened), (SessionId(1), opened));
        shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_stays_until_the_session_is_ended() {
    let run = RunDir::new();
    drop(run.mount(70));
    let (server, shutdown) =
        (Arc::new(Forgetful { detach_fails: true, ..Forgetful::default() }), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone(), run.files.clone()).await;
    assert_eq!(*server.history.lock(), [1], "the mount works all the same");
    session.end(Duration::from_secs(20)).await.unwrap_err();
    drop(session);
    assert_eq!(run.sessions(), [1, 70], "its own end failed too");
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_session_has_the_life_file() {
    let run = RunDir::new();
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone(), run.files.clone()).await;
    assert_eq!(run.sessions(), [1]);
    session.calls.broken(&session.calls.attached().await.unwrap());
    eventually(|| session.session() == SessionId(2)).await;
    assert_eq!(run.sessions(), [2]);
    assert_eq!(run.files.dead(ClusterId(1)).len(), 0, "it is held");
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_not_waited_for_longer_than_its_connection_lives() {
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone(), LifeFiles::none()).await;
    let attached = session.calls.attached().await.unwrap();
    tokio::select! {
        biased;
        () = refused_pause(&attached) => panic!("the server is there: it must not be asked again and again"),
        () = tokio::time::sleep(REFUSED_PAUSE / 4) => {}
    }
    session.calls.broken(&attached);
    tokio::select! {
        biased;
        () = refused_pause(&attached) => {}
        () = tokio::time::sleep(REFUSED_PAUSE / 2) => panic!("waited on"),
    }
    shutdown.cancel();
}

/// Its tables were restored from an old copy: it may have the session, and still says nothing new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_went_back_is_not_gone_on_with() {
    // In reverse order: opened with 10, taken up again with 10 and 20, then with 19.
    let generations = Mutex::new(vec![5, 19, 20, 10, 10]);
    let server = Arc::new(Forgetful { generations, ..Forgetful::default() });
    let shutdown = CancellationToken::new();
    let session = session_with(Arc::clone(&server), shutdown.clone(), LifeFiles::none()).await;
    for left in [3, 2] {
        session.calls.broken(&session.calls.attached().await.unwrap());
        eventually(|| server.generations.lock().len() == left).await;
        session.calls.attached().await.unwrap();
        assert_eq!(*server.history.lock(), [1], "it is the same session");
    }
    session.calls.broken(&session.calls.attached().await.unwrap());
    eventually(|| session.session() == SessionId(2)).await;
    assert_eq!(*server.history.lock(), [1, -1, 2], "the old one is ended");
    assert_eq!(session.last.lock().reply.generation, 5);
    shutdown.cancel();
}

fn some_op() -> OpBody {
    OpBody::RemoveXattr { ino: Ino(2), name: "user.a".into() }
}

/// What was sent and told failed happens once, when the server is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_session_gives_up_a_server_that_keeps_answers_back() {
    let limit = Duration::from_millis(200);
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session =
        patient_session(Arc::clone(&server), shutdown.clone(), LifeFiles::none(), Some(limit)).await;
    // A server that owes nothing is not given up, however long nothing is asked of it.
    assert!(tokio::time::timeout(limit * 4, session.given_up()).await.is_err());
    let held = server.held.lock().await;
    let ticket = session.submit(&Caller::default(), some_op());
    let begun = Instant::now();
    session.given_up().await;
    assert!(begun.elapsed() >= limit, "after {:?}", begun.elapsed());
    drop(held);
    ticket.await.unwrap();
    assert_eq!(server.applied.load(Ordering::SeqCst), 1);
    // It has answered: the next one has all its time again.
    assert_eq!(session.calls.patience(), Some(limit));
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_can_be_begun_without_a_connection() {
    let limit = Duration::from_millis(200);
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session =
        patient_session(Arc::clone(&server), shutdown.clone(), LifeFiles::none(), Some(limit)).await;
    session.reachable().await.unwrap();
    shutdown.cancel();
    eventually(|| matches!(&*session.calls.state.borrow(), State::Detached)).await;
    assert_eq!(session.reachable().await, Err(FsError::TimedOut));
    assert_eq!(session.new_ino().await, Err(FsError::TimedOut));
    assert!(!session.log.lock().owes_answers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_session_never_gives_up() {
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone(), LifeFiles::none()).await;
    let _held = server.held.lock().await;
    let _ticket = session.submit(&Caller::default(), some_op());
    assert!(tokio::time::timeout(Duration::from_millis(500), session.given_up()).await.is_err());
    assert_eq!(session.calls.patience(), None);
    shutdown.cancel();
}

/// Found by review. Tables that were put back repeat an epoch, with events that count from a lower number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_the_next_session_are_counted_anew() {
    let (server, shutdown) = (Arc::new(Forgetful::default()), CancellationToken::new());
    let session = session_with(Arc::clone(&server), shutdown.clone(), LifeFiles::none()).await;
    let asked = |session, received| server.events_asked.lock().contains(&(SessionId(session), received));
    eventually(|| asked(1, 100)).await;
    session.calls.broken(&session.calls.attached().await.unwrap());
    eventually(|| server.events_asked.lock().iter().any(|(session, _)| *session == SessionId(2))).await;
    assert!(asked(2, 0) && !asked(2, 100), "{:?}", server.events_asked.lock());
    shutdown.cancel();
}
