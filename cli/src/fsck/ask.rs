//! What a check asks, of daemons that run or of their directories.

use anyhow::Result;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::BlockStat;
use cairn_common::proto::meta::{BlockFate, ClusterMap, NodeInfo, UserReport};
use std::collections::{BTreeMap, BTreeSet};

/// The metadata.
pub trait AskMeta {
    type Data: AskData;

    /// All blocks that files use.
    async fn blocks(&self) -> Result<BTreeMap<BlockRef, BlockUse>>;
    /// Data daemons, and which of them has which volume.
    async fn map(&self) -> Result<ClusterMap>;
    /// What has become of each block, in order.
    async fn fates(&self, blocks: &[BlockRef]) -> Result<Vec<BlockFate>>;
    /// Those of the sessions that can commit nothing any more.
    async fn ended(&self, sessions: BTreeSet<SessionId>) -> Result<BTreeSet<SessionId>>;
    /// Which files use the blocks.
    async fn users(&self, blocks: Vec<BlockRef>) -> Result<UserReport>;
    /// The data of a node; the error says why it can't be looked at.
    async fn data(&self, node: &NodeInfo) -> Result<Self::Data, String>;
}

/// The data of one node.
pub trait AskData {
    /// Everything that a volume has. `NotFound`: there is no such volume; `Corrupt`: its file is none, or damaged so
    /// that nothing in it can be found.
    async fn list(&self, volume: VolumeId) -> FsResult<Vec<BlockStat>>;
    /// Reads a block and compares it with its checksums; how many bytes it has.
    async fn verify(&self, block: BlockRef) -> FsResult<u64>;
    async fn delete(&self, blocks: Vec<BlockRef>) -> Result<()>;
}
