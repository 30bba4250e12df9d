//! What must hold in any tree at any time, checked from the outside: for tests, and for whoever repairs a
//! tree. It reads everything and changes nothing.

use super::acl::{self, Acl};
use super::dentry::{self, Slot};
use super::inode::{self, DIR_ENTRY_SIZE, DIR_SIZE};
use super::op::{Extent, ExtentData};
use super::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Totals};
use crate::attr::FileKind;
use crate::error::{FsError, FsResult};
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

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident,)*) => {
        /// What must hold, by name. For each there is a tree in the tests that breaks it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Rule {
            $($(#[$doc])* $rule,)*
        }

        #[cfg(test)]
        impl Rule {
            pub(super) const ALL: &[Rule] = &[$(Rule::$rule,)*];
        }
    };
}

rules! {
    Root,
    /// An operation would take it.
    EntryName,
    /// A search for the name of an entry ends at this entry.
    EntryFound,
    /// An entry names an inode, and says its kind.
    EntryKind,
    EntryCount,
    EntriesInDirectory,
    DirectorySize,
    ExtentNotEmpty,
    ExtentInData,
    /// Extents do not overlap, and are joined where they can be.
    ExtentsApart,
    ExtentsInFile,
    Allocated,
    /// A symbolic link is as long as its target, and nothing else has one.
    SymlinkIsTarget,
    AclIsMode,
    /// Only directories have one, and it is one.
    DefaultAcl,
    LockRange,
    LocksExclude,
    LinkCount,
    /// Who has no name is an orphan, and nobody else is.
    NamedOrOrphan,
    DirectoryAbove,
    /// The root has no name at all.
    DirectoryNamedOnce,
    /// What is in a directory without a name can't be reached.
    RemovedIsEmpty,
    /// Only directories and files that never had a name say where they are.
    NamedHasNoParent,
    BelowRoot,
    OwnerExists,
    LiveBytes,
    BlockKnown,
    /// What files have is not about to be deleted.
    UsedIsKept,
    Totals,
}

/// A rule that does not hold, and where.
pub(super) type Finding = (Rule, String);

/// Problems listed; more are not looked for.
pub(super) const PROBLEMS_MAX: usize = 100;

/// All that is wrong, one line each. Needs memory for each inode and block.
pub fn check<T: Inventory + ?Sized>(tables: &T) -> FsResult<Vec<String>> {
    Ok(findings(tables)?.into_iter().map(|(_, problem)| problem).collect())
}

/// All that is wrong, with the rule that it breaks.
pub(super) fn findings<T: Inventory + ?Sized>(tables: &T) -> FsResult<Vec<Finding>> {
    let mut checker = Checker::load(tables)?;
    let inodes: Vec<Ino> = checker.inodes.keys().copied().collect();
    for ino in &inodes {
        checker.check_entries(tables, *ino)?;
        checker.check_extents(tables, *ino)?;
        checker.check_acls(tables, *ino)?;
        checker.check_target(*ino);
        checker.check_locks(*ino, &tables.locks(*ino)?);
    }
    for ino in &inodes {
        checker.check_names(*ino);
        checker.check_reachable(*ino);
    }
    checker.check_owners(tables)?;
    checker.check_blocks(tables)?;
    checker.check_totals(tables.totals()?);
    Ok(checker.findings)
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
    findings: Vec<Finding>,
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
        let root = checker.inodes.get(&Ino::ROOT).map(|inode| inode.attr.kind);
        checker.expect(Rule::Root, root == Some(FileKind::Dir), || "there is no root directory".into());
        Ok(checker)
    }

    fn expect(&mut self, rule: Rule, holds: bool, problem: impl FnOnce() -> String) {
        if !holds && self.findings.len() < PROBLEMS_MAX {
            self.findings.push((rule, problem()));
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
            let legal = inode::check_name(&entry.name).is_ok();
            self.expect(Rule::EntryName, legal, || format!("{place} has a name that nothing can have"));
            let findable = match dentry::find(tables, parent, &entry.name) {
                Ok(Slot::Taken(found)) => found == *entry,
                // Behind more others than a search looks at.
                Ok(Slot::Vacant(_)) | Err(FsError::NoSpace) => false,
                Err(error) => return Err(error),
            };
            self.expect(Rule::EntryFound, findable, || format!("{place} is not found by its name"));
            let kind = self.inodes.get(&entry.ino).map(|inode| inode.attr.kind);
            self.expect(Rule::EntryKind, kind == Some(entry.kind), || {
                format!("{place} says {:?}, inode {} is {kind:?}", entry.kind, entry.ino)
            });
            let (names, directory) = self.names.entry(entry.ino).or_default();
            *names += 1;
            *directory = parent;
            *self.subdirs.entry(parent).or_default() += u32::from(entry.kind == FileKind::Dir);
        }
        let (count, inode) = (entries.len() as u64, &self.inodes[&parent]);
        let is_dir = inode.attr.kind == FileKind::Dir;
        let (right, allowed) = (inode.entries == count, is_dir || count == 0);
        let size = !is_dir || inode.attr.size == DIR_SIZE + DIR_ENTRY_SIZE * count;
        self.expect(Rule::EntriesInDirectory, allowed, || {
            format!("{parent} is no directory, but has entries")
        });
        self.expect(Rule::EntryCount, right, || {
            format!("{parent} has {count} entries, its count says otherwise")
        });
        self.expect(Rule::DirectorySize, size, || format!("directory {parent} has a wrong size"));
        Ok(())
    }

    /// Extents lie one behind the other, joined where they can be, inside their blocks.
    fn check_extents<T: Read + ?Sized>(&mut self, tables: &T, ino: Ino) -> FsResult<()> {
        let mut extents: Vec<Extent> = Vec::new();
        // Not those that overlap a range: an empty one overlaps nothing.
        tables.scan_extents_beginning(ino, 0, u64::MAX, &mut |extent| {
            extents.push(extent);
            true
        })?;
        for extent in &extents {
            if let ExtentData::Block { block, .. } = extent.data {
                add(self.live.entry(block).or_default(), extent.length);
            }
            self.expect(Rule::ExtentNotEmpty, extent.length > 0, || format!("{ino} has an empty extent"));
            self.expect(Rule::ExtentInData, is_in_data(tables, extent)?, || {
                format!("{ino}: {} is outside of its data", told(extent))
            });
        }
        for pair in extents.windows(2) {
            let apart = pair[0].end() <= pair[1].offset && !pair[0].goes_on_in(&pair[1]);
            self.expect(Rule::ExtentsApart, apart, || {
                format!("{ino}: {} and {} overlap or are not joined", told(&pair[0]), told(&pair[1]))
            });
        }
        let mut sum = 0;
        extents.iter().for_each(|extent| add(&mut sum, extent.length));
        let attr = self.inodes[&ino].attr;
        add(&mut self.allocated, sum);
        self.expect(Rule::Allocated, attr.allocated == sum, || {
            format!("{ino} holds {sum} bytes, its attributes say {}", attr.allocated)
        });
        self.expect(Rule::ExtentsInFile, extents.is_empty() || attr.kind == FileKind::File, || {
            format!("{ino} is no file, but has extents")
        });
        Ok(())
    }

    /// Access ACL and permission bits say the same; a default ACL is one, of a directory.
    fn check_acls<T: Read + ?Sized>(&mut self, tables: &T, ino: Ino) -> FsResult<()> {
        let Inode { attr, .. } = self.inodes[&ino];
        if let Some(stored) = tables.xattr(ino, acl::ACCESS)? {
            let agrees = match Acl::parse(&stored) {
                Ok(Some(mut acl)) => acl.mode() == attr.perm & 0o777,
                _ => false,
            };
            self.expect(Rule::AclIsMode, agrees, || {
                format!("{ino}: access ACL and mode {:o} do not agree", attr.perm)
            });
        }
        if let Some(stored) = tables.xattr(ino, acl::DEFAULT)? {
            let right = attr.kind == FileKind::Dir && matches!(Acl::parse(&stored), Ok(Some(_)));
            self.expect(Rule::DefaultAcl, right, || {
                format!("{ino}: its default ACL is none, or it is no directory")
            });
        }
        Ok(())
    }

    fn check_target(&mut self, ino: Ino) {
        let Inode { attr, target, .. } = &self.inodes[&ino];
        let right = match attr.kind {
            FileKind::Symlink => !target.is_empty() && attr.size == target.len() as u64,
            _ => target.is_empty(),
        };
        self.expect(Rule::SymlinkIsTarget, right, || {
            format!("{ino}: the target of a symbolic link and its size or kind do not agree")
        });
    }

    /// An owner's locks do not overlap; locks of different owners do not conflict.
    fn check_locks(&mut self, ino: Ino, locks: &[HeldLock]) {
        for (at, one) in locks.iter().enumerate() {
            self.expect(Rule::LockRange, one.start <= one.end, || {
                format!("{ino}: a lock ends before it starts")
            });
            for two in &locks[at + 1..] {
                let same_owner = (one.session, one.owner) == (two.session, two.owner);
                let overlap = one.start <= two.end && two.start <= one.end;
                let family = one.owner.family == two.owner.family;
                let bad = overlap && family && (same_owner || one.write || two.write);
                self.expect(Rule::LocksExclude, !bad, || {
                    format!("{ino}: locks {one:?} and {two:?} exclude each other")
                });
            }
        }
    }

    /// The link count is what the entries say; who has no name is an orphan, and nobody else is.
    fn check_names(&mut self, ino: Ino) {
        let Inode { attr, parent, entries, .. } = self.inodes[&ino].clone();
        let (names, directory) = self.names.get(&ino).copied().unwrap_or_default();
        let subdirs = self.subdirs.get(&ino).copied().unwrap_or_default();
        let orphan = self.orphans.contains(&ino);
        let named = names > 0 || ino == Ino::ROOT;
        let nlink = match attr.kind {
            FileKind::Dir if named => 2 + subdirs,
            _ => names,
        };
        self.expect(Rule::LinkCount, attr.nlink == nlink, || {
            format!("{ino} has nlink {}, not {nlink}", attr.nlink)
        });
        self.expect(Rule::NamedOrOrphan, orphan != named, || {
            format!("{ino} has {names} names, orphan: {orphan}")
        });
        if attr.kind == FileKind::Dir {
            let (home, most) = if ino == Ino::ROOT { (Ino::ROOT, 0) } else { (directory, 1) };
            self.expect(Rule::DirectoryAbove, !named || parent == home, || {
                format!("directory {ino} is in {home}, not {parent}")
            });
            self.expect(Rule::DirectoryNamedOnce, names <= most, || {
                format!("directory {ino} has {names} names, not {most}")
            });
            self.expect(Rule::RemovedIsEmpty, named || entries == 0, || {
                format!("directory {ino} has no name, but {entries} entries")
            });
        } else {
            self.expect(Rule::NamedHasNoParent, !named || parent == Ino(0), || {
                format!("{ino} has names, but also a parent")
            });
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
        self.expect(Rule::BelowRoot, false, || format!("directory {ino} does not hang below the root"));
    }

    fn check_owners<T: Inventory + ?Sized>(&mut self, tables: &T) -> FsResult<()> {
        let mut owners: BTreeSet<Ino> = self.orphans.clone();
        tables.all_owners(&mut |ino| {
            owners.insert(ino);
        })?;
        for ino in owners {
            let known = self.inodes.contains_key(&ino);
            self.expect(Rule::OwnerExists, known, || format!("{ino} is gone, but rows of it are left"));
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
            self.expect(Rule::LiveBytes, usage.live == live && live > 0, || {
                format!("block {block} has {live} live bytes, its row says {}", usage.live)
            });
            self.expect(Rule::UsedIsKept, !tables.is_dead(*block)?, || {
                format!("block {block} is used, and waits for being deleted")
            });
        }
        let unknown: Vec<BlockRef> = self.live.keys().copied().collect();
        for block in unknown {
            self.expect(Rule::BlockKnown, false, || format!("block {block} is used, but not known"));
        }
        Ok(())
    }

    fn check_totals(&mut self, totals: Totals) {
        let right = Totals {
            inodes: self.inodes.len() as u64,
            allocated: self.allocated,
            block_bytes: self.block_bytes,
        };
        self.expect(Rule::Totals, totals == right, || format!("totals are {totals:?}, should be {right:?}"));
    }
}

/// The bytes of an extent are where it says.
fn is_in_data<T: Read + ?Sized>(tables: &T, Extent { length, data, .. }: &Extent) -> FsResult<bool> {
    Ok(match data {
        ExtentData::Reserved => true,
        ExtentData::Inline(bytes) => bytes.len() as u64 == *length,
        ExtentData::Block { block, offset } => {
            let block_length = tables.block(*block)?.map_or(0, |usage| usage.length);
            u64::from(*offset).saturating_add(*length) <= u64::from(block_length)
        }
    })
}

/// Damage can add up to more than there are numbers.
fn add(sum: &mut u64, length: u64) {
    *sum = sum.saturating_add(length);
}

/// An extent without its bytes: those are nobody's business but the file's owner's, and there may be megabytes of them.
fn told(Extent { offset, length, data }: &Extent) -> String {
    let place = match data {
        ExtentData::Block { block, offset } => format!("block {block} from {offset} on"),
        ExtentData::Inline(bytes) => format!("{} in the metadata", bytes.len()),
        ExtentData::Reserved => "set aside".into(),
    };
    format!("extent of {length} bytes at {offset} ({place})")
}
