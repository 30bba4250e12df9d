//! The tree in maps, for the rules to run over.

use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino, SessionId};
use cairn_common::namespace::op::Extent;
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Tables, Totals};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Maps {
    inodes: BTreeMap<Ino, Inode>,
    dentries: BTreeMap<(Ino, u64), Dentry>,
    extents: BTreeMap<(Ino, u64), Extent>,
    xattrs: BTreeMap<(Ino, Vec<u8>), Bytes>,
    locks: BTreeMap<Ino, Vec<HeldLock>>,
    blocks: BTreeMap<BlockRef, BlockUse>,
    orphans: BTreeSet<Ino>,
    totals: Totals,
    pub deleted: Vec<BlockRef>,
}

impl Read for Maps {
    fn inode(&self, ino: Ino) -> FsResult<Option<Inode>> {
        Ok(self.inodes.get(&ino).cloned())
    }
    fn dentry_at(&self, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>> {
        Ok(self.dentries.get(&(parent, cookie)).cloned())
    }
    fn scan_dentries(&self, parent: Ino, from: u64, visit: &mut dyn FnMut(Dentry) -> bool) -> FsResult<()> {
        let all = self.dentries.range((parent, from)..=(parent, u64::MAX));
        let _stopped = all.map(|(_, dentry)| dentry.clone()).all(visit);
        Ok(())
    }
    fn scan_extents(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        let before = self.extents.range((ino, 0)..(ino, start)).next_back().map(|(_, extent)| extent);
        let before = before.filter(|extent| extent.offset + extent.length > start);
        let inside = self.extents.range((ino, start)..(ino, end)).map(|(_, extent)| extent);
        let _stopped = before.into_iter().chain(inside).cloned().all(visit);
        Ok(())
    }
    fn scan_extents_beginning(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        let _stopped =
            self.extents.range((ino, start)..(ino, end)).map(|(_, extent)| extent.clone()).all(visit);
        Ok(())
    }
    fn xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
        Ok(self.xattrs.get(&(ino, name.to_vec())).cloned())
    }
    fn xattr_names(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        let all = self.xattrs.range((ino, Vec::new())..(Ino(ino.0 + 1), Vec::new()));
        Ok(all.map(|((_, name), _)| Bytes::from(name.clone())).collect())
    }
    fn locks(&self, ino: Ino) -> FsResult<Vec<HeldLock>> {
        Ok(self.locks.get(&ino).cloned().unwrap_or_default())
    }
    fn block(&self, block: BlockRef) -> FsResult<Option<BlockUse>> {
        Ok(self.blocks.get(&block).copied())
    }
    fn is_dead(&self, block: BlockRef) -> FsResult<bool> {
        Ok(self.deleted.contains(&block))
    }
    fn is_orphan(&self, ino: Ino) -> FsResult<bool> {
        Ok(self.orphans.contains(&ino))
    }
    fn totals(&self) -> FsResult<Totals> {
        Ok(self.totals)
    }
}

impl Tables for Maps {
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
        self.xattrs.insert((ino, name.to_vec()), Bytes::copy_from_slice(value));
        Ok(())
    }
    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> FsResult<()> {
        self.xattrs.remove(&(ino, name.to_vec()));
        Ok(())
    }
    fn put_locks(&mut self, ino: Ino, locks: &[HeldLock]) -> FsResult<()> {
        self.locks.insert(ino, locks.to_vec());
        Ok(())
    }
    fn locked_by(&self, session: SessionId) -> FsResult<Vec<Ino>> {
        let held = |locks: &Vec<HeldLock>| locks.iter().any(|lock| lock.session == session);
        Ok(self.locks.iter().filter(|(_, locks)| held(locks)).map(|(ino, _)| *ino).collect())
    }
    fn put_block(&mut self, block: BlockRef, usage: BlockUse) -> FsResult<()> {
        self.blocks.insert(block, usage);
        Ok(())
    }
    fn queue_delete(&mut self, block: BlockRef) -> FsResult<()> {
        self.blocks.remove(&block);
        self.deleted.push(block);
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
