//! Commands: what the metadata log carries. The state changes by these and nothing else.

use crate::meta::log::PAYLOAD_MAX;
use bytes::BytesMut;
use cairn_common::attr::Timestamp;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Epoch, Ino, LogIndex, NodeId, Seq, SessionId, VolumeId};
use cairn_common::namespace::op::{LockType, Op, OpBody, OpResult, Relocation};
use cairn_common::proto::meta::{ClientInfo, InoRange};
use cairn_common::wire::codec;
use serde::{Deserialize, Serialize};

/// One entry of the log. Times and random numbers are inside, so that applying it is deterministic.
///
/// The order is part of the log's format (bincode encodes the index): new ones go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A server begins to serve: a new epoch. Answers `Epoch`.
    Start,
    /// A new session, of the next number; in logs from before [`Command::OpenSessionFrom`]. Answers `Session`.
    OpenSession { client: ClientInfo, time: Timestamp },
    /// The end of a session, by detach or eviction: its locks go, nothing of it is applied any more.
    /// Answers `Done`, also for an unknown session.
    EndSession { session: SessionId },
    /// A range of inode numbers. Answers `Inos`.
    AllocateInos { session: SessionId },
    /// A batch of operations, exactly once. Answers `Results`. `full`: the disk was nearly full when the
    /// batch was proposed; operations that may grow the state are answered `NoSpace`, the others are applied.
    Batch { session: SessionId, first: Seq, ops: Vec<Op>, full: bool },
    /// Removes inodes without names that nobody has open. Answers `Reaped`.
    Reap { inos: Vec<Ino> },
    /// A data daemon says where it is. `node` or else `identity` finds a known one. Answers `Node`.
    RegisterNode { node: Option<NodeId>, identity: u128, address: String },
    /// A new volume on a node. Answers `Volume`.
    CreateVolume { node: NodeId },
    /// A node has deleted these blocks of the delete queue. Answers `Done`.
    Deleted { node: NodeId, blocks: Vec<BlockRef> },
    /// A data daemon has copied what was live of some blocks into `block`. Answers `Done`.
    Relocate { block: BlockRef, length: u32, pieces: Vec<Relocation> },
    /// A new session, of the next number that is not below `least`: where numbers begin differs from start to start, so
    /// that tables restored from an older copy give none again that mounts of before have. Answers `Session`.
    OpenSessionFrom { client: ClientInfo, time: Timestamp, least: SessionId },
}

/// First byte of an entry; the rest is the command by the wire's codec.
const VERSION: u8 = 1;

impl Command {
    /// The entry for the log. `TooBig` if it is above the log's limit.
    pub fn encode(&self) -> FsResult<Vec<u8>> {
        let mut out = BytesMut::from(&[VERSION][..]);
        codec::encode_into(self, &mut out, PAYLOAD_MAX - 1).map_err(|_| FsError::TooBig)?;
        Ok(out.into())
    }

    /// The command in an entry; the error says in words what is wrong.
    pub fn decode(entry: &[u8]) -> Result<Command, String> {
        match entry.split_first() {
            Some((&VERSION, rest)) => codec::decode(rest, PAYLOAD_MAX).map_err(|error| error.to_string()),
            Some((version, _)) => Err(format!("has command version {version}, this program reads {VERSION}")),
            None => Err("is empty".into()),
        }
    }

    /// True if the answer promises something that must survive a loss of power: a number that is never
    /// given again, or that nothing of an ended session is applied.
    #[must_use]
    pub fn must_be_durable(&self) -> bool {
        match self {
            Command::Start
            | Command::OpenSession { .. }
            | Command::OpenSessionFrom { .. }
            | Command::EndSession { .. }
            | Command::AllocateInos { .. }
            | Command::RegisterNode { .. }
            | Command::CreateVolume { .. } => true,
            Command::Batch { .. }
            | Command::Reap { .. }
            | Command::Deleted { .. }
            | Command::Relocate { .. } => false,
        }
    }

    /// True if it may make the state grow, and is to be refused, or of a batch some operations, when the
    /// disk is nearly full.
    #[must_use]
    pub fn needs_space(&self) -> bool {
        match self {
            Command::Batch { ops, .. } => ops.iter().any(|op| grows(&op.body)),
            Command::OpenSession { .. }
            | Command::OpenSessionFrom { .. }
            | Command::CreateVolume { .. }
            | Command::Relocate { .. } => true,
            _ => false,
        }
    }
}

/// True if an operation may make the state grow. Part of what [`Command::Batch`] means: a log that has
/// batches with `full` must give the same replies later.
pub(super) fn grows(body: &OpBody) -> bool {
    match body {
        OpBody::Unlink { .. }
        | OpBody::Rmdir { .. }
        | OpBody::RemoveXattr { .. }
        | OpBody::ReleaseLocks { .. }
        | OpBody::Relocate => false,
        // They change an inode that is there; cutting a file is a way to make room.
        OpBody::SetAttr { .. } | OpBody::Touch { .. } => false,
        // An unlock may leave two locks of one, up to a limit; refused, it would keep others waiting.
        OpBody::Lock { lock, .. } => lock.kind != LockType::Unlock,
        OpBody::Create(_)
        | OpBody::Symlink { .. }
        | OpBody::Tmpfile { .. }
        | OpBody::Link { .. }
        | OpBody::Rename(_)
        | OpBody::SetXattr { .. }
        | OpBody::Commit(_)
        | OpBody::Append { .. }
        | OpBody::Fallocate { .. }
        | OpBody::CloneRange { .. }
        | OpBody::CommitAndMove { .. } => true,
    }
}

/// What an applied command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    Epoch(Epoch),
    Session(SessionId),
    Inos(InoRange),
    /// One per operation of the batch, in order.
    Results(Vec<OpResult>),
    /// Inodes that are not wholly gone yet (very many extents): propose them again.
    Reaped {
        unfinished: Vec<Ino>,
    },
    Node(NodeId),
    Volume(VolumeId),
}

/// What a command did that others may have to hear of. Each list is sorted and has no doubles.
/// A repeated batch, answered from the store, has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Inodes whose content, size or extents changed.
    pub data: Vec<Ino>,
    /// Inodes whose attributes or extended attributes changed, but not their content (new ones included).
    pub attrs: Vec<Ino>,
    /// Inodes that are gone.
    pub removed: Vec<Ino>,
    /// Inodes that lost their last name and wait to be reaped.
    pub orphaned: Vec<Ino>,
    /// Inodes on which a lock was released or weakened.
    pub unlocked: Vec<Ino>,
}

impl Effects {
    /// Sorts the lists and drops doubles. What changed in content is not said to have changed in
    /// attributes too, and what is gone did not change.
    pub fn normalize(&mut self) {
        for list in
            [&mut self.data, &mut self.attrs, &mut self.removed, &mut self.orphaned, &mut self.unlocked]
        {
            list.sort_unstable();
            list.dedup();
        }
        let Effects { data, attrs, removed, .. } = self;
        data.retain(|ino| removed.binary_search(ino).is_err());
        attrs.retain(|ino| removed.binary_search(ino).is_err() && data.binary_search(ino).is_err());
    }
}

/// A command that has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its place in the log; for a repeated batch, that of the last one applied at all.
    pub index: LogIndex,
    pub reply: Reply,
    pub effects: Effects,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    /// Logs must stay readable: the second byte is the command's place among all.
    #[test]
    fn golden_bytes() {
        let (client, time) = (ClientInfo::default(), Timestamp { secs: 1, nanos: 2 });
        let open = Command::OpenSession { client: client.clone(), time };
        let from = Command::OpenSessionFrom { client, time, least: SessionId(300) };
        for (command, golden) in
            [(open, &[1, 1, 0, 0, 0, 0, 2, 2][..]), (from, &[1, 10, 0, 0, 0, 0, 2, 2, 251, 44, 1])]
        {
            assert_eq!(command.encode().unwrap(), golden);
            assert_eq!(Command::decode(golden).unwrap(), command);
        }
    }
}
