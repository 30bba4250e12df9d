//! Blocks that were stored and never committed: deleted when nobody can commit them any more, and not before.

use crate::data_common::{Ids, content, open, put_request, read_all};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, NodeId, SessionId, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::{DataStat, PutRequest};
use cairn_common::proto::meta::{BlockFate, FileRange, LivePieces, RelocateRequest};
use cairn_fsd::data::leaks::Leaks;
use cairn_fsd::data::link::Registered;
use cairn_fsd::data::{Identity, MetaLink, Store};
use cairn_fsd::disk::sim::SimDisk;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const VOLUME: u64 = 8 << 20;

/// A metadata daemon that knows what has ended and which blocks it has.
#[derive(Default)]
struct Knows {
    ended: Mutex<BTreeSet<SessionId>>,
    fates: Mutex<BTreeMap<BlockRef, BlockFate>>,
    away: Mutex<bool>,
    asked: Mutex<Vec<BlockRef>>,
}

impl Knows {
    fn answer<T: Send + 'static>(&self, answer: impl FnOnce() -> T) -> BoxFuture<'_, FsResult<T>> {
        let result = if *self.away.lock() { Err(FsError::Unavailable) } else { Ok(answer()) };
        async { result }.boxed()
    }
}

impl MetaLink for Knows {
    fn register(&self, _: Identity, _: String) -> BoxFuture<'_, FsResult<Registered>> {
        unreachable!("nobody registers")
    }

    fn create_volume(&self, _: NodeId) -> BoxFuture<'_, FsResult<VolumeId>> {
        unreachable!("the store has its own numbers")
    }

    fn last_blocks(&self, _: NodeId, _: VolumeId) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        unreachable!("nobody registers")
    }

    fn report(&self, _: DataStat, _: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        unreachable!("nobody reports")
    }

    fn ended(&self, mut sessions: Vec<SessionId>) -> BoxFuture<'_, FsResult<Vec<SessionId>>> {
        self.answer(|| {
            sessions.retain(|session| self.ended.lock().contains(session));
            sessions
        })
    }

    fn fates(&self, blocks: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockFate>>> {
        self.answer(|| {
            self.asked.lock().extend(&blocks);
            let fates = self.fates.lock();
            blocks.iter().map(|block| fates.get(block).copied().unwrap_or(BlockFate::Unknown)).collect()
        })
    }

    fn blocks(&self, _: BlockRef) -> BoxFuture<'_, FsResult<Vec<(BlockRef, BlockUse)>>> {
        unreachable!("nobody cleans")
    }

    fn live_pieces(&self, _: BlockRef, _: Vec<FileRange>) -> BoxFuture<'_, FsResult<LivePieces>> {
        unreachable!("nobody cleans")
    }

    fn relocate(&self, _: RelocateRequest) -> BoxFuture<'_, FsResult<()>> {
        unreachable!("nobody cleans")
    }
}

async fn put(store: &Store, session: u64, tag: u64) -> BlockRef {
    let request = PutRequest { session: SessionId(session), ..put_request(content(tag, 5_000)) };
    store.put(request).await.unwrap()
}

async fn begin() -> (Arc<Store>, Arc<Knows>, Leaks) {
    let store = open(&SimDisk::new(), VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let meta = Arc::new(Knows::default());
    let leaks = Leaks::new(store.clone(), meta.clone(), Duration::ZERO);
    (store, meta, leaks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_nobody_can_commit_is_deleted() {
    let (store, meta, mut leaks) = begin().await;
    let (used, dying, lost) = (put(&store, 1, 1).await, put(&store, 1, 2).await, put(&store, 1, 3).await);
    let other = put(&store, 2, 4).await;
    meta.fates.lock().insert(used, BlockFate::Used(BlockUse { length: 5_000, live: 5_000 }));
    meta.fates.lock().insert(dying, BlockFate::Dying);
    assert_eq!(leaks.look().await, Ok(0), "its session may still commit it");
    assert_eq!(read_all(&store, lost).await.unwrap(), content(3, 5_000));

    meta.ended.lock().insert(SessionId(1));
    assert_eq!(leaks.look().await, Ok(1));
    assert_eq!(read_all(&store, lost).await, Err(FsError::NotFound));
    for (block, tag) in [(used, 1), (dying, 2), (other, 4)] {
        assert_eq!(read_all(&store, block).await.unwrap(), content(tag, 5_000), "{block}");
    }
    assert_eq!(*meta.asked.lock(), [used, dying, lost], "nobody else's");

    meta.asked.lock().clear();
    assert_eq!(leaks.look().await, Ok(0));
    assert!(meta.asked.lock().is_empty(), "each is asked about once");
    // A mount that does not know yet that it was evicted.
    let late = put(&store, 1, 5).await;
    assert_eq!(leaks.look().await, Ok(1));
    assert_eq!(read_all(&store, late).await, Err(FsError::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_answered_is_asked_again() {
    let (store, meta, mut leaks) = begin().await;
    let lost = put(&store, 1, 1).await;
    meta.ended.lock().insert(SessionId(1));
    *meta.away.lock() = true;
    assert_eq!(leaks.look().await, Err(FsError::Unavailable));
    assert_eq!(read_all(&store, lost).await.unwrap(), content(1, 5_000));
    *meta.away.lock() = false;
    assert_eq!(leaks.look().await, Ok(1));
    assert_eq!(read_all(&store, lost).await, Err(FsError::NotFound));
}

/// Cleaning stores a block first and has files changed over to it then: in between it is nobody's, and must stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cleaning_stored_is_deleted_only_when_it_is_old() {
    let (store, meta, mut leaks) = begin().await;
    let (lost, used) = (put(&store, 0, 1).await, put(&store, 0, 2).await);
    assert_eq!(leaks.look().await, Ok(0), "it may be changed over to right now");
    let young = put(&store, 0, 3).await;
    meta.fates.lock().insert(used, BlockFate::Used(BlockUse { length: 5_000, live: 5_000 }));
    assert_eq!(leaks.look().await, Ok(1));
    assert_eq!(read_all(&store, lost).await, Err(FsError::NotFound));
    for (block, tag) in [(used, 2), (young, 3)] {
        assert_eq!(read_all(&store, block).await.unwrap(), content(tag, 5_000), "{block}");
    }
    assert_eq!(*meta.asked.lock(), [lost, used]);
    assert_eq!(leaks.look().await, Ok(1), "now the young one is old");
    assert_eq!(read_all(&store, young).await, Err(FsError::NotFound));
}
