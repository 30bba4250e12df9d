//! The write buffer: a log in memory to which all files' writes are appended, in segments that become
//! blocks. Each byte is copied once, into memory that is used again and again: page faults on
//! fresh memory cost more than everything else on the way.
//!
//! A segment is *open* (appended to), then *sealed* (immutable, being stored), then finished. An arena is the
//! memory of one or several segments; it is used again when no one looks at its bytes any more. Arenas
//! are counted whole, and their number bounds the memory.

use super::dirty::Slot;
use bytes::{Bytes, BytesMut};
use cairn_common::ids::Ino;
use cairn_common::limits::BLOCK_MAX;
use cairn_common::summary::SummaryEntry;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;
use tokio::sync::Notify;

/// Most stretches of one segment: its commit must fit an operation.
const ENTRIES_MAX: usize = 8192;
/// A write that two segments share is cut at a multiple of this in its file: what is within one page of a file is committed at once or
/// not at all, as on a disk, also when the mount dies between the two.
const PAGE: usize = 4096;
/// The rest of an arena that is too short to be worth another block.
const REST_MIN: usize = 256 << 10;

/// A sealed segment on its way to a block.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub segment: u64,
    pub bytes: Bytes,
    pub entries: Vec<SummaryEntry>,
}

/// Where written bytes went: at most one stretch per segment touched.
pub type Placed = Vec<(Slot, u32)>;

/// The write buffer of a mount.
#[derive(Debug)]
pub struct WriteBuffer {
    // Taken after an inode's lock, never before; held for a copy, never over I/O.
    state: Mutex<State>,
    /// A segment has been sealed.
    pub sealed: Notify,
    /// The open segment got its first byte.
    pub opened: Notify,
    /// Memory has become free.
    pub room: Notify,
}

#[derive(Debug)]
struct State {
    open: Option<Open>,
    next: u64,
    last_sealed: u64,
    /// Bytes that were ever appended.
    appended: u64,
    /// Empty ends of arenas whose bytes may still be looked at.
    retired: Vec<BytesMut>,
    arenas: usize,
    arenas_max: usize,
    queue: VecDeque<u64>,
    segments: HashMap<u64, Segment>,
}

#[derive(Debug)]
struct Open {
    segment: u64,
    memory: BytesMut,
    entries: Vec<SummaryEntry>,
    since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Segment {
    /// Dirty bytes that are in it.
    live: u64,
    /// When sealed.
    sealed: Option<Sealed>,
}

impl WriteBuffer {
    /// A buffer of at most `bytes` bytes, rounded to whole arenas.
    #[must_use]
    pub fn new(bytes: usize) -> WriteBuffer {
        let state = State {
            open: None,
            next: 1,
            last_sealed: 0,
            appended: 0,
            retired: Vec::new(),
            arenas: 0,
            arenas_max: (bytes / BLOCK_MAX).max(2),
            queue: VecDeque::new(),
            segments: HashMap::new(),
        };
        WriteBuffer {
            state: Mutex::new(state),
            sealed: Notify::new(),
            opened: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Appends all of `data`, or nothing (`None`: no memory is free now). The caller holds the inode's lock.
    pub fn append(&self, ino: Ino, offset: u64, data: &[u8]) -> Option<Placed> {
        let mut state = self.state.lock();
        if !state.has_room(data.len()) {
            return None;
        }
        let mut placed = Placed::with_capacity(1);
        let mut rest = data;
        let (mut opened, mut sealed) = (false, false);
        while !rest.is_empty() {
            let (slot, taken) =
                state.append_some(ino, offset + (data.len() - rest.len()) as u64, rest, &mut opened);
            if taken > 0 {
                placed.push((slot, u32::try_from(taken).expect("a segment is shorter than 4 GiB")));
            }
            rest = &rest[taken..];
            sealed |= state.seal_if_full(!rest.is_empty());
        }
        drop(state);
        if opened {
            self.opened.notify_one();
        }
        if sealed {
            self.sealed.notify_one();
        }
        Some(placed)
    }

    /// Overwrites bytes of the open segment; false if it is not open any more.
    pub fn overwrite(&self, segment: u64, at: u32, data: &[u8]) -> bool {
        let mut state = self.state.lock();
        match &mut state.open {
            Some(open) if open.segment == segment => {
                let at = at as usize;
                open.memory[at..at + data.len()].copy_from_slice(data);
                true
            }
            _ => false,
        }
    }

    /// The number of the open segment, if it holds anything.
    #[must_use]
    pub fn open_segment(&self) -> Option<u64> {
        self.state.lock().open.as_ref().filter(|open| !open.memory.is_empty()).map(|open| open.segment)
    }

    /// When the oldest byte of the open segment was written.
    #[must_use]
    pub fn open_since(&self) -> Option<Instant> {
        self.state.lock().open.as_ref().and_then(|open| open.since)
    }

    /// Bytes of a segment: a slice of a sealed one, a copy of the open one.
    #[must_use]
    pub fn read(&self, slot: Slot, length: usize) -> Bytes {
        let state = self.state.lock();
        let range = slot.at as usize..slot.at as usize + length;
        if let Some(open) = state.open.as_ref().filter(|open| open.segment == slot.segment) {
            return Bytes::copy_from_slice(&open.memory[range]);
        }
        let sealed = state.segments.get(&slot.segment).and_then(|segment| segment.sealed.as_ref());
        sealed.expect("a segment with dirty bytes is open or sealed").bytes.slice(range)
    }

    /// `bytes` of `segment` are not dirty any more.
    pub fn release(&self, segment: u64, bytes: u64) {
        let mut state = self.state.lock();
        if let Some(found) = state.segments.get_mut(&segment) {
            found.live -= bytes;
            if found.live == 0 {
                state.rewind(segment);
            }
        }
    }

    /// Seals the open segment, if it is `segment` or older (`None`: whatever it is).
    pub fn seal(&self, segment: Option<u64>) {
        let mut state = self.state.lock();
        let open = state.open.as_ref().is_some_and(|open| {
            !open.memory.is_empty() && segment.is_none_or(|segment| open.segment <= segment)
        });
        if open {
            state.seal();
            drop(state);
            self.sealed.notify_one();
        }
    }

    /// The next sealed segment in order, and whether anything in it is still dirty.
    pub fn next_sealed(&self) -> Option<(Sealed, bool)> {
        let mut state = self.state.lock();
        let segment = state.queue.pop_front()?;
        let found = state.segments.get(&segment)?;
        Some((found.sealed.clone()?, found.live > 0))
    }

    /// Whether anything in `segment` is still dirty.
    #[must_use]
    pub fn is_live(&self, segment: u64) -> bool {
        self.state.lock().segments.get(&segment).is_some_and(|found| found.live > 0)
    }

    /// Nothing refers to `segment` any more: its memory can be used again.
    pub fn finish(&self, segment: u64) {
        let gone = self.state.lock().segments.remove(&segment);
        drop(gone);
        self.room.notify_waiters();
    }

    /// The last segment that was opened.
    #[must_use]
    pub fn last_segment(&self) -> u64 {
        self.state.lock().next - 1
    }

    /// The last segment that was sealed.
    #[must_use]
    pub fn last_sealed(&self) -> u64 {
        self.state.lock().last_sealed
    }

    /// True if nothing is dirty.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.state.lock().segments.values().all(|segment| segment.live == 0)
    }

    /// Bytes that were ever appended, and how many of them are dirty.
    #[must_use]
    pub fn written(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.appended, state.segments.values().map(|segment| segment.live).sum())
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.state.lock().arenas * BLOCK_MAX
    }
}

impl State {
    /// Whether `length` bytes can be appended without waiting.
    fn has_room(&mut self, length: usize) -> bool {
        let in_open = self.open.as_ref().map_or(0, |open| open.memory.capacity() - open.memory.len());
        if length <= in_open {
            return true;
        }
        // Less than a page of the open one may stay empty; behind that the write goes on at a page.
        let needed = (length - in_open.saturating_sub(PAGE - 1)).div_ceil(BLOCK_MAX);
        if self.arenas_max - self.arenas >= needed {
            return true;
        }
        let mut free = self.arenas_max - self.arenas;
        for arena in &mut self.retired {
            free += usize::from(arena.capacity() >= BLOCK_MAX || arena.try_reclaim(BLOCK_MAX));
        }
        free >= needed
    }

    fn take_arena(&mut self) -> BytesMut {
        let free = self
            .retired
            .iter_mut()
            .position(|arena| arena.capacity() >= BLOCK_MAX || arena.try_reclaim(BLOCK_MAX));
        if let Some(index) = free {
            return self.retired.swap_remove(index);
        }
        self.arenas += 1;
        BytesMut::with_capacity(BLOCK_MAX)
    }

    fn append_some(&mut self, ino: Ino, offset: u64, data: &[u8], opened: &mut bool) -> (Slot, usize) {
        if self.open.is_none() {
            let memory = self.take_arena();
            let segment = self.next;
            self.next += 1;
            self.segments.insert(segment, Segment::default());
            self.open = Some(Open { segment, memory, entries: Vec::new(), since: None });
        }
        let open = self.open.as_mut().expect("opened above");
        let at = open.memory.len();
        let taken = fitting(offset, data.len(), open.memory.capacity() - at);
        let slot =
            Slot { segment: open.segment, at: u32::try_from(at).expect("a segment is shorter than 4 GiB") };
        if taken == 0 {
            return (slot, 0);
        }
        *opened |= open.since.is_none();
        open.since.get_or_insert_with(Instant::now);
        open.memory.extend_from_slice(&data[..taken]);
        open.note(SummaryEntry { ino, offset, at: slot.at, length: u32::try_from(taken).expect("as above") });
        if let Some(segment) = self.segments.get_mut(&slot.segment) {
            segment.live += taken as u64;
        }
        self.appended += taken as u64;
        (slot, taken)
    }

    /// `more`: what is to be appended did not fit.
    fn seal_if_full(&mut self, more: bool) -> bool {
        let full = self.open.as_ref().is_some_and(|open| {
            more || open.memory.len() == open.memory.capacity() || open.entries.len() >= ENTRIES_MAX
        });
        if full {
            self.seal();
        }
        full
    }

    fn seal(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let bytes = open.memory.split().freeze();
        let sealed = Sealed { segment: open.segment, bytes, entries: open.entries };
        self.segments.entry(open.segment).or_default().sealed = Some(sealed);
        self.queue.push_back(open.segment);
        self.last_sealed = open.segment;
        if open.memory.capacity() >= REST_MIN {
            let segment = self.next;
            self.next += 1;
            self.segments.insert(segment, Segment::default());
            self.open = Some(Open { segment, memory: open.memory, entries: Vec::new(), since: None });
        } else {
            self.retired.push(open.memory);
        }
    }

    /// Nothing in the open segment is dirty any more (inline commits carried it): its memory
    /// is used again, and no block is stored.
    fn rewind(&mut self, segment: u64) {
        if let Some(open) = self.open.as_mut().filter(|open| open.segment == segment) {
            open.memory.clear();
            open.entries.clear();
            open.since = None;
        }
    }
}

/// How many of `length` bytes at `offset` of a file go into `room` bytes: all, or up to the end of a page.
fn fitting(offset: u64, length: usize, room: usize) -> usize {
    if length <= room {
        return length;
    }
    let beyond_page = (offset + room as u64) % PAGE as u64;
    room.saturating_sub(usize::try_from(beyond_page).expect("shorter than a page"))
}

impl Open {
    fn note(&mut self, entry: SummaryEntry) {
        if let Some(last) = self.entries.last_mut() {
            let follows = last.ino == entry.ino && last.offset + u64::from(last.length) == entry.offset;
            if follows {
                last.length += entry.length;
                return;
            }
        }
        self.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    #[test]
    fn a_write_may_span_segments_and_is_read_back() {
        let buffer = WriteBuffer::new(4 * BLOCK_MAX);
        let data: Vec<u8> = (0..=250u8).cycle().take(BLOCK_MAX + 1000).collect();
        let placed = buffer.append(Ino(2), 0, &data).unwrap();
        assert_eq!(placed.len(), 2);
        let first = buffer.read(placed[0].0, placed[0].1 as usize);
        let second = buffer.read(placed[1].0, placed[1].1 as usize);
        assert_eq!([first, second].concat(), data);
        let (sealed, live) = buffer.next_sealed().unwrap();
        assert!(live);
        assert_eq!(sealed.entries.len(), 1);
        assert!(buffer.next_sealed().is_none());
    }

    /// A mount that died between the commits of two segments left half a cell of 128 bytes, found under fire.
    #[test]
    fn no_page_of_a_file_is_shared_by_two_segments() {
        let buffer = WriteBuffer::new(8 * BLOCK_MAX);
        buffer.append(Ino(2), 0, &vec![1; BLOCK_MAX - 1000]).unwrap();
        // It fits, but not with its page: nothing of it goes into the first segment.
        let placed = buffer.append(Ino(3), 4096 + 100, &[2; 1100]).unwrap();
        assert_eq!(placed.len(), 1);
        assert_eq!((placed[0].0.at, placed[0].1), (0, 1100));
        assert!(buffer.next_sealed().is_some());
        // Cut at the last page's end that fits.
        let data: Vec<u8> = (0..=250u8).cycle().take(BLOCK_MAX).collect();
        let placed = buffer.append(Ino(4), 50, &data).unwrap();
        assert_eq!(placed.len(), 2);
        assert_eq!((50 + u64::from(placed[0].1)) % PAGE as u64, 0);
        assert!(BLOCK_MAX - 1100 - (placed[0].1 as usize) < PAGE);
        let parts = placed.iter().map(|(slot, length)| buffer.read(*slot, *length as usize));
        assert_eq!(parts.collect::<Vec<_>>().concat(), data);
    }

    #[test]
    fn memory_is_bounded_and_used_again() {
        let buffer = WriteBuffer::new(2 * BLOCK_MAX);
        let block = vec![7u8; BLOCK_MAX];
        assert!(buffer.append(Ino(2), 0, &block).is_some());
        assert!(buffer.append(Ino(2), 0, &block).is_some());
        assert!(buffer.append(Ino(2), 0, &block).is_none());
        let (sealed, _) = buffer.next_sealed().unwrap();
        buffer.release(sealed.segment, BLOCK_MAX as u64);
        let segment = sealed.segment;
        buffer.finish(segment);
        // Somebody still looks at the bytes.
        assert!(buffer.append(Ino(2), 0, &block).is_none());
        drop(sealed);
        let placed = buffer.append(Ino(2), 0, &block).unwrap();
        assert_eq!(placed[0].1 as usize, BLOCK_MAX);
        assert_eq!(buffer.memory(), 2 * BLOCK_MAX);
    }

    #[test]
    fn an_open_segment_without_dirty_bytes_starts_again() {
        let buffer = WriteBuffer::new(2 * BLOCK_MAX);
        let placed = buffer.append(Ino(2), 0, &[1; 100]).unwrap();
        buffer.release(placed[0].0.segment, 100);
        assert_eq!(buffer.open_segment(), None);
        assert_eq!(buffer.open_since(), None);
        let again = buffer.append(Ino(2), 0, &[1; 100]).unwrap();
        assert_eq!(again[0].0, placed[0].0);
    }

    #[test]
    fn the_rest_of_an_arena_serves_the_next_block() {
        let buffer = WriteBuffer::new(2 * BLOCK_MAX);
        for _ in 0..8 {
            buffer.append(Ino(2), 0, &vec![1; BLOCK_MAX / 16]).unwrap();
            buffer.seal(None);
        }
        assert_eq!(buffer.memory(), BLOCK_MAX);
    }
}
