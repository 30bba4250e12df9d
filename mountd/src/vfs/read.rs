//! Reading: dirty data first, then extents known here, then those that the server tells.

use super::Vfs;
use super::handle::File;
use super::inode::State;
use crate::cache::data::BlockRange;
use crate::cache::extent::{ExtentCache, Found};
use crate::client::{DataClient, MetaClient};
use crate::fuse::ops::{ReadAt, ReadData, Segment};
use bytes::Bytes;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::namespace::op::ExtentData;
use cairn_common::proto::meta::ExtentPage;

/// How often a read starts again because blocks were replaced under it.
const TRIES: u32 = 8;
/// Most pages of extents that one read asks for.
const PAGES_MAX: u32 = 1024;

/// A stretch of what is read.
#[derive(Clone, Debug)]
enum Part {
    Bytes(Bytes),
    Zeros(u64),
    Block(BlockRange),
    /// The server knows.
    Unknown {
        offset: u64,
        length: u64,
    },
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// A read that needs nothing from any server.
    pub(super) fn read_now(&self, read: &ReadAt) -> Option<FsResult<ReadData>> {
        let file = match self.file(read.fh) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let (parts, end) = {
            let state = file.inode.lock();
            if !state.is_cached() || state.attr.is_none() {
                return None;
            }
            let end = read.offset.saturating_add(u64::from(read.size)).min(state.size);
            (self.parts(&state, read.offset, end), end)
        };
        let mut out = ReadData::default();
        let here = parts.iter().all(|part| match part {
            Part::Block(range) => self.pieces.try_read(*range, &mut out),
            Part::Unknown { .. } => false,
            known => {
                known.push(&mut out);
                true
            }
        });
        if here {
            self.read_ahead(&file, read.offset, end);
            self.note_read(&file);
            return Some(Ok(out));
        }
        None
    }

    /// Any read.
    pub(super) async fn read_any(&self, read: ReadAt) -> FsResult<ReadData> {
        let file = self.file(read.fh)?;
        for _ in 0..TRIES {
            match self.read_once(&file, &read).await {
                // The block was replaced after its extent was looked up; the new extent tells.
                Err(FsError::NotFound) => file.inode.lock().extents.clear(),
                result => {
                    self.note_read(&file);
                    return result;
                }
            }
        }
        Err(FsError::Io)
    }

    async fn read_once(&self, file: &File, read: &ReadAt) -> FsResult<ReadData> {
        let ino = file.inode.ino;
        let wanted = read.offset.saturating_add(u64::from(read.size));
        if file.inode.lock().needs_attr() {
            self.attr_now(ino).await?;
        }
        let (mut parts, end) = {
            let state = file.inode.lock();
            if state.lease.is_none() {
                return Err(FsError::Evicted);
            }
            let end = if state.is_cached() { wanted.min(state.size) } else { wanted };
            (self.parts(&state, read.offset, end), end)
        };
        let mut end = end;
        if parts.iter().any(|part| matches!(part, Part::Unknown { .. })) {
            let size;
            (parts, size) = self.ask_extents(ino, parts, end).await?;
            end = end.min(size);
        }
        self.read_ahead(file, read.offset, end);
        let mut left = end.saturating_sub(read.offset);
        let mut out = ReadData::default();
        for part in &parts {
            if let Part::Block(range) = part {
                self.pieces.prefetch(*range);
            }
        }
        for part in parts {
            let part = part.cut(left);
            left -= part.length();
            match part {
                Part::Block(range) => self.pieces.read(range, &mut out).await?,
                known => known.push(&mut out),
            }
        }
        Ok(out)
    }

    /// What is known here of `start..end`.
    fn parts(&self, state: &State, start: u64, end: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = start;
        for dirty in state.dirty.range(start, end) {
            clean_parts(state, at, dirty.offset, &mut parts);
            let length = usize::try_from(dirty.length).expect("an interval is at most one segment long");
            parts.push(Part::Bytes(self.buffer.read(dirty.slot, length)));
            at = dirty.end();
        }
        clean_parts(state, at, end, &mut parts);
        parts
    }

    /// Asks the server for what is not known. Dirty data was looked at before, so what is clean
    /// now is in the answer. Returns the file's size, too.
    async fn ask_extents(&self, ino: Ino, parts: Vec<Part>, end: u64) -> FsResult<(Vec<Part>, u64)> {
        let mut told = ExtentCache::default();
        let mut size = 0;
        let mut at = first_unknown(&parts).unwrap_or(end);
        let mut pages = 0;
        while at < end {
            let page = self.extent_page(ino, at, end).await?;
            pages += 1;
            // What no page told would be read as zeros.
            if page.end <= at || pages > PAGES_MAX {
                return Err(FsError::Io);
            }
            told.learn(page.start, page.end, &page.extents);
            size = page.size;
            at = page.end;
        }
        let inode = self.inodes.get(ino);
        // With the lease, the size is what is known here; else what the server says, and dirty data.
        if let Some(inode) = inode {
            let state = inode.lock();
            size = if state.is_cached() { state.size } else { size.max(state.dirty.end()) };
        }
        let mut resolved = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Unknown { offset, length } => scan(&told, offset, offset + length, &mut resolved),
                known => resolved.push(known),
            }
        }
        Ok((resolved, size))
    }

    /// One page of extents; kept, if nothing happened to the file meanwhile.
    pub(super) async fn extent_page(&self, ino: Ino, start: u64, end: u64) -> FsResult<ExtentPage> {
        let before = self.inodes.get(ino).and_then(|inode| {
            let state = inode.lock();
            (state.is_cached() && state.pending == 0).then_some(state.stamp)
        });
        // Who may keep it asks for as much as there is.
        let until = if before.is_some() { u64::MAX } else { end };
        let page = self.meta.extents(ino, start, until).await?;
        if let (Some(stamp), Some(inode)) = (before, self.inodes.get(ino)) {
            let mut state = inode.lock();
            if state.is_cached() && state.pending == 0 && state.stamp == stamp {
                state.extents.learn(page.start, page.end, &page.extents);
            }
        }
        Ok(page)
    }

    /// Fetches what a sequential reader will ask for next.
    fn read_ahead(&self, file: &File, offset: u64, end: u64) {
        let Some((from, to)) = file.read_ahead.lock().advance(offset, end) else { return };
        let ranges: Vec<BlockRange> = {
            let state = file.inode.lock();
            let to = to.min(state.size);
            let mut parts = Vec::new();
            clean_parts(&state, from, to, &mut parts);
            parts
                .iter()
                .filter_map(|part| if let Part::Block(range) = part { Some(*range) } else { None })
                .collect()
        };
        ranges.into_iter().for_each(|range| self.pieces.prefetch(range));
    }
}

impl State {
    fn needs_attr(&self) -> bool {
        self.is_cached() && self.attr.is_none()
    }
}

impl Part {
    fn length(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Zeros(length) | Part::Unknown { length, .. } => *length,
            Part::Block(range) => u64::from(range.length),
        }
    }

    fn cut(self, most: u64) -> Part {
        if self.length() <= most {
            return self;
        }
        let short = |most: u64| u32::try_from(most).expect("shorter than a part of a block");
        match self {
            Part::Bytes(bytes) => {
                Part::Bytes(bytes.slice(..usize::try_from(most).expect("shorter than a part")))
            }
            Part::Zeros(_) => Part::Zeros(most),
            Part::Block(_) if most == 0 => Part::Zeros(0),
            Part::Block(range) => Part::Block(BlockRange { length: short(most), ..range }),
            Part::Unknown { offset, .. } => Part::Unknown { offset, length: most },
        }
    }

    fn push(&self, out: &mut ReadData) {
        match self {
            Part::Bytes(bytes) => out.push(bytes.clone()),
            Part::Zeros(length) | Part::Unknown { length, .. } => {
                let length = usize::try_from(*length).expect("a read is far shorter than 4 GiB");
                out.push_segment(Segment::Zeros(length));
            }
            Part::Block(_) => {}
        }
    }
}

fn first_unknown(parts: &[Part]) -> Option<u64> {
    parts.iter().find_map(|part| if let Part::Unknown { offset, .. } = part { Some(*offset) } else { None })
}

fn clean_parts(state: &State, start: u64, end: u64, parts: &mut Vec<Part>) {
    if start >= end {
        return;
    }
    if state.is_cached() {
        scan(&state.extents, start, end, parts);
    } else {
        parts.push(Part::Unknown { offset: start, length: end - start });
    }
}

fn scan(extents: &ExtentCache, start: u64, end: u64, parts: &mut Vec<Part>) {
    extents.scan(start, end, &mut |offset, found| {
        parts.push(match found {
            Found::Hole { length } => Part::Zeros(length),
            Found::Unknown { length } => Part::Unknown { offset, length },
            Found::Extent { data, skip, length } => stored(data, skip, length),
        });
        true
    });
}

fn stored(data: ExtentData, skip: u64, length: u64) -> Part {
    match data {
        ExtentData::Reserved => Part::Zeros(length),
        ExtentData::Inline(bytes) => {
            let from = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            let to = usize::try_from(skip + length).unwrap_or(usize::MAX).min(bytes.len());
            Part::Bytes(bytes.slice(from..to))
        }
        ExtentData::Block { block, offset } => {
            // A block is at most a few MiB long; an extent beyond that is refused by its fetch.
            let at = u32::try_from(u64::from(offset) + skip).unwrap_or(u32::MAX);
            let length = u32::try_from(length).unwrap_or(u32::MAX - at);
            Part::Block(BlockRange { block, at, length })
        }
    }
}
