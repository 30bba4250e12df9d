//! POSIX ACLs as the kernel passes them in extended attributes, and how they and the permission bits
//! move together. The kernel evaluates them; keeping both in step is left to the file system.
//!
//! The format (`linux/posix_acl_xattr.h`, little-endian): version 2 in 4 bytes, then entries of
//! tag (2), permissions (2) and id (4).

use super::tables::{Read, Tables};
use crate::attr::FileKind;
use crate::error::{FsError, FsResult};
use crate::ids::Ino;

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = [2, 0, 0, 0];
const ENTRY: usize = 8;
/// Entries that have no id carry this one.
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid ACL: owner, users, group, groups, mask, others, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// `None` is the empty ACL, by which the kernel means "remove it".
    pub(super) fn parse(value: &[u8]) -> FsResult<Option<Acl>> {
        if value.is_empty() {
            return Ok(None);
        }
        let (version, rest) = value.split_at_checked(4).ok_or(FsError::Invalid)?;
        if version != VERSION {
            return Err(FsError::NotSupported);
        }
        if rest.len() % ENTRY != 0 {
            return Err(FsError::Invalid);
        }
        if rest.is_empty() {
            return Ok(None);
        }
        let entries = rest.chunks_exact(ENTRY).map(Entry::parse).collect();
        let acl = Acl { entries };
        acl.check()?;
        Ok(Some(acl))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + ENTRY * self.entries.len());
        out.extend_from_slice(&VERSION);
        for entry in &self.entries {
            entry.write(&mut out);
        }
        out
    }

    /// The order of tags, one each of owner, group and others, and a mask where it is needed.
    fn check(&self) -> FsResult<()> {
        let mut last = 0;
        for entry in &self.entries {
            let many = matches!(entry.tag, USER | GROUP);
            let known = matches!(entry.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
            let in_order = entry.tag > last || (many && entry.tag == last);
            if !known || !in_order || entry.perm > 7 || (many && entry.id == NO_ID) {
                return Err(FsError::Invalid);
            }
            last = entry.tag;
        }
        let needs_mask = self.has(USER) || self.has(GROUP);
        let complete = self.has(USER_OBJ) && self.has(GROUP_OBJ) && self.has(OTHER);
        if complete && (!needs_mask || self.has(MASK)) { Ok(()) } else { Err(FsError::Invalid) }
    }

    fn has(&self, tag: u16) -> bool {
        self.entries.iter().any(|entry| entry.tag == tag)
    }

    /// True if the permission bits say all there is.
    pub(super) fn is_mode_only(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The entries that the three groups of permission bits show: the mask stands for the group.
    fn bits(&mut self) -> impl Iterator<Item = (u32, &mut u16)> {
        let masked = self.has(MASK);
        self.entries.iter_mut().filter_map(move |entry| match entry.tag {
            USER_OBJ => Some((6, &mut entry.perm)),
            GROUP_OBJ if !masked => Some((3, &mut entry.perm)),
            MASK => Some((3, &mut entry.perm)),
            OTHER => Some((0, &mut entry.perm)),
            _ => None,
        })
    }

    /// The permission bits (`0777`) that this ACL shows.
    pub(super) fn mode(&mut self) -> u16 {
        self.bits().fold(0, |mode, (shift, perm)| mode | (*perm << shift))
    }

    /// What `chmod` does to it.
    pub(super) fn chmod(&mut self, mode: u16) {
        for (shift, perm) in self.bits() {
            *perm = (mode >> shift) & 7;
        }
    }

    /// What a `mode` asked for at creation takes away; returns the bits left.
    fn limit(&mut self, mode: u16) -> u16 {
        for (shift, perm) in self.bits() {
            *perm &= (mode >> shift) & 7;
        }
        self.mode()
    }
}

impl Entry {
    fn parse(bytes: &[u8]) -> Entry {
        let pair = |at: usize| u16::from(bytes[at]) | u16::from(bytes[at + 1]) << 8;
        Entry { tag: pair(0), perm: pair(2), id: u32::from(pair(4)) | u32::from(pair(6)) << 16 }
    }

    fn write(self, out: &mut Vec<u8>) {
        let id_low = (self.id & 0xffff) as u16;
        let id_high = (self.id >> 16) as u16;
        for pair in [self.tag, self.perm, id_low, id_high] {
            out.extend_from_slice(&[(pair & 0xff) as u8, (pair >> 8) as u8]);
        }
    }
}

/// What a new inode gets from the default ACL of its directory.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// All permission bits.
    pub(super) perm: u16,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Inherited {
    pub(super) fn store<T: Tables + ?Sized>(&self, tables: &mut T, ino: Ino) -> FsResult<()> {
        if let Some(access) = &self.access {
            tables.put_xattr(ino, ACCESS, access)?;
        }
        if let Some(default) = &self.default {
            tables.put_xattr(ino, DEFAULT, default)?;
        }
        Ok(())
    }
}

/// What a new inode inherits; `None` if the directory has no default ACL: then the umask counts.
pub(super) fn inherit<T: Read + ?Sized>(
    tables: &T,
    parent: Ino,
    kind: FileKind,
    perm: u16,
) -> FsResult<Option<Inherited>> {
    let Some(stored) = tables.xattr(parent, DEFAULT)? else {
        return Ok(None);
    };
    let Some(mut acl) = Acl::parse(&stored).map_err(|_| FsError::Corrupt)? else {
        return Ok(None);
    };
    let perm = (perm & !0o777) | acl.limit(perm);
    let access = (!acl.is_mode_only()).then(|| acl.to_bytes());
    let default = (kind == FileKind::Dir).then(|| stored.to_vec());
    Ok(Some(Inherited { perm, access, default }))
}

/// Keeps the access ACL of an inode in step with new permission bits.
pub(super) fn follow_chmod<T: Tables + ?Sized>(tables: &mut T, ino: Ino, perm: u16) -> FsResult<()> {
    let Some(stored) = tables.xattr(ino, ACCESS)? else {
        return Ok(());
    };
    // What is stored was checked when it was set.
    if let Ok(Some(mut acl)) = Acl::parse(&stored) {
        acl.chmod(perm);
        tables.put_xattr(ino, ACCESS, &acl.to_bytes())?;
    }
    Ok(())
}
