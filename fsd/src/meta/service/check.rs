//! What `cairn fsck` asks.

use super::Meta;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, SessionId};
use cairn_common::namespace::check;
use cairn_common::namespace::tables::{BlockUse, Read};
use cairn_common::namespace::users::{self, BlockUser};
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, BlockFate, TreeReport, UserReport};
use std::sync::Arc;

/// Most bytes of paths in one answer: it must fit a frame.
const PATHS_MAX: usize = 1 << 20;
/// What an entry of the answer takes beside its paths, about.
const USER_BYTES: usize = 32;

/// The tree compared with itself.
pub async fn tree(meta: Arc<Meta>) -> FsResult<TreeReport> {
    whole_tree(meta, |meta| {
        meta.machine
            .read(|snapshot| Ok(TreeReport { problems: check::check(snapshot)?, totals: snapshot.totals()? }))
    })
    .await
}

/// A page of the blocks that files use.
pub fn blocks(meta: &Meta, after: BlockRef) -> FsResult<Vec<(BlockRef, BlockUse)>> {
    meta.machine.read(|snapshot| snapshot.blocks_after(after, BLOCKS_PER_REPLY))
}

/// What has become of each block.
pub fn fates(meta: &Meta, blocks: &[BlockRef]) -> FsResult<Vec<BlockFate>> {
    bounded(blocks)?;
    meta.machine.read(|snapshot| blocks.iter().map(|block| snapshot.fate(*block)).collect())
}

/// Those of the sessions that have ended for good.
pub async fn ended(meta: &Meta, mut sessions: Vec<SessionId>) -> FsResult<Vec<SessionId>> {
    bounded(&sessions)?;
    sessions.retain(|session| meta.machine.has_ended(*session));
    // If power went now and the end of the log with it, one of them could come back.
    meta.machine.sync(meta.machine.progress().applied).await?;
    Ok(sessions)
}

/// Which files use the blocks.
pub async fn users(meta: Arc<Meta>, blocks: Vec<BlockRef>) -> FsResult<UserReport> {
    bounded(&blocks)?;
    let blocks = blocks.into_iter().collect();
    let all =
        whole_tree(meta, move |meta| meta.machine.read(|snapshot| users::users(snapshot, &blocks))).await?;
    let mut room = PATHS_MAX;
    let fits = |user: &BlockUser| {
        let size = USER_BYTES + user.paths.iter().map(|path| path.len() + size_of::<u64>()).sum::<usize>();
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    };
    let fitting = all.iter().map(fits).take_while(|fits| *fits).count();
    let complete = fitting == all.len();
    Ok(UserReport { users: all.into_iter().take(fitting).collect(), complete })
}

fn bounded<T>(asked: &[T]) -> FsResult<()> {
    if asked.len() > BLOCKS_PER_REPLY { Err(FsError::TooBig) } else { Ok(()) }
}

/// Takes long, and memory for all that it looks at: one at a time, and on a thread of its own.
async fn whole_tree<T: Send + 'static>(
    meta: Arc<Meta>,
    read: impl FnOnce(&Meta) -> FsResult<T> + Send + 'static,
) -> FsResult<T> {
    let alone = meta.whole_tree.clone().lock_owned().await;
    // The thread has it, not this task: it reads on when its caller has gone away.
    let reading = move || {
        let _alone = alone;
        read(&meta)
    };
    tokio::task::spawn_blocking(reading).await.map_err(|error| {
        tracing::error!("reading the whole tree failed: {error}");
        FsError::Io
    })?
}
