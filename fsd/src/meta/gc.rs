//! Dead blocks: which may be deleted on a data daemon's disk.

use super::machine::Machine;
use super::tables::Snapshot;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, NodeId};

/// Most blocks in one reply.
pub const DELETE_PAGE: usize = 4096;

/// The next blocks that `node` is to delete.
///
/// Only what is dead for good: if power went now and the end of the log with it, a file could have
/// one of these blocks again. So the log is made durable up to what was read, first.
pub async fn dead_blocks(machine: &Machine, node: NodeId) -> FsResult<Vec<BlockRef>> {
    // Rows that were removed since the last checkpoint are walked over: not on a thread that others wait for.
    let blocks = machine.read_long(|snapshot| next_blocks(snapshot, node))?;
    if !blocks.is_empty() {
        machine.sync(machine.progress().applied).await?;
    }
    Ok(blocks)
}

fn next_blocks(snapshot: &Snapshot, node: NodeId) -> FsResult<Vec<BlockRef>> {
    if snapshot.is_delete_queue_empty()? {
        return Ok(Vec::new());
    }
    let mut blocks = Vec::new();
    for (volume, _) in snapshot.volumes()?.iter().filter(|(_, on)| *on == node) {
        blocks.extend(snapshot.delete_queue(*volume, DELETE_PAGE - blocks.len())?);
        if blocks.len() >= DELETE_PAGE {
            break;
        }
    }
    Ok(blocks)
}
