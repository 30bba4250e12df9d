//! Data becomes visible: commits of many pieces at once, and appends.
//!
//! All pieces of a block belong into one operation: a block whose live bytes come down to 0 is deleted,
//! and nothing that points to it later would find its data.

use super::inode::file;
use super::ledger::Ledger;
use super::op::{Commit, Extent, ExtentData, FileCommit, Move, OpReply, OpResult, Piece};
use super::tables::{Inode, Read, Tables};
use super::{extents, xattr};
use crate::attr::{Attr, FileKind, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use crate::limits::{COMMIT_PIECES_MAX, FILE_SIZE_MAX};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// A file of a commit, read once and written once.
struct Touched {
    inode: Inode,
    /// Its content or size changed.
    content: bool,
    /// Bytes of it moved from the metadata into a block.
    moved: bool,
}

/// By inode number; `None` for one that is gone.
type Files = BTreeMap<Ino, Option<Touched>>;

/// What a commit did.
pub(super) struct Committed {
    /// Attributes of each file that still exists.
    pub files: Vec<Attr>,
    /// Files of which not all has moved that was to.
    pub kept: Vec<Ino>,
}

pub(super) fn commit<T: Tables + ?Sized>(
    tables: &mut T,
    body: &Commit,
    moves: &[Move],
) -> FsResult<Committed> {
    let mut ledger = Ledger::default();
    let mut files = check_commit(tables, body, moves, &mut ledger)?;
    place_pieces(tables, &body.pieces, &mut files, &mut ledger)?;
    let kept = place_moves(tables, moves, &mut files, &mut ledger)?;
    for change in &body.files {
        if let Some(Some(touched)) = files.get_mut(&change.ino) {
            change_file(touched, change);
        }
    }
    let mut attrs = Vec::with_capacity(files.len());
    for mut touched in files.into_values().flatten() {
        if touched.content || touched.moved {
            touched.inode.bump_version();
        }
        if touched.content {
            xattr::drop_capability(tables, touched.inode.attr.ino)?;
        }
        tables.put_inode(&touched.inode)?;
        attrs.push(touched.inode.attr);
    }
    ledger.settle(tables)?;
    Ok(Committed { files: attrs, kept })
}

fn check_commit<T: Read + ?Sized>(
    tables: &T,
    body: &Commit,
    moves: &[Move],
    ledger: &mut Ledger,
) -> FsResult<Files> {
    if body.pieces.len() + moves.len() > COMMIT_PIECES_MAX {
        return Err(FsError::Invalid);
    }
    for &(block, length) in &body.blocks {
        ledger.bring(tables, block, length)?;
    }
    let mut files = Files::new();
    for Piece { ino, extent } in &body.pieces {
        ledger.check(tables, &extent.data, extent.length)?;
        check_end(extent.offset, extent.length)?;
        load(tables, &mut files, *ino)?;
    }
    for change in &body.files {
        check_end(change.size_at_least, 0)?;
        load(tables, &mut files, change.ino)?;
    }
    for moving in moves {
        ledger.check(tables, &moving.data(), moving.length)?;
        check_end(moving.offset, moving.length)?;
        load(tables, &mut files, moving.ino)?;
    }
    Ok(files)
}

impl Move {
    fn data(&self) -> ExtentData {
        ExtentData::Block { block: self.block, offset: self.at }
    }
}

pub(super) fn check_end(offset: u64, length: u64) -> FsResult<u64> {
    match offset.checked_add(length) {
        Some(end) if end <= FILE_SIZE_MAX => Ok(end),
        _ => Err(FsError::FileTooLarge),
    }
}

fn load<T: Read + ?Sized>(tables: &T, files: &mut Files, ino: Ino) -> FsResult<()> {
    let Entry::Vacant(entry) = files.entry(ino) else {
        return Ok(());
    };
    let inode = tables.inode(ino)?;
    if inode.as_ref().is_some_and(|inode| inode.attr.kind != FileKind::File) {
        return Err(FsError::Invalid);
    }
    entry.insert(inode.map(|inode| Touched { inode, content: false, moved: false }));
    Ok(())
}

/// Pieces that follow each other in file and block are placed as one.
fn place_pieces<T: Tables + ?Sized>(
    tables: &mut T,
    pieces: &[Piece],
    files: &mut Files,
    ledger: &mut Ledger,
) -> FsResult<()> {
    let mut pieces = pieces.iter().peekable();
    while let Some(Piece { ino, extent }) = pieces.next() {
        let mut run = extent.clone();
        while let Some(next) = pieces.next_if(|next| next.ino == *ino && run.goes_on_in(&next.extent)) {
            run.length += next.extent.length;
        }
        let Some(Some(touched)) = files.get_mut(ino) else {
            continue;
        };
        touched.content = true;
        touched.inode.attr.size = touched.inode.attr.size.max(run.end());
        extents::place(tables, &mut touched.inode, run, ledger)?;
    }
    Ok(())
}

/// Moves what is still as it was; the files of which something is not.
fn place_moves<T: Tables + ?Sized>(
    tables: &mut T,
    moves: &[Move],
    files: &mut Files,
    ledger: &mut Ledger,
) -> FsResult<Vec<Ino>> {
    let mut kept = BTreeSet::new();
    for moving in moves {
        let Some(Some(touched)) = files.get_mut(&moving.ino) else {
            continue;
        };
        let range = moving.offset..moving.offset + moving.length;
        if extents::inline_sum(tables, moving.ino, range)? != Some(moving.sum) {
            kept.insert(moving.ino);
            continue;
        }
        touched.moved = true;
        let extent = Extent { offset: moving.offset, length: moving.length, data: moving.data() };
        extents::place(tables, &mut touched.inode, extent, ledger)?;
    }
    Ok(kept.into_iter().collect())
}

fn change_file(touched: &mut Touched, change: &FileCommit) {
    let attr = &mut touched.inode.attr;
    if change.size_at_least > attr.size {
        attr.size = change.size_at_least;
        touched.content = true;
    }
    if let Some(mtime) = change.mtime {
        attr.mtime = mtime;
        attr.ctime = attr.ctime.max(mtime);
    }
    if change.kill_suidgid {
        touched.inode.kill_suidgid();
    }
}

pub(super) fn append<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    ino: Ino,
    length: u64,
    data: &ExtentData,
    block_length: u32,
    kill_suidgid: bool,
) -> OpResult {
    let mut inode = file(tables, ino)?;
    let mut ledger = Ledger::default();
    bring(tables, &mut ledger, data, block_length)?;
    ledger.check(tables, data, length)?;
    let offset = inode.attr.size;
    let end = check_end(offset, length)?;

    let extent = Extent { offset, length, data: data.clone() };
    extents::place(tables, &mut inode, extent, &mut ledger)?;
    inode.attr.size = end;
    if kill_suidgid {
        inode.kill_suidgid();
    }
    written(tables, now, &mut inode)?;
    ledger.settle(tables)?;
    Ok(OpReply::Appended { offset, attr: inode.attr })
}

fn bring<T: Read + ?Sized>(
    tables: &T,
    ledger: &mut Ledger,
    data: &ExtentData,
    block_length: u32,
) -> FsResult<()> {
    match data {
        ExtentData::Block { block, .. } => ledger.bring(tables, *block, block_length),
        _ => Ok(()),
    }
}

/// The content was changed by an operation of its own: times, version, capabilities; then stored.
pub(super) fn written<T: Tables + ?Sized>(tables: &mut T, now: Timestamp, inode: &mut Inode) -> FsResult<()> {
    inode.modified(now);
    inode.bump_version();
    xattr::drop_capability(tables, inode.attr.ino)?;
    tables.put_inode(inode)
}
