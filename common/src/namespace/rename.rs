//! Rename, with replacing, exchanging and leaving a whiteout: checked as a whole, then done.

use super::create::{fresh, inherit_group};
use super::dentry::{self, Slot};
use super::inode::{check_name, check_new_ino, count_inodes, drop_name, live_directory, named};
use super::op::{OpReply, OpResult, Rename};
use super::tables::{Dentry, Inode, Read, Tables};
use crate::attr::{Caller, FileKind, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;

const KNOWN_FLAGS: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;

pub(super) fn rename<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    body: &Rename,
) -> OpResult {
    check_flags(body.flags)?;
    check_name(&body.name)?;
    check_name(&body.new_name)?;
    let dirs = Dirs::load(tables, body)?;
    let source = dentry::find(tables, body.parent, &body.name)?.taken()?;
    let slot = dentry::find(tables, body.new_parent, &body.new_name)?;
    match slot {
        Slot::Taken(_) if has(body, libc::RENAME_NOREPLACE) => Err(FsError::Exists),
        // Two names of one file: nothing to do, whatever the other flags say.
        Slot::Taken(found) if found.ino == source.ino => Ok(OpReply::Renamed { replaced: None }),
        Slot::Taken(found) if has(body, libc::RENAME_EXCHANGE) => exchange(tables, now, dirs, source, found),
        Slot::Vacant(_) if has(body, libc::RENAME_EXCHANGE) => Err(FsError::NotFound),
        slot => replace(tables, now, caller, body, dirs, source, slot),
    }
}

fn has(body: &Rename, flag: u32) -> bool {
    body.flags & flag != 0
}

/// `EXCHANGE` goes with no other flag; unknown ones are refused, not ignored.
fn check_flags(flags: u32) -> FsResult<()> {
    let exchange_with_other = flags & libc::RENAME_EXCHANGE != 0 && flags != libc::RENAME_EXCHANGE;
    if flags & !KNOWN_FLAGS != 0 || exchange_with_other { Err(FsError::Invalid) } else { Ok(()) }
}

/// The directories that a rename changes: one, or two different ones.
struct Dirs {
    old: Inode,
    /// `None`: the same as `old`.
    new: Option<Inode>,
}

impl Dirs {
    fn load<T: Read + ?Sized>(tables: &T, body: &Rename) -> FsResult<Dirs> {
        let old = live_directory(tables, body.parent)?;
        let new = if body.parent == body.new_parent {
            None
        } else {
            Some(live_directory(tables, body.new_parent)?)
        };
        Ok(Dirs { old, new })
    }

    fn new_ino(&self) -> Ino {
        self.new.as_ref().unwrap_or(&self.old).attr.ino
    }

    fn new_mut(&mut self) -> &mut Inode {
        self.new.as_mut().unwrap_or(&mut self.old)
    }

    fn store<T: Tables + ?Sized>(mut self, tables: &mut T, now: Timestamp) -> FsResult<()> {
        self.old.modified(now);
        tables.put_inode(&self.old)?;
        if let Some(mut new) = self.new {
            new.modified(now);
            tables.put_inode(&new)?;
        }
        Ok(())
    }

    /// `moved` goes from the old to the new directory: refused if it would end below itself.
    fn check_loop<T: Read + ?Sized>(&self, tables: &T, moved: &Dentry) -> FsResult<()> {
        match &self.new {
            Some(new) if moved.kind == FileKind::Dir => not_above(tables, moved.ino, new),
            _ => Ok(()),
        }
    }
}

/// `Invalid` if `ino` is `dir` or above it.
fn not_above<T: Read + ?Sized>(tables: &T, ino: Ino, dir: &Inode) -> FsResult<()> {
    let (mut at, mut parent) = (dir.attr.ino, dir.parent);
    loop {
        if at == ino {
            return Err(FsError::Invalid);
        }
        if at == Ino::ROOT {
            return Ok(());
        }
        at = parent;
        parent = named(tables, at)?.parent;
    }
}

fn replace<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    body: &Rename,
    mut dirs: Dirs,
    source: Dentry,
    slot: Slot,
) -> OpResult {
    dirs.check_loop(tables, &source)?;
    let victim = match &slot {
        Slot::Taken(found) => Some(check_victim(tables, &source, found)?),
        Slot::Vacant(_) => None,
    };
    let whiteout = has(body, libc::RENAME_WHITEOUT);
    if whiteout {
        check_new_ino(tables, body.whiteout)?;
    }
    let mut inode = named(tables, source.ino)?;

    let what = (source.ino, source.kind);
    let new_ino = dirs.new_ino();
    match slot {
        Slot::Taken(found) => {
            dirs.new_mut().entry_removed(found.kind);
            dentry::redirect(tables, new_ino, found, what)?;
        }
        Slot::Vacant(cookie) => dentry::insert(tables, new_ino, cookie, &body.new_name, what)?,
    }
    dirs.old.entry_removed(source.kind);
    dirs.new_mut().entry_added(source.kind);
    if whiteout {
        leave_whiteout(tables, now, caller, body.whiteout, &mut dirs.old, source.clone())?;
    } else {
        dentry::remove(tables, body.parent, &source)?;
    }
    if source.kind == FileKind::Dir {
        inode.parent = new_ino;
    }
    inode.changed(now);
    tables.put_inode(&inode)?;
    let replaced = match victim {
        Some(mut victim) => Some((victim.attr.ino, remove_victim(tables, &mut victim, now)?)),
        None => None,
    };
    dirs.store(tables, now)?;
    Ok(OpReply::Renamed { replaced })
}

/// A directory replaces only an empty directory; anything else replaces anything but a directory.
fn check_victim<T: Read + ?Sized>(tables: &T, source: &Dentry, found: &Dentry) -> FsResult<Inode> {
    match (source.kind == FileKind::Dir, found.kind == FileKind::Dir) {
        (true, false) => return Err(FsError::NotDir),
        (false, true) => return Err(FsError::IsDir),
        _ => {}
    }
    let victim = named(tables, found.ino)?;
    if victim.entries > 0 { Err(FsError::NotEmpty) } else { Ok(victim) }
}

fn remove_victim<T: Tables + ?Sized>(tables: &mut T, victim: &mut Inode, now: Timestamp) -> FsResult<u32> {
    if victim.attr.kind == FileKind::Dir {
        dentry::sweep(tables, victim.attr.ino)?;
    }
    drop_name(tables, victim, now)
}

/// The old name becomes a character device 0/0: what overlayfs takes for "deleted below".
fn leave_whiteout<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    ino: Ino,
    parent: &mut Inode,
    source: Dentry,
) -> FsResult<()> {
    let mut whiteout = fresh(ino, FileKind::CharDevice, 0, caller, now);
    inherit_group(parent, &mut whiteout);
    dentry::redirect(tables, parent.attr.ino, source, (ino, FileKind::CharDevice))?;
    parent.entry_added(FileKind::CharDevice);
    tables.put_inode(&whiteout)?;
    count_inodes(tables, 1)
}

fn exchange<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    mut dirs: Dirs,
    one: Dentry,
    two: Dentry,
) -> OpResult {
    dirs.check_loop(tables, &one)?;
    if dirs.new.is_some() && two.kind == FileKind::Dir {
        not_above(tables, two.ino, &dirs.old)?;
    }
    let mut first = named(tables, one.ino)?;
    let mut second = named(tables, two.ino)?;

    let (old_ino, new_ino) = (dirs.old.attr.ino, dirs.new_ino());
    dirs.old.entry_removed(one.kind);
    dirs.old.entry_added(two.kind);
    dirs.new_mut().entry_removed(two.kind);
    dirs.new_mut().entry_added(one.kind);
    let (one_is, two_is) = ((one.ino, one.kind), (two.ino, two.kind));
    dentry::redirect(tables, old_ino, one, two_is)?;
    dentry::redirect(tables, new_ino, two, one_is)?;
    for (inode, parent) in [(&mut first, new_ino), (&mut second, old_ino)] {
        if inode.attr.kind == FileKind::Dir {
            inode.parent = parent;
        }
        inode.changed(now);
        tables.put_inode(inode)?;
    }
    dirs.store(tables, now)?;
    Ok(OpReply::Renamed { replaced: None })
}
