//! Open files and directories. A handle's number is its place in a table plus a count, so a number
//! that was given back is not taken for its successor.

use super::inode::Inode;
use super::readdir::Stream;
use crate::fuse::ops::Fh;
use cairn_common::ids::SessionId;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// An open file.
#[derive(Debug)]
pub struct File {
    pub inode: Arc<Inode>,
    /// The session that opened it, and with which it ends: the server counts nothing of it as open any more.
    pub session: SessionId,
    pub writable: bool,
    /// Errors of background flushes that this handle was told of.
    pub errors_seen: AtomicU64,
    pub read_ahead: Mutex<ReadAhead>,
    /// Something was read by it: its part in the access time is done.
    pub was_read: AtomicBool,
}

impl File {
    #[must_use]
    pub fn new(inode: Arc<Inode>, session: SessionId, writable: bool, errors: u64) -> File {
        File {
            inode,
            session,
            writable,
            errors_seen: AtomicU64::new(errors),
            read_ahead: Mutex::default(),
            was_read: AtomicBool::new(false),
        }
    }
}

/// Where a sequential reader is.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadAhead {
    /// A read from here on goes on sequentially.
    pub next: u64,
    /// How far ahead to fetch; 0 for random reads.
    pub window: u64,
    /// Fetched (or being fetched) up to here.
    pub issued: u64,
}

const WINDOW_FIRST: u64 = 512 << 10;
const WINDOW_MAX: u64 = 8 << 20;
/// The kernel sends several reads at a time, not always in order.
const SLACK: u64 = 2 << 20;

impl ReadAhead {
    /// A read of `offset..end`: which range to fetch ahead of it, if any.
    pub fn advance(&mut self, offset: u64, end: u64) -> Option<(u64, u64)> {
        let sequential = offset.abs_diff(self.next) <= if self.window > 0 { SLACK } else { 0 };
        if !sequential {
            *self = ReadAhead { next: end, window: 0, issued: end };
            return None;
        }
        self.next = self.next.max(end);
        self.window = (self.window * 2).clamp(WINDOW_FIRST, WINDOW_MAX);
        let from = self.issued.max(end);
        // In large steps: half a window at least.
        if from >= end + self.window / 2 {
            return None;
        }
        self.issued = end + self.window;
        Some((from, self.issued))
    }
}

/// What a handle number stands for.
#[derive(Clone, Debug)]
pub enum Handle {
    File(Arc<File>),
    Dir(Arc<Stream>),
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<(u32, Option<Handle>)>,
    free: Vec<u32>,
}

/// All open handles.
#[derive(Debug, Default)]
pub struct HandleTable {
    slots: RwLock<Slots>,
}

impl HandleTable {
    /// Gives a number to `handle`.
    pub fn insert(&self, handle: Handle) -> Fh {
        let mut table = self.slots.write();
        let index = table.free.pop().unwrap_or_else(|| {
            table.slots.push((0, None));
            u32::try_from(table.slots.len() - 1).expect("far fewer than 2^32 open files")
        });
        let slot = &mut table.slots[index as usize];
        slot.0 = slot.0.wrapping_add(1);
        slot.1 = Some(handle);
        Fh((u64::from(slot.0) << 32) | u64::from(index))
    }

    fn split(fh: Fh) -> (usize, u32) {
        let index = usize::try_from(fh.0 & 0xFFFF_FFFF).expect("32 bits");
        (index, u32::try_from(fh.0 >> 32).expect("32 bits"))
    }

    #[must_use]
    pub fn get(&self, fh: Fh) -> Option<Handle> {
        let (index, count) = HandleTable::split(fh);
        let table = self.slots.read();
        table.slots.get(index).filter(|slot| slot.0 == count).and_then(|slot| slot.1.clone())
    }

    #[must_use]
    pub fn file(&self, fh: Fh) -> Option<Arc<File>> {
        match self.get(fh) {
            Some(Handle::File(file)) => Some(file),
            _ => None,
        }
    }

    #[must_use]
    pub fn dir(&self, fh: Fh) -> Option<Arc<Stream>> {
        match self.get(fh) {
            Some(Handle::Dir(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Takes a handle out.
    pub fn remove(&self, fh: Fh) -> Option<Handle> {
        let (index, count) = HandleTable::split(fh);
        let mut table = self.slots.write();
        let handle = table.slots.get_mut(index).filter(|slot| slot.0 == count)?.1.take()?;
        table.free.push(u32::try_from(index).expect("32 bits"));
        Some(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_fetched_ahead_in_growing_steps() {
        let mut ahead = ReadAhead::default();
        let step = 128 << 10;
        assert_eq!(ahead.advance(0, step), Some((step, step + (512 << 10))));
        assert_eq!(ahead.advance(step, 2 * step).map(|(from, _)| from), Some(step + (512 << 10)));
        let mut issued = 0;
        for index in 2..200 {
            if let Some((from, to)) = ahead.advance(index * step, (index + 1) * step) {
                assert!(from >= issued);
                issued = to;
            }
            assert!(issued <= (index + 1) * step + WINDOW_MAX);
        }
        assert!(issued > 200 * step);
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.advance(10 << 20, (10 << 20) + 4096), None);
        assert_eq!(ahead.advance(50 << 20, (50 << 20) + 4096), None);
        assert_eq!(ahead.advance(3 << 20, (3 << 20) + 4096), None);
    }
}
