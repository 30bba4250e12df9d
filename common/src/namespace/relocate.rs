//! Moving what is live of a block elsewhere, so that the rest of its space can be given back: the cleaning of
//! log-structured file systems (Rosenblum and Ousterhout, 1992). Data daemons do it; see `docs/decisions/0010-cleaning.md`.
//!
//! Whoever cleans finds out what is live ([`live_pieces`]), stores a copy, and has extents changed over ([`relocate`]).
//! Files may be changed by anyone meanwhile: each stretch moves only as far as it still is where it was.

use super::commit::check_end;
use super::extents::{self, ROUND};
use super::ledger::Ledger;
use super::op::{Extent, ExtentData, Relocation};
use super::tables::{Inode, Read, Tables};
use crate::attr::FileKind;
use crate::error::{FsError, FsResult};
use crate::ids::{BlockRef, Ino};
use crate::limits::COMMIT_PIECES_MAX;
use crate::proto::meta::{FileRange, LivePiece, LivePieces};

impl Relocation {
    fn source(&self) -> ExtentData {
        ExtentData::Block { block: self.from, offset: self.from_at }
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }
}

/// Changes over to `block`, of `length` bytes, what still points to where a relocation is from. A block that nothing points
/// to afterwards goes to the delete queue, be it the old one or the new.
///
/// # Errors
/// `Invalid` for too many or impossible relocations: then nothing has changed.
pub fn relocate<T: Tables + ?Sized>(
    tables: &mut T,
    block: BlockRef,
    length: u32,
    pieces: &[Relocation],
) -> FsResult<()> {
    // Done before, and the answer was lost: nothing points there any more, and nothing may again.
    if tables.is_dead(block)? {
        return Ok(());
    }
    let mut ledger = Ledger::default();
    check(tables, block, length, pieces, &mut ledger)?;
    for of_file in pieces.chunk_by(|one, next| one.ino == next.ino) {
        let file = tables.inode(of_file[0].ino)?.filter(|inode| inode.attr.kind == FileKind::File);
        // Gone meanwhile, and with it what was live.
        let Some(mut inode) = file else { continue };
        for piece in of_file {
            relocate_piece(tables, &mut inode, block, piece, &mut ledger)?;
        }
        tables.put_inode(&inode)?;
    }
    ledger.settle(tables)
}

fn check<T: Read + ?Sized>(
    tables: &T,
    block: BlockRef,
    length: u32,
    pieces: &[Relocation],
    ledger: &mut Ledger,
) -> FsResult<()> {
    if pieces.len() > COMMIT_PIECES_MAX {
        return Err(FsError::Invalid);
    }
    ledger.bring(tables, block, length)?;
    for piece in pieces {
        if piece.from == block {
            return Err(FsError::Invalid);
        }
        check_end(piece.offset, piece.length.into())?;
        ledger.check(tables, &ExtentData::Block { block, offset: piece.to_at }, piece.length.into())?;
    }
    Ok(())
}

fn relocate_piece<T: Tables + ?Sized>(
    tables: &mut T,
    inode: &mut Inode,
    block: BlockRef,
    piece: &Relocation,
    ledger: &mut Ledger,
) -> FsResult<()> {
    // Cut into more pieces than this meanwhile, the rest stays where it is until the next time.
    let found = extents::collect(tables, inode.attr.ino, (piece.offset, piece.end()), ROUND)?;
    for extent in found {
        let Some(part) = extent.within(piece.offset..piece.end()) else { continue };
        let skip = part.offset - piece.offset;
        if part.data != piece.source().part(skip, part.length) {
            continue;
        }
        let to = ExtentData::Block { block, offset: piece.to_at };
        let moved = Extent { data: to.part(skip, part.length), ..part };
        extents::place(tables, inode, moved, ledger)?;
    }
    Ok(())
}

/// What in the `ranges` of files points into `block`, in the order of the ranges. Whoever wrote the block knows the ranges from
/// its summary; what was shared by a copy, or moved within its file, is elsewhere and not found.
///
/// # Errors
/// `TooBig` if there is more than one operation can move.
pub fn live_pieces<T: Read + ?Sized>(
    tables: &T,
    block: BlockRef,
    ranges: &[FileRange],
) -> FsResult<LivePieces> {
    let live = tables.block(block)?.map_or(0, |usage| usage.live);
    let mut pieces = Vec::new();
    for range in ranges {
        let end = range.offset.saturating_add(u64::from(range.length));
        tables.scan_extents(range.ino, range.offset, end, &mut |extent| {
            let part = extent.within(range.offset..end);
            pieces.extend(part.and_then(|part| live_piece(range.ino, &part, block)));
            pieces.len() <= COMMIT_PIECES_MAX
        })?;
        if pieces.len() > COMMIT_PIECES_MAX {
            return Err(FsError::TooBig);
        }
    }
    Ok(LivePieces { live, pieces })
}

fn live_piece(ino: Ino, part: &Extent, block: BlockRef) -> Option<LivePiece> {
    match part.data {
        ExtentData::Block { block: of, offset: at } if of == block => {
            // It fits: the block is no longer than that.
            let length = u32::try_from(part.length).ok()?;
            Some(LivePiece { ino, offset: part.offset, length, at })
        }
        _ => None,
    }
}
