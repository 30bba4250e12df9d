//! The whole role over real sockets and a real directory, with a metadata daemon that the test plays.

use crate::data_common::{content, copy_of, owner, put_request};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, ClusterId, NodeId, SessionId, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::{DataStat, DataStub, GetRequest};
use cairn_common::proto::meta::{BlockFate, FileRange, LivePieces, RelocateRequest};
use cairn_common::rpc::{ConnectOptions, Reconnecting};
use cairn_common::wire::hello;
use cairn_common::wire::hello::ServiceKind;
use cairn_fsd::data::link::Registered;
use cairn_fsd::data::{DataConfig, DataError, Endpoint, Identity, MetaLink, Owner, run};
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(10);

/// A metadata daemon that knows one node and a list of dead blocks.
struct FakeMeta {
    owner: Owner,
    state: Mutex<FakeState>,
}

#[derive(Default)]
struct FakeState {
    away: bool,
    last_volume: u32,
    identities: Vec<Identity>,
    dead: Vec<BlockRef>,
    /// The last blocks that files use.
    used: Vec<BlockRef>,
    reports: u64,
    last_stat: Option<DataStat>,
}

impl FakeMeta {
    fn new(owner: Owner) -> Arc<FakeMeta> {
        Arc::new(FakeMeta { owner, state: Mutex::default() })
    }

    fn answer<T: Send + 'static>(
        &self,
        answer: impl FnOnce(&mut FakeState) -> T,
    ) -> BoxFuture<'_, FsResult<T>> {
        let mut state = self.state.lock();
        let result = if state.away { Err(FsError::Unavailable) } else { Ok(answer(&mut state)) };
        async { result }.boxed()
    }
}

impl MetaLink for FakeMeta {
    fn register(&self, identity: Identity, _address: String) -> BoxFuture<'_, FsResult<Registered>> {
        let owner = self.owner;
        self.answer(move |state| {
            state.identities.push(identity);
            Registered { owner, report_every: Duration::from_millis(100) }
        })
    }

    fn create_volume(&self, _node: NodeId) -> BoxFuture<'_, FsResult<VolumeId>> {
        self.answer(|state| {
            state.last_volume += 1;
            VolumeId(state.last_volume)
        })
    }

    fn last_blocks(&self, _node: NodeId, after: VolumeId) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        self.answer(move |state| {
            state.used.iter().copied().filter(|block| block.volume > after).collect::<Vec<_>>()
        })
    }

    fn report(&self, stat: DataStat, deleted: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        self.answer(|state| {
            state.reports += 1;
            state.last_stat = Some(stat);
            state.dead.retain(|block| !deleted.contains(block));
            state.dead.clone()
        })
    }

    fn ended(&self, _sessions: Vec<SessionId>) -> BoxFuture<'_, FsResult<Vec<SessionId>>> {
        self.answer(|_| Vec::new())
    }

    fn fates(&self, _blocks: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockFate>>> {
        self.answer(|_| Vec::new())
    }

    fn blocks(&self, _after: BlockRef) -> BoxFuture<'_, FsResult<Vec<(BlockRef, BlockUse)>>> {
        self.answer(|_| Vec::new())
    }

    fn live_pieces(&self, _: BlockRef, _: Vec<FileRange>) -> BoxFuture<'_, FsResult<LivePieces>> {
        unreachable!("no block is there to be cleaned")
    }

    fn relocate(&self, _: RelocateRequest) -> BoxFuture<'_, FsResult<()>> {
        unreachable!("no block is there to be cleaned")
    }
}

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), DataError>>,
}

impl Running {
    /// It serves, and the metadata daemon has heard of it.
    async fn ready(dir: &Path, meta: &Arc<FakeMeta>) -> Running {
        let before = meta.state.lock().reports;
        let daemon = Running::start(dir, meta).await;
        eventually("the first report", || meta.state.lock().reports > before).await;
        daemon
    }

    async fn start(dir: &Path, meta: &Arc<FakeMeta>) -> Running {
        Running::start_with(DataConfig::new(dir.into()), meta).await
    }

    async fn start_with(config: DataConfig, meta: &Arc<FakeMeta>) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let endpoint = Endpoint { listener, address: address.to_string(), meta: meta.clone() };
        let task = tokio::spawn(run(config, endpoint, shutdown.clone()));
        Running { address, shutdown, task }
    }

    fn client(&self, cluster: ClusterId) -> Reconnecting<DataStub> {
        let identity = hello::Identity::new(ServiceKind::Data, cluster, "test");
        let options = ConnectOptions::new(vec![self.address.into()], 0, identity);
        Reconnecting::new(options, DataStub::from)
    }

    async fn put(&self, tag: u64, length: usize) -> FsResult<BlockRef> {
        let request = put_request(content(tag, length));
        let put = |stub: DataStub, context| async move { stub.put(context, request).await };
        self.client(owner().cluster).call(LIMIT, put).await
    }

    /// It has ended by itself.
    async fn ended(self) -> Result<(), DataError> {
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn get(client: &Reconnecting<DataStub>, block: BlockRef) -> FsResult<bytes::Bytes> {
    let request = GetRequest { block, offset: 0, length: u32::MAX };
    let reply = client.call(LIMIT, |stub, context| async move { stub.get(context, request).await }).await?;
    Ok(reply.payload.into_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_reports_deletes_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let meta = FakeMeta::new(owner());
    let daemon = Running::ready(dir.path(), &meta).await;
    let client = daemon.client(owner().cluster);
    let mut blocks = Vec::new();
    for tag in 0..4_u32 {
        blocks.push(daemon.put(tag.into(), 1_000_000 * tag as usize + 1).await.unwrap());
    }
    assert_eq!(get(&client, blocks[3]).await.unwrap(), content(3, 3_000_001));

    // What the metadata daemon calls dead is deleted, and it is told.
    meta.state.lock().dead = vec![blocks[1], BlockRef { sequence: 77, ..blocks[1] }];
    eventually("the dead blocks are confirmed", || meta.state.lock().dead.is_empty()).await;
    assert_eq!(get(&client, blocks[1]).await.unwrap_err(), FsError::NotFound);
    eventually("the report shows it", || {
        let state = meta.state.lock();
        let stat = state.last_stat.as_ref().unwrap();
        stat.puts == 4 && stat.volumes.iter().map(|v| v.deleted).sum::<u64>() == 1
    })
    .await;
    daemon.stop().await;

    // Without the metadata daemon what is there is served; once it is back it gets reports again.
    meta.state.lock().away = true;
    let daemon = Running::start(dir.path(), &meta).await;
    let client = daemon.client(owner().cluster);
    assert_eq!(get(&client, blocks[2]).await.unwrap(), content(2, 2_000_001));
    let before = {
        let mut state = meta.state.lock();
        state.away = false;
        state.reports
    };
    eventually("it reports again", || meta.state.lock().reports > before).await;
    {
        let state = meta.state.lock();
        let (first, last) = (state.identities.first().unwrap(), state.identities.last().unwrap());
        assert_eq!((first.owner, last.owner), (None, Some(owner())));
        assert_eq!(first.identity, last.identity);
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirms_only_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let meta = FakeMeta::new(owner());
    let daemon = Running::ready(dir.path(), &meta).await;
    let block = daemon.put(1, 9).await.unwrap();
    daemon.stop().await;
    // There is a volume that can't be opened.
    std::fs::write(dir.path().join("vol-00000999.cv"), b"damaged").unwrap();
    let closed = BlockRef { volume: VolumeId(0x999), ..block };
    meta.state.lock().dead = vec![closed, block];
    let daemon = Running::start(dir.path(), &meta).await;
    eventually("the other is confirmed", || meta.state.lock().dead == [closed]).await;
    let before = meta.state.lock().reports;
    eventually("it was named again", || meta.state.lock().reports > before + 2).await;
    assert_eq!(meta.state.lock().dead, [closed]);
    daemon.stop().await;
}

#[tokio::test]
async fn another_cluster_is_refused_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let meta = FakeMeta::new(owner());
    let daemon = Running::start(dir.path(), &meta).await;
    let stranger = daemon.client(ClusterId(99));
    let block = BlockRef::default();
    assert_eq!(get(&stranger, block).await.unwrap_err(), FsError::WrongPeer);
    daemon.stop().await;

    let other = FakeMeta::new(Owner { cluster: ClusterId(99), ..owner() });
    let daemon = Running::start(dir.path(), &other).await;
    let ended = daemon.ended().await;
    assert!(matches!(ended, Err(DataError::OtherOwner { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let meta = FakeMeta::new(owner());
    let daemon = Running::ready(dir.path(), &meta).await;
    let first = daemon.put(1, 9).await.unwrap();
    // Also one that was made while the daemon ran, and goes on running.
    let old = copy_of(dir.path());
    let second = daemon.put(2, 9).await.unwrap();
    meta.state.lock().used = vec![second];
    daemon.stop().await;

    let refused = Running::start(old.path(), &meta).await.ended().await;
    assert!(matches!(refused, Err(DataError::OldCopy { missing, .. }) if missing == second), "{refused:?}");
    let line = refused.unwrap_err().to_string();
    assert!(line.contains("old copy") && line.contains("--accept-loss") && !line.contains('\n'), "{line}");
    // Nothing that it lacks is used any more, or was used when the metadata was copied: it is as good as any.
    meta.state.lock().used = vec![first];
    Running::ready(old.path(), &meta).await.stop().await;
    // The newest copy is welcome.
    meta.state.lock().used = vec![second];
    Running::ready(dir.path(), &meta).await.stop().await;

    // Something else was written where the second block was.
    let daemon = Running::start(old.path(), &meta).await;
    assert!(matches!(daemon.ended().await, Err(DataError::OldCopy { .. })));
    let config = DataConfig { accept_loss: true, ..DataConfig::new(old.path().into()) };
    let before = meta.state.lock().reports;
    let daemon = Running::start_with(config, &meta).await;
    eventually("it serves all the same", || meta.state.lock().reports > before).await;
    let other = daemon.put(3, 9).await.unwrap();
    assert_eq!((other.volume, other.sequence), (second.volume, second.sequence));
    assert_eq!(get(&daemon.client(owner().cluster), first).await.unwrap(), content(1, 9));
    daemon.stop().await;
    let refused = Running::start(old.path(), &meta).await.ended().await;
    assert!(matches!(refused, Err(DataError::OldCopy { missing, .. }) if missing == second), "{refused:?}");
}

/// Until it is sure that the directory is the newest, nothing new gets into it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_taken_once_the_metadata_daemon_has_answered() {
    let dir = tempfile::tempdir().unwrap();
    let meta = FakeMeta::new(owner());
    let daemon = Running::ready(dir.path(), &meta).await;
    let block = daemon.put(1, 9).await.unwrap();
    daemon.stop().await;
    meta.state.lock().away = true;
    let daemon = Running::start(dir.path(), &meta).await;
    assert_eq!(get(&daemon.client(owner().cluster), block).await.unwrap(), content(1, 9));
    assert_eq!(daemon.put(2, 9).await.unwrap_err(), FsError::Unavailable);
    let before = {
        let mut state = meta.state.lock();
        state.away = false;
        state.reports
    };
    eventually("it reports", || meta.state.lock().reports > before).await;
    daemon.put(2, 9).await.unwrap();
    // From now on also without.
    meta.state.lock().away = true;
    daemon.put(3, 9).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn ends_at_once_while_it_waits_to_be_registered() {
    let dir = tempfile::tempdir().unwrap();
    let meta = FakeMeta::new(owner());
    meta.state.lock().away = true;
    Running::start(dir.path(), &meta).await.stop().await;
}
