//! `copy_file_range` by sharing extents: no data moves.

use super::commit::written;
use super::extents::{collect, cut, place};
use super::inode::file;
use super::ledger::Ledger;
use super::op::{Extent, ExtentData, OpReply, OpResult};
use super::tables::{Inode, Read, Tables};
use crate::attr::{Caller, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use crate::limits::FILE_SIZE_MAX;

/// Copies up to `length` bytes, as many as the source has. Holes are copied as holes, and space set
/// aside as well: it reads the same.
pub(super) fn clone_range<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    caller: &Caller,
    (from, from_offset): (Ino, u64),
    (to, to_offset): (Ino, u64),
    length: u64,
) -> OpResult {
    let mut target = file(tables, to)?;
    let source_size = if from == to { target.attr.size } else { file(tables, from)?.attr.size };
    let length = length.min(source_size.saturating_sub(from_offset));
    if length == 0 {
        return Ok(OpReply::Copied { length, attr: target.attr });
    }
    let end = match to_offset.checked_add(length) {
        Some(end) if end <= FILE_SIZE_MAX => end,
        _ => return Err(FsError::FileTooLarge),
    };
    if from == to && from_offset < end && to_offset < from_offset + length {
        return Err(FsError::Invalid);
    }

    let shared = shared(tables, from, from_offset, to_offset, length)?;
    let mut ledger = Ledger::default();
    share(tables, &mut target, (to_offset, end), shared, &mut ledger)?;
    target.modified_by(caller);
    written(tables, now, &mut target)?;
    ledger.settle(tables)?;
    Ok(OpReply::Copied { length, attr: target.attr })
}

/// The source's data, where it goes in the target.
fn shared<T: Read + ?Sized>(
    tables: &T,
    from: Ino,
    from_offset: u64,
    to_offset: u64,
    length: u64,
) -> FsResult<Vec<Extent>> {
    let range = from_offset..from_offset + length;
    let found = collect(tables, from, (range.start, range.end), usize::MAX)?;
    let parts = found.into_iter().filter_map(|extent| extent.within(range.clone()));
    Ok(parts
        .filter(|part| part.data != ExtentData::Reserved)
        .map(|part| Extent { offset: part.offset - from_offset + to_offset, ..part })
        .collect())
}

fn share<T: Tables + ?Sized>(
    tables: &mut T,
    target: &mut Inode,
    (start, end): (u64, u64),
    shared: Vec<Extent>,
    ledger: &mut Ledger,
) -> FsResult<()> {
    cut(tables, target, start, end, ledger)?;
    for extent in shared {
        place(tables, target, extent, ledger)?;
    }
    target.attr.size = target.attr.size.max(end);
    Ok(())
}
