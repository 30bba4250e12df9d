//! RPC in: the store as a tarpc service.
//!
//! tarpc drops a handler at its deadline or when the caller goes away. That harms nobody here: a put that
//! is queued is written all the same (and found as an orphan if nobody commits it), a delete is repeated.

use super::store::Store;
use bytes::Bytes;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::limits::{BLOCK_MAX, FRAME_PAYLOAD_MAX};
use cairn_common::proto::data::{BlockStat, DataService, DataStat, GetReply, GetRequest, PutRequest};
use cairn_common::wire::Payload;
use std::sync::Arc;
use tarpc::context::Context;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of blocks that one connection may have asked for and not read yet: one large block is read from the disk while
/// another is sent. A request beyond that waits without memory, as whoever asked may never read.
const OWED_MAX: usize = 2 * BLOCK_MAX;

/// Serves one store to one connection. Clones share both.
#[derive(Clone)]
pub struct DataServer {
    store: Arc<Store>,
    owed: Arc<Semaphore>,
}

impl DataServer {
    /// A server for `store`, and for one connection.
    #[must_use]
    pub fn new(store: Arc<Store>) -> DataServer {
        DataServer { store, owed: Arc::new(Semaphore::new(OWED_MAX)) }
    }
}

/// Bytes that are counted until they are sent, or nobody wants them any more.
struct Owed {
    bytes: Bytes,
    _counted: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Owed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DataService for DataServer {
    async fn put(self, _: Context, request: PutRequest) -> FsResult<BlockRef> {
        if request.session == SessionId::NOBODY {
            return Err(FsError::Invalid);
        }
        self.store.put(request).await
    }

    async fn get(self, _: Context, request: GetRequest) -> FsResult<GetReply> {
        let most = request.length.min(u32::try_from(FRAME_PAYLOAD_MAX).expect("5 MiB"));
        let mut counted = self.owed.acquire_many_owned(most).await.map_err(|_closed| FsError::Unavailable)?;
        let GetReply { offset, checksums, payload } = self.store.get(request).await?;
        let bytes = payload.into_bytes();
        // Of a short block, less than was asked for.
        drop(counted.split(counted.num_permits().saturating_sub(bytes.len())));
        let payload = Payload::from(Bytes::from_owner(Owed { bytes, _counted: counted }));
        Ok(GetReply { offset, checksums, payload })
    }

    async fn delete(self, _: Context, blocks: Vec<BlockRef>) -> FsResult<()> {
        self.store.delete(blocks).await.all()
    }

    async fn stat(self, _: Context) -> FsResult<DataStat> {
        // What it would say of the disk is what was known before.
        if self.store.disk_hangs() { Err(FsError::TimedOut) } else { self.store.stat().await }
    }

    async fn list(self, _: Context, volume: VolumeId, after: u32) -> FsResult<Vec<BlockStat>> {
        self.store.list(volume, after)
    }
}
