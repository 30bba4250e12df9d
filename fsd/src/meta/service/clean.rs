//! What data daemons ask when they clean blocks that are partly dead.

use super::Meta;
use crate::meta::apply::Command;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::BlockRef;
use cairn_common::namespace;
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, FileRange, LivePieces, RelocateRequest};

/// What of a block is live.
pub fn live_pieces(meta: &Meta, block: BlockRef, ranges: &[FileRange]) -> FsResult<LivePieces> {
    if ranges.len() > BLOCKS_PER_REPLY {
        return Err(FsError::TooBig);
    }
    // Ranges of files that were cut into many extents take long: not on a thread that others wait for.
    meta.machine.read_long(|snapshot| namespace::live_pieces(snapshot, block, ranges))
}

/// Changes extents over to a new block, durably: a loss of power must not make a block unknown that was found to be known.
pub async fn relocate(meta: &Meta, request: RelocateRequest) -> FsResult<()> {
    let RelocateRequest { block, length, pieces } = request;
    let applied = meta.machine.submit(Command::Relocate { block, length, pieces }).await?;
    meta.machine.sync(applied.index).await
}
