//! Entries of a directory, kept under cookies: 63-bit hashes of their names, with linear probing.
//!
//! An entry never moves while it exists, so its cookie is a stable `readdir` offset. Where an entry
//! goes away in the middle of a probe chain a marker (ino 0) stays, so that those behind it are found.

use super::tables::{Dentry, Read, Tables};
use crate::attr::FileKind;
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use bytes::Bytes;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::ops::RangeInclusive;

/// Cookies below are not names: 0 is the start, 1 is `.`, 2 is `..`; some are kept for later.
pub(super) const FIRST_COOKIE: u64 = 16;
/// One less than the largest `off_t`, so that "after this one" is an offset, too.
const LAST_COOKIE: u64 = (i64::MAX - 1) as u64;
/// The cookies that names have.
pub const COOKIES: RangeInclusive<u64> = FIRST_COOKIE..=LAST_COOKIE;
/// With 63-bit hashes even two entries in one chain are rare; the bound is against damage.
pub(super) const PROBES_MAX: usize = 4096;
/// Part of the format of the tables: never change them.
const KEYS: (u64, u64) = (0x6361_6972_6e20_6469, 0x7265_6374_6f72_7921);

/// The cookie where the search for `name` begins.
#[must_use]
pub fn name_hash(name: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(KEYS.0, KEYS.1);
    hasher.write(name);
    hasher.finish() >> 1
}

/// Where a name is, or where it would go.
pub(super) enum Slot {
    Taken(Dentry),
    Vacant(u64),
}

impl Slot {
    pub(super) fn taken(self) -> FsResult<Dentry> {
        match self {
            Slot::Taken(dentry) => Ok(dentry),
            Slot::Vacant(_) => Err(FsError::NotFound),
        }
    }

    pub(super) fn vacant(self) -> FsResult<u64> {
        match self {
            Slot::Taken(_) => Err(FsError::Exists),
            Slot::Vacant(cookie) => Ok(cookie),
        }
    }
}

fn home<T: Read + ?Sized>(tables: &T, name: &[u8]) -> u64 {
    tables.name_hash(name).clamp(FIRST_COOKIE, LAST_COOKIE)
}

fn after(cookie: u64) -> u64 {
    if cookie >= LAST_COOKIE { FIRST_COOKIE } else { cookie + 1 }
}

fn before(cookie: u64) -> u64 {
    if cookie <= FIRST_COOKIE { LAST_COOKIE } else { cookie - 1 }
}

/// Looks for a name.
pub(super) fn find<T: Read + ?Sized>(tables: &T, parent: Ino, name: &[u8]) -> FsResult<Slot> {
    let mut cookie = home(tables, name);
    let mut free = None;
    for _ in 0..PROBES_MAX {
        match tables.dentry_at(parent, cookie)? {
            None => return Ok(Slot::Vacant(free.unwrap_or(cookie))),
            Some(dentry) if dentry.ino == Ino(0) => {
                free.get_or_insert(cookie);
            }
            Some(dentry) if dentry.name == name => return Ok(Slot::Taken(dentry)),
            Some(_) => {}
        }
        cookie = after(cookie);
    }
    free.map(Slot::Vacant).ok_or(FsError::NoSpace)
}

/// Puts a name into the vacant slot that [`find`] gave.
pub(super) fn insert<T: Tables + ?Sized>(
    tables: &mut T,
    parent: Ino,
    cookie: u64,
    name: &Bytes,
    (ino, kind): (Ino, FileKind),
) -> FsResult<()> {
    tables.put_dentry(parent, &Dentry { cookie, name: name.clone(), ino, kind })
}

/// Lets an existing entry name something else.
pub(super) fn redirect<T: Tables + ?Sized>(
    tables: &mut T,
    parent: Ino,
    dentry: Dentry,
    (ino, kind): (Ino, FileKind),
) -> FsResult<()> {
    tables.put_dentry(parent, &Dentry { ino, kind, ..dentry })
}

/// Removes an entry. Costs one read more than the removal, and more only in a chain.
pub(super) fn remove<T: Tables + ?Sized>(tables: &mut T, parent: Ino, dentry: &Dentry) -> FsResult<()> {
    let cookie = dentry.cookie;
    if tables.dentry_at(parent, after(cookie))?.is_some() {
        let marker = Dentry { cookie, name: Bytes::new(), ino: Ino(0), kind: FileKind::File };
        return tables.put_dentry(parent, &marker);
    }
    tables.remove_dentry(parent, cookie)?;
    if cookie == home(tables, &dentry.name) {
        return Ok(());
    }
    let mut behind = before(cookie);
    while tables.dentry_at(parent, behind)?.is_some_and(|marker| marker.ino == Ino(0)) {
        tables.remove_dentry(parent, behind)?;
        behind = before(behind);
    }
    Ok(())
}

/// Removes markers that are left in an empty directory: [`remove`] looks backwards only from entries
/// that were displaced, so one can stay when two hashes are neighbours.
pub(super) fn sweep<T: Tables + ?Sized>(tables: &mut T, parent: Ino) -> FsResult<()> {
    let mut markers = Vec::new();
    tables.scan_dentries(parent, 0, &mut |dentry| {
        markers.push(dentry.cookie);
        true
    })?;
    markers.into_iter().try_for_each(|cookie| tables.remove_dentry(parent, cookie))
}
