//! What an operation adds to and takes from blocks and totals, summed up and stored once at its end.

use super::op::ExtentData;
use super::tables::{BlockUse, Inode, Read, Tables};
use crate::error::{FsError, FsResult};
use crate::ids::BlockRef;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
struct Entry {
    /// Change of live bytes.
    delta: i64,
    /// The row in the tables, once it has been read.
    row: Option<Option<BlockUse>>,
    /// Length of a block that this operation brings.
    brought: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    blocks: BTreeMap<BlockRef, Entry>,
    allocated: i64,
}

impl Ledger {
    /// The operation brings this block. `Invalid` if it is known with another length, or waits for being deleted: its data
    /// may be gone in the next moment.
    pub(super) fn bring<T: Read + ?Sized>(
        &mut self,
        tables: &T,
        block: BlockRef,
        length: u32,
    ) -> FsResult<()> {
        let row = tables.block(block)?;
        let entry = self.blocks.entry(block).or_default();
        let other = entry.brought.or(row.map(|row| row.length));
        if other.is_some_and(|other| other != length) {
            return Err(FsError::Invalid);
        }
        if tables.is_dead(block)? {
            return Err(FsError::Invalid);
        }
        entry.row = Some(row);
        entry.brought = Some(length);
        Ok(())
    }

    /// Checks that `length` bytes of `data` exist: inside of a block that is known or brought, or all
    /// the inline bytes there are.
    pub(super) fn check<T: Read + ?Sized>(
        &mut self,
        tables: &T,
        data: &ExtentData,
        length: u64,
    ) -> FsResult<()> {
        let fits = match data {
            ExtentData::Inline(bytes) => bytes.len() as u64 == length,
            ExtentData::Reserved => false,
            ExtentData::Block { block, offset } => {
                let end = u64::from(*offset).checked_add(length).ok_or(FsError::Invalid)?;
                end <= u64::from(self.block_length(tables, *block)?)
            }
        };
        if fits && length > 0 { Ok(()) } else { Err(FsError::Invalid) }
    }

    fn block_length<T: Read + ?Sized>(&mut self, tables: &T, block: BlockRef) -> FsResult<u32> {
        let entry = self.blocks.entry(block).or_default();
        if let Some(length) = entry.brought {
            return Ok(length);
        }
        let row = match entry.row {
            Some(row) => row,
            None => *entry.row.insert(tables.block(block)?),
        };
        row.map(|row| row.length).ok_or(FsError::Invalid)
    }

    /// `inode` got `length` bytes of `data`.
    pub(super) fn add(&mut self, inode: &mut Inode, data: &ExtentData, length: u64) {
        inode.attr.allocated += length;
        self.count(data, length.cast_signed());
    }

    /// `inode` lost `length` bytes of `data`.
    pub(super) fn release(&mut self, inode: &mut Inode, data: &ExtentData, length: u64) {
        inode.attr.allocated = inode.attr.allocated.saturating_sub(length);
        self.count(data, -length.cast_signed());
    }

    fn count(&mut self, data: &ExtentData, by: i64) {
        self.allocated += by;
        if let ExtentData::Block { block, .. } = data {
            self.blocks.entry(*block).or_default().delta += by;
        }
    }

    /// Stores the sums. Blocks without live bytes go to the delete queue, also those that were brought
    /// for nothing.
    pub(super) fn settle<T: Tables + ?Sized>(self, tables: &mut T) -> FsResult<()> {
        let mut block_bytes = 0;
        for (block, entry) in self.blocks {
            block_bytes += settle_block(tables, block, entry)?;
        }
        if self.allocated != 0 || block_bytes != 0 {
            let mut totals = tables.totals()?;
            totals.allocated = totals.allocated.saturating_add_signed(self.allocated);
            totals.block_bytes = totals.block_bytes.saturating_add_signed(block_bytes);
            tables.put_totals(totals)?;
        }
        Ok(())
    }
}

/// Stores the use of one block; returns the change of `block_bytes`.
fn settle_block<T: Tables + ?Sized>(tables: &mut T, block: BlockRef, entry: Entry) -> FsResult<i64> {
    if entry.delta == 0 && entry.brought.is_none() {
        return Ok(0);
    }
    let row = match entry.row {
        Some(row) => row,
        None => tables.block(block)?,
    };
    // An extent into a block without a row is damage that shows only now: the transaction must end.
    let length = row.map(|row| row.length).or(entry.brought).ok_or(FsError::Io)?;
    let live = row.map_or(0, |row| row.live).saturating_add_signed(entry.delta);
    if live == 0 {
        tables.queue_delete(block)?;
    } else if entry.delta != 0 {
        tables.put_block(block, BlockUse { length, live })?;
    }
    let counted = |counts: bool| if counts { i64::from(length) } else { 0 };
    Ok(counted(live > 0) - counted(row.is_some()))
}
