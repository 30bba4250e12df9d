//! The tables of the database. Keys are spelled in [`super::keys`], values in [`super::values`].

use redb::TableDefinition;

pub type Key4 = &'static [u8; 4];
pub type Key8 = &'static [u8; 8];
pub type Key12 = &'static [u8; 12];
pub type Key16 = &'static [u8; 16];
pub type Bytes = &'static [u8];

/// `ino` → inode
pub const INODE: TableDefinition<Key8, Bytes> = TableDefinition::new("inode");
/// `parent, cookie` → entry
pub const DENTRY: TableDefinition<Key16, Bytes> = TableDefinition::new("dentry");
/// `ino, offset` → extent
pub const EXTENT: TableDefinition<Key16, Bytes> = TableDefinition::new("extent");
/// `ino, name` → value
pub const XATTR: TableDefinition<Bytes, Bytes> = TableDefinition::new("xattr");
/// `ino` → all locks on it
pub const LOCK: TableDefinition<Key8, Bytes> = TableDefinition::new("lock");
/// `session, ino` → nothing: where a session holds locks
pub const LOCK_BY_SESSION: TableDefinition<Key16, Bytes> = TableDefinition::new("lock_by_session");
/// `block` → length and live bytes
pub const BLOCK: TableDefinition<Key12, Bytes> = TableDefinition::new("block");
/// `block` → nothing: dead, its node has to delete it
pub const DELETE: TableDefinition<Key12, Bytes> = TableDefinition::new("delete");
/// `ino` → nothing: without names, until nobody has it open
pub const ORPHAN: TableDefinition<Key8, Bytes> = TableDefinition::new("orphan");
/// `node` → identity and address
pub const NODE: TableDefinition<Key4, Bytes> = TableDefinition::new("node");
/// `volume` → node
pub const VOLUME: TableDefinition<Key4, Bytes> = TableDefinition::new("volume");
/// `session` → its state, as of the checkpoint
pub const SESSION: TableDefinition<Key8, Bytes> = TableDefinition::new("session");
/// `"state"` → counters and positions, as of the checkpoint
pub const META: TableDefinition<Bytes, Bytes> = TableDefinition::new("meta");

/// The only key of [`META`].
pub const STATE: &[u8] = b"state";
