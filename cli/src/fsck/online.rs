//! Questions to daemons, page by page.

use super::ask::{AskData, AskMeta};
use crate::connect;
use anyhow::{Context as _, Result, anyhow};
use cairn_common::config::Address;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::limits::FRAME_PAYLOAD_MAX;
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::{BlockStat, DataStub, GetRequest};
use cairn_common::proto::meta::{
    BLOCKS_PER_REPLY, BlockFate, ClusterMap, MetaStatus, MetaStub, NodeInfo, TreeReport, UserReport,
};
use cairn_common::rpc::Reconnecting;
use cairn_common::wire::checksum::verify_pieces;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One page, or one block.
const PAGE_LIMIT: Duration = Duration::from_secs(30);
/// Reading a whole tree.
const TREE_LIMIT: Duration = Duration::from_secs(1800);

/// The metadata daemon.
pub struct Meta {
    link: Reconnecting<MetaStub>,
}

impl Meta {
    pub fn new(addresses: Vec<Address>) -> Meta {
        Meta { link: connect::meta(addresses) }
    }

    pub async fn status(&self) -> FsResult<MetaStatus> {
        self.link.call(connect::PATIENCE, |client, context| async move { client.status(context).await }).await
    }

    pub async fn tree(&self) -> Result<TreeReport> {
        let answer = self.link.call(TREE_LIMIT, |client, context| async move { client.check(context).await });
        answer.await.context("the metadata daemon did not finish its check (its log says why)")
    }
}

impl AskMeta for Meta {
    type Data = Data;

    async fn blocks(&self) -> Result<BTreeMap<BlockRef, BlockUse>> {
        let mut all = BTreeMap::new();
        let mut after = BlockRef::default();
        loop {
            let page = self
                .link
                .call(PAGE_LIMIT, |client, context| async move { client.blocks(context, after).await })
                .await
                .context("ask the metadata daemon for its blocks")?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = *last;
            all.extend(page);
        }
    }

    async fn map(&self) -> Result<ClusterMap> {
        let status = self.status().await.context("ask the metadata daemon for its data daemons")?;
        Ok(status.map)
    }

    async fn fates(&self, blocks: &[BlockRef]) -> Result<Vec<BlockFate>> {
        let mut fates = Vec::with_capacity(blocks.len());
        for page in blocks.chunks(BLOCKS_PER_REPLY) {
            let asked = page.to_vec();
            let answer = self
                .link
                .call(PAGE_LIMIT, |client, context| async move { client.fates(context, asked).await })
                .await
                .context("ask the metadata daemon what has become of blocks")?;
            if answer.len() != page.len() {
                return Err(anyhow!(
                    "the metadata daemon gave {} answers for {} blocks",
                    answer.len(),
                    page.len()
                ));
            }
            fates.extend(answer);
        }
        Ok(fates)
    }

    async fn ended(&self, sessions: BTreeSet<SessionId>) -> Result<BTreeSet<SessionId>> {
        let mut ended = BTreeSet::new();
        for page in Vec::from_iter(sessions).chunks(BLOCKS_PER_REPLY) {
            let asked = page.to_vec();
            let answer = self
                .link
                .call(PAGE_LIMIT, |client, context| async move { client.ended(context, asked).await });
            ended.extend(answer.await.context("ask the metadata daemon which sessions have ended")?);
        }
        Ok(ended)
    }

    async fn users(&self, blocks: Vec<BlockRef>) -> Result<UserReport> {
        let answer =
            self.link.call(TREE_LIMIT, |client, context| async move { client.users(context, blocks).await });
        answer.await.context("ask the metadata daemon which files are touched")
    }

    async fn data(&self, node: &NodeInfo) -> Result<Data, String> {
        let address =
            node.address.parse::<Address>().map_err(|error| format!("has no usable address ({error})"))?;
        let data = Data { link: connect::data(address) };
        data.answers().await.map_err(|error| format!("does not answer ({error})"))?;
        Ok(data)
    }
}

/// One data daemon.
pub struct Data {
    link: Reconnecting<DataStub>,
}

impl Data {
    /// Whether it answers at all.
    async fn answers(&self) -> FsResult<()> {
        let stat = |client: DataStub, context| async move { client.stat(context).await };
        self.link.call(connect::PATIENCE, stat).await.map(|_stat| ())
    }
}

impl AskData for Data {
    async fn list(&self, volume: VolumeId) -> FsResult<Vec<BlockStat>> {
        let mut all: Vec<BlockStat> = Vec::new();
        loop {
            let after = all.last().map_or(0, |stat| stat.block.sequence);
            let list = |client: DataStub, context| async move { client.list(context, volume, after).await };
            let page = self.link.call(PAGE_LIMIT, list).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    async fn verify(&self, block: BlockRef) -> FsResult<u64> {
        let length = u32::try_from(FRAME_PAYLOAD_MAX).map_err(|_| FsError::Invalid)?;
        let request = GetRequest { block, offset: 0, length };
        let get = |client: DataStub, context| async move { client.get(context, request).await };
        let reply = self.link.call(PAGE_LIMIT, get).await?;
        let bytes = reply.payload.into_bytes();
        verify_pieces(&bytes, &reply.checksums).map_err(|_piece| FsError::Corrupt)?;
        Ok(bytes.len() as u64)
    }

    async fn delete(&self, blocks: Vec<BlockRef>) -> Result<()> {
        let delete =
            self.link.call(PAGE_LIMIT, |client, context| async move { client.delete(context, blocks).await });
        Ok(delete.await?)
    }
}
