//! Dead blocks are dead for good, also those of a command whose entry only the cache has.

use super::*;
use crate::disk::sim::SimDisk;
use crate::meta::gc::dead_blocks;
use cairn_common::ids::BlockRef;
use cairn_common::namespace::op::{Commit, Extent, ExtentData, FileCommit, Piece};
use std::sync::Arc;

const NODE: NodeId = NodeId(1);

fn block(sequence: u32) -> BlockRef {
    BlockRef { volume: VolumeId(1), sequence, cookie: 7 }
}

/// The first page of `ino` is in block `sequence` from now on.
fn write(ino: Ino, sequence: u32) -> Op {
    let data = ExtentData::Block { block: block(sequence), offset: 0 };
    let piece = Piece { ino, extent: Extent { offset: 0, length: 4096, data } };
    let file = FileCommit { ino, size_at_least: 4096, mtime: None, kill_suidgid: false };
    let commit = Commit { blocks: vec![(block(sequence), 4096)], pieces: vec![piece], files: vec![file] };
    Op { body: OpBody::Commit(commit), ..chmod(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_handed_out_only_when_the_command_that_killed_them_is_durable() {
    let config = MachineConfig { sync_after: Duration::from_secs(3600), ..small() };
    let birth = Birth { cluster: ClusterId(1), time: time(1) };
    let machine = Machine::open_on(Arc::new(SimDisk::new()), None, config, &birth).unwrap();
    let node = Command::RegisterNode { node: None, identity: 1, address: "a:1".into() };
    machine.submit(node).await.unwrap();
    machine.submit(Command::CreateVolume { node: NODE }).await.unwrap();
    let session = open_session(&machine).await;
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply else {
        panic!("no numbers")
    };
    let ops = vec![make("f", range.first), write(range.first, 1)];
    batch(&machine, session, 1, ops).await.unwrap()[1].clone().unwrap();

    // Else the sync of what is published would bring the rest along.
    machine.sync(machine.progress().applied).await.unwrap();
    let overwrite = Command::Batch { session, first: Seq(3), ops: vec![write(range.first, 2)], full: false };
    let killed_by = machine.submit(overwrite).await.unwrap().index;
    assert!(machine.progress().durable < killed_by);
    assert_eq!(dead_blocks(&machine, NODE).await.unwrap(), [block(1)]);
    assert!(machine.progress().durable >= killed_by);
}
