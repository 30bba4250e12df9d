//! Making inodes: files, directories, devices, symbolic links, files without a name, and the root.

use super::acl::{self, Inherited};
use super::dentry::{self, Slot};
use super::inode::{DIR_SIZE, SETGID, check_name, check_new_ino, count_inodes, live_directory, named};
use super::op::{Create, Name, OpReply, OpResult};
use super::tables::{Inode, Tables};
use crate::attr::{Attr, Caller, FileKind, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use crate::limits::SYMLINK_MAX;
use bytes::Bytes;

/// A new inode, before the directory it is made in has its say.
pub(super) fn fresh(ino: Ino, kind: FileKind, perm: u16, caller: &Caller, now: Timestamp) -> Inode {
    let is_dir = kind == FileKind::Dir;
    let attr = Attr {
        ino,
        kind,
        perm: perm & 0o7777,
        uid: caller.uid,
        gid: caller.gid,
        nlink: if is_dir { 2 } else { 1 },
        rdev: 0,
        size: if is_dir { DIR_SIZE } else { 0 },
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        data_version: 0,
    };
    Inode { attr, parent: Ino(0), entries: 0, target: Bytes::new() }
}

/// A setgid directory gives its group, and to directories the bit itself.
pub(super) fn inherit_group(parent: &Inode, child: &mut Inode) {
    if parent.attr.perm & SETGID != 0 {
        child.attr.gid = parent.attr.gid;
        if child.attr.kind == FileKind::Dir {
            child.attr.perm |= SETGID;
        }
    }
}

/// The default ACL of the directory, or else the umask, limits what was asked for.
fn inherit_acl<T: Tables + ?Sized>(
    tables: &T,
    parent: &Inode,
    child: &mut Inode,
    umask: u16,
) -> FsResult<Inherited> {
    let inherited = acl::inherit(tables, parent.attr.ino, child.attr.kind, child.attr.perm)?;
    match &inherited {
        Some(inherited) => child.attr.perm = inherited.perm,
        None => child.attr.perm &= !(umask & 0o777),
    }
    Ok(inherited.unwrap_or_default())
}

/// Stores a new inode with its name in the directory.
fn store<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    mut parent: Inode,
    (name, cookie): (&Name, u64),
    child: &Inode,
) -> OpResult {
    let attr = child.attr;
    dentry::insert(tables, parent.attr.ino, cookie, name, (attr.ino, attr.kind))?;
    tables.put_inode(child)?;
    parent.entry_added(attr.kind);
    parent.modified(now);
    tables.put_inode(&parent)?;
    count_inodes(tables, 1)?;
    Ok(OpReply::Entry { attr, created: true })
}

pub(super) fn create<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    body: &Create,
) -> OpResult {
    if body.kind == FileKind::Symlink {
        return Err(FsError::Invalid);
    }
    check_name(&body.name)?;
    let parent = live_directory(tables, body.parent)?;
    let cookie = match dentry::find(tables, body.parent, &body.name)? {
        Slot::Vacant(cookie) => cookie,
        Slot::Taken(_) if body.exclusive || body.kind != FileKind::File => return Err(FsError::Exists),
        Slot::Taken(found) => return existing(tables, found.ino, found.kind),
    };
    check_new_ino(tables, body.ino)?;
    let mut child = fresh(body.ino, body.kind, body.perm, caller, now);
    match body.kind {
        FileKind::Dir => child.parent = body.parent,
        FileKind::CharDevice | FileKind::BlockDevice => child.attr.rdev = body.rdev,
        _ => {}
    }
    let inherited = inherit_acl(tables, &parent, &mut child, body.umask)?;
    inherit_group(&parent, &mut child);
    inherited.store(tables, body.ino)?;
    store(tables, now, parent, (&body.name, cookie), &child)
}

/// `open(O_CREAT)` of a name that is there after all: another mount was faster.
fn existing<T: Tables + ?Sized>(tables: &T, ino: Ino, kind: FileKind) -> OpResult {
    match kind {
        FileKind::File => Ok(OpReply::Entry { attr: named(tables, ino)?.attr, created: false }),
        FileKind::Dir => Err(FsError::IsDir),
        // The kernel has to look the name up again and follow the link, or open what it found.
        _ => Err(FsError::Exists),
    }
}

pub(super) fn symlink<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    ino: Ino,
    target: &Bytes,
) -> OpResult {
    check_name(name)?;
    if target.is_empty() {
        return Err(FsError::NotFound);
    }
    if target.len() > SYMLINK_MAX {
        return Err(FsError::NameTooLong);
    }
    if target.contains(&0) {
        return Err(FsError::Invalid);
    }
    let parent = live_directory(tables, parent)?;
    let cookie = dentry::find(tables, parent.attr.ino, name)?.vacant()?;
    check_new_ino(tables, ino)?;
    let mut child = fresh(ino, FileKind::Symlink, 0o777, caller, now);
    child.attr.size = target.len() as u64;
    child.target = target.clone();
    inherit_group(&parent, &mut child);
    store(tables, now, parent, (name, cookie), &child)
}

pub(super) fn tmpfile<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    parent: Ino,
    ino: Ino,
    perm: u16,
    umask: u16,
) -> OpResult {
    let parent = live_directory(tables, parent)?;
    check_new_ino(tables, ino)?;
    let mut child = fresh(ino, FileKind::File, perm, caller, now);
    child.attr.nlink = 0;
    child.parent = parent.attr.ino;
    let inherited = inherit_acl(tables, &parent, &mut child, umask)?;
    inherit_group(&parent, &mut child);
    inherited.store(tables, ino)?;
    tables.put_inode(&child)?;
    tables.put_orphan(ino)?;
    count_inodes(tables, 1)?;
    Ok(OpReply::Entry { attr: child.attr, created: true })
}

/// Makes the root of an empty tree.
pub fn init_root<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    perm: u16,
) -> FsResult<()> {
    if tables.inode(Ino::ROOT)?.is_some() {
        return Err(FsError::Exists);
    }
    let mut root = fresh(Ino::ROOT, FileKind::Dir, perm, caller, now);
    root.parent = Ino::ROOT;
    tables.put_inode(&root)?;
    count_inodes(tables, 1)
}
