//! The tables as maps in memory: what tests run the rules over, and what a mount may later keep of
//! the directories it holds. A clone is a snapshot.

use super::check::Inventory;
use super::op::Extent;
use super::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Tables, Totals};
use crate::error::FsResult;
use crate::ids::{BlockRef, Ino, SessionId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Twin {
    inodes: BTreeMap<Ino, Inode>,
    dentries: BTreeMap<(Ino, u64), Dentry>,
    extents: BTreeMap<(Ino, u64), Extent>,
    xattrs: BTreeMap<(Ino, Bytes), Bytes>,
    locks: BTreeMap<Ino, Vec<HeldLock>>,
    blocks: BTreeMap<BlockRef, BlockUse>,
    dead: BTreeSet<BlockRef>,
    orphans: BTreeSet<Ino>,
    totals: Totals,
    cookies: Option<u64>,
}

impl Twin {
    #[must_use]
    pub fn new() -> Twin {
        Twin::default()
    }

    /// Names share so few cookies that they collide all the time.
    #[must_use]
    pub fn colliding(cookies: u64) -> Twin {
        Twin { cookies: Some(cookies.max(1)), ..Twin::default() }
    }

    /// Blocks in the delete queue.
    #[must_use]
    pub fn dead(&self) -> &BTreeSet<BlockRef> {
        &self.dead
    }
}

impl Read for Twin {
    fn inode(&self, ino: Ino) -> FsResult<Option<Inode>> {
        Ok(self.inodes.get(&ino).cloned())
    }

    fn dentry_at(&self, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>> {
        Ok(self.dentries.get(&(parent, cookie)).cloned())
    }

    fn scan_dentries(&self, parent: Ino, from: u64, visit: &mut dyn FnMut(Dentry) -> bool) -> FsResult<()> {
        let rows = self.dentries.range((parent, from)..=(parent, u64::MAX));
        let _ = rows.map(|(_, dentry)| dentry.clone()).all(visit);
        Ok(())
    }

    fn scan_extents(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        if start >= end {
            return Ok(());
        }
        let before = self.extents.range((ino, 0)..(ino, start)).next_back();
        let rows = before.into_iter().chain(self.extents.range((ino, start)..(ino, end)));
        let mut overlapping = rows.map(|(_, extent)| extent).filter(|extent| extent.end() > start);
        let _ = overlapping.by_ref().cloned().all(visit);
        Ok(())
    }

    fn scan_extents_beginning(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        if start < end {
            let mut rows = self.extents.range((ino, start)..(ino, end)).map(|(_, extent)| extent.clone());
            let _ = rows.all(visit);
        }
        Ok(())
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
        Ok(self.xattrs.get(&(ino, Bytes::copy_from_slice(name))).cloned())
    }

    fn xattr_names(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        let rows = self.xattrs.range((ino, Bytes::new())..(Ino(ino.0 + 1), Bytes::new()));
        Ok(rows.map(|((_, name), _)| name.clone()).collect())
    }

    fn locks(&self, ino: Ino) -> FsResult<Vec<HeldLock>> {
        Ok(self.locks.get(&ino).cloned().unwrap_or_default())
    }

    fn block(&self, block: BlockRef) -> FsResult<Option<BlockUse>> {
        Ok(self.blocks.get(&block).copied())
    }

    fn is_dead(&self, block: BlockRef) -> FsResult<bool> {
        Ok(self.dead.contains(&block))
    }

    fn is_orphan(&self, ino: Ino) -> FsResult<bool> {
        Ok(self.orphans.contains(&ino))
    }

    fn totals(&self) -> FsResult<Totals> {
        Ok(self.totals)
    }

    fn name_hash(&self, name: &[u8]) -> u64 {
        let hash = super::name_hash(name);
        self.cookies.map_or(hash, |cookies| 100 + hash % cookies)
    }
}

impl Tables for Twin {
    fn put_inode(&mut self, inode: &Inode) -> FsResult<()> {
        self.inodes.insert(inode.attr.ino, inode.clone());
        Ok(())
    }

    fn remove_inode(&mut self, ino: Ino) -> FsResult<()> {
        self.inodes.remove(&ino);
        Ok(())
    }

    fn put_dentry(&mut self, parent: Ino, dentry: &Dentry) -> FsResult<()> {
        self.dentries.insert((parent, dentry.cookie), dentry.clone());
        Ok(())
    }

    fn remove_dentry(&mut self, parent: Ino, cookie: u64) -> FsResult<()> {
        self.dentries.remove(&(parent, cookie));
        Ok(())
    }

    fn put_extent(&mut self, ino: Ino, extent: &Extent) -> FsResult<()> {
        self.extents.insert((ino, extent.offset), extent.clone());
        Ok(())
    }

    fn remove_extent(&mut self, ino: Ino, offset: u64) -> FsResult<()> {
        self.extents.remove(&(ino, offset));
        Ok(())
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> FsResult<()> {
        self.xattrs.insert((ino, Bytes::copy_from_slice(name)), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> FsResult<()> {
        self.xattrs.remove(&(ino, Bytes::copy_from_slice(name)));
        Ok(())
    }

    fn put_locks(&mut self, ino: Ino, locks: &[HeldLock]) -> FsResult<()> {
        if locks.is_empty() {
            self.locks.remove(&ino);
        } else {
            self.locks.insert(ino, locks.to_vec());
        }
        Ok(())
    }

    fn locked_by(&self, session: SessionId) -> FsResult<Vec<Ino>> {
        let holds = |locks: &[HeldLock]| locks.iter().any(|lock| lock.session == session);
        Ok(self.locks.iter().filter(|(_, locks)| holds(locks)).map(|(ino, _)| *ino).collect())
    }

    fn put_block(&mut self, block: BlockRef, usage: BlockUse) -> FsResult<()> {
        self.blocks.insert(block, usage);
        Ok(())
    }

    fn queue_delete(&mut self, block: BlockRef) -> FsResult<()> {
        self.blocks.remove(&block);
        self.dead.insert(block);
        Ok(())
    }

    fn put_orphan(&mut self, ino: Ino) -> FsResult<()> {
        self.orphans.insert(ino);
        Ok(())
    }

    fn remove_orphan(&mut self, ino: Ino) -> FsResult<()> {
        self.orphans.remove(&ino);
        Ok(())
    }

    fn put_totals(&mut self, totals: Totals) -> FsResult<()> {
        self.totals = totals;
        Ok(())
    }
}

impl Inventory for Twin {
    fn all_inodes(&self, visit: &mut dyn FnMut(Inode)) -> FsResult<()> {
        self.inodes.values().cloned().for_each(visit);
        Ok(())
    }

    fn all_blocks(&self, visit: &mut dyn FnMut(BlockRef, BlockUse)) -> FsResult<()> {
        self.blocks.iter().for_each(|(block, usage)| visit(*block, *usage));
        Ok(())
    }

    fn all_orphans(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
        self.orphans.iter().copied().for_each(visit);
        Ok(())
    }

    fn all_owners(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
        let entries = self.dentries.keys().map(|(ino, _)| *ino);
        let extents = self.extents.keys().map(|(ino, _)| *ino);
        let xattrs = self.xattrs.keys().map(|(ino, _)| *ino);
        let locks = self.locks.keys().copied();
        let owners: BTreeSet<Ino> = entries.chain(extents).chain(xattrs).chain(locks).collect();
        owners.into_iter().for_each(visit);
        Ok(())
    }
}
