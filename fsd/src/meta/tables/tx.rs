//! The transaction that commands run in: the namespace rules' [`Tables`] over one redb transaction.
//!
//! A batch of creates in one directory changes the directory's inode and the totals each time. Inodes
//! are kept here until the end and written once, in key order; the totals live beside the tables.

use super::schema::{self, Bytes as Value, Key4, Key8, Key12, Key16};
use super::values::{self, PRESENT, State};
use super::{NodeRow, failed, keys, rows};
use crate::meta::apply::Effects;
use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino, NodeId, SessionId, VolumeId};
use cairn_common::namespace::op::Extent;
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Tables, Totals};
use redb::{Key, ReadableTable, Table, TableDefinition, WriteTransaction};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

/// Inodes kept in memory within a transaction; beyond that they are written and forgotten.
const INODES_MAX: usize = 8192;

/// A table, opened when first used: most transactions touch few of them.
struct Lazy<'t, K: Key + 'static> {
    txn: &'t WriteTransaction,
    definition: TableDefinition<'static, K, Value>,
    table: OnceCell<Table<'t, K, Value>>,
}

impl<'t, K: Key + 'static> Lazy<'t, K> {
    fn new(txn: &'t WriteTransaction, definition: TableDefinition<'static, K, Value>) -> Lazy<'t, K> {
        Lazy { txn, definition, table: OnceCell::new() }
    }

    fn get(&self) -> FsResult<&Table<'t, K, Value>> {
        if self.table.get().is_none() {
            let table = self.txn.open_table(self.definition).map_err(failed)?;
            return Ok(self.table.get_or_init(|| table));
        }
        Ok(self.table.get().expect("was just seen to be there"))
    }

    fn get_mut(&mut self) -> FsResult<&mut Table<'t, K, Value>> {
        self.get()?;
        Ok(self.table.get_mut().expect("get has opened it"))
    }

    fn put<'k>(&mut self, key: K::SelfType<'k>, value: &[u8]) -> FsResult<()> {
        self.get_mut()?.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn remove<'k>(&mut self, key: K::SelfType<'k>) -> FsResult<()> {
        self.get_mut()?.remove(key).map_err(failed)?;
        Ok(())
    }
}

/// An inode as the transaction sees it; `None` is known to be missing.
struct Slot {
    inode: Option<Inode>,
    dirty: bool,
}

/// One write transaction.
pub struct Tx<'t> {
    /// Counters; the caller stores them when the transaction is committed.
    pub state: State,
    effects: Effects,
    inodes: RefCell<HashMap<Ino, Slot>>,
    scratch: Vec<u8>,
    inode: Lazy<'t, Key8>,
    dentry: Lazy<'t, Key16>,
    extent: Lazy<'t, Key16>,
    xattr: Lazy<'t, Value>,
    lock: Lazy<'t, Key8>,
    lock_by_session: Lazy<'t, Key16>,
    block: Lazy<'t, Key12>,
    delete: Lazy<'t, Key12>,
    orphan: Lazy<'t, Key8>,
    node: Lazy<'t, Key4>,
    volume: Lazy<'t, Key4>,
}

impl<'t> Tx<'t> {
    pub(super) fn new(txn: &'t WriteTransaction, state: State) -> Tx<'t> {
        Tx {
            state,
            effects: Effects::default(),
            inodes: RefCell::new(HashMap::new()),
            scratch: Vec::new(),
            inode: Lazy::new(txn, schema::INODE),
            dentry: Lazy::new(txn, schema::DENTRY),
            extent: Lazy::new(txn, schema::EXTENT),
            xattr: Lazy::new(txn, schema::XATTR),
            lock: Lazy::new(txn, schema::LOCK),
            lock_by_session: Lazy::new(txn, schema::LOCK_BY_SESSION),
            block: Lazy::new(txn, schema::BLOCK),
            delete: Lazy::new(txn, schema::DELETE),
            orphan: Lazy::new(txn, schema::ORPHAN),
            node: Lazy::new(txn, schema::NODE),
            volume: Lazy::new(txn, schema::VOLUME),
        }
    }

    /// What has been changed since the last call.
    pub fn take_effects(&mut self) -> Effects {
        let mut effects = std::mem::take(&mut self.effects);
        effects.normalize();
        effects
    }

    /// Writes what is still kept here, and opens all tables if `all` (when the database is made).
    pub(super) fn finish(mut self, all: bool) -> FsResult<State> {
        self.write_inodes()?;
        if all {
            self.open_all()?;
        }
        Ok(self.state)
    }

    fn open_all(&self) -> FsResult<()> {
        for table in [&self.inode, &self.lock, &self.orphan] {
            table.get()?;
        }
        for table in [&self.dentry, &self.extent, &self.lock_by_session] {
            table.get()?;
        }
        for table in [&self.block, &self.delete] {
            table.get()?;
        }
        for table in [&self.node, &self.volume] {
            table.get()?;
        }
        self.xattr.get()?;
        Ok(())
    }

    fn write_inodes(&mut self) -> FsResult<()> {
        let inodes = std::mem::take(self.inodes.get_mut());
        let mut dirty: Vec<(Ino, Slot)> = inodes.into_iter().filter(|(_, slot)| slot.dirty).collect();
        // In key order: neighbours share pages, and the file comes out the same wherever it is made.
        dirty.sort_unstable_by_key(|(ino, _)| *ino);
        for (ino, slot) in dirty {
            match slot.inode {
                Some(inode) => {
                    values::encode_inode(&inode, &mut self.scratch);
                    self.inode.put(&keys::ino(ino), &self.scratch)?;
                }
                None => self.inode.remove(&keys::ino(ino))?,
            }
        }
        Ok(())
    }

    fn set_inode(&mut self, ino: Ino, inode: Option<Inode>) -> FsResult<()> {
        if self.inodes.get_mut().len() >= INODES_MAX {
            self.write_inodes()?;
        }
        self.inodes.get_mut().insert(ino, Slot { inode, dirty: true });
        Ok(())
    }

    /// The data daemon with this number.
    pub fn node(&self, node: NodeId) -> FsResult<Option<NodeRow>> {
        let found = self.node.get()?.get(&keys::node(node)).map_err(failed)?;
        found.map(|value| values::decode_node(node, value.value())).transpose()
    }

    /// The data daemon with this identity.
    pub fn node_by_identity(&self, identity: u128) -> FsResult<Option<NodeRow>> {
        for row in self.node.get()?.range::<&[u8; 4]>(..).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let row = values::decode_node(NodeId(u32::from_be_bytes(*key.value())), value.value())?;
            if row.identity == identity {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    pub fn put_node(&mut self, row: &NodeRow) -> FsResult<()> {
        values::encode_node(row, &mut self.scratch);
        self.node.put(&keys::node(row.node), &self.scratch)
    }

    /// The node that has a volume.
    pub fn volume(&self, volume: VolumeId) -> FsResult<Option<NodeId>> {
        let found = self.volume.get()?.get(&keys::volume(volume)).map_err(failed)?;
        found.map(|value| values::decode_volume(value.value())).transpose()
    }

    pub fn put_volume(&mut self, volume: VolumeId, node: NodeId) -> FsResult<()> {
        self.volume.put(&keys::volume(volume), &values::encode_volume(node))
    }

    /// Takes a block off the delete queue.
    pub fn forget_deleted(&mut self, block: BlockRef) -> FsResult<()> {
        self.delete.remove(&keys::block(block))
    }

    fn note_inode(&mut self, old: Option<&Inode>, new: &Inode) {
        let ino = new.attr.ino;
        let content = |i: &Inode| (i.attr.data_version, i.attr.size, i.attr.allocated);
        match old {
            // A directory's size and content are its entries: no data that anyone caches.
            Some(old) if content(old) != content(new) && new.entries == old.entries => {
                self.effects.data.push(ino);
            }
            Some(old) if old == new => {}
            _ => self.effects.attrs.push(ino),
        }
    }
}

impl Read for Tx<'_> {
    fn inode(&self, ino: Ino) -> FsResult<Option<Inode>> {
        if let Some(slot) = self.inodes.borrow().get(&ino) {
            return Ok(slot.inode.clone());
        }
        let inode = rows::inode(self.inode.get()?, ino)?;
        let mut inodes = self.inodes.borrow_mut();
        if inodes.len() < INODES_MAX {
            inodes.insert(ino, Slot { inode: inode.clone(), dirty: false });
        }
        Ok(inode)
    }

    fn dentry_at(&self, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>> {
        rows::dentry(self.dentry.get()?, parent, cookie)
    }

    fn scan_dentries(&self, parent: Ino, from: u64, visit: &mut dyn FnMut(Dentry) -> bool) -> FsResult<()> {
        rows::scan_dentries(self.dentry.get()?, parent, from, visit)
    }

    fn scan_extents(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        rows::scan_extents(self.extent.get()?, ino, start, end, visit)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
        rows::xattr(self.xattr.get()?, ino, name)
    }

    fn xattr_names(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        rows::xattr_names(self.xattr.get()?, ino)
    }

    fn locks(&self, ino: Ino) -> FsResult<Vec<HeldLock>> {
        rows::locks(self.lock.get()?, ino)
    }

    fn block(&self, block: BlockRef) -> FsResult<Option<BlockUse>> {
        rows::block(self.block.get()?, block)
    }

    fn is_orphan(&self, ino: Ino) -> FsResult<bool> {
        rows::contains(self.orphan.get()?, ino)
    }

    fn totals(&self) -> FsResult<Totals> {
        Ok(self.state.totals)
    }
}

impl Tables for Tx<'_> {
    fn put_inode(&mut self, inode: &Inode) -> FsResult<()> {
        let old = self.inode(inode.attr.ino)?;
        self.note_inode(old.as_ref(), inode);
        self.set_inode(inode.attr.ino, Some(inode.clone()))
    }

    fn remove_inode(&mut self, ino: Ino) -> FsResult<()> {
        self.effects.removed.push(ino);
        self.set_inode(ino, None)
    }

    fn put_dentry(&mut self, parent: Ino, dentry: &Dentry) -> FsResult<()> {
        values::encode_dentry(dentry, &mut self.scratch);
        self.dentry.put(&keys::pair(parent.0, dentry.cookie), &self.scratch)
    }

    fn remove_dentry(&mut self, parent: Ino, cookie: u64) -> FsResult<()> {
        self.dentry.remove(&keys::pair(parent.0, cookie))
    }

    fn put_extent(&mut self, ino: Ino, extent: &Extent) -> FsResult<()> {
        values::encode_extent(extent, &mut self.scratch);
        self.extent.put(&keys::pair(ino.0, extent.offset), &self.scratch)
    }

    fn remove_extent(&mut self, ino: Ino, offset: u64) -> FsResult<()> {
        self.extent.remove(&keys::pair(ino.0, offset))
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> FsResult<()> {
        values::encode_xattr(value, &mut self.scratch);
        self.xattr.put(keys::xattr(ino, name).as_slice(), &self.scratch)
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> FsResult<()> {
        self.xattr.remove(keys::xattr(ino, name).as_slice())
    }

    fn put_locks(&mut self, ino: Ino, locks: &[HeldLock]) -> FsResult<()> {
        let old = self.locks(ino)?;
        if old.iter().any(|lock| !locks.contains(lock)) {
            self.effects.unlocked.push(ino);
        }
        let holds = |locks: &[HeldLock], session| locks.iter().any(|lock| lock.session == session);
        for lock in old.iter().filter(|lock| !holds(locks, lock.session)) {
            self.lock_by_session.remove(&keys::pair(lock.session.0, ino.0))?;
        }
        for lock in locks.iter().filter(|lock| !holds(&old, lock.session)) {
            self.lock_by_session.put(&keys::pair(lock.session.0, ino.0), &PRESENT)?;
        }
        if locks.is_empty() {
            return self.lock.remove(&keys::ino(ino));
        }
        values::encode_locks(locks, &mut self.scratch);
        self.lock.put(&keys::ino(ino), &self.scratch)
    }

    fn locked_by(&self, session: SessionId) -> FsResult<Vec<Ino>> {
        rows::locked_by(self.lock_by_session.get()?, session)
    }

    fn put_block(&mut self, block: BlockRef, usage: BlockUse) -> FsResult<()> {
        self.block.put(&keys::block(block), &values::encode_block(usage))
    }

    fn queue_delete(&mut self, block: BlockRef) -> FsResult<()> {
        self.block.remove(&keys::block(block))?;
        self.delete.put(&keys::block(block), &PRESENT)
    }

    fn put_orphan(&mut self, ino: Ino) -> FsResult<()> {
        self.effects.orphaned.push(ino);
        self.orphan.put(&keys::ino(ino), &PRESENT)
    }

    fn remove_orphan(&mut self, ino: Ino) -> FsResult<()> {
        self.orphan.remove(&keys::ino(ino))
    }

    fn put_totals(&mut self, totals: Totals) -> FsResult<()> {
        self.state.totals = totals;
        Ok(())
    }
}
