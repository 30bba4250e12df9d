//! The tables of the database. Keys are spelled in [`super::keys`], values in [`super::values`].
//!
//! redb knows each table by a typed definition; the layers above it by [`Table`], with keys as bytes.
//! `with_definition!` leads from one to the other.

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

/// A table whose rows the log's commands change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Inode,
    Dentry,
    Extent,
    Xattr,
    Lock,
    LockBySession,
    Block,
    Delete,
    Orphan,
    Node,
    Volume,
    Session,
}

impl Table {
    /// All of them, each at the place of its number.
    pub const ALL: [Table; 12] = [
        Table::Inode,
        Table::Dentry,
        Table::Extent,
        Table::Xattr,
        Table::Lock,
        Table::LockBySession,
        Table::Block,
        Table::Delete,
        Table::Orphan,
        Table::Node,
        Table::Volume,
        Table::Session,
    ];
}

/// Evaluates `$body` with `$definition` as the typed definition of `$table`.
macro_rules! with_definition {
    ($table:expr, $definition:ident => $body:expr) => {
        with_definition!(@ $table, $definition, $body;
            Inode INODE, Dentry DENTRY, Extent EXTENT, Xattr XATTR, Lock LOCK, LockBySession LOCK_BY_SESSION,
            Block BLOCK, Delete DELETE, Orphan ORPHAN, Node NODE, Volume VOLUME, Session SESSION)
    };
    (@ $table:expr, $definition:ident, $body:expr; $($name:ident $of:ident),*) => {
        match $table {
            $($crate::meta::tables::schema::Table::$name => {
                let $definition = $crate::meta::tables::schema::$of;
                $body
            })*
        }
    };
}
pub(super) use with_definition;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_at_its_place() {
        for (at, table) in Table::ALL.iter().enumerate() {
            assert_eq!(*table as usize, at);
        }
    }
}
