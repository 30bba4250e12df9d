//! RPC in: admit the request, ask the lease machine, wait for recalls, then read or apply.
//!
//! Thin on purpose: what may be cached is decided in `lease`, who is connected in `session`, what an
//! operation does in the namespace rules. Mutations run in tasks of their own, because a request's
//! handler is dropped when its caller goes away.

mod batch;
mod check;
mod clean;
mod files;
mod finish;
mod look;
mod members;
mod status;
mod whose;

use super::cluster::Cluster;
use super::machine::Machine;
use super::reaper;
use super::session::{ReapWork, SessionTimes, Sessions};
use bytes::Bytes;
use cairn_common::attr::{Attr, Timestamp};
use cairn_common::env::{Clock, SystemClock};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Epoch, Ino, NodeId, Seq, SessionId, VolumeId};
use cairn_common::namespace::op::{LockRequest, Name};
use cairn_common::namespace::tables::{BlockUse, HeldLock};
use cairn_common::proto::meta::{
    AttachReply, AttachRequest, Batch, BatchReply, BlockFate, CloseItem, ClusterMap, DirPage, Event,
    ExtentPage, FileRange, FsStat, InoRange, LivePieces, MetaService, MetaStatus, OpenReply, RegisterReply,
    RegisterRequest, RelocateRequest, ReportReply, ReportRequest, SessionKey, TakenUp, TreeReport,
    UserReport,
};
use cairn_common::rpc::detached;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tarpc::context::Context;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Most items in one `close`.
const CLOSES_MAX: usize = 65_536;
/// How long a `sync` waits for the batch that it speaks of. The batch may itself wait for other mounts; the
/// caller, who knows whether it is still under way, asks again.
const ARRIVAL: Duration = Duration::from_secs(10);

/// What the parts of the service share.
pub(crate) struct Meta {
    pub(crate) machine: Machine,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) cluster: Cluster,
    /// Another one in each process.
    incarnation: u64,
    started: Instant,
    /// Held by who reads the whole tree.
    whole_tree: Arc<tokio::sync::Mutex<()>>,
}

/// The metadata service of one process. Clones share it.
#[derive(Clone)]
pub struct Service {
    meta: Arc<Meta>,
    /// Over which its requests come; 0 for requests of this process.
    connection: u64,
}

impl Service {
    /// Starts the service over an open machine, with its background tasks in `tasks`; they run until
    /// they are aborted with the runtime or the tracker's token.
    pub fn start(machine: Machine, times: SessionTimes, tasks: &Background) -> Service {
        let (service, work) = Service::over(machine, times, Arc::new(SystemClock::new()), rand::random());
        let meta = &service.meta;
        tasks.spawn(reaper::run(meta.machine.clone(), meta.sessions.clone(), work));
        tasks.spawn(members::end_grace(meta.clone()));
        tasks.spawn(members::evict_silent(meta.clone()));
        service
    }

    /// The service without its background tasks, and what the reaper has to do: nothing happens here by itself, as a
    /// simulation wants it. `incarnation` is any number that no other start is given.
    pub fn over(
        machine: Machine,
        times: SessionTimes,
        clock: Arc<dyn Clock>,
        incarnation: u64,
    ) -> (Service, mpsc::UnboundedReceiver<ReapWork>) {
        let first = first_id(machine.epoch(), incarnation);
        let known = machine.sessions().into_iter().map(|info| (info.session, info.client)).collect();
        let (reap, work) = mpsc::unbounded_channel();
        let sessions = Sessions::new(first, known, times, reap, clock);
        if sessions.tell(|leases| leases.absent()) == 0 {
            sessions.scan_orphans();
        }
        let meta = Arc::new(Meta {
            cluster: Cluster::new(machine.clone()),
            machine,
            sessions,
            incarnation,
            started: Instant::now(),
            whole_tree: Arc::default(),
        });
        (Service { meta, connection: 0 }, work)
    }

    /// The service for the requests that come over one connection. A mount's later connections have higher numbers.
    #[must_use]
    pub fn for_connection(&self, connection: u64) -> Service {
        Service { meta: self.meta.clone(), connection }
    }

    /// Who is connected.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.meta.sessions
    }

    /// Answers calls that wait for events now, so that a shutdown need not wait for them.
    pub fn stop_waiting(&self) {
        self.meta.sessions.stop_waiting();
    }
}

/// Where ids of events and generations of leases begin: above those of all earlier incarnations, with room for half a
/// million million. Tables that were restored from an old copy repeat epochs; at a random place of an epoch, a mount that
/// knew the other incarnation of it finds all ids above what it knows, or all below, and starts anew.
fn first_id(epoch: Epoch, incarnation: u64) -> u64 {
    (epoch.0 << 40) | (incarnation >> 25)
}

/// Where numbers of sessions begin: in the same way, with room for millions. A mount that knew the other incarnation of an epoch
/// gets a number that it has not had, and nothing of its old session is taken for the new one's.
fn first_session(epoch: Epoch, incarnation: u64) -> SessionId {
    SessionId(first_id(epoch, incarnation) >> 16)
}

/// Tasks that run until the service stops.
#[derive(Clone, Default)]
pub struct Background {
    tasks: TaskTracker,
    stop: tokio_util::sync::CancellationToken,
}

impl Background {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Ends all tasks and waits for them.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Every request that runs, also a small one, has the memory of the largest: large and rare ones are boxed.
impl MetaService for Service {
    async fn attach(self, _: Context, request: AttachRequest) -> FsResult<AttachReply> {
        Box::pin(members::attach(self.meta, self.connection, request)).await
    }

    async fn detach(self, _: Context, session: SessionId) -> FsResult<()> {
        detached(members::end(self.meta, session)).await
    }

    async fn take_up(
        self,
        _: Context,
        request: AttachRequest,
        opened: Option<Timestamp>,
    ) -> FsResult<TakenUp> {
        Box::pin(members::take_up(self.meta, self.connection, request, opened)).await
    }

    async fn end(self, _: Context, key: SessionKey) -> FsResult<()> {
        detached(members::end_keyed(self.meta, key)).await
    }

    async fn allocate_inos(self, _: Context, session: SessionId) -> FsResult<InoRange> {
        Box::pin(members::allocate_inos(&self.meta, session)).await
    }

    async fn apply(self, _: Context, batch: Batch) -> FsResult<BatchReply> {
        finish::to_the_end(async move { batch::apply(&self.meta, batch).await }).await
    }

    async fn sync(self, _: Context, session: SessionId, through: Seq) -> FsResult<Seq> {
        self.meta.sessions.enter(session, |_| ())?;
        self.meta.machine.sync_session(session, through, ARRIVAL).await
    }

    async fn events(
        self,
        _: Context,
        session: SessionId,
        received: u64,
        wait_ms: u64,
    ) -> FsResult<Vec<Event>> {
        self.meta.sessions.events(session, received, Duration::from_millis(wait_ms)).await
    }

    async fn acknowledge(self, _: Context, session: SessionId, event: u64) -> FsResult<()> {
        self.meta.sessions.acknowledge(session, event)
    }

    async fn refuse(self, _: Context, session: SessionId, event: u64, error: FsError) -> FsResult<()> {
        self.meta.sessions.refuse_event(session, event, error)
    }

    async fn lookup(self, _: Context, session: SessionId, parent: Ino, name: Name) -> FsResult<Attr> {
        look::lookup(&self.meta, session, parent, &name).await
    }

    async fn getattr(self, _: Context, session: SessionId, ino: Ino) -> FsResult<Attr> {
        look::getattr(&self.meta, session, ino).await
    }

    async fn readlink(self, _: Context, session: SessionId, ino: Ino) -> FsResult<Bytes> {
        look::readlink(&self.meta, session, ino).await
    }

    async fn readdir(
        self,
        _: Context,
        session: SessionId,
        ino: Ino,
        cookie: u64,
        max_bytes: u32,
        plus: bool,
    ) -> FsResult<DirPage> {
        look::readdir(&self.meta, session, ino, cookie, max_bytes, plus).await
    }

    async fn getxattr(self, _: Context, session: SessionId, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        look::getxattr(&self.meta, session, ino, &name).await
    }

    async fn listxattr(self, _: Context, session: SessionId, ino: Ino) -> FsResult<Vec<Bytes>> {
        look::listxattr(&self.meta, session, ino).await
    }

    async fn test_lock(
        self,
        _: Context,
        session: SessionId,
        ino: Ino,
        lock: LockRequest,
    ) -> FsResult<Option<HeldLock>> {
        look::test_lock(&self.meta, session, ino, &lock).await
    }

    async fn statfs(self, _: Context, session: SessionId) -> FsResult<FsStat> {
        self.meta.sessions.enter(session, |_| ())?;
        status::statfs(&self.meta).await
    }

    async fn open(self, _: Context, session: SessionId, ino: Ino, write: bool) -> FsResult<OpenReply> {
        files::open(&self.meta, session, ino, write).await
    }

    async fn close(self, _: Context, session: SessionId, items: Vec<CloseItem>) -> FsResult<()> {
        if items.len() > CLOSES_MAX {
            return Err(FsError::TooBig);
        }
        // Not before the table is complete: an open that comes later than its close would stay.
        self.meta.sessions.recovered().await;
        self.meta.sessions.enter_over(session, self.connection, |leases| {
            for item in items {
                leases.close(session, item);
            }
        })
    }

    async fn extents(
        self,
        _: Context,
        session: SessionId,
        ino: Ino,
        start: u64,
        end: u64,
    ) -> FsResult<ExtentPage> {
        files::extents(&self.meta, session, ino, start, end).await
    }

    async fn cluster_map(self, _: Context, known_epoch: u64) -> FsResult<Option<ClusterMap>> {
        self.meta.cluster.map_since(known_epoch)
    }

    async fn register(self, _: Context, request: RegisterRequest) -> FsResult<RegisterReply> {
        detached(async move { self.meta.cluster.register(request).await }).await
    }

    async fn report(self, _: Context, request: ReportRequest) -> FsResult<ReportReply> {
        detached(async move { self.meta.cluster.report(request).await }).await
    }

    async fn create_volume(self, _: Context, node: NodeId) -> FsResult<VolumeId> {
        detached(async move { self.meta.cluster.create_volume(node).await }).await
    }

    async fn status(self, _: Context) -> FsResult<MetaStatus> {
        // It counts rows: not on a thread that others wait for.
        let status = tokio::task::spawn_blocking(move || status::status(&self.meta));
        status.await.map_err(|_panicked| FsError::Io)?
    }

    async fn check(self, _: Context) -> FsResult<TreeReport> {
        check::tree(self.meta).await
    }

    async fn blocks(self, _: Context, after: BlockRef) -> FsResult<Vec<(BlockRef, BlockUse)>> {
        check::blocks(&self.meta, after)
    }

    async fn fates(self, _: Context, blocks: Vec<BlockRef>) -> FsResult<Vec<BlockFate>> {
        check::fates(&self.meta, &blocks)
    }

    async fn ended(self, _: Context, sessions: Vec<SessionId>) -> FsResult<Vec<SessionId>> {
        check::ended(&self.meta, sessions).await
    }

    async fn users(self, _: Context, blocks: Vec<BlockRef>) -> FsResult<UserReport> {
        check::users(self.meta, blocks).await
    }

    async fn last_blocks(self, _: Context, node: NodeId, after: VolumeId) -> FsResult<Vec<BlockRef>> {
        // Rows that were removed since the last checkpoint are walked over: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || self.meta.cluster.last_blocks(node, after));
        read.await.map_err(|_panicked| FsError::Io)?
    }

    async fn live_pieces(self, _: Context, block: BlockRef, ranges: Vec<FileRange>) -> FsResult<LivePieces> {
        clean::live_pieces(&self.meta, block, &ranges)
    }

    async fn relocate(self, _: Context, request: RelocateRequest) -> FsResult<()> {
        detached(async move { clean::relocate(&self.meta, request).await }).await
    }
}
