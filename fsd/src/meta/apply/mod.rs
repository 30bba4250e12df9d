//! The state machine: commands in, replies and effects out, the same wherever the log is applied.
//!
//! Nothing here looks at a clock, draws a number or asks the outside: two machines that apply the same
//! entries have the same tables and give the same replies.

mod command;
mod sessions;

pub use command::{Applied, Command, Effects, Reply};
pub use sessions::{Admission, Sessions};

use super::tables::{NodeRow, Tx};
use cairn_common::attr::{Caller, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Epoch, Ino, NodeId, Seq, SessionId, VolumeId};
use cairn_common::limits::{INO_RANGE, REAP_EXTENTS_MAX};
use cairn_common::namespace;
use cairn_common::namespace::op::{Op, OpBody, OpResult};
use cairn_common::proto::meta::{ClientInfo, InoRange};

/// Permissions of a new root directory; `chmod` changes them.
const ROOT_PERM: u16 = 0o755;

/// The store failed in the middle of a command: the transaction must not be committed, and the machine
/// must stop, since it can't do what the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fatal(pub FsError);

/// Errors that are no answer: the tables could not be read or written.
fn is_fatal(error: FsError) -> bool {
    matches!(error, FsError::Io | FsError::Corrupt)
}

/// The first rows of a new cluster: a root directory.
pub fn init(tx: &mut Tx, time: Timestamp) -> FsResult<()> {
    namespace::init_root(tx, time, &Caller::default(), ROOT_PERM)
}

/// Applies one command. `Ok(Err(_))` is its answer, and means that it changed nothing.
pub fn apply(tx: &mut Tx, sessions: &mut Sessions, command: Command) -> Result<FsResult<Reply>, Fatal> {
    match answer(tx, sessions, command) {
        Err(error) if is_fatal(error) => Err(Fatal(error)),
        answer => Ok(answer),
    }
}

fn answer(tx: &mut Tx, sessions: &mut Sessions, command: Command) -> FsResult<Reply> {
    match command {
        Command::Start => {
            tx.state.epoch = Epoch(tx.state.epoch.0 + 1);
            Ok(Reply::Epoch(tx.state.epoch))
        }
        Command::OpenSession { client, time } => open_session(tx, sessions, client, time, SessionId::NOBODY),
        Command::OpenSessionFrom { client, time, least } => open_session(tx, sessions, client, time, least),
        Command::EndSession { session } => {
            if sessions.end(session) {
                namespace::end_session_locks(tx, session)?;
            }
            Ok(Reply::Done)
        }
        Command::AllocateInos { session } => allocate_inos(tx, sessions, session),
        Command::Batch { session, first, ops, full } => batch(tx, sessions, session, first, &ops, full),
        Command::Reap { inos } => reap(tx, &inos),
        Command::RegisterNode { node, identity, address } => register_node(tx, node, identity, address),
        Command::CreateVolume { node } => create_volume(tx, node),
        Command::Deleted { node, blocks } => deleted(tx, node, &blocks),
        Command::Relocate { block, length, pieces } => {
            namespace::relocate(tx, block, length, &pieces)?;
            Ok(Reply::Done)
        }
    }
}

fn open_session(
    tx: &mut Tx,
    sessions: &mut Sessions,
    client: ClientInfo,
    time: Timestamp,
    least: SessionId,
) -> FsResult<Reply> {
    let session = tx.state.next_session.max(least);
    tx.state.next_session = SessionId(session.0.checked_add(1).ok_or(FsError::NoSpace)?);
    sessions.begin(session, client, time);
    Ok(Reply::Session(session))
}

fn allocate_inos(tx: &mut Tx, sessions: &Sessions, session: SessionId) -> FsResult<Reply> {
    sessions.get(session).ok_or(FsError::Evicted)?;
    let first = tx.state.next_ino;
    tx.state.next_ino = Ino(first.0.checked_add(INO_RANGE).ok_or(FsError::NoSpace)?);
    Ok(Reply::Inos(InoRange { first, count: INO_RANGE }))
}

fn batch(
    tx: &mut Tx,
    sessions: &mut Sessions,
    session: SessionId,
    first: Seq,
    ops: &[Op],
    full: bool,
) -> FsResult<Reply> {
    let (skip, mut results) = match sessions.admit(session, first, ops.len())? {
        Admission::Repeated(results) => return Ok(Reply::Results(results)),
        Admission::New { skip, known } => (skip, known),
    };
    for op in &ops[skip..] {
        let refused = full && command::grows(&op.body);
        let result = if refused { Err(FsError::NoSpace) } else { one(tx, session, op) };
        if let Err(error) = result
            && is_fatal(error)
        {
            return Err(error);
        }
        results.push(result);
    }
    let last = Seq(first.0 + ops.len() as u64 - 1);
    sessions.applied(session, last, results.clone());
    Ok(Reply::Results(results))
}

fn one(tx: &mut Tx, session: SessionId, op: &Op) -> OpResult {
    // Numbers come from ranges: one that was never given out would collide with a later inode.
    if new_ino(&op.body).is_some_and(|ino| ino >= tx.state.next_ino) {
        return Err(FsError::Invalid);
    }
    namespace::apply(tx, session, op)
}

/// The number of the inode that an operation makes, if it makes one.
fn new_ino(body: &OpBody) -> Option<Ino> {
    match body {
        OpBody::Create(create) => Some(create.ino),
        OpBody::Symlink { ino, .. } | OpBody::Tmpfile { ino, .. } => Some(*ino),
        OpBody::Rename(rename) => Some(rename.whiteout),
        _ => None,
    }
}

fn reap(tx: &mut Tx, inos: &[Ino]) -> FsResult<Reply> {
    let mut unfinished = Vec::new();
    for ino in inos {
        if !namespace::reap(tx, *ino, REAP_EXTENTS_MAX)? {
            unfinished.push(*ino);
        }
    }
    Ok(Reply::Reaped { unfinished })
}

fn register_node(tx: &mut Tx, node: Option<NodeId>, identity: u128, address: String) -> FsResult<Reply> {
    let known = match node {
        Some(node) => Some(tx.node(node)?.filter(|row| row.identity == identity).ok_or(FsError::WrongPeer)?),
        None => tx.node_by_identity(identity)?,
    };
    let node = match known {
        Some(row) if row.address == address => return Ok(Reply::Node(row.node)),
        Some(row) => row.node,
        None => {
            let node = tx.state.next_node;
            tx.state.next_node = NodeId(node.0.checked_add(1).ok_or(FsError::NoSpace)?);
            node
        }
    };
    tx.put_node(&NodeRow { node, identity, address });
    Ok(Reply::Node(node))
}

fn create_volume(tx: &mut Tx, node: NodeId) -> FsResult<Reply> {
    tx.node(node)?.ok_or(FsError::NotFound)?;
    let volume = tx.state.next_volume;
    tx.state.next_volume = VolumeId(volume.0.checked_add(1).ok_or(FsError::NoSpace)?);
    tx.put_volume(volume, node);
    Ok(Reply::Volume(volume))
}

fn deleted(tx: &mut Tx, node: NodeId, blocks: &[BlockRef]) -> FsResult<Reply> {
    for block in blocks {
        // Only the node that has the volume can say so.
        if tx.volume(block.volume)? == Some(node) {
            tx.forget_deleted(*block);
        }
    }
    Ok(Reply::Done)
}
