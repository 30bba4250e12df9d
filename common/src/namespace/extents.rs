//! Extents of a file: exact replacement, cutting, and joining what belongs together.
//!
//! Extents of a file never overlap. Two that touch are joined if they go on in the same block, or are
//! both set aside. A file that holds no bytes (`allocated` is 0) has no extents: no need to look.

use super::ledger::Ledger;
use super::op::{Extent, ExtentData};
use super::tables::{Inode, Read, Tables};
use crate::error::FsResult;
use crate::ids::Ino;
use crate::wire::checksum::Crc64;
use std::ops::Range;

/// Extents looked at in one go; longer runs are cut in rounds.
pub(super) const ROUND: usize = 1024;

impl Extent {
    /// The byte after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The part of this extent inside of `range`; `None` if they do not overlap.
    #[must_use]
    pub fn within(&self, range: Range<u64>) -> Option<Extent> {
        let (start, end) = (self.offset.max(range.start), self.end().min(range.end));
        if start >= end {
            return None;
        }
        let (skip, length) = (start - self.offset, end - start);
        Some(Extent { offset: start, length, data: self.data.part(skip, length) })
    }

    /// True if `next` begins where this ends, in the file and where the bytes are.
    pub(super) fn goes_on_in(&self, next: &Extent) -> bool {
        self.end() == next.offset && self.data.goes_on_in(&next.data, self.length)
    }
}

impl ExtentData {
    /// `length` bytes after the first `skip`. Offsets in blocks are below their length, a `u32`.
    pub(super) fn part(&self, skip: u64, length: u64) -> ExtentData {
        match self {
            ExtentData::Block { block, offset } => {
                let skip = u32::try_from(skip).unwrap_or(u32::MAX);
                ExtentData::Block { block: *block, offset: offset.saturating_add(skip) }
            }
            ExtentData::Inline(bytes) => {
                let at = |value: u64| usize::try_from(value).unwrap_or(usize::MAX).min(bytes.len());
                ExtentData::Inline(bytes.slice(at(skip)..at(skip + length)))
            }
            ExtentData::Reserved => ExtentData::Reserved,
        }
    }

    fn goes_on_in(&self, next: &ExtentData, length: u64) -> bool {
        match (self, next) {
            (
                ExtentData::Block { block: one, offset: at },
                ExtentData::Block { block: two, offset: next },
            ) => one == two && u64::from(*at) + length == u64::from(*next),
            (ExtentData::Reserved, ExtentData::Reserved) => true,
            _ => false,
        }
    }
}

/// At most `max` extents that overlap `start..end`, whole.
pub(super) fn collect<T: Read + ?Sized>(
    tables: &T,
    ino: Ino,
    (start, end): (u64, u64),
    max: usize,
) -> FsResult<Vec<Extent>> {
    let mut found = Vec::new();
    if max > 0 && start < end {
        tables.scan_extents(ino, start, end, &mut |extent| {
            found.push(extent);
            found.len() < max
        })?;
    }
    Ok(found)
}

/// Makes a hole of `start..end`. The inode is changed, but not stored.
pub(super) fn cut<T: Tables + ?Sized>(
    tables: &mut T,
    inode: &mut Inode,
    start: u64,
    end: u64,
    ledger: &mut Ledger,
) -> FsResult<()> {
    let ino = inode.attr.ino;
    if inode.attr.allocated == 0 {
        return Ok(());
    }
    let mut found = collect(tables, ino, (start, end), ROUND)?;
    loop {
        let last_round = found.len() < ROUND;
        let next = found.last().map_or(end, Extent::end);
        for extent in found {
            match extent.within(0..start) {
                Some(left) => tables.put_extent(ino, &left)?,
                None => tables.remove_extent(ino, extent.offset)?,
            }
            if let Some(right) = extent.within(end..u64::MAX) {
                tables.put_extent(ino, &right)?;
            }
            let gone = extent.end().min(end) - extent.offset.max(start);
            ledger.release(inode, &extent.data, gone);
        }
        if last_round || inode.attr.allocated == 0 {
            return Ok(());
        }
        // Not from `start` again: the store would walk over all that is removed.
        found = Vec::new();
        tables.scan_extents_beginning(ino, next, end, &mut |extent| {
            found.push(extent);
            found.len() < ROUND
        })?;
    }
}

/// Puts an extent where it belongs, in place of what was there. The inode is changed, but not stored.
pub(super) fn place<T: Tables + ?Sized>(
    tables: &mut T,
    inode: &mut Inode,
    extent: Extent,
    ledger: &mut Ledger,
) -> FsResult<()> {
    let ino = inode.attr.ino;
    let (start, end) = (extent.offset, extent.end());
    ledger.add(inode, &extent.data, extent.length);
    if inode.attr.allocated == extent.length {
        return tables.put_extent(ino, &extent);
    }
    // One byte more on each side: the neighbours that it may be joined with.
    let around = (start.saturating_sub(1), end.saturating_add(1));
    let mut found = collect(tables, ino, around, ROUND)?;
    if found.len() == ROUND {
        cut(tables, inode, start, end, ledger)?;
        found = collect(tables, ino, around, ROUND)?;
    }

    let mut joined = extent;
    for old in found {
        let left = old.within(0..start);
        let right = old.within(end..u64::MAX);
        let kept = [&left, &right].into_iter().flatten().map(|part| part.length).sum::<u64>();
        ledger.release(inode, &old.data, old.length - kept);
        match left {
            Some(left) if left.goes_on_in(&joined) => {
                joined = Extent { length: left.length + joined.length, ..left };
            }
            Some(left) if left.length < old.length => tables.put_extent(ino, &left)?,
            Some(_) => {}
            // Its row is overwritten, or goes away. A right neighbour's row goes only if it is joined.
            None if old.offset < end && old.offset != joined.offset => {
                tables.remove_extent(ino, old.offset)?;
            }
            None => {}
        }
        match right {
            Some(right) if joined.goes_on_in(&right) => {
                if old.offset == right.offset {
                    tables.remove_extent(ino, right.offset)?;
                }
                joined.length += right.length;
            }
            Some(right) if right.length < old.length => tables.put_extent(ino, &right)?,
            _ => {}
        }
    }
    tables.put_extent(ino, &joined)
}

/// Joins the extents that meet at `at`, if they belong together.
pub(super) fn join_at<T: Tables + ?Sized>(tables: &mut T, ino: Ino, at: u64) -> FsResult<()> {
    let found = collect(tables, ino, (at.saturating_sub(1), at.saturating_add(1)), 2)?;
    if let [left, right] = &found[..]
        && left.goes_on_in(right)
    {
        tables.remove_extent(ino, right.offset)?;
        let length = left.length + right.length;
        tables.put_extent(ino, &Extent { length, ..left.clone() })?;
    }
    Ok(())
}

/// CRC-64/NVME of the bytes in `range`; `None` unless all of them lie inside the metadata.
pub(super) fn inline_sum<T: Read + ?Sized>(tables: &T, ino: Ino, range: Range<u64>) -> FsResult<Option<u64>> {
    let (mut at, mut sum) = (range.start, Crc64::default());
    tables.scan_extents(ino, range.start, range.end, &mut |extent| match extent.within(range.clone()) {
        Some(Extent { offset, length, data: ExtentData::Inline(bytes) }) if offset == at => {
            sum.update(&bytes);
            at += length;
            true
        }
        _ => false,
    })?;
    Ok((at == range.end).then(|| sum.finish()))
}
