//! The transaction that commands run in: the namespace rules' [`Tables`] over a copy of the view, which
//! takes the place of the old one if all goes well.
//!
//! A batch of creates in one directory changes the directory's inode and the totals each time. Inodes
//! are kept here until the end and written once, in key order; the totals live beside the tables.

use super::schema::Table;
use super::values::{self, PRESENT, State};
use super::view::View;
use super::{NodeRow, keys, rows};
use crate::meta::apply::Effects;
use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino, NodeId, SessionId, VolumeId};
use cairn_common::namespace::op::Extent;
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Tables, Totals};
use std::cell::RefCell;
use std::collections::HashMap;

/// Inodes kept in memory within a transaction; beyond that they are written and forgotten.
const INODES_MAX: usize = 8192;

/// An inode as the transaction sees it; `None` is known to be missing.
struct Slot {
    inode: Option<Inode>,
    dirty: bool,
}

/// One transaction.
pub struct Tx {
    /// Counters; the caller keeps them with the view.
    pub state: State,
    view: View,
    effects: Effects,
    inodes: RefCell<HashMap<Ino, Slot>>,
    scratch: Vec<u8>,
}

impl Tx {
    /// Begins with `view`; whoever gave a copy of its own has nothing to take back if the transaction fails.
    pub fn new(view: View, state: State) -> Tx {
        Tx {
            state,
            view,
            effects: Effects::default(),
            inodes: RefCell::new(HashMap::new()),
            scratch: Vec::new(),
        }
    }

    /// What has been changed since the last call.
    pub fn take_effects(&mut self) -> Effects {
        let mut effects = std::mem::take(&mut self.effects);
        effects.normalize();
        effects
    }

    /// The state and the view after it.
    pub fn finish(mut self) -> (State, View) {
        self.write_inodes();
        (self.state, self.view)
    }

    fn write_inodes(&mut self) {
        let inodes = std::mem::take(self.inodes.get_mut());
        for (ino, slot) in inodes.into_iter().filter(|(_, slot)| slot.dirty) {
            match slot.inode {
                Some(inode) => {
                    values::encode_inode(&inode, &mut self.scratch);
                    self.view.put(Table::Inode, &keys::ino(ino), &self.scratch);
                }
                None => self.view.remove(Table::Inode, &keys::ino(ino)),
            }
        }
    }

    fn set_inode(&mut self, ino: Ino, inode: Option<Inode>) {
        if self.inodes.get_mut().len() >= INODES_MAX {
            self.write_inodes();
        }
        self.inodes.get_mut().insert(ino, Slot { inode, dirty: true });
    }

    /// The data daemon with this number.
    pub fn node(&self, node: NodeId) -> FsResult<Option<NodeRow>> {
        rows::node(&self.view, node)
    }

    /// The data daemon with this identity.
    pub fn node_by_identity(&self, identity: u128) -> FsResult<Option<NodeRow>> {
        Ok(rows::nodes(&self.view)?.into_iter().find(|row| row.identity == identity))
    }

    pub fn put_node(&mut self, row: &NodeRow) {
        values::encode_node(row, &mut self.scratch);
        self.view.put(Table::Node, &keys::node(row.node), &self.scratch);
    }

    /// The node that has a volume.
    pub fn volume(&self, volume: VolumeId) -> FsResult<Option<NodeId>> {
        rows::volume(&self.view, volume)
    }

    pub fn put_volume(&mut self, volume: VolumeId, node: NodeId) {
        self.view.put(Table::Volume, &keys::volume(volume), &values::encode_volume(node));
    }

    /// Takes a block off the delete queue.
    pub fn forget_deleted(&mut self, block: BlockRef) {
        self.view.remove(Table::Delete, &keys::block(block));
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

impl Read for Tx {
    fn inode(&self, ino: Ino) -> FsResult<Option<Inode>> {
        if let Some(slot) = self.inodes.borrow().get(&ino) {
            return Ok(slot.inode.clone());
        }
        let inode = rows::inode(&self.view, ino)?;
        let mut inodes = self.inodes.borrow_mut();
        if inodes.len() < INODES_MAX {
            inodes.insert(ino, Slot { inode: inode.clone(), dirty: false });
        }
        Ok(inode)
    }

    fn dentry_at(&self, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>> {
        rows::dentry(&self.view, parent, cookie)
    }

    fn scan_dentries(&self, parent: Ino, from: u64, visit: &mut dyn FnMut(Dentry) -> bool) -> FsResult<()> {
        rows::scan_dentries(&self.view, parent, from, visit)
    }

    fn scan_extents(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        rows::scan_extents(&self.view, ino, start, end, visit)
    }

    fn scan_extents_beginning(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        rows::scan_extents_beginning(&self.view, ino, start, end, visit)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
        rows::xattr(&self.view, ino, name)
    }

    fn xattr_names(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        rows::xattr_names(&self.view, ino)
    }

    fn locks(&self, ino: Ino) -> FsResult<Vec<HeldLock>> {
        rows::locks(&self.view, ino)
    }

    fn block(&self, block: BlockRef) -> FsResult<Option<BlockUse>> {
        rows::block(&self.view, block)
    }

    fn is_dead(&self, block: BlockRef) -> FsResult<bool> {
        rows::is_dead(&self.view, block)
    }

    fn is_orphan(&self, ino: Ino) -> FsResult<bool> {
        rows::is_orphan(&self.view, ino)
    }

    fn totals(&self) -> FsResult<Totals> {
        Ok(self.state.totals)
    }
}

impl Tables for Tx {
    fn put_inode(&mut self, inode: &Inode) -> FsResult<()> {
        let old = self.inode(inode.attr.ino)?;
        self.note_inode(old.as_ref(), inode);
        self.set_inode(inode.attr.ino, Some(inode.clone()));
        Ok(())
    }

    fn remove_inode(&mut self, ino: Ino) -> FsResult<()> {
        self.effects.removed.push(ino);
        self.set_inode(ino, None);
        Ok(())
    }

    fn put_dentry(&mut self, parent: Ino, dentry: &Dentry) -> FsResult<()> {
        values::encode_dentry(dentry, &mut self.scratch);
        self.view.put(Table::Dentry, &keys::pair(parent.0, dentry.cookie), &self.scratch);
        Ok(())
    }

    fn remove_dentry(&mut self, parent: Ino, cookie: u64) -> FsResult<()> {
        self.view.remove(Table::Dentry, &keys::pair(parent.0, cookie));
        Ok(())
    }

    fn put_extent(&mut self, ino: Ino, extent: &Extent) -> FsResult<()> {
        values::encode_extent(extent, &mut self.scratch);
        self.view.put(Table::Extent, &keys::pair(ino.0, extent.offset), &self.scratch);
        Ok(())
    }

    fn remove_extent(&mut self, ino: Ino, offset: u64) -> FsResult<()> {
        self.view.remove(Table::Extent, &keys::pair(ino.0, offset));
        Ok(())
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> FsResult<()> {
        values::encode_xattr(value, &mut self.scratch);
        self.view.put(Table::Xattr, &keys::xattr(ino, name), &self.scratch);
        Ok(())
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> FsResult<()> {
        self.view.remove(Table::Xattr, &keys::xattr(ino, name));
        Ok(())
    }

    fn put_locks(&mut self, ino: Ino, locks: &[HeldLock]) -> FsResult<()> {
        let old = self.locks(ino)?;
        if old.iter().any(|lock| !locks.contains(lock)) {
            self.effects.unlocked.push(ino);
        }
        let holds = |locks: &[HeldLock], session| locks.iter().any(|lock| lock.session == session);
        for lock in old.iter().filter(|lock| !holds(locks, lock.session)) {
            self.view.remove(Table::LockBySession, &keys::pair(lock.session.0, ino.0));
        }
        for lock in locks.iter().filter(|lock| !holds(&old, lock.session)) {
            self.view.put(Table::LockBySession, &keys::pair(lock.session.0, ino.0), &PRESENT);
        }
        if locks.is_empty() {
            self.view.remove(Table::Lock, &keys::ino(ino));
            return Ok(());
        }
        values::encode_locks(locks, &mut self.scratch);
        self.view.put(Table::Lock, &keys::ino(ino), &self.scratch);
        Ok(())
    }

    fn locked_by(&self, session: SessionId) -> FsResult<Vec<Ino>> {
        rows::locked_by(&self.view, session)
    }

    fn put_block(&mut self, block: BlockRef, usage: BlockUse) -> FsResult<()> {
        self.view.put(Table::Block, &keys::block(block), &values::encode_block(usage));
        Ok(())
    }

    fn queue_delete(&mut self, block: BlockRef) -> FsResult<()> {
        self.view.remove(Table::Block, &keys::block(block));
        self.view.put(Table::Delete, &keys::block(block), &PRESENT);
        Ok(())
    }

    fn put_orphan(&mut self, ino: Ino) -> FsResult<()> {
        self.effects.orphaned.push(ino);
        self.view.put(Table::Orphan, &keys::ino(ino), &PRESENT);
        Ok(())
    }

    fn remove_orphan(&mut self, ino: Ino) -> FsResult<()> {
        self.view.remove(Table::Orphan, &keys::ino(ino));
        Ok(())
    }

    fn put_totals(&mut self, totals: Totals) -> FsResult<()> {
        self.state.totals = totals;
        Ok(())
    }
}
