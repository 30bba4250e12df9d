//! What the data role asks of the metadata daemon: a number, volumes, and which blocks are dead or nobody's.

use super::identity::Identity;
use super::volume::Owner;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, NodeId, SessionId, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::DataStat;
use cairn_common::proto::meta::{
    BlockFate, FileRange, LivePieces, MetaStub, RegisterRequest, RelocateRequest, ReportRequest,
};
use cairn_common::rpc::Reconnecting;
use futures::future::{BoxFuture, FutureExt};
use std::sync::Arc;
use std::time::Duration;

/// How long one question may take; connecting is part of it.
const LIMIT: Duration = Duration::from_secs(10);

/// Version of the protocol in which the last blocks can be asked for; an older metadata daemon does not know the question.
const LAST_BLOCKS_SINCE: u16 = 3;

/// Version of the protocol in which blocks can be cleaned: with an older metadata daemon, none is found that could be.
const CLEANING_SINCE: u16 = 4;

/// Answer to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    pub owner: Owner,
    /// Report at least this often.
    pub report_every: Duration,
}

/// The metadata daemon, as the data role sees it. All calls but one may be repeated.
pub trait MetaLink: Send + Sync + 'static {
    /// Says who and where we are.
    fn register(&self, identity: Identity, address: String) -> BoxFuture<'_, FsResult<Registered>>;
    /// A number for a new volume, never given to anyone before.
    fn create_volume(&self, node: NodeId) -> BoxFuture<'_, FsResult<VolumeId>>;
    /// The last block that files use in each of the node's volumes above `after`; nothing at the end.
    fn last_blocks(&self, node: NodeId, after: VolumeId) -> BoxFuture<'_, FsResult<Vec<BlockRef>>>;
    /// Says how we are and what of its last answer has been deleted; answers what to delete.
    fn report(&self, stat: DataStat, deleted: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockRef>>>;
    /// Those of the sessions that can commit nothing any more, durably; at most `BLOCKS_PER_REPLY` are asked about.
    fn ended(&self, sessions: Vec<SessionId>) -> BoxFuture<'_, FsResult<Vec<SessionId>>>;
    /// What has become of each block, in order; at most `BLOCKS_PER_REPLY`.
    fn fates(&self, blocks: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockFate>>>;
    /// Blocks that files use, in order, the first above `after`; at most `BLOCKS_PER_REPLY`.
    fn blocks(&self, after: BlockRef) -> BoxFuture<'_, FsResult<Vec<(BlockRef, BlockUse)>>>;
    /// What of a block is live in these ranges, at most `BLOCKS_PER_REPLY` of them.
    fn live_pieces(&self, block: BlockRef, ranges: Vec<FileRange>) -> BoxFuture<'_, FsResult<LivePieces>>;
    /// Has extents changed over to a new block. The only call that is not to be repeated.
    fn relocate(&self, request: RelocateRequest) -> BoxFuture<'_, FsResult<()>>;
}

impl MetaLink for Reconnecting<MetaStub> {
    fn register(&self, identity: Identity, address: String) -> BoxFuture<'_, FsResult<Registered>> {
        let node = identity.owner.map(|owner| owner.node);
        let request = RegisterRequest { node, identity: identity.identity, address };
        async move {
            let reply =
                self.call(LIMIT, |stub, context| async move { stub.register(context, request).await });
            let reply = reply.await?;
            Ok(Registered {
                owner: Owner { cluster: reply.cluster, node: reply.node },
                report_every: Duration::from_millis(reply.report_every_ms),
            })
        }
        .boxed()
    }

    fn create_volume(&self, node: NodeId) -> BoxFuture<'_, FsResult<VolumeId>> {
        self.call(LIMIT, move |stub, context| async move { stub.create_volume(context, node).await }).boxed()
    }

    fn last_blocks(&self, node: NodeId, after: VolumeId) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        async move {
            if self.get_within(LIMIT).await?.peer().version < LAST_BLOCKS_SINCE {
                return Ok(Vec::new());
            }
            self.call(LIMIT, |stub, context| async move { stub.last_blocks(context, node, after).await })
                .await
        }
        .boxed()
    }

    fn report(&self, stat: DataStat, deleted: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        async move {
            let request = ReportRequest { stat, deleted };
            let reply = self.call(LIMIT, |stub, context| async move { stub.report(context, request).await });
            Ok(reply.await?.delete)
        }
        .boxed()
    }

    fn ended(&self, sessions: Vec<SessionId>) -> BoxFuture<'_, FsResult<Vec<SessionId>>> {
        self.call(LIMIT, |stub, context| async move { stub.ended(context, sessions).await }).boxed()
    }

    fn fates(&self, blocks: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockFate>>> {
        self.call(LIMIT, |stub, context| async move { stub.fates(context, blocks).await }).boxed()
    }

    fn blocks(&self, after: BlockRef) -> BoxFuture<'_, FsResult<Vec<(BlockRef, BlockUse)>>> {
        async move {
            if self.get_within(LIMIT).await?.peer().version < CLEANING_SINCE {
                return Ok(Vec::new());
            }
            self.call(LIMIT, |stub, context| async move { stub.blocks(context, after).await }).await
        }
        .boxed()
    }

    fn live_pieces(&self, block: BlockRef, ranges: Vec<FileRange>) -> BoxFuture<'_, FsResult<LivePieces>> {
        self.call(LIMIT, move |stub, context| async move { stub.live_pieces(context, block, ranges).await })
            .boxed()
    }

    fn relocate(&self, request: RelocateRequest) -> BoxFuture<'_, FsResult<()>> {
        self.call(LIMIT, |stub, context| async move { stub.relocate(context, request).await }).boxed()
    }
}

/// Where the store's volumes get their numbers from.
pub struct LinkedVolumes {
    pub link: Arc<dyn MetaLink>,
    pub node: NodeId,
}

impl super::VolumeIds for LinkedVolumes {
    fn allocate(&self) -> BoxFuture<'_, FsResult<VolumeId>> {
        self.link.create_volume(self.node)
    }
}
