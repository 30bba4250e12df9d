//! Reading rows, the same for a transaction that writes and for a snapshot.

use super::schema::{Bytes as Value, Key8, Key12, Key16};
use super::{failed, keys, values};
use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino, SessionId, VolumeId};
use cairn_common::namespace::op::Extent;
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode};
use redb::ReadableTable;

pub fn inode(table: &impl ReadableTable<Key8, Value>, ino: Ino) -> FsResult<Option<Inode>> {
    let found = table.get(&keys::ino(ino)).map_err(failed)?;
    found.map(|value| values::decode_inode(ino, value.value())).transpose()
}

pub fn dentry(
    table: &impl ReadableTable<Key16, Value>,
    parent: Ino,
    cookie: u64,
) -> FsResult<Option<Dentry>> {
    let found = table.get(&keys::pair(parent.0, cookie)).map_err(failed)?;
    found.map(|value| values::decode_dentry(cookie, value.value())).transpose()
}

pub fn scan_dentries(
    table: &impl ReadableTable<Key16, Value>,
    parent: Ino,
    from: u64,
    visit: &mut dyn FnMut(Dentry) -> bool,
) -> FsResult<()> {
    let (first, last) = (keys::pair(parent.0, from), keys::pair(parent.0, u64::MAX));
    for row in table.range::<&[u8; 16]>(&first..=&last).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if !visit(values::decode_dentry(keys::second_of(key.value()), value.value())?) {
            break;
        }
    }
    Ok(())
}

pub fn scan_extents(
    table: &impl ReadableTable<Key16, Value>,
    ino: Ino,
    start: u64,
    end: u64,
    visit: &mut dyn FnMut(Extent) -> bool,
) -> FsResult<()> {
    if start >= end {
        return Ok(());
    }
    let decode = |key: &[u8; 16], value: &[u8]| values::decode_extent(keys::second_of(key), value);
    let first = keys::pair(ino.0, start);
    // The extent that begins before the range may reach into it.
    let lowest = keys::pair(ino.0, 0);
    if let Some(row) = table.range::<&[u8; 16]>(&lowest..&first).map_err(failed)?.next_back() {
        let (key, value) = row.map_err(failed)?;
        let extent = decode(key.value(), value.value())?;
        if extent.offset.saturating_add(extent.length) > start && !visit(extent) {
            return Ok(());
        }
    }
    let last = keys::pair(ino.0, end);
    for row in table.range::<&[u8; 16]>(&first..&last).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if !visit(decode(key.value(), value.value())?) {
            break;
        }
    }
    Ok(())
}

pub fn xattr(table: &impl ReadableTable<Value, Value>, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
    let found = table.get(keys::xattr(ino, name).as_slice()).map_err(failed)?;
    found.map(|value| values::decode_xattr(value.value())).transpose()
}

pub fn xattr_names(table: &impl ReadableTable<Value, Value>, ino: Ino) -> FsResult<Vec<Bytes>> {
    let (first, last) = (keys::ino(ino), keys::ino(Ino(ino.0.saturating_add(1))));
    let rows = table.range::<&[u8]>(first.as_slice()..last.as_slice()).map_err(failed)?;
    rows.map(|row| {
        let (key, _) = row.map_err(failed)?;
        Ok(Bytes::copy_from_slice(&key.value()[first.len()..]))
    })
    .collect()
}

pub fn locks(table: &impl ReadableTable<Key8, Value>, ino: Ino) -> FsResult<Vec<HeldLock>> {
    let found = table.get(&keys::ino(ino)).map_err(failed)?;
    found.map_or(Ok(Vec::new()), |value| values::decode_locks(value.value()))
}

pub fn locked_by(table: &impl ReadableTable<Key16, Value>, session: SessionId) -> FsResult<Vec<Ino>> {
    let (first, last) = (keys::pair(session.0, 0), keys::pair(session.0, u64::MAX));
    let rows = table.range::<&[u8; 16]>(&first..=&last).map_err(failed)?;
    rows.map(|row| Ok(Ino(keys::second_of(row.map_err(failed)?.0.value())))).collect()
}

pub fn block(table: &impl ReadableTable<Key12, Value>, block: BlockRef) -> FsResult<Option<BlockUse>> {
    let found = table.get(&keys::block(block)).map_err(failed)?;
    found.map(|value| values::decode_block(value.value())).transpose()
}

pub fn contains(table: &impl ReadableTable<Key8, Value>, ino: Ino) -> FsResult<bool> {
    Ok(table.get(&keys::ino(ino)).map_err(failed)?.is_some())
}

/// Keys of `table` above `after`, at most `max`.
pub fn inos_after(table: &impl ReadableTable<Key8, Value>, after: Ino, max: usize) -> FsResult<Vec<Ino>> {
    let first = keys::ino(Ino(after.0.saturating_add(1)));
    let rows = table.range::<&[u8; 8]>(&first..).map_err(failed)?;
    rows.take(max).map(|row| Ok(keys::ino_of(row.map_err(failed)?.0.value()))).collect()
}

/// Keys of `table` in one volume, at most `max`.
pub fn blocks_of(
    table: &impl ReadableTable<Key12, Value>,
    volume: VolumeId,
    max: usize,
) -> FsResult<Vec<BlockRef>> {
    let bound = |n: u32| keys::block(BlockRef { volume, sequence: n, cookie: n });
    let rows = table.range::<&[u8; 12]>(&bound(0)..=&bound(u32::MAX)).map_err(failed)?;
    rows.take(max).map(|row| Ok(keys::block_of(row.map_err(failed)?.0.value()))).collect()
}
