//! Reading: whoever caches writes of what is looked at flushes them first. What cannot be stored (a full disk) is not seen.
//!
//! With an inode number at hand: ask, wait, read. Where the inode is only known after reading (a name,
//! a directory's page): read, ask about what was found, and read again if that could have changed.

use super::Meta;
use bytes::Bytes;
use cairn_common::attr::Attr;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, SessionId};
use cairn_common::limits::{NAME_MAX, XATTR_NAME_MAX};
use cairn_common::namespace as tree;
use cairn_common::namespace::op::LockRequest;
use cairn_common::namespace::tables::HeldLock;
use cairn_common::proto::meta::DirPage;

/// Waits until no other session caches writes of `inos`.
pub async fn settle(meta: &Meta, session: SessionId, inos: &[Ino]) -> FsResult<()> {
    meta.sessions.recovered().await;
    let ((), waiting) = meta.sessions.enter_wait(session, |leases| ((), leases.look(session, inos)))?;
    if let Some(waiting) = waiting {
        waiting.settled().await?;
    }
    Ok(())
}

/// Reads; then, if what was read speaks of inodes (`inos`) whose writes others cached, waits for them
/// and reads again.
async fn settled<T>(
    meta: &Meta,
    session: SessionId,
    read: impl Fn() -> FsResult<T>,
    inos: impl Fn(&T, &mut Vec<Ino>),
) -> FsResult<T> {
    meta.sessions.recovered().await;
    let (alone, before) = meta.sessions.enter(session, |leases| (leases.is_alone(), leases.settled()))?;
    let value = read()?;
    if alone {
        return Ok(value);
    }
    let mut found = Vec::new();
    inos(&value, &mut found);
    let (after, waiting) = meta.sessions.enter_wait(session, |leases| {
        let wait = leases.look(session, &found);
        (leases.settled(), wait)
    })?;
    if waiting.is_none() && before == after {
        return Ok(value);
    }
    if let Some(waiting) = waiting {
        waiting.settled().await?;
    }
    read()
}

pub async fn lookup(meta: &Meta, session: SessionId, parent: Ino, name: &[u8]) -> FsResult<Attr> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    let read = || meta.machine.read(|snapshot| tree::lookup(snapshot, parent, name));
    settled(meta, session, read, |attr, inos| inos.push(attr.ino)).await
}

pub async fn getattr(meta: &Meta, session: SessionId, ino: Ino) -> FsResult<Attr> {
    settle(meta, session, &[ino]).await?;
    meta.machine.read(|snapshot| tree::getattr(snapshot, ino))
}

pub async fn readlink(meta: &Meta, session: SessionId, ino: Ino) -> FsResult<Bytes> {
    settle(meta, session, &[]).await?;
    meta.machine.read(|snapshot| tree::readlink(snapshot, ino))
}

pub async fn readdir(
    meta: &Meta,
    session: SessionId,
    ino: Ino,
    cookie: u64,
    max_bytes: u32,
    plus: bool,
) -> FsResult<DirPage> {
    let read = || meta.machine.read(|snapshot| tree::readdir(snapshot, ino, cookie, max_bytes, plus));
    settled(meta, session, read, |page: &DirPage, inos| {
        if plus {
            inos.extend(page.entries.iter().map(|entry| entry.ino));
        }
    })
    .await
}

pub async fn getxattr(meta: &Meta, session: SessionId, ino: Ino, name: &[u8]) -> FsResult<Bytes> {
    if name.len() > XATTR_NAME_MAX {
        return Err(FsError::Range);
    }
    settle(meta, session, &[ino]).await?;
    meta.machine.read(|snapshot| tree::getxattr(snapshot, ino, name))
}

pub async fn listxattr(meta: &Meta, session: SessionId, ino: Ino) -> FsResult<Vec<Bytes>> {
    settle(meta, session, &[]).await?;
    meta.machine.read(|snapshot| tree::listxattr(snapshot, ino))
}

pub async fn test_lock(
    meta: &Meta,
    session: SessionId,
    ino: Ino,
    lock: &LockRequest,
) -> FsResult<Option<HeldLock>> {
    settle(meta, session, &[]).await?;
    meta.machine.read(|snapshot| tree::test_lock(snapshot, session, ino, lock))
}
