//! Blocks to and from data daemons: finds the daemon, tries another where one fails, verifies what
//! comes.

use super::nodes::{Nodes, Tries};
use super::session::Session;
use super::{DataClient, MetaClient};
use bytes::Bytes;
use cairn_common::config::{Address, DATA_PORT};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, NodeId};
use cairn_common::proto::data::{DataStub, GetRequest, PutRequest};
use cairn_common::rpc::{ConnectOptions, Pool};
use cairn_common::told::Told;
use cairn_common::wire::Payload;
use cairn_common::wire::checksum::{piece_checksums, verify_pieces};
use cairn_common::wire::hello::Identity;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections to each data daemon: enough that a large block does not hold up the others.
const CONNECTIONS: usize = 2;
/// Longest wait for one put or get, connecting included. A disk that takes longer is as good as dead.
const DATA_DEADLINE: Duration = Duration::from_secs(30);
/// Pauses before a failed call is tried again: doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What comes so soon after a wait that was given up belongs to it.
const ASKED_AGAIN: Duration = Duration::from_millis(500);
/// A block that arrives damaged is asked for this often: the wire may have been at fault, the disk is
/// not getting better.
const CORRUPT_TRIES: u32 = 3;

/// See the module.
pub struct BlockClient {
    session: Arc<Session>,
    nodes: Mutex<Nodes>,
    pools: Mutex<HashMap<NodeId, (String, Pool<DataStub>)>>,
    identity: Identity,
    /// `soft`: give up after this long.
    timeout: Option<Duration>,
    /// When a read last was given up.
    unread: Mutex<Option<Instant>>,
    /// Blocks that the log names.
    damaged: Told<BlockRef>,
}

impl BlockClient {
    /// A client that learns of data daemons from `session`.
    #[must_use]
    pub fn new(session: Arc<Session>, identity: Identity, timeout: Option<Duration>) -> BlockClient {
        let (nodes, pools, unread) = (Mutex::default(), Mutex::default(), Mutex::default());
        BlockClient { session, nodes, pools, identity, timeout, unread, damaged: Told::default() }
    }

    fn pool(&self, node: NodeId, address: &str) -> FsResult<Pool<DataStub>> {
        let mut pools = self.pools.lock();
        if let Some((known, pool)) = pools.get(&node)
            && known == address
        {
            return Ok(pool.clone());
        }
        let parsed: Address = address.parse().map_err(|_| FsError::Invalid)?;
        let options = ConnectOptions::new(vec![parsed], DATA_PORT, self.identity.clone());
        let pool = Pool::new(CONNECTIONS, &options, DataStub::from);
        pools.insert(node, (address.to_owned(), pool.clone()));
        Ok(pool)
    }

    async fn refresh(&self) -> FsResult<()> {
        let known = self.nodes.lock().epoch();
        if let Some(map) = self.session.cluster_map(known).await? {
            self.nodes.lock().update(map);
        }
        Ok(())
    }

    /// The daemon for a new block, none of the `full` ones; asks for the map where none is known.
    async fn choose(&self, full: &[NodeId]) -> FsResult<(NodeId, Pool<DataStub>)> {
        let mut chosen = self.nodes.lock().choose(Instant::now(), full);
        if chosen.is_none() {
            self.refresh().await?;
            chosen = self.nodes.lock().choose(Instant::now(), full);
        }
        let (node, address) = chosen.ok_or(FsError::Unavailable)?;
        Ok((node, self.pool(node, &address)?))
    }

    async fn holder(&self, block: BlockRef) -> FsResult<Pool<DataStub>> {
        let mut holder = self.nodes.lock().holder(block.volume);
        if holder.is_none() {
            self.refresh().await?;
            holder = self.nodes.lock().holder(block.volume);
        }
        let (node, address) = holder.ok_or(FsError::Unavailable)?;
        self.pool(node, &address)
    }

    /// Stores a block where there is room and a disk that works.
    async fn put_once(&self, request: PutRequest) -> FsResult<BlockRef> {
        let mut tries = Tries::default();
        loop {
            let (node, pool) = self.choose(tries.full()).await?;
            let error = match self.put_to(node, &pool, request.clone()).await {
                Err(error) if tries.go_on(node, error) => error,
                result => return result,
            };
            self.refresh().await?;
            if !tries.may_help(error, &self.nodes.lock()) {
                return Err(error);
            }
        }
    }

    async fn put_to(&self, node: NodeId, pool: &Pool<DataStub>, request: PutRequest) -> FsResult<BlockRef> {
        let result = pool
            .call(DATA_DEADLINE, |client, context| async move { client.put(context, request).await })
            .await;
        match result {
            Ok(block) => self.nodes.lock().learn(block.volume, node),
            Err(_) => self.nodes.lock().failed(node, Instant::now()),
        }
        result
    }

    async fn get_once(&self, request: GetRequest) -> FsResult<(u32, Bytes)> {
        let pool = self.holder(request.block).await?;
        let reply = pool
            .call(DATA_DEADLINE, |client, context| async move { client.get(context, request).await })
            .await?;
        let bytes = reply.payload.into_bytes();
        match verify_pieces(&bytes, &reply.checksums) {
            Ok(()) => Ok((reply.offset, bytes)),
            Err(_piece) => Err(FsError::Corrupt),
        }
    }

    /// Repeats what failed for reasons that pass: for ever, or for so long.
    async fn persist<T, Fut: Future<Output = FsResult<T>>>(
        &self,
        limit: Option<Duration>,
        once: impl FnMut() -> Fut,
    ) -> FsResult<T> {
        match limit {
            None => self.persist_hard(once).await,
            Some(limit) => {
                tokio::time::timeout(limit, self.persist_hard(once)).await.unwrap_or(Err(FsError::TimedOut))
            }
        }
    }

    /// How long to try to read. The kernel asks at once again for what its read-ahead did not get: a program
    /// should not wait twice for that.
    fn read_limit(&self) -> Option<Duration> {
        let again = self.unread.lock().is_some_and(|then| then.elapsed() < ASKED_AGAIN);
        self.timeout.map(|limit| if again { limit.min(ASKED_AGAIN) } else { limit })
    }

    async fn persist_hard<T, Fut: Future<Output = FsResult<T>>>(
        &self,
        mut once: impl FnMut() -> Fut,
    ) -> FsResult<T> {
        let mut pause = FIRST_PAUSE;
        let mut damaged = 0;
        loop {
            let error = match once().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            damaged += u32::from(error == FsError::Corrupt);
            let passes = error.is_transient() || error == FsError::Sealed || error == FsError::Corrupt;
            if !passes || damaged == CORRUPT_TRIES {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            // Daemons may have moved.
            self.refresh().await?;
        }
    }
}

impl DataClient for BlockClient {
    async fn put(&self, payload: Payload, summary_len: u32) -> FsResult<BlockRef> {
        let request = PutRequest {
            session: self.session.session(),
            summary_len,
            checksums: piece_checksums(payload.segments()),
            payload,
        };
        // A repeated put leaves a second block that nobody refers to; it is found by its session.
        self.persist(self.timeout, || self.put_once(request.clone())).await
    }

    async fn get(&self, block: BlockRef, offset: u32, length: u32) -> FsResult<(u32, Bytes)> {
        let result =
            self.persist(self.read_limit(), || self.get_once(GetRequest { block, offset, length })).await;
        match result {
            Err(FsError::TimedOut) => *self.unread.lock() = Some(Instant::now()),
            Err(FsError::Corrupt) if self.damaged.is_news(block) => {
                let (volume, sequence) = (block.volume, block.sequence);
                tracing::error!(
                    target: "cairn",
                    "block {sequence} of volume {volume} is damaged: programs get EIO where they read it; 'cairn fsck' names its files"
                );
            }
            _ => {}
        }
        result
    }
}
