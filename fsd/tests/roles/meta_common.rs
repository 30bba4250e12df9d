//! A metadata daemon in this process, and mounts that are only their protocol.

use cairn_common::attr::{Attr, Caller, FileKind, Timestamp};
use cairn_common::config::{Address, META_PORT};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, ClusterId, Ino, Seq, SessionId};
use cairn_common::namespace::op::{
    Commit, Create, Extent, ExtentData, FileCommit, LockFamily, LockOwner, LockRequest, LockType, Op, OpBody,
    OpReply, OpResult, Piece,
};
use cairn_common::proto::meta::{
    AttachReply, AttachRequest, Batch, BatchReply, ClientInfo, CloseItem, Event, EventBody, MetaStatus,
    MetaStub, OpenReply, OpenState,
};
use cairn_common::rpc::{ConnectOptions, Reconnecting, context_within};
use cairn_common::wire::hello::{Identity, ServiceKind};
use cairn_fsd::config::MetaConfig;
use cairn_fsd::meta::session::SessionTimes;
use cairn_fsd::node::{RunningMeta, start_meta};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// No wait of a test is longer.
pub const LONG: Duration = Duration::from_secs(10);
/// Long enough that something that does not wait would have happened.
pub const SHORT: Duration = Duration::from_millis(100);

/// `future`, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("this takes too long")
}

/// Asks until the answer is yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let end = Instant::now() + LONG;
    while !ask().await {
        assert!(Instant::now() < end, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Session times that no test waits for.
pub fn patient() -> SessionTimes {
    let long = Duration::from_secs(60);
    SessionTimes { timeout: long, recall: long, grace: long }
}

pub struct Server {
    pub dir: TempDir,
    pub address: Address,
    times: SessionTimes,
    running: Option<RunningMeta>,
}

impl Server {
    pub async fn start(times: SessionTimes) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::new(crate::own_loopback(), 0);
        let mut server = Server { dir, address, times, running: None };
        server.start_again().await;
        server
    }

    async fn start_again(&mut self) {
        let mut config = MetaConfig::new(self.meta_dir(), self.address.clone());
        config.sessions = self.times;
        let running = within(start_meta(config)).await.unwrap();
        self.address = running.address().into();
        self.running = Some(running);
    }

    pub fn meta_dir(&self) -> PathBuf {
        self.dir.path().join("meta")
    }

    /// Clean stop and start at the same address.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            within(running.shutdown()).await.unwrap();
        }
    }

    /// A connection without a session.
    pub fn connect(&self) -> Link {
        let identity = Identity::new(ServiceKind::Meta, ClusterId::default(), "test");
        let options = ConnectOptions::new(vec![self.address.clone()], META_PORT, identity);
        Reconnecting::new(options, MetaStub::from)
    }

    pub async fn status(&self) -> MetaStatus {
        ask(&self.connect(), |c| async move { c.status(context()).await }).await.unwrap()
    }
}

pub type Link = Reconnecting<MetaStub>;
type Answer<T> = Result<FsResult<T>, tarpc::client::RpcError>;

pub fn context() -> tarpc::context::Context {
    context_within(LONG)
}

/// One call over a connection.
pub async fn ask<T, F: Future<Output = Answer<T>>>(
    link: &Link,
    call: impl FnOnce(MetaStub) -> F,
) -> FsResult<T> {
    within(link.call(LONG, |client, _| call(client))).await
}

/// A mount as the server sees it.
pub struct Mount {
    pub link: Link,
    pub session: SessionId,
    pub attached: AttachReply,
    next_seq: u64,
    next_ino: u64,
    events: mpsc::UnboundedReceiver<Event>,
    pump: JoinHandle<()>,
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

pub fn client_info() -> ClientInfo {
    ClientInfo { host: "here".into(), mount_point: "/mnt".into(), version: "test".into(), pid: 1 }
}

pub async fn attach(link: &Link, session: Option<SessionId>, opens: Vec<OpenState>) -> FsResult<AttachReply> {
    attach_as(client_info(), link, session, opens).await
}

pub async fn attach_as(
    client: ClientInfo,
    link: &Link,
    session: Option<SessionId>,
    opens: Vec<OpenState>,
) -> FsResult<AttachReply> {
    let request = AttachRequest { session, client, opens };
    ask(link, |c| async move { c.attach(context(), request).await }).await
}

impl Mount {
    /// A new session that polls for events.
    pub async fn new(server: &Server) -> Mount {
        let link = server.connect();
        let attached = attach(&link, None, Vec::new()).await.unwrap();
        Mount::go_on(link, attached).await
    }

    /// What a session does after it attached.
    pub async fn go_on(link: Link, attached: AttachReply) -> Mount {
        let session = attached.session;
        let inos = ask(&link, |c| async move { c.allocate_inos(context(), session).await }).await.unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let pump = tokio::spawn(pump(link.clone(), session, sender));
        Mount {
            link,
            session,
            next_seq: attached.applied.0 + 1,
            attached,
            next_ino: inos.first.0,
            events,
            pump,
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        within(self.events.recv()).await.expect("the session has ended")
    }

    /// Nothing comes for a moment.
    pub async fn no_event(&mut self) {
        let event = timeout(SHORT, self.events.recv()).await;
        assert!(event.is_err(), "unexpected {event:?}");
    }

    pub async fn acknowledge(&self, event: &Event) {
        let (session, id) = (self.session, event.id);
        self.ask(|c| async move { c.acknowledge(context(), session, id).await }).await.unwrap();
    }

    pub async fn refuse(&self, event: &Event, error: FsError) -> FsResult<()> {
        let (session, id) = (self.session, event.id);
        self.ask(|c| async move { c.refuse(context(), session, id, error).await }).await
    }

    /// Waits for an event with this body and acknowledges it.
    pub async fn expect(&mut self, body: EventBody) {
        let event = self.event().await;
        assert_eq!(event.body, body);
        self.acknowledge(&event).await;
    }

    pub async fn ask<T, F: Future<Output = Answer<T>>>(
        &self,
        call: impl FnOnce(MetaStub) -> F,
    ) -> FsResult<T> {
        ask(&self.link, call).await
    }

    pub fn new_ino(&mut self) -> Ino {
        self.next_ino += 1;
        Ino(self.next_ino - 1)
    }

    /// The next batch of this session.
    pub fn batch(&mut self, bodies: Vec<OpBody>) -> Batch {
        let first = Seq(self.next_seq);
        self.next_seq += bodies.len() as u64;
        let op = |body| Op { time: Timestamp { secs: 1_000, nanos: 0 }, caller: Caller::default(), body };
        let ops = bodies.into_iter().map(op).collect();
        Batch { session: self.session, first, ops, sync_follows: false }
    }

    pub async fn send(&self, batch: Batch) -> FsResult<BatchReply> {
        self.ask(|c| async move { c.apply(context(), batch).await }).await
    }

    /// A batch of one operation.
    pub async fn op(&mut self, body: OpBody) -> OpResult {
        let batch = self.batch(vec![body]);
        self.send(batch).await?.results.remove(0)
    }

    /// Makes a file in the root and leaves it open if `open`.
    pub async fn create(&mut self, name: &str, open: bool) -> Ino {
        let ino = self.new_ino();
        match self.op(create(ino, name, open)).await.unwrap() {
            OpReply::Entry { attr, created: true } => assert_eq!(attr.ino, ino),
            other => panic!("{other:?}"),
        }
        ino
    }

    pub async fn open(&self, ino: Ino, write: bool) -> FsResult<OpenReply> {
        let session = self.session;
        self.ask(|c| async move { c.open(context(), session, ino, write).await }).await
    }

    pub async fn close(&self, ino: Ino, opens: u32, writers: u32) {
        let (session, items) = (self.session, vec![CloseItem { ino, opens, writers }]);
        self.ask(|c| async move { c.close(context(), session, items).await }).await.unwrap();
    }

    pub async fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        let session = self.session;
        self.ask(|c| async move { c.getattr(context(), session, ino).await }).await
    }

    pub async fn lookup(&self, name: &'static str) -> FsResult<Attr> {
        let session = self.session;
        self.ask(|c| async move { c.lookup(context(), session, Ino::ROOT, name.into()).await }).await
    }

    pub async fn detach(&self) -> FsResult<()> {
        let session = self.session;
        self.ask(|c| async move { c.detach(context(), session).await }).await
    }
}

async fn pump(link: Link, session: SessionId, sender: mpsc::UnboundedSender<Event>) {
    let mut received = 0;
    loop {
        let call = |c: MetaStub, _| async move {
            c.events(context_within(Duration::from_secs(40)), session, received, 5_000).await
        };
        match link.call(Duration::from_secs(40), call).await {
            Ok(events) => {
                for event in events.into_iter().filter(|event| event.id > received).collect::<Vec<_>>() {
                    received = event.id;
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            }
            Err(error) if error.is_transient() => sleep(Duration::from_millis(10)).await,
            Err(_) => return,
        }
    }
}

pub fn create(ino: Ino, name: &str, open: bool) -> OpBody {
    OpBody::Create(Create {
        parent: Ino::ROOT,
        name: name.as_bytes().to_vec().into(),
        ino,
        kind: FileKind::File,
        perm: 0o644,
        umask: 0,
        rdev: 0,
        exclusive: false,
        open,
    })
}

pub fn unlink(name: &'static str) -> OpBody {
    OpBody::Unlink { parent: Ino::ROOT, name: name.into() }
}

/// Makes `length` bytes of a block visible from the start of a file.
pub fn commit(ino: Ino, block: BlockRef, length: u32) -> OpBody {
    let extent = Extent { offset: 0, length: length.into(), data: ExtentData::Block { block, offset: 0 } };
    let file = FileCommit {
        ino,
        size_at_least: length.into(),
        mtime: Some(Timestamp { secs: 2_000, nanos: 0 }),
        kill_suidgid: false,
    };
    OpBody::Commit(Commit {
        blocks: vec![(block, length)],
        pieces: vec![Piece { ino, extent }],
        files: vec![file],
    })
}

pub fn lock(ino: Ino, kind: LockType, owner: u64) -> OpBody {
    let owner = LockOwner { family: LockFamily::Posix, owner };
    OpBody::Lock { ino, lock: LockRequest { owner, kind, start: 0, end: 99, pid: 1 } }
}

pub fn block(volume: u32, sequence: u32) -> BlockRef {
    BlockRef { volume: cairn_common::ids::VolumeId(volume), sequence, cookie: 7 }
}
