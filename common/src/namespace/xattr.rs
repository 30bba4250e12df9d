//! Extended attributes. ACLs come as such, and change the permission bits.

use super::acl::{self, Acl};
use super::inode::{SETGID, target};
use super::op::{OpReply, OpResult, XattrMode};
use super::tables::{Inode, Read, Tables};
use crate::attr::{Caller, FileKind, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use crate::limits::{XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_SIZE_MAX};

/// File capabilities: any change of content or owner takes them away.
const CAPABILITY: &[u8] = b"security.capability";

/// What only an administrator sees.
const TRUSTED: &[u8] = b"trusted.";

/// Whether a caller may see a name in a list: the kernel checks who reads an attribute, but not who lists them.
#[must_use]
pub fn is_listed(caller: &Caller, name: &[u8]) -> bool {
    caller.uid == 0 || !name.starts_with(TRUSTED)
}

/// Refuses names that the kernel would not pass, and namespaces that nobody would honour.
fn check_name(name: &[u8]) -> FsResult<()> {
    if name.len() > XATTR_NAME_MAX {
        return Err(FsError::Range);
    }
    if name.contains(&0) {
        return Err(FsError::Invalid);
    }
    let prefixes = [&b"user."[..], TRUSTED, b"security."];
    if prefixes.contains(&name) {
        // As Linux: there is the namespace, and no name in it.
        return Err(FsError::Invalid);
    }
    let known = prefixes.iter().any(|prefix| name.starts_with(prefix));
    if known || is_acl(name) { Ok(()) } else { Err(FsError::NotSupported) }
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

fn check_mode(exists: bool, mode: XattrMode) -> FsResult<()> {
    match mode {
        XattrMode::Create if exists => Err(FsError::Exists),
        XattrMode::Replace if !exists => Err(FsError::NoAttr),
        _ => Ok(()),
    }
}

/// The list of names has to fit `listxattr`.
fn check_room<T: Read + ?Sized>(tables: &T, ino: Ino, name: &[u8]) -> FsResult<()> {
    let names = tables.xattr_names(ino)?;
    let bytes: usize = names.iter().map(|other| other.len() + 1).sum();
    if bytes + name.len() + 1 > XATTR_LIST_MAX { Err(FsError::NoSpace) } else { Ok(()) }
}

pub(super) fn set<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> OpResult {
    check_name(name)?;
    if value.len() > XATTR_SIZE_MAX {
        return Err(FsError::TooBig);
    }
    let mut inode = target(tables, ino)?;
    let exists = tables.xattr(ino, name)?.is_some();
    check_mode(exists, mode)?;
    let keep = if is_acl(name) { set_acl(&mut inode, caller, name, value)? } else { true };
    if keep {
        if !exists {
            check_room(tables, ino, name)?;
        }
        tables.put_xattr(ino, name, value)?;
    } else if exists {
        tables.remove_xattr(ino, name)?;
    }
    finish(tables, now, inode)
}

/// Checks an ACL and gives the inode the bits it shows. False: nothing to store, because it is
/// empty or says no more than the bits do.
fn set_acl(inode: &mut Inode, caller: &Caller, name: &[u8], value: &[u8]) -> FsResult<bool> {
    if inode.attr.kind == FileKind::Symlink {
        return Err(FsError::NotSupported);
    }
    let Some(mut acl) = Acl::parse(value)? else {
        return Ok(false);
    };
    if name == acl::DEFAULT {
        return if inode.attr.kind == FileKind::Dir { Ok(true) } else { Err(FsError::Access) };
    }
    inode.attr.perm = (inode.attr.perm & !0o777) | acl.mode();
    // As chmod does where the caller is not of the file's group. The kernel does not tell other
    // groups of the caller, so a member by one of those loses the bit, too: the safe side. On
    // directories it only decides the group of new entries: there it stays.
    let foreign = caller.uid != 0 && caller.gid != inode.attr.gid;
    if foreign && inode.attr.kind != FileKind::Dir {
        inode.attr.perm &= !SETGID;
    }
    Ok(!acl.is_mode_only())
}

pub(super) fn remove<T: Tables + ?Sized>(tables: &mut T, now: Timestamp, ino: Ino, name: &[u8]) -> OpResult {
    check_name(name)?;
    let inode = target(tables, ino)?;
    if tables.xattr(ino, name)?.is_none() {
        // Removing an ACL means "the bits say it all", which is so already.
        return if is_acl(name) { Ok(OpReply::Attr(inode.attr)) } else { Err(FsError::NoAttr) };
    }
    tables.remove_xattr(ino, name)?;
    finish(tables, now, inode)
}

fn finish<T: Tables + ?Sized>(tables: &mut T, now: Timestamp, mut inode: Inode) -> OpResult {
    inode.changed(now);
    tables.put_inode(&inode)?;
    Ok(OpReply::Attr(inode.attr))
}

/// Takes file capabilities away.
pub(super) fn drop_capability<T: Tables + ?Sized>(tables: &mut T, ino: Ino) -> FsResult<()> {
    if tables.xattr(ino, CAPABILITY)?.is_some() {
        tables.remove_xattr(ino, CAPABILITY)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_administrator_sees_trusted_names() {
        let (root, user) = (Caller::default(), Caller { uid: 1000, ..Caller::default() });
        assert!(is_listed(&root, b"trusted.a") && !is_listed(&user, b"trusted.a"));
        assert!(is_listed(&user, b"user.trusted.a") && is_listed(&user, b"security.capability"));
    }
}
