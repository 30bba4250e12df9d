//! Locks: `fcntl` byte ranges and `flock`, which don't see each other.
//!
//! An owner's locks on a file never overlap, and touching ones of one kind are joined. A request that
//! would have to wait is answered `WouldBlock` and changes nothing, so a shared `flock` that is to
//! become exclusive is kept. Linux drops it first; a mount that waits for such a conversion has to
//! unlock before it waits, or two that convert wait for each other for ever.

use super::inode::target;
use super::op::{LockFamily, LockOwner, LockRequest, LockType, OpReply, OpResult};
use super::tables::{HeldLock, Tables};
use crate::error::{FsError, FsResult};
use crate::ids::{Ino, SessionId};
use crate::limits::LOCKS_PER_INODE_MAX;

/// The last byte of any file: the end of "to the end of the file".
pub(super) const LAST_BYTE: u64 = u64::MAX >> 1;

pub(super) fn lock<T: Tables + ?Sized>(
    tables: &mut T,
    session: SessionId,
    ino: Ino,
    request: &LockRequest,
) -> OpResult {
    normalize(request)?;
    target(tables, ino)?;
    let held = tables.locks(ino)?;
    let after = locks_after(&held, session, request)?;
    if after != held {
        tables.put_locks(ino, &after)?;
    }
    Ok(OpReply::Done)
}

/// What is held on an inode after `request`, sorted by owner and place.
///
/// # Errors
/// `WouldBlock` if another owner's lock stands in the way, `NoLocks` if there would be too many, `Invalid`
/// for a range that ends before it begins.
pub fn locks_after(held: &[HeldLock], session: SessionId, request: &LockRequest) -> FsResult<Vec<HeldLock>> {
    let request = normalize(request)?;
    if conflict(held, session, &request).is_some() {
        return Err(FsError::WouldBlock);
    }
    let after = replace(held, session, &request);
    if after.len() > LOCKS_PER_INODE_MAX && after.len() > held.len() {
        return Err(FsError::NoLocks);
    }
    Ok(after)
}

/// The first lock of another owner that stands in the way of `request`.
///
/// # Errors
/// `Invalid` for a range that ends before it begins.
pub fn lock_in_the_way(
    held: &[HeldLock],
    session: SessionId,
    request: &LockRequest,
) -> FsResult<Option<HeldLock>> {
    let request = normalize(request)?;
    Ok(conflict(held, session, &request).copied())
}

/// `flock` is about the whole file; a range has a first byte that is not after its last.
fn normalize(request: &LockRequest) -> FsResult<LockRequest> {
    let mut request = *request;
    if request.owner.family == LockFamily::Flock {
        (request.start, request.end) = (0, LAST_BYTE);
    }
    request.end = request.end.min(LAST_BYTE);
    if request.start > request.end { Err(FsError::Invalid) } else { Ok(request) }
}

fn conflict<'a>(held: &'a [HeldLock], session: SessionId, request: &LockRequest) -> Option<&'a HeldLock> {
    if request.kind == LockType::Unlock {
        return None;
    }
    held.iter().find(|lock| {
        (lock.session, lock.owner) != (session, request.owner)
            && lock.owner.family == request.owner.family
            && (lock.write || request.kind == LockType::Write)
            && lock.start <= request.end
            && request.start <= lock.end
    })
}

/// All locks after the request, sorted by owner and place: what the owner held in the range gives way,
/// also to the other kind.
fn replace(held: &[HeldLock], session: SessionId, request: &LockRequest) -> Vec<HeldLock> {
    let mut after = Vec::with_capacity(held.len() + 2);
    for lock in held {
        if (lock.session, lock.owner) != (session, request.owner) {
            after.push(*lock);
            continue;
        }
        if lock.start < request.start {
            after.push(HeldLock { end: lock.end.min(request.start - 1), ..*lock });
        }
        if lock.end > request.end {
            after.push(HeldLock { start: lock.start.max(request.end + 1), ..*lock });
        }
    }
    if request.kind != LockType::Unlock {
        after.push(HeldLock {
            session,
            owner: request.owner,
            write: request.kind == LockType::Write,
            start: request.start,
            end: request.end,
            pid: request.pid,
        });
    }
    after.sort_unstable_by_key(|lock| (lock.session, lock.owner, lock.start));
    after.dedup_by(|next, lock| join(lock, next));
    after
}

/// Extends `lock` by `next` if it goes on there as the same kind.
fn join(lock: &mut HeldLock, next: &HeldLock) -> bool {
    let same =
        (lock.session, lock.owner, lock.write, lock.pid) == (next.session, next.owner, next.write, next.pid);
    let joined = same && lock.end + 1 == next.start;
    if joined {
        lock.end = next.end;
    }
    joined
}

pub(super) fn release<T: Tables + ?Sized>(
    tables: &mut T,
    session: SessionId,
    ino: Ino,
    owner: LockOwner,
) -> OpResult {
    retain(tables, ino, |lock| (lock.session, lock.owner) != (session, owner))?;
    Ok(OpReply::Done)
}

/// Releases all locks of a session that has ended; returns the inodes on which it had some.
pub fn end_session_locks<T: Tables + ?Sized>(tables: &mut T, session: SessionId) -> FsResult<Vec<Ino>> {
    let inos = tables.locked_by(session)?;
    for &ino in &inos {
        retain(tables, ino, |lock| lock.session != session)?;
    }
    Ok(inos)
}

fn retain<T: Tables + ?Sized>(tables: &mut T, ino: Ino, keep: impl Fn(&HeldLock) -> bool) -> FsResult<()> {
    let mut locks = tables.locks(ino)?;
    let before = locks.len();
    locks.retain(keep);
    if locks.len() < before {
        tables.put_locks(ino, &locks)?;
    }
    Ok(())
}
