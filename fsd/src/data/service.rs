//! RPC in: the store as a tarpc service.
//!
//! tarpc drops a handler at its deadline or when the caller goes away. That harms nobody here: a put that
//! is queued is written all the same (and found as an orphan if nobody commits it), a delete is repeated.

use super::store::Store;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::proto::data::{BlockStat, DataService, DataStat, GetReply, GetRequest, PutRequest};
use std::sync::Arc;
use tarpc::context::Context;

/// Serves one store. Clones share it.
#[derive(Clone)]
pub struct DataServer {
    store: Arc<Store>,
}

impl DataServer {
    /// A server for `store`.
    #[must_use]
    pub fn new(store: Arc<Store>) -> DataServer {
        DataServer { store }
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
        self.store.get(request).await
    }

    async fn delete(self, _: Context, blocks: Vec<BlockRef>) -> FsResult<()> {
        self.store.delete(blocks).await.all()
    }

    async fn stat(self, _: Context) -> FsResult<DataStat> {
        self.store.stat().await
    }

    async fn list(self, _: Context, volume: VolumeId, after: u32) -> FsResult<Vec<BlockStat>> {
        self.store.list(volume, after)
    }
}
