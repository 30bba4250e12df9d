//! Reading rows, the same for a transaction and for a snapshot.

use super::memtable::Bounds;
use super::schema::Table;
use super::view::{ALL, View};
use super::{NodeRow, keys, values};
use bytes::Bytes;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Ino, NodeId, SessionId, VolumeId};
use cairn_common::namespace::op::Extent;
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode};
use std::ops::Bound::{Excluded, Included, Unbounded};

/// A key of fixed length. Another length is damage.
fn fixed<const N: usize>(key: &[u8]) -> FsResult<&[u8; N]> {
    key.try_into().map_err(|_| FsError::Corrupt)
}

fn within<'k>(first: &'k [u8], last: &'k [u8]) -> Bounds<'k> {
    (Included(first), Included(last))
}

fn up_to<'k>(first: &'k [u8], end: &'k [u8]) -> Bounds<'k> {
    (Included(first), Excluded(end))
}

/// What `decode` makes of the first `max` rows of a range.
fn collect<T>(
    view: &View,
    table: Table,
    bounds: Bounds<'_>,
    max: usize,
    decode: impl Fn(&[u8], &[u8]) -> FsResult<T>,
) -> FsResult<Vec<T>> {
    let mut found = Vec::new();
    if max == 0 {
        return Ok(found);
    }
    view.scan(table, bounds, &mut |key, value| {
        found.push(decode(key, value)?);
        Ok(found.len() < max)
    })?;
    Ok(found)
}

pub fn inode(view: &View, ino: Ino) -> FsResult<Option<Inode>> {
    let found = view.get(Table::Inode, &keys::ino(ino))?;
    found.map(|value| values::decode_inode(ino, &value)).transpose()
}

pub fn dentry(view: &View, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>> {
    let found = view.get(Table::Dentry, &keys::pair(parent.0, cookie))?;
    found.map(|value| values::decode_dentry(cookie, &value)).transpose()
}

pub fn scan_dentries(
    view: &View,
    parent: Ino,
    from: u64,
    visit: &mut dyn FnMut(Dentry) -> bool,
) -> FsResult<()> {
    let (first, last) = (keys::pair(parent.0, from), keys::pair(parent.0, u64::MAX));
    view.scan(Table::Dentry, within(&first, &last), &mut |key, value| {
        Ok(visit(values::decode_dentry(keys::second_of(fixed(key)?), value)?))
    })
}

pub fn scan_extents(
    view: &View,
    ino: Ino,
    start: u64,
    end: u64,
    visit: &mut dyn FnMut(Extent) -> bool,
) -> FsResult<()> {
    if start >= end {
        return Ok(());
    }
    let first = keys::pair(ino.0, start);
    // The extent that begins before the range may reach into it.
    let lowest = keys::pair(ino.0, 0);
    if let Some(extent) = view.last(Table::Extent, up_to(&lowest, &first), extent)?
        && extent.offset.saturating_add(extent.length) > start
        && !visit(extent)
    {
        return Ok(());
    }
    scan_extents_beginning(view, ino, start, end, visit)
}

pub fn scan_extents_beginning(
    view: &View,
    ino: Ino,
    start: u64,
    end: u64,
    visit: &mut dyn FnMut(Extent) -> bool,
) -> FsResult<()> {
    let (first, last) = (keys::pair(ino.0, start), keys::pair(ino.0, end));
    if start >= end {
        return Ok(());
    }
    view.scan(Table::Extent, up_to(&first, &last), &mut |key, value| Ok(visit(extent(key, value)?)))
}

fn extent(key: &[u8], value: &[u8]) -> FsResult<Extent> {
    values::decode_extent(keys::second_of(fixed(key)?), value)
}

pub fn xattr(view: &View, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
    let found = view.get(Table::Xattr, &keys::xattr(ino, name))?;
    found.map(|value| values::decode_xattr(&value)).transpose()
}

pub fn xattr_names(view: &View, ino: Ino) -> FsResult<Vec<Bytes>> {
    let (first, end) = (keys::ino(ino), keys::ino(Ino(ino.0.saturating_add(1))));
    let name = |key: &[u8], _value: &[u8]| Ok(Bytes::copy_from_slice(&key[first.len()..]));
    collect(view, Table::Xattr, up_to(&first, &end), usize::MAX, name)
}

pub fn locks(view: &View, ino: Ino) -> FsResult<Vec<HeldLock>> {
    let found = view.get(Table::Lock, &keys::ino(ino))?;
    found.map_or(Ok(Vec::new()), |value| values::decode_locks(&value))
}

pub fn locked_by(view: &View, session: SessionId) -> FsResult<Vec<Ino>> {
    let (first, last) = (keys::pair(session.0, 0), keys::pair(session.0, u64::MAX));
    let ino = |key: &[u8], _value: &[u8]| Ok(Ino(keys::second_of(fixed(key)?)));
    collect(view, Table::LockBySession, within(&first, &last), usize::MAX, ino)
}

pub fn block(view: &View, block: BlockRef) -> FsResult<Option<BlockUse>> {
    let found = view.get(Table::Block, &keys::block(block))?;
    found.map(|value| values::decode_block(&value)).transpose()
}

pub fn is_orphan(view: &View, ino: Ino) -> FsResult<bool> {
    view.contains(Table::Orphan, &keys::ino(ino))
}

/// Orphans above `after`, at most `max`.
pub fn orphans(view: &View, after: Ino, max: usize) -> FsResult<Vec<Ino>> {
    let after = keys::ino(after);
    let ino = |key: &[u8], _value: &[u8]| Ok(keys::ino_of(fixed(key)?));
    collect(view, Table::Orphan, (Excluded(&after), Unbounded), max, ino)
}

/// Dead blocks in one volume, at most `max`.
pub fn dead_blocks(view: &View, volume: VolumeId, max: usize) -> FsResult<Vec<BlockRef>> {
    let bound = |n: u32| keys::block(BlockRef { volume, sequence: n, cookie: n });
    let (first, last) = (bound(0), bound(u32::MAX));
    let block = |key: &[u8], _value: &[u8]| Ok(keys::block_of(fixed(key)?));
    collect(view, Table::Delete, within(&first, &last), max, block)
}

/// The last block that files have in a volume.
pub fn last_block(view: &View, volume: VolumeId) -> FsResult<Option<BlockRef>> {
    let bound = |n: u32| keys::block(BlockRef { volume, sequence: n, cookie: n });
    let (first, last) = (bound(0), bound(u32::MAX));
    view.last(Table::Block, within(&first, &last), |key, _value| Ok(keys::block_of(fixed(key)?)))
}

/// The data daemon with this number.
pub fn node(view: &View, node: NodeId) -> FsResult<Option<NodeRow>> {
    let found = view.get(Table::Node, &keys::node(node))?;
    found.map(|value| values::decode_node(node, &value)).transpose()
}

/// All data daemons, in order.
pub fn nodes(view: &View) -> FsResult<Vec<NodeRow>> {
    collect(view, Table::Node, ALL, usize::MAX, |key, value| {
        values::decode_node(NodeId(u32::from_be_bytes(*fixed(key)?)), value)
    })
}

/// The node that has a volume.
pub fn volume(view: &View, volume: VolumeId) -> FsResult<Option<NodeId>> {
    let found = view.get(Table::Volume, &keys::volume(volume))?;
    found.map(|value| values::decode_volume(&value)).transpose()
}

/// All volumes with the node that has them, in order.
pub fn volumes(view: &View) -> FsResult<Vec<(VolumeId, NodeId)>> {
    collect(view, Table::Volume, ALL, usize::MAX, |key, value| {
        Ok((VolumeId(u32::from_be_bytes(*fixed(key)?)), values::decode_volume(value)?))
    })
}

/// Visits the inodes to which the rows of a table belong, once for each run of equal ones.
pub fn owners(view: &View, table: Table, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
    let mut last = None;
    view.scan(table, ALL, &mut |key, _value| {
        let ino = keys::ino_of(key.first_chunk().ok_or(FsError::Corrupt)?);
        if last.replace(ino) != Some(ino) {
            visit(ino);
        }
        Ok(true)
    })
}

/// Visits all inodes.
pub fn inodes(view: &View, visit: &mut dyn FnMut(Inode)) -> FsResult<()> {
    view.scan(Table::Inode, ALL, &mut |key, value| {
        visit(values::decode_inode(keys::ino_of(fixed(key)?), value)?);
        Ok(true)
    })
}

/// Blocks that files have above `after`, in order, at most `max`.
pub fn blocks_after(view: &View, after: BlockRef, max: usize) -> FsResult<Vec<(BlockRef, BlockUse)>> {
    let after = keys::block(after);
    let row = |key: &[u8], value: &[u8]| Ok((keys::block_of(fixed(key)?), values::decode_block(value)?));
    collect(view, Table::Block, (Excluded(&after), Unbounded), max, row)
}

/// Whether a block waits for being deleted.
pub fn is_dead(view: &View, block: BlockRef) -> FsResult<bool> {
    view.contains(Table::Delete, &keys::block(block))
}

/// Visits all blocks that files have.
pub fn blocks(view: &View, visit: &mut dyn FnMut(BlockRef, BlockUse)) -> FsResult<()> {
    view.scan(Table::Block, ALL, &mut |key, value| {
        visit(keys::block_of(fixed(key)?), values::decode_block(value)?);
        Ok(true)
    })
}
