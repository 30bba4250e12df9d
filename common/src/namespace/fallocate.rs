//! The modes of `fallocate`.

use super::commit::written;
use super::extents::{collect, cut, join_at, place};
use super::inode::file;
use super::ledger::Ledger;
use super::op::{Extent, ExtentData, FallocateMode, OpReply, OpResult};
use super::tables::{Inode, Read, Tables};
use crate::attr::{Caller, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use crate::limits::{ALLOCATED_MAX, FILE_SIZE_MAX};

/// `COLLAPSE_RANGE` and `INSERT_RANGE` work on whole blocks of this size, as on ext4.
const BLOCK: u64 = 4096;
/// Extents moved in one go.
const ROUND: usize = 1024;

/// Like ext4 and XFS, every mode moves `mtime` and `ctime`.
pub(super) fn fallocate<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    ino: Ino,
    mode: FallocateMode,
    (offset, length): (u64, u64),
) -> OpResult {
    let mut inode = file(tables, ino)?;
    if length == 0 {
        return Err(FsError::Invalid);
    }
    let end = match offset.checked_add(length) {
        Some(end) if end <= FILE_SIZE_MAX => end,
        _ => return Err(FsError::FileTooLarge),
    };
    check_mode(&inode, mode, offset, length)?;

    let mut ledger = Ledger::default();
    match mode {
        FallocateMode::Allocate { keep_size } => {
            let holes = holes(tables, ino, offset, end)?;
            check_room(tables, &holes)?;
            fill(tables, &mut inode, holes, &mut ledger)?;
            grow(&mut inode, end, keep_size);
        }
        FallocateMode::PunchHole => cut(tables, &mut inode, offset, end, &mut ledger)?,
        FallocateMode::ZeroRange { keep_size } => {
            check_room(tables, &holes(tables, ino, offset, end)?)?;
            let zeros = Extent { offset, length, data: ExtentData::Reserved };
            place(tables, &mut inode, zeros, &mut ledger)?;
            grow(&mut inode, end, keep_size);
        }
        FallocateMode::CollapseRange => collapse(tables, &mut inode, offset, end, &mut ledger)?,
        FallocateMode::InsertRange => insert(tables, &mut inode, offset, length)?,
    }
    inode.modified_by(caller);
    written(tables, now, &mut inode)?;
    ledger.settle(tables)?;
    Ok(OpReply::Attr(inode.attr))
}

/// What the modes that move bytes ask for, as Linux does.
fn check_mode(inode: &Inode, mode: FallocateMode, offset: u64, length: u64) -> FsResult<()> {
    let size = inode.attr.size;
    let aligned = offset.is_multiple_of(BLOCK) && length.is_multiple_of(BLOCK);
    match mode {
        // Up to the end of the file it would be a truncation.
        FallocateMode::CollapseRange if !aligned || offset + length >= size => Err(FsError::Invalid),
        FallocateMode::InsertRange if !aligned || offset >= size => Err(FsError::Invalid),
        FallocateMode::InsertRange if size + length > FILE_SIZE_MAX => Err(FsError::FileTooLarge),
        _ => Ok(()),
    }
}

fn grow(inode: &mut Inode, end: u64, keep_size: bool) {
    if !keep_size {
        inode.attr.size = inode.attr.size.max(end);
    }
}

/// Offset and length of what no extent covers.
fn holes<T: Read + ?Sized>(tables: &T, ino: Ino, start: u64, end: u64) -> FsResult<Vec<(u64, u64)>> {
    let mut holes = Vec::new();
    let mut at = start;
    tables.scan_extents(ino, start, end, &mut |extent| {
        if extent.offset > at {
            holes.push((at, extent.offset - at));
        }
        at = extent.end();
        true
    })?;
    if at < end {
        holes.push((at, end - at));
    }
    Ok(holes)
}

/// `NoSpace` if so much more cannot be set aside. Asked before anything is changed: sums that have gone wrong
/// would stay so.
fn check_room<T: Read + ?Sized>(tables: &T, holes: &[(u64, u64)]) -> FsResult<()> {
    let mut wanted = tables.totals()?.allocated;
    for (_, length) in holes {
        wanted = wanted.checked_add(*length).ok_or(FsError::NoSpace)?;
    }
    if wanted <= ALLOCATED_MAX { Ok(()) } else { Err(FsError::NoSpace) }
}

/// Sets space aside in `holes`.
fn fill<T: Tables + ?Sized>(
    tables: &mut T,
    inode: &mut Inode,
    holes: Vec<(u64, u64)>,
    ledger: &mut Ledger,
) -> FsResult<()> {
    for (offset, length) in holes {
        place(tables, inode, Extent { offset, length, data: ExtentData::Reserved }, ledger)?;
    }
    Ok(())
}

/// Takes `start..end` out; what follows moves down, from the front: its new place is always free.
fn collapse<T: Tables + ?Sized>(
    tables: &mut T,
    inode: &mut Inode,
    start: u64,
    end: u64,
    ledger: &mut Ledger,
) -> FsResult<()> {
    let ino = inode.attr.ino;
    cut(tables, inode, start, end, ledger)?;
    let mut at = end;
    loop {
        let found = collect(tables, ino, (at, u64::MAX), ROUND)?;
        for extent in &found {
            at = extent.end();
            tables.remove_extent(ino, extent.offset)?;
            let offset = extent.offset - (end - start);
            tables.put_extent(ino, &Extent { offset, ..extent.clone() })?;
        }
        if found.len() < ROUND {
            break;
        }
    }
    inode.attr.size -= end - start;
    join_at(tables, ino, start)
}

/// Makes room at `start`: what follows moves up, from the back, so that it never meets what has still to
/// move. The list of it is as long as the file has extents there.
fn insert<T: Tables + ?Sized>(tables: &mut T, inode: &mut Inode, start: u64, length: u64) -> FsResult<()> {
    let ino = inode.attr.ino;
    let found = collect(tables, ino, (start, u64::MAX), usize::MAX)?;
    if found.last().is_some_and(|last| last.end() > FILE_SIZE_MAX - length) {
        return Err(FsError::FileTooLarge);
    }
    for extent in found.into_iter().rev() {
        match extent.within(0..start) {
            Some(left) => tables.put_extent(ino, &left)?,
            None => tables.remove_extent(ino, extent.offset)?,
        }
        if let Some(right) = extent.within(start..u64::MAX) {
            let offset = right.offset + length;
            tables.put_extent(ino, &Extent { offset, ..right })?;
        }
    }
    inode.attr.size += length;
    Ok(())
}
