//! Servers in memory: the real rules over maps, behind a queue that answers late; blocks in a map, with
//! failures on request.

use super::tables::Maps;
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Ino, Seq, SessionId, VolumeId};
use cairn_common::limits::PIECE;
use cairn_common::namespace::op::{ExtentData, LockRequest, Name, Op, OpBody, OpResult};
use cairn_common::namespace::tables::{HeldLock, Read};
use cairn_common::namespace::{self};
use cairn_common::proto::meta::{CloseItem, DataLease, DirPage, ExtentPage, FsStat, OpenReply};
use cairn_common::summary;
use cairn_common::wire::Payload;
use cairn_mountd::client::{DataClient, MetaClient, OpTicket, SyncFollows};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// Whose locks they are; the rules look at nothing else of it.
const SESSION: SessionId = SessionId(1);

/// The metadata daemon.
pub struct FakeMeta {
    pub maps: Arc<Mutex<Maps>>,
    /// Every operation that was submitted, in order.
    pub log: Mutex<Vec<Op>>,
    queue: mpsc::UnboundedSender<(Op, oneshot::Sender<OpResult>)>,
    applied: tokio::sync::watch::Receiver<u64>,
    next_ino: AtomicU64,
    pub lease: Mutex<DataLease>,
    /// What the next opens answer.
    pub generation: AtomicU64,
    pub closes: Mutex<Vec<CloseItem>>,
    /// The mount's session: the next one begins when this changes.
    pub session: AtomicU64,
    /// Operations are not applied while this is held.
    pub held: Arc<tokio::sync::Mutex<()>>,
    /// Calls of `getattr`.
    pub getattrs: AtomicU64,
    /// Calls of `statfs`.
    pub statfs: AtomicU64,
    /// Its disk has no room: commits are refused.
    pub full: Arc<AtomicBool>,
    /// What `statfs` says is free.
    pub available: AtomicU64,
    /// It does not answer that.
    pub silent: AtomicBool,
    /// Free on data daemons that are away; `u64::MAX`: on one that has not told yet.
    pub away: AtomicU64,
}

impl FakeMeta {
    /// Must be called inside a runtime.
    pub fn start(seed: u64, slow: bool) -> Arc<FakeMeta> {
        let mut maps = Maps::default();
        namespace::init_root(&mut maps, now(), &Caller::default(), 0o755).unwrap();
        let maps = Arc::new(Mutex::new(maps));
        let (queue, mut ops) = mpsc::unbounded_channel::<(Op, oneshot::Sender<OpResult>)>();
        let (applied_sender, applied) = tokio::sync::watch::channel(0);
        let server = Arc::clone(&maps);
        let held: Arc<tokio::sync::Mutex<()>> = Arc::default();
        let free = Arc::clone(&held);
        let full: Arc<AtomicBool> = Arc::default();
        let refusing = Arc::clone(&full);
        tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            while let Some((op, reply)) = ops.recv().await {
                if slow && rng.random_bool(0.3) {
                    tokio::time::sleep(Duration::from_micros(rng.random_range(0..2000))).await;
                }
                let _free = free.lock().await;
                let is_commit = matches!(op.body, OpBody::Commit(_) | OpBody::CommitAndMove { .. });
                let result = if is_commit && refusing.load(Ordering::SeqCst) {
                    Err(FsError::NoSpace)
                } else {
                    namespace::apply(&mut *server.lock(), SESSION, &op)
                };
                applied_sender.send_modify(|count| *count += 1);
                if slow && rng.random_bool(0.3) {
                    tokio::time::sleep(Duration::from_micros(rng.random_range(0..500))).await;
                }
                let _unwanted = reply.send(result);
            }
        });
        Arc::new(FakeMeta {
            maps,
            log: Mutex::default(),
            queue,
            applied,
            next_ino: AtomicU64::new(100),
            lease: Mutex::new(DataLease::Cached),
            generation: AtomicU64::new(1),
            closes: Mutex::default(),
            session: AtomicU64::new(SESSION.0),
            held,
            getattrs: AtomicU64::new(0),
            statfs: AtomicU64::new(0),
            full,
            available: AtomicU64::new(1 << 40),
            silent: AtomicBool::new(false),
            away: AtomicU64::new(0),
        })
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        namespace::getattr(&*self.maps.lock(), ino).unwrap()
    }

    async fn pause(&self) {
        tokio::task::yield_now().await;
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp { secs: since.as_secs().cast_signed(), nanos: since.subsec_nanos() }
}

impl MetaClient for FakeMeta {
    fn submit_at(&self, time: Timestamp, caller: &Caller, body: OpBody) -> OpTicket {
        let op = Op { time, caller: caller.clone(), body };
        let mut log = self.log.lock();
        log.push(op.clone());
        let (reply, ticket) = OpTicket::new(Seq(log.len() as u64));
        self.queue.send((op, reply)).unwrap();
        ticket
    }
    fn last_submitted(&self) -> Seq {
        Seq(self.log.lock().len() as u64)
    }
    fn sync_follows(&self) -> SyncFollows {
        SyncFollows::new(&Arc::default())
    }
    async fn sync(&self, through: Seq) -> FsResult<()> {
        self.applied.clone().wait_for(|count| *count >= through.0).await.unwrap();
        Ok(())
    }
    fn now(&self) -> Timestamp {
        now()
    }
    fn session(&self) -> SessionId {
        SessionId(self.session.load(Ordering::SeqCst))
    }
    fn try_new_ino(&self) -> Option<Ino> {
        Some(Ino(self.next_ino.fetch_add(1, Ordering::SeqCst)))
    }
    async fn new_ino(&self) -> FsResult<Ino> {
        Ok(self.try_new_ino().unwrap())
    }
    async fn lookup(&self, parent: Ino, name: Name) -> FsResult<Attr> {
        self.pause().await;
        namespace::lookup(&*self.maps.lock(), parent, &name)
    }
    async fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        self.getattrs.fetch_add(1, Ordering::SeqCst);
        self.pause().await;
        namespace::getattr(&*self.maps.lock(), ino)
    }
    async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        namespace::readlink(&*self.maps.lock(), ino)
    }
    async fn readdir(&self, ino: Ino, cookie: u64, max_bytes: u32, plus: bool) -> FsResult<DirPage> {
        self.pause().await;
        namespace::readdir(&*self.maps.lock(), ino, cookie, max_bytes, plus)
    }
    async fn getxattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        namespace::getxattr(&*self.maps.lock(), ino, &name)
    }
    async fn listxattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        namespace::listxattr(&*self.maps.lock(), ino)
    }
    async fn test_lock(&self, ino: Ino, lock: LockRequest) -> FsResult<Option<HeldLock>> {
        namespace::test_lock(&*self.maps.lock(), SESSION, ino, &lock)
    }
    async fn statfs(&self) -> FsResult<FsStat> {
        self.statfs.fetch_add(1, Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let (available, totals) = (self.available.load(Ordering::SeqCst), self.maps.lock().totals()?);
        Ok(FsStat { capacity: available, available, totals })
    }
    async fn away(&self) -> FsResult<Option<u64>> {
        let away = self.away.load(Ordering::SeqCst);
        Ok((away != u64::MAX).then_some(away))
    }
    async fn open(&self, ino: Ino, _write: bool) -> FsResult<OpenReply> {
        self.pause().await;
        let maps = self.maps.lock();
        Ok(OpenReply {
            attr: namespace::getattr(&*maps, ino)?,
            lease: *self.lease.lock(),
            generation: self.generation.load(Ordering::SeqCst),
            extents: namespace::extents(&*maps, ino, 0, u64::MAX)?,
        })
    }
    fn close(&self, item: CloseItem) {
        self.closes.lock().push(item);
        let mut maps = self.maps.lock();
        if maps.is_orphan(item.ino).unwrap() {
            while !namespace::reap(&mut *maps, item.ino, 100).unwrap() {}
        }
    }
    async fn extents(&self, ino: Ino, start: u64, end: u64) -> FsResult<ExtentPage> {
        self.pause().await;
        let mut page = namespace::extents(&*self.maps.lock(), ino, start, end)?;
        // Short pages, so that paging is tried.
        if page.extents.len() > 8 {
            page.end = page.extents[8].offset;
            page.extents.truncate(8);
        }
        Ok(page)
    }
}

/// The data daemon.
#[derive(Default)]
pub struct FakeData {
    pub blocks: Mutex<HashMap<BlockRef, Bytes>>,
    pub puts: AtomicU64,
    pub gets: AtomicU64,
    /// What the next puts answer instead.
    pub failures: Mutex<Vec<FsError>>,
    /// No block has room.
    pub full: AtomicBool,
    /// Nothing is stored while this is held.
    pub held: Arc<tokio::sync::Mutex<()>>,
    pub slow: bool,
}

impl FakeData {
    /// The bytes of an extent, as whoever knows the metadata finds them.
    pub fn bytes(&self, data: &ExtentData, length: usize) -> Bytes {
        match data {
            ExtentData::Inline(bytes) => bytes.slice(..length),
            ExtentData::Reserved => Bytes::from(vec![0; length]),
            ExtentData::Block { block, offset } => {
                let start = *offset as usize;
                self.blocks.lock()[block].slice(start..start + length)
            }
        }
    }

    /// Forgets blocks that the metadata put into the delete queue.
    pub fn delete(&self, maps: &mut Maps) {
        let mut blocks = self.blocks.lock();
        for block in maps.deleted.drain(..) {
            blocks.remove(&block);
        }
    }
}

impl DataClient for FakeData {
    async fn put(&self, payload: Payload, summary_len: u32) -> FsResult<BlockRef> {
        let number = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        if self.slow {
            tokio::time::sleep(Duration::from_micros(number * 7919 % 3000)).await;
        }
        let _free = self.held.lock().await;
        if let Some(error) = self.failures.lock().pop() {
            return Err(error);
        }
        if self.full.load(Ordering::SeqCst) {
            return Err(FsError::NoSpace);
        }
        let bytes = payload.into_bytes();
        let (content, tail) = bytes.split_at(bytes.len() - summary_len as usize);
        let entries = summary::decode(tail).unwrap();
        let covered: usize = entries.iter().map(|entry| entry.length as usize).sum();
        assert_eq!(covered, content.len(), "the summary tells of each byte");
        let sequence = u32::try_from(number).unwrap();
        let block = BlockRef { volume: VolumeId(1), sequence, cookie: 7 };
        self.blocks.lock().insert(block, bytes);
        Ok(block)
    }

    async fn get(&self, block: BlockRef, offset: u32, length: u32) -> FsResult<(u32, Bytes)> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let bytes = self.blocks.lock().get(&block).cloned().ok_or(FsError::NotFound)?;
        let start = offset as usize / PIECE * PIECE;
        let end = (offset as usize + length as usize).next_multiple_of(PIECE).min(bytes.len());
        if start >= end {
            return Err(FsError::Invalid);
        }
        Ok((u32::try_from(start).unwrap(), bytes.slice(start..end)))
    }
}
