//! A row of a table as a line says it, and back: key and value byte for byte.

use super::text::{Block, Hex, Hex64, Hex128, Perm, Raw, Time};
use crate::meta::tables::values::{self, PRESENT};
use crate::meta::tables::{NodeRow, SessionRow, Table, keys};
use cairn_common::attr::{Attr, FileKind};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, NodeId, Seq, SessionId, VolumeId};
use cairn_common::limits::FRAME_HEADER_MAX;
use cairn_common::namespace::op::{Extent, ExtentData, LockFamily, LockOwner};
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode};
use cairn_common::proto::meta::ClientInfo;
use cairn_common::wire::codec;
use serde::{Deserialize, Serialize};

/// A row. The variants are in the order of [`Table::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Row {
    Inode(InodeLine),
    Dentry {
        parent: Ino,
        cookie: Hex64,
        /// 0: the marker of an entry that was removed.
        ino: Ino,
        #[serde(with = "Kind")]
        kind: FileKind,
        name: Raw,
    },
    Extent {
        ino: Ino,
        offset: u64,
        length: u64,
        data: Data,
    },
    Xattr {
        ino: Ino,
        name: Raw,
        value: Raw,
    },
    Lock {
        ino: Ino,
        locks: Vec<LockLine>,
    },
    LockBySession {
        session: SessionId,
        ino: Ino,
    },
    Block {
        block: Block,
        length: u32,
        live: u64,
    },
    Delete {
        block: Block,
    },
    Orphan {
        ino: Ino,
    },
    Node {
        node: NodeId,
        identity: Hex128,
        address: String,
    },
    Volume {
        volume: VolumeId,
        node: NodeId,
    },
    Session(SessionLine),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InodeLine {
    pub ino: Ino,
    #[serde(with = "Kind")]
    pub kind: FileKind,
    pub perm: Perm,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub size: u64,
    pub allocated: u64,
    pub data_version: u64,
    pub parent: Ino,
    pub entries: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    #[serde(default, skip_serializing_if = "Raw::is_empty")]
    pub target: Raw,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Data {
    Block { block: Block, offset: u32 },
    Inline(Raw),
    Reserved,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockLine {
    #[serde(with = "Family")]
    pub family: LockFamily,
    pub write: bool,
    pub session: SessionId,
    pub owner: Hex64,
    pub start: u64,
    pub end: u64,
    pub pid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionLine {
    pub session: SessionId,
    pub host: String,
    pub mount_point: String,
    pub version: String,
    pub pid: u32,
    pub opened: Time,
    pub applied: Seq,
    /// Replies of the last batch, each as the wire's codec has it.
    pub results: Vec<Hex>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FileKind", rename_all = "snake_case")]
enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "LockFamily", rename_all = "snake_case")]
enum Family {
    Posix,
    Flock,
}

/// A row as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub table: Table,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Row {
    /// The line's form of a row. `Corrupt` if the row is not what this program writes, byte for byte.
    pub fn of(table: Table, key: &[u8], value: &[u8]) -> FsResult<Row> {
        let row = decode(table, key, value)?;
        let stored = row.stored()?;
        let same = (stored.table, &*stored.key, &*stored.value) == (table, key, value);
        if same { Ok(row) } else { Err(FsError::Corrupt) }
    }

    /// Key and value. `TooBig` if the value is above a limit.
    pub fn stored(&self) -> FsResult<Stored> {
        let mut value = Vec::new();
        let (table, key) = encode(self, &mut value)?;
        Ok(Stored { table, key, value })
    }
}

fn fixed<const N: usize>(key: &[u8]) -> FsResult<&[u8; N]> {
    key.try_into().map_err(|_| FsError::Corrupt)
}

fn pair(key: &[u8]) -> FsResult<(u64, u64)> {
    let key = fixed(key)?;
    Ok((keys::first_of(key), keys::second_of(key)))
}

fn number(key: &[u8]) -> FsResult<u32> {
    Ok(u32::from_be_bytes(*fixed(key)?))
}

fn decode(table: Table, key: &[u8], value: &[u8]) -> FsResult<Row> {
    Ok(match table {
        Table::Inode => {
            let ino = keys::ino_of(fixed(key)?);
            Row::Inode(InodeLine::of(values::decode_inode(ino, value)?))
        }
        Table::Dentry => {
            let (parent, cookie) = pair(key)?;
            let Dentry { name, ino, kind, .. } = values::decode_dentry(cookie, value)?;
            Row::Dentry { parent: Ino(parent), cookie: Hex64(cookie), ino, kind, name: Raw(name) }
        }
        Table::Extent => {
            let (ino, offset) = pair(key)?;
            let Extent { length, data, .. } = values::decode_extent(offset, value)?;
            Row::Extent { ino: Ino(ino), offset, length, data: Data::of(data) }
        }
        Table::Xattr => {
            let (ino, name) = key.split_first_chunk().ok_or(FsError::Corrupt)?;
            let (name, value) = (Raw(name.to_vec().into()), Raw(values::decode_xattr(value)?));
            Row::Xattr { ino: keys::ino_of(ino), name, value }
        }
        Table::Lock => {
            let locks = values::decode_locks(value)?;
            Row::Lock { ino: keys::ino_of(fixed(key)?), locks: locks.into_iter().map(LockLine::of).collect() }
        }
        Table::LockBySession => {
            let (session, ino) = pair(key)?;
            Row::LockBySession { session: SessionId(session), ino: Ino(ino) }
        }
        Table::Block => {
            let BlockUse { length, live } = values::decode_block(value)?;
            Row::Block { block: Block(keys::block_of(fixed(key)?)), length, live }
        }
        Table::Delete => Row::Delete { block: Block(keys::block_of(fixed(key)?)) },
        Table::Orphan => Row::Orphan { ino: keys::ino_of(fixed(key)?) },
        Table::Node => {
            let NodeRow { node, identity, address } = values::decode_node(NodeId(number(key)?), value)?;
            Row::Node { node, identity: Hex128(identity), address }
        }
        Table::Volume => Row::Volume { volume: VolumeId(number(key)?), node: values::decode_volume(value)? },
        Table::Session => {
            let session = SessionId(u64::from_be_bytes(*fixed(key)?));
            Row::Session(SessionLine::of(session, values::decode_session(value)?)?)
        }
    })
}

/// Puts the value into `value`; answers table and key.
fn encode(row: &Row, value: &mut Vec<u8>) -> FsResult<(Table, Vec<u8>)> {
    Ok(match row {
        Row::Inode(line) => {
            values::encode_inode(&line.inode(), value);
            (Table::Inode, keys::ino(line.ino).to_vec())
        }
        Row::Dentry { parent, cookie: Hex64(cookie), ino, kind, name } => {
            let dentry = Dentry { cookie: *cookie, name: name.0.clone(), ino: *ino, kind: *kind };
            values::encode_dentry(&dentry, value);
            (Table::Dentry, keys::pair(parent.0, *cookie).to_vec())
        }
        Row::Extent { ino, offset, length, data } => {
            let extent = Extent { offset: *offset, length: *length, data: data.extent_data() };
            values::encode_extent(&extent, value);
            (Table::Extent, keys::pair(ino.0, *offset).to_vec())
        }
        Row::Xattr { ino, name, value: given } => {
            values::encode_xattr(&given.0, value);
            (Table::Xattr, keys::xattr(*ino, &name.0))
        }
        Row::Lock { ino, locks } => {
            let locks: Vec<HeldLock> = locks.iter().map(LockLine::lock).collect();
            values::encode_locks(&locks, value);
            (Table::Lock, keys::ino(*ino).to_vec())
        }
        Row::LockBySession { session, ino } => {
            value.extend_from_slice(&PRESENT);
            (Table::LockBySession, keys::pair(session.0, ino.0).to_vec())
        }
        Row::Block { block, length, live } => {
            value.extend_from_slice(&values::encode_block(BlockUse { length: *length, live: *live }));
            (Table::Block, keys::block(block.0).to_vec())
        }
        Row::Delete { block } => {
            value.extend_from_slice(&PRESENT);
            (Table::Delete, keys::block(block.0).to_vec())
        }
        Row::Orphan { ino } => {
            value.extend_from_slice(&PRESENT);
            (Table::Orphan, keys::ino(*ino).to_vec())
        }
        Row::Node { node, identity, address } => {
            let row = NodeRow { node: *node, identity: identity.0, address: address.clone() };
            values::encode_node(&row, value);
            (Table::Node, keys::node(*node).to_vec())
        }
        Row::Volume { volume, node } => {
            value.extend_from_slice(&values::encode_volume(*node));
            (Table::Volume, keys::volume(*volume).to_vec())
        }
        Row::Session(line) => {
            values::encode_session(&line.row()?, value)?;
            (Table::Session, keys::session(line.session).to_vec())
        }
    })
}

impl InodeLine {
    fn of(Inode { attr, parent, entries, target }: Inode) -> InodeLine {
        InodeLine {
            ino: attr.ino,
            kind: attr.kind,
            perm: Perm(attr.perm),
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            rdev: attr.rdev,
            size: attr.size,
            allocated: attr.allocated,
            data_version: attr.data_version,
            parent,
            entries,
            atime: attr.atime.into(),
            mtime: attr.mtime.into(),
            ctime: attr.ctime.into(),
            btime: attr.btime.into(),
            target: Raw(target),
        }
    }

    fn inode(&self) -> Inode {
        let attr = Attr {
            ino: self.ino,
            kind: self.kind,
            perm: self.perm.0,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            rdev: self.rdev,
            size: self.size,
            allocated: self.allocated,
            atime: self.atime.into(),
            mtime: self.mtime.into(),
            ctime: self.ctime.into(),
            btime: self.btime.into(),
            data_version: self.data_version,
        };
        Inode { attr, parent: self.parent, entries: self.entries, target: self.target.0.clone() }
    }
}

impl Data {
    fn of(data: ExtentData) -> Data {
        match data {
            ExtentData::Block { block, offset } => Data::Block { block: Block(block), offset },
            ExtentData::Inline(bytes) => Data::Inline(Raw(bytes)),
            ExtentData::Reserved => Data::Reserved,
        }
    }

    fn extent_data(&self) -> ExtentData {
        match self {
            Data::Block { block, offset } => ExtentData::Block { block: block.0, offset: *offset },
            Data::Inline(Raw(bytes)) => ExtentData::Inline(bytes.clone()),
            Data::Reserved => ExtentData::Reserved,
        }
    }
}

impl LockLine {
    fn of(HeldLock { session, owner, write, start, end, pid }: HeldLock) -> LockLine {
        LockLine { family: owner.family, write, session, owner: Hex64(owner.owner), start, end, pid }
    }

    fn lock(&self) -> HeldLock {
        let LockLine { family, write, session, owner, start, end, pid } = *self;
        HeldLock { session, owner: LockOwner { family, owner: owner.0 }, write, start, end, pid }
    }
}

impl SessionLine {
    fn of(session: SessionId, row: SessionRow) -> FsResult<SessionLine> {
        let SessionRow { client, opened, applied, results } = row;
        let results = results.iter().map(|result| codec::encode(result).map(Hex));
        Ok(SessionLine {
            session,
            host: client.host,
            mount_point: client.mount_point,
            version: client.version,
            pid: client.pid,
            opened: opened.into(),
            applied,
            results: results.collect::<Result<_, _>>().map_err(|_| FsError::TooBig)?,
        })
    }

    fn row(&self) -> FsResult<SessionRow> {
        let client = ClientInfo {
            host: self.host.clone(),
            mount_point: self.mount_point.clone(),
            version: self.version.clone(),
            pid: self.pid,
        };
        let results = self.results.iter().map(|Hex(bytes)| codec::decode(bytes, FRAME_HEADER_MAX));
        Ok(SessionRow {
            client,
            opened: self.opened.into(),
            applied: self.applied,
            results: results.collect::<Result<_, _>>().map_err(|_| FsError::Corrupt)?,
        })
    }
}
