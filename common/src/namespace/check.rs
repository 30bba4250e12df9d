//! What must hold in any tree at any time, checked from the outside: for tests, and for whoever repairs a
//! tree. It reads everything and changes nothing.

use super::acl::{self, Acl};
use super::dentry::{self, Slot};
use super::inode::{DIR_ENTRY_SIZE, DIR_SIZE};
use super::op::{Extent, ExtentData};
use super::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Totals};
use crate::attr::FileKind;
use crate::error::FsResult;
use crate::ids::{BlockRef, Ino};
use std::collections::{BTreeMap, BTreeSet};

/// Tables that can also be walked as a whole.
pub trait Inventory: Read {
    fn all_inodes(&self, visit: &mut dyn FnMut(Inode)) -> FsResult<()>;
    fn all_blocks(&self, visit: &mut dyn FnMut(BlockRef, BlockUse)) -> FsResult<()>;
    fn all_orphans(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()>;
    /// Inodes that have rows in the tables of entries, extents, extended attributes or locks.
    fn all_owners(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()>;
}

/// Problems listed; more are not looked for.
const PROBLEMS_MAX: usize = 100;

/// All that is wrong, one line each. Needs memory for each inode and block.
pub fn check<T: Inventory + ?Sized>(tables: &T) -> FsResult<Vec<String>> {
    let mut checker = Checker::load(tables)?;
    let inodes: Vec<Ino> = checker.inodes.keys().copied().collect();
    for ino in &inodes {
        checker.check_entries(tables, *ino)?;
        checker.check_extents(tables, *ino)?;
        checker.check_acl(tables, *ino)?;
        checker.check_locks(*ino, &tables.locks(*ino)?);
    }
    for ino in &inodes {
        checker.check_names(*ino);
        checker.check_reachable(*ino);
    }
    checker.check_owners(tables)?;
    checker.check_blocks(tables)?;
    checker.check_totals(tables.totals()?);
    checker.problems.truncate(PROBLEMS_MAX);
    Ok(checker.problems)
}

#[derive(Default)]
struct Checker {
    inodes: BTreeMap<Ino, Inode>,
    orphans: BTreeSet<Ino>,
    /// Names of each inode, and the directory of one of them.
    names: BTreeMap<Ino, (u32, Ino)>,
    subdirs: BTreeMap<Ino, u32>,
    live: BTreeMap<BlockRef, u64>,
    block_bytes: u64,
    allocated: u64,
    problems: Vec<String>,
}

impl Checker {
    fn load<T: Inventory + ?Sized>(tables: &T) -> FsResult<Checker> {
        let mut checker = Checker::default();
        tables.all_inodes(&mut |inode| {
            checker.inodes.insert(inode.attr.ino, inode);
        })?;
        tables.all_orphans(&mut |ino| {
            checker.orphans.insert(ino);
        })?;
        checker.expect(checker.inodes.contains_key(&Ino::ROOT), || "there is no root".into());
        Ok(checker)
    }

    fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds && self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem());
        }
    }

    /// Each entry is found by its name and names an inode of its kind; their number and size are right.
    fn check_entries<T: Read + ?Sized>(&mut self, tables: &T, parent: Ino) -> FsResult<()> {
        let mut rows = Vec::new();
        tables.scan_dentries(parent, 0, &mut |dentry| {
            rows.push(dentry);
            true
        })?;
        let entries: Vec<Dentry> = rows.into_iter().filter(|row| row.ino != Ino(0)).collect();
        for entry in &entries {
            let place = format!("entry {:?} of {parent}", entry.name);
            let found = dentry::find(tables, parent, &entry.name)?;
            let findable = matches!(found, Slot::Taken(found) if found == *entry);
            self.expect(findable, || format!("{place} is not found by its name"));
            let kind = self.inodes.get(&entry.ino).map(|inode| inode.attr.kind);
            self.expect(kind == Some(entry.kind), || {
                format!("{place} says {:?}, inode {} is {kind:?}", entry.kind, entry.ino)
            });
            let (names, directory) = self.names.entry(entry.ino).or_default();
            *names += 1;
            *directory = parent;
            *self.subdirs.entry(parent).or_default() += u32::from(entry.kind == FileKind::Dir);
        }
        let (count, inode) = (entries.len() as u64, &self.inodes[&parent]);
        let is_dir = inode.attr.kind == FileKind::Dir;
        let right = inode.entries == count && (is_dir || count == 0);
        let size = !is_dir || inode.attr.size == DIR_SIZE + DIR_ENTRY_SIZE * count;
        self.expect(right, || format!("{parent} has {count} entries, its count says otherwise"));
        self.expect(size, || format!("directory {parent} has a wrong size"));
        Ok(())
    }

    /// Extents lie one behind the other, joined where they can be, inside their blocks.
    fn check_extents<T: Read + ?Sized>(&mut self, tables: &T, ino: Ino) -> FsResult<()> {
        let mut extents: Vec<Extent> = Vec::new();
        tables.scan_extents(ino, 0, u64::MAX, &mut |extent| {
            extents.push(extent);
            true
        })?;
        for extent in &extents {
            self.expect(extent.length > 0, || format!("{ino} has an empty extent"));
            let fits = match &extent.data {
                ExtentData::Reserved => true,
                ExtentData::Inline(bytes) => bytes.len() as u64 == extent.length,
                ExtentData::Block { block, offset } => {
                    *self.live.entry(*block).or_default() += extent.length;
                    let length = tables.block(*block)?.map_or(0, |usage| usage.length);
                    u64::from(*offset) + extent.length <= u64::from(length)
                }
            };
            self.expect(fits, || format!("{ino}: {extent:?} is outside of its data"));
        }
        for pair in extents.windows(2) {
            let apart = pair[0].end() <= pair[1].offset && !pair[0].goes_on_in(&pair[1]);
            self.expect(apart, || format!("{ino}: extents overlap or are not joined: {pair:?}"));
        }
        let sum: u64 = extents.iter().map(|extent| extent.length).sum();
        let attr = self.inodes[&ino].attr;
        self.allocated += sum;
        self.expect(attr.allocated == sum, || {
            format!("{ino} holds {sum} bytes, its attributes say {}", attr.allocated)
        });
        self.expect(sum == 0 || attr.kind == FileKind::File, || format!("{ino} is no file, but has extents"));
        Ok(())
    }

    /// Access ACL and permission bits say the same.
    fn check_acl<T: Read + ?Sized>(&mut self, tables: &T, ino: Ino) -> FsResult<()> {
        let Some(stored) = tables.xattr(ino, acl::ACCESS)? else {
            return Ok(());
        };
        let perm = self.inodes[&ino].attr.perm;
        let agrees = match Acl::parse(&stored) {
            Ok(Some(mut acl)) => acl.mode() == perm & 0o777,
            _ => false,
        };
        self.expect(agrees, || format!("{ino}: access ACL and mode {perm:o} do not agree"));
        Ok(())
    }

    /// An owner's locks do not overlap; locks of different owners do not conflict.
    fn check_locks(&mut self, ino: Ino, locks: &[HeldLock]) {
        for (at, one) in locks.iter().enumerate() {
            self.expect(one.start <= one.end, || format!("{ino}: a lock ends before it starts"));
            for two in &locks[at + 1..] {
                let same_owner = (one.session, one.owner) == (two.session, two.owner);
                let overlap = one.start <= two.end && two.start <= one.end;
                let family = one.owner.family == two.owner.family;
                let bad = overlap && family && (same_owner || one.write || two.write);
                self.expect(!bad, || format!("{ino}: locks {one:?} and {two:?} exclude each other"));
            }
        }
    }

    /// The link count is what the entries say; who has no name is an orphan, and nobody else is.
    fn check_names(&mut self, ino: Ino) {
        let Inode { attr, parent, .. } = self.inodes[&ino].clone();
        let (names, directory) = self.names.get(&ino).copied().unwrap_or_default();
        let subdirs = self.subdirs.get(&ino).copied().unwrap_or_default();
        let orphan = self.orphans.contains(&ino);
        let named = names > 0 || ino == Ino::ROOT;
        let nlink = match attr.kind {
            FileKind::Dir if named => 2 + subdirs,
            _ => names,
        };
        self.expect(attr.nlink == nlink, || format!("{ino} has nlink {}, not {nlink}", attr.nlink));
        self.expect(orphan != named, || format!("{ino} has {names} names, orphan: {orphan}"));
        if attr.kind == FileKind::Dir {
            let home = if ino == Ino::ROOT { Ino::ROOT } else { directory };
            self.expect(orphan || parent == home, || format!("directory {ino} is in {home}, not {parent}"));
            self.expect(names <= 1, || format!("directory {ino} has {names} names"));
        } else {
            self.expect(orphan || parent == Ino(0), || format!("{ino} has names, but also a parent"));
        }
    }

    /// A directory that is no orphan hangs below the root.
    fn check_reachable(&mut self, ino: Ino) {
        let mut at = ino;
        for _ in 0..=self.inodes.len() {
            let Some(inode) = self.inodes.get(&at) else { break };
            if at == Ino::ROOT || inode.attr.kind != FileKind::Dir || inode.attr.nlink == 0 {
                return;
            }
            at = inode.parent;
        }
        self.expect(false, || format!("directory {ino} does not hang below the root"));
    }

    fn check_owners<T: Inventory + ?Sized>(&mut self, tables: &T) -> FsResult<()> {
        let mut owners: BTreeSet<Ino> = self.orphans.clone();
        tables.all_owners(&mut |ino| {
            owners.insert(ino);
        })?;
        for ino in owners {
            let known = self.inodes.contains_key(&ino);
            self.expect(known, || format!("{ino} is gone, but rows of it are left"));
        }
        Ok(())
    }

    /// Live bytes are what the extents add up to.
    fn check_blocks<T: Inventory + ?Sized>(&mut self, tables: &T) -> FsResult<()> {
        let mut known = BTreeMap::new();
        tables.all_blocks(&mut |block, usage| {
            known.insert(block, usage);
        })?;
        for (block, usage) in &known {
            let live = self.live.remove(block).unwrap_or(0);
            self.block_bytes += u64::from(usage.length);
            self.expect(usage.live == live && live > 0, || {
                format!("block {block} has {live} live bytes, its row says {}", usage.live)
            });
        }
        let unknown: Vec<BlockRef> = self.live.keys().copied().collect();
        for block in unknown {
            self.expect(false, || format!("block {block} is used, but not known"));
        }
        Ok(())
    }

    fn check_totals(&mut self, totals: Totals) {
        let right = Totals {
            inodes: self.inodes.len() as u64,
            allocated: self.allocated,
            block_bytes: self.block_bytes,
        };
        self.expect(totals == right, || format!("totals are {totals:?}, should be {right:?}"));
    }
}
