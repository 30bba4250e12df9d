//! One volume: an append-only file of blocks, its index and its tombstones.
//!
//! A block exists, for everyone who asks, from the moment its record and all before it are durable.

pub mod bare;
pub mod format;
pub mod index;
pub mod recover;
pub mod segment;
pub mod tombstone;

use super::history::Found;
use crate::disk::{Disk, DiskFile, read_exact_at, read_whole, trust_only_the_disk};
use crate::durable;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, ClusterId, NodeId, VolumeId};
use cairn_common::limits::PIECE;
use cairn_common::proto::data::{BlockStat, VolumeStat};
use format::{FIRST_RECORD, FormatError, PAGE, Record, RecordKind, Superblock};
use index::{Entry, Index, MappedIndex, MemoryIndex, Shape};
use parking_lot::{Mutex, RwLock};
use segment::{Limits, Publish, Segment};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tombstone::{DeadSet, Tombstone, TombstoneLog};
use tracing::{error, warn};

/// Why a volume could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("superblock: {0}")]
    Superblock(#[from] FormatError),
    #[error("belongs to another cluster, node or volume")]
    Foreign,
}

/// Whose volumes these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub cluster: ClusterId,
    pub node: NodeId,
}

/// One volume.
pub struct Volume {
    id: VolumeId,
    nonce: u64,
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    segment: Segment,
    /// What readers see. Locked for moments only, never over I/O, and last: after `tombstones` and the segment's locks.
    visible: RwLock<Visible>,
    /// The right to delete; held over I/O, by I/O threads only.
    tombstones: Mutex<TombstoneLog>,
    /// The file takes nothing more: it has its end mark, or it is damaged.
    read_only: bool,
    /// Holes were punched that no sync has covered.
    punched: AtomicBool,
}

struct Visible {
    index: Index,
    dead: DeadSet,
    live_bytes: u64,
    deleted: u64,
    /// Where the durable part of the file ends.
    end: u64,
    /// The index is a durable file: nothing will be added.
    sealed: bool,
}

/// Where in the file a read finds its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset in the file.
    pub at: u64,
    /// Offset in the block.
    pub offset: u32,
    pub length: usize,
    /// One per piece.
    pub checksums: Vec<u32>,
}

/// How a volume was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Sealed, with its index.
    Sealed,
    /// Takes blocks; was closed in order.
    Open,
    /// Takes blocks; what was torn has been cut off.
    Recovered,
    /// Takes no more blocks and is to be sealed.
    Unsealed,
}

/// How the name of a volume's file ends.
const VOLUME_SUFFIX: &str = ".cv";

/// Name of the volume's file.
#[must_use]
pub fn volume_name(id: VolumeId) -> String {
    format!("vol-{:08x}{VOLUME_SUFFIX}", id.0)
}

/// The id in the name of a volume's file.
#[must_use]
pub fn parse_volume_name(name: &str) -> Option<VolumeId> {
    let id = VolumeId(u32::from_str_radix(name.strip_prefix("vol-")?.strip_suffix(VOLUME_SUFFIX)?, 16).ok()?);
    (volume_name(id) == name).then_some(id)
}

fn index_name(id: VolumeId) -> String {
    format!("vol-{:08x}.ci", id.0)
}

fn tombstone_name(id: VolumeId) -> String {
    tombstones_of(&format!("vol-{:08x}", id.0))
}

/// Name of the log of deletes beside the volume `stem.cv`.
fn tombstones_of(stem: &str) -> String {
    format!("{stem}.cd")
}

impl Volume {
    /// Makes a new volume, durable on return.
    pub fn create(
        disk: Arc<dyn Disk>,
        owner: Owner,
        id: VolumeId,
        created: u64,
        nonce: u64,
        limits: Limits,
    ) -> io::Result<Volume> {
        let Owner { cluster, node } = owner;
        let superblock = Superblock { cluster, node, volume: id, created, nonce };
        match disk.open(&volume_name(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) => return Err(error),
        }
        durable::replace(&*disk, &volume_name(id), &[&superblock.encode()])?;
        let file = disk.open(&volume_name(id))?;
        let segment = Segment::new(file.clone(), nonce, FIRST_RECORD, 1, limits);
        let visible = Visible::new(Index::Memory(MemoryIndex::default()), FIRST_RECORD, false);
        let tombstones = TombstoneLog::new(tombstone_name(id), id, nonce);
        Ok(Volume {
            id,
            nonce,
            disk,
            file,
            segment,
            visible: RwLock::new(visible),
            tombstones: Mutex::new(tombstones),
            read_only: false,
            punched: AtomicBool::new(false),
        })
    }

    /// Opens a volume: by its index if it is sealed, else by reading its headers.
    pub fn open(
        disk: Arc<dyn Disk>,
        owner: Owner,
        id: VolumeId,
        limits: Limits,
    ) -> Result<(Volume, Condition), VolumeError> {
        let file = disk.open(&volume_name(id))?;
        let nonce = read_superblock(&*file, owner, id)?.nonce;
        let (tombstones, dead) = TombstoneLog::open(&*disk, tombstone_name(id), id, nonce)?;
        let (segment, mut visible, condition) = match open_index(&*disk, id, nonce) {
            IndexFile::Good(index) => {
                let end = index.end();
                let segment = Segment::new(file.clone(), nonce, end, u32::MAX, limits);
                (segment, Visible::new(Index::Mapped(index), end, true), Condition::Sealed)
            }
            IndexFile::Bad => recover(&file, id, nonce, &dead, limits, true)?,
            IndexFile::None => recover(&file, id, nonce, &dead, limits, false)?,
        };
        let read_only = matches!(condition, Condition::Sealed | Condition::Unsealed);
        if read_only {
            segment.close();
        }
        for (sequence, cookie) in dead {
            visible.bury(sequence, cookie);
        }
        let volume = Volume {
            id,
            nonce,
            disk,
            file,
            segment,
            visible: RwLock::new(visible),
            tombstones: Mutex::new(tombstones),
            read_only,
            punched: AtomicBool::new(false),
        };
        Ok((volume, condition))
    }

    /// The volume's id.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The growing end.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Where to read `length` bytes at `offset` of a block, widened to whole pieces.
    pub fn locate(&self, block: BlockRef, offset: u32, length: u32) -> FsResult<Span> {
        let visible = self.visible.read();
        let entry = visible.live(block).ok_or(FsError::NotFound)?;
        let size = entry.payload_len as usize;
        let from = offset as usize;
        if length == 0 || from >= size {
            return Err(FsError::Invalid);
        }
        let first = from / PIECE;
        let end = (from + length as usize).min(size).next_multiple_of(PIECE).min(size);
        let count = end.div_ceil(PIECE) - first;
        let start = first * PIECE;
        Ok(Span {
            at: entry.offset() + start as u64,
            offset: u32::try_from(start).expect("not above the offset asked for"),
            length: end - start,
            checksums: visible.index.checksums(&entry, first, count),
        })
    }

    /// Length of a block's summary. `NotFound` if it is not here or deleted.
    pub fn summary_len(&self, block: BlockRef) -> FsResult<u32> {
        let visible = self.visible.read();
        visible.live(block).map(|entry| entry.summary_len).ok_or(FsError::NotFound)
    }

    /// Fills `buffer` with the bytes of a span if that needs no disk access.
    pub fn read_cached(&self, span: &Span, buffer: &mut [u8]) -> bool {
        self.file.read_cached(buffer, span.at) == Some(span.length)
    }

    /// Fills `buffer` with the bytes of a span.
    pub fn read(&self, span: &Span, buffer: &mut [u8]) -> FsResult<()> {
        if span.length > 2 * PIECE {
            self.file.will_need(span.at, span.length as u64);
        }
        read_exact_at(&*self.file, buffer, span.at).map_err(|error| {
            error!("volume {}: read at {}: {error}", self.id, span.at);
            FsError::Io
        })
    }

    /// Whether a block that files use is here, as far as the volume's end tells.
    pub fn find(&self, block: BlockRef) -> Found {
        if block.sequence >= self.segment.next_sequence() {
            return Found::Nothing;
        }
        match self.visible.read().index.get(block.sequence) {
            Some(entry) if entry.cookie != block.cookie => Found::Nothing,
            _ => Found::Block,
        }
    }

    /// True if the block is there and not deleted.
    pub fn is_live(&self, block: BlockRef) -> bool {
        self.visible.read().live(block).is_some()
    }

    /// Deletes blocks: first the tombstones are made durable, then nobody sees the blocks any more, then
    /// their space is given back. A crash in between leaves a deleted block's bytes, which
    /// [`Volume::punch_dead`] finds; it never leaves a hole in a block that counts as live.
    pub fn delete(&self, blocks: &[BlockRef]) -> io::Result<()> {
        let mut log = self.tombstones.lock();
        let mut doomed: Vec<Entry> = {
            let visible = self.visible.read();
            blocks.iter().filter_map(|block| visible.live(*block)).collect()
        };
        doomed.sort_unstable_by_key(|entry| entry.sequence);
        doomed.dedup_by_key(|entry| entry.sequence);
        if doomed.is_empty() {
            return Ok(());
        }
        let new: Vec<Tombstone> = doomed.iter().map(|e| (e.sequence, e.cookie)).collect();
        log.append(&*self.disk, || self.visible.read().tombstones(), &new)?;
        {
            let mut visible = self.visible.write();
            new.iter().for_each(|(sequence, cookie)| visible.bury(*sequence, *cookie));
        }
        doomed.iter().for_each(|entry| self.punch(entry));
        Ok(())
    }

    /// Gives back the space of all deleted blocks again: after a crash some holes may be missing.
    pub fn punch_dead(&self) {
        let _deleting = self.tombstones.lock();
        let dead = self.visible.read().dead_entries();
        dead.iter().for_each(|entry| self.punch(entry));
    }

    fn punch(&self, entry: &Entry) {
        let length = (entry.payload_len as usize).next_multiple_of(PAGE) as u64;
        self.punched.store(true, Ordering::Relaxed);
        if let Err(error) = self.file.punch(entry.offset(), length) {
            // The block is deleted all the same; its space comes back when the volume is vacuumed.
            warn!("volume {}: cannot give back the space of block {}: {error}", self.id, entry.sequence);
        }
    }

    /// Makes the index durable beside a volume that takes no more blocks, and reads by it from now on.
    pub fn seal(&self) -> io::Result<()> {
        self.segment.close();
        self.segment.settle(self);
        if self.visible.read().sealed {
            return Ok(());
        }
        if !self.read_only && !self.segment.has_failed() {
            // Says in the volume itself that it ends here, should the index be lost. If it can't be
            // written the index alone says so.
            match self.segment.finish(RecordKind::Seal) {
                Ok(end) => self.visible.write().end = end,
                Err(error) => warn!("volume {}: cannot mark its end: {error}", self.id),
            }
        }
        let (header, body) = {
            let visible = self.visible.read();
            match &visible.index {
                Index::Memory(index) => index.encode(self.id, self.nonce, visible.end),
                Index::Mapped(_) => return Ok(()),
            }
        };
        durable::replace(&*self.disk, &index_name(self.id), &[&header, &body])?;
        let IndexFile::Good(index) = open_index(&*self.disk, self.id, self.nonce) else {
            return Err(io::Error::other("index is unreadable just after it was written"));
        };
        let mut visible = self.visible.write();
        visible.index = Index::Mapped(index);
        visible.sealed = true;
        Ok(())
    }

    /// True if it takes no more blocks, and all that it took are deleted.
    pub fn is_spent(&self) -> bool {
        let visible = self.visible.read();
        visible.sealed && visible.deleted == visible.index.len() as u64
    }

    /// Removes the files of a volume that is spent. Those beside the volume go only after it, durably: without
    /// them its blocks would come back. If they stay after a crash they are in nobody's way.
    pub fn remove_files(&self) -> io::Result<()> {
        let _deleting = self.tombstones.lock();
        self.disk.remove(&volume_name(self.id))?;
        self.disk.sync_dir()?;
        for name in [index_name(self.id), tombstone_name(self.id)] {
            match self.disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends in order: the next start need not verify anything.
    pub fn stop(&self) -> io::Result<()> {
        self.segment.settle(self);
        if !self.segment.is_closed() && !self.segment.has_failed() {
            self.visible.write().end = self.segment.finish(RecordKind::Stop)?;
        } else if self.punched.load(Ordering::Relaxed) {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// State, as reported.
    pub fn stat(&self) -> VolumeStat {
        let visible = self.visible.read();
        VolumeStat {
            volume: self.id,
            sealed: visible.sealed,
            bytes: visible.end,
            blocks: visible.index.len() as u64 - visible.deleted,
            live_bytes: visible.live_bytes,
            deleted: visible.deleted,
        }
    }

    /// Blocks with a sequence above `after`, at most `limit`, in order.
    pub fn list(&self, after: u32, limit: usize) -> Vec<BlockStat> {
        let visible = self.visible.read();
        let stat = |position: usize| {
            let entry = visible.index.at(position);
            BlockStat {
                block: BlockRef { volume: self.id, sequence: entry.sequence, cookie: entry.cookie },
                session: entry.session,
                length: entry.payload_len,
                summary_len: entry.summary_len,
                deleted: visible.dead.contains(position),
            }
        };
        visible.index.positions_after(after, limit).map(stat).collect()
    }
}

impl Publish for Volume {
    fn publish(&self, blocks: &[(u64, Record)], end: u64) {
        let mut visible = self.visible.write();
        visible.end = end;
        for (offset, record) in blocks {
            visible.live_bytes += u64::from(record.payload_len);
            match &mut visible.index {
                Index::Memory(index) => index.push(record, *offset),
                Index::Mapped(_) => unreachable!("a sealed volume takes no blocks"),
            }
        }
    }
}

impl Visible {
    fn new(index: Index, end: u64, sealed: bool) -> Visible {
        let live_bytes = (0..index.len()).map(|i| u64::from(index.at(i).payload_len)).sum();
        Visible { index, dead: DeadSet::default(), live_bytes, deleted: 0, end, sealed }
    }

    fn live(&self, block: BlockRef) -> Option<Entry> {
        let position = self.index.position(block.sequence)?;
        let entry = self.index.at(position);
        (entry.cookie == block.cookie && !self.dead.contains(position)).then_some(entry)
    }

    /// Counts a block as deleted, if it is the one that the tombstone means.
    fn bury(&mut self, sequence: u32, cookie: u32) {
        let Some(position) = self.index.position(sequence) else { return };
        let entry = self.index.at(position);
        if entry.cookie == cookie && self.dead.insert(position) {
            self.live_bytes -= u64::from(entry.payload_len);
            self.deleted += 1;
        }
    }

    fn dead_entries(&self) -> Vec<Entry> {
        if self.deleted == 0 {
            return Vec::new();
        }
        let dead = (0..self.index.len()).filter(|position| self.dead.contains(*position));
        dead.map(|position| self.index.at(position)).collect()
    }

    fn tombstones(&self) -> Vec<Tombstone> {
        self.dead_entries().iter().map(|e| (e.sequence, e.cookie)).collect()
    }
}

fn read_superblock(file: &dyn DiskFile, owner: Owner, id: VolumeId) -> Result<Superblock, VolumeError> {
    let mut page = [0; PAGE];
    read_exact_at(file, &mut page, 0)?;
    let superblock = Superblock::decode(&page)?;
    let Owner { cluster, node } = owner;
    if (superblock.cluster, superblock.node, superblock.volume) != (cluster, node, id) {
        return Err(VolumeError::Foreign);
    }
    Ok(superblock)
}

/// Why there is no index to read by.
#[derive(Debug, thiserror::Error)]
enum IndexError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// What is found of a volume's index.
enum IndexFile {
    Good(MappedIndex),
    /// It is damaged, or can't be read now. The volume has it all.
    Bad,
    None,
}

fn open_index(disk: &dyn Disk, id: VolumeId, nonce: u64) -> IndexFile {
    match map_index(disk, id, nonce) {
        Ok(index) => IndexFile::Good(index),
        Err(IndexError::Io(error)) if error.kind() == io::ErrorKind::NotFound => IndexFile::None,
        Err(error) => {
            warn!("{}: {error}; it will be made again from the volume", index_name(id));
            IndexFile::Bad
        }
    }
}

/// Reads all of it before it is mapped: an error of the disk is one here, and would kill the daemon there.
fn map_index(disk: &dyn Disk, id: VolumeId, nonce: u64) -> Result<MappedIndex, IndexError> {
    let name = index_name(id);
    let shape = Shape::verify(&read_whole(disk, &name)?, id, nonce)?;
    Ok(MappedIndex::new(disk.map(&name)?, shape)?)
}

/// Finds by its headers what a volume holds. One that `was_sealed` takes no more, whatever its last record says (it has no end
/// mark if its disk failed): what came behind would be gone when the old index can be read again.
fn recover(
    file: &Arc<dyn DiskFile>,
    id: VolumeId,
    nonce: u64,
    dead: &[Tombstone],
    limits: Limits,
    was_sealed: bool,
) -> io::Result<(Segment, Visible, Condition)> {
    trust_only_the_disk(&**file)?;
    let mut dead = dead.to_vec();
    dead.sort_unstable();
    let is_dead = |record: &Record| dead.binary_search(&(record.sequence, record.cookie)).is_ok();
    let scan = recover::scan(&**file, nonce, is_dead)?;
    let segment = Segment::new(file.clone(), nonce, scan.end, scan.next_sequence, limits);
    let condition = if scan.damaged {
        error!("volume {id}: damaged headers; blocks in between are lost here, it takes no more");
        Condition::Unsealed
    } else if scan.sealed || was_sealed {
        Condition::Unsealed
    } else {
        if !scan.clean || file.len()? != scan.end {
            // What was cut must not be met behind a new record.
            file.truncate(scan.end)?;
            // Blocks may not come for long.
            segment.mark_end();
            file.sync_data()?;
        }
        if scan.clean { Condition::Open } else { Condition::Recovered }
    };
    Ok((segment, Visible::new(Index::Memory(scan.index), scan.end, false), condition))
}
