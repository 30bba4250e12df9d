//! The growing end of a volume: appending records and making them durable, many at a time.
//!
//! One thread writes at a time (the kernel serialises buffered writes to one file anyway), so records
//! have no gaps and are written in order. Syncs are shared: while one thread syncs, another has written
//! and waits to sync next; what is written meanwhile is covered by that next sync, so nobody else waits.
//!
//! Lock order: `tail`, then `sync`. `tail` is the right to write and is held over the write; only I/O
//! threads take it. `sync` is never held over I/O.

use super::format::{FIRST_RECORD, PAGE, Record, RecordKind, record_len};
use crate::disk::{Disk, DiskFile, is_full, write_all_at};
use bytes::Bytes;
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::limits::FRAME_PAYLOAD_MAX;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tracing::{error, warn};

/// What cleaning may take of the reserve: a few blocks. What it makes dead is deleted within seconds.
const CLEANING_ROOM: u64 = 4 * FRAME_PAYLOAD_MAX as u64;
/// Space is reserved in steps of a quarter of what is not deleted yet in the volume, within these limits: appending into reserved
/// space makes syncs several times faster, and a disk that is full says so before anything is written. Large steps may be faster by
/// some per cent; but nothing of what is reserved comes back before the volume is sealed, and small files shall not take many times
/// their size.
const STEP_MIN: u64 = 16 << 20;
const STEP_MAX: u64 = 64 << 20;
/// Below this size a sync that follows at once writes just as early.
const EARLY_WRITEBACK: u64 = 256 << 10;

static ZEROS: [u8; PAGE] = [0; PAGE];

/// Called once for each record: durable, or failed.
pub type Done = Box<dyn FnOnce(Result<(), FsError>) + Send>;

/// Why a block was not appended.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The volume takes no more, since before this block came; another one will.
    Closed,
    /// The disk did not take this block; the volume takes no more.
    Failed,
    /// The disk is full.
    NoSpace,
}

/// Limits of appending.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The volume takes no block that would end beyond this.
    pub volume_size: u64,
    /// Bytes of the disk that are left free.
    pub reserve: u64,
}

impl Limits {
    /// What a block of this session leaves free: cleaning makes room on a full disk, and takes some before.
    fn reserve_for(&self, session: SessionId) -> u64 {
        let room = if session == SessionId::NOBODY { CLEANING_ROOM } else { 0 };
        self.reserve.saturating_sub(room)
    }
}

/// What has become durable, told in order.
pub trait Publish {
    /// Blocks that are durable now, with the offsets of their records, and where the durable part ends.
    fn publish(&self, blocks: &[(u64, Record)], end: u64);
}

/// The growing end of one volume.
pub struct Segment {
    file: Arc<dyn DiskFile>,
    nonce: u64,
    limits: Limits,
    tail: Mutex<Tail>,
    sync: Mutex<Sync>,
    synced: Condvar,
}

/// The right to write.
pub struct Tail {
    offset: u64,
    next_sequence: u32,
    allocated: u64,
    /// Space is reserved in multiples of this.
    step: u64,
    closed: bool,
    /// A mark stands at the end.
    marked: bool,
}

impl Tail {
    /// So many bytes are not deleted yet in the volume: what is reserved next follows it.
    pub fn reserve_ahead(&mut self, live: u64) {
        self.step = step(live);
    }
}

/// How much to reserve at a time in a volume with so many bytes.
fn step(live: u64) -> u64 {
    (live / 4).next_multiple_of(STEP_MIN).clamp(STEP_MIN, STEP_MAX)
}

struct Sync {
    written: u64,
    durable: u64,
    /// A thread is in `fdatasync`.
    running: bool,
    /// Another one waits to be next.
    next_waits: bool,
    /// A write or sync failed: nothing beyond `durable` will ever be.
    failed: bool,
    pending: VecDeque<Pending>,
}

/// The right to sync, and the duty: nobody else does until [`Segment::sync`] has used it.
#[must_use]
pub struct Turn {
    covered: u64,
}

impl Sync {
    /// Someone's turn, unless another is at it, or there is nothing to be synced.
    fn begin(&mut self) -> Option<Turn> {
        if self.running || self.failed || self.written <= self.durable {
            return None;
        }
        self.running = true;
        Some(Turn { covered: self.written })
    }
}

struct Pending {
    offset: u64,
    record: Record,
    done: Done,
}

impl Pending {
    fn end(&self) -> u64 {
        self.offset + self.record.stored_len()
    }
}

impl Segment {
    /// A segment whose next record goes to `end`; all before is durable.
    pub fn new(file: Arc<dyn DiskFile>, nonce: u64, end: u64, next_sequence: u32, limits: Limits) -> Segment {
        debug_assert!(end >= FIRST_RECORD && end.is_multiple_of(PAGE as u64));
        Segment {
            file,
            nonce,
            limits,
            tail: Mutex::new(Tail {
                offset: end,
                next_sequence,
                allocated: end,
                step: STEP_MIN,
                closed: false,
                marked: false,
            }),
            sync: Mutex::new(Sync {
                written: end,
                durable: end,
                running: false,
                next_waits: false,
                failed: false,
                pending: VecDeque::new(),
            }),
            synced: Condvar::new(),
        }
    }

    /// Waits for the right to write.
    pub fn writer(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock()
    }

    /// True if no more blocks are taken.
    pub fn is_closed(&self) -> bool {
        self.tail.lock().closed
    }

    /// The sequence of the block that comes next; the greatest number in a sealed volume, which has all of its blocks.
    pub fn next_sequence(&self) -> u32 {
        self.tail.lock().next_sequence
    }

    /// Takes no more blocks.
    pub fn close(&self) {
        self.tail.lock().closed = true;
    }

    /// Writes one block. `record` comes without its sequence and durable offset; `done` gets to know
    /// what became of it once it was written, also if a later step fails.
    pub fn append(
        &self,
        disk: &dyn Disk,
        tail: &mut Tail,
        mut record: Record,
        payload: &[Bytes],
        done: impl FnOnce(BlockRef) -> Done,
    ) -> Result<(), Refused> {
        let length = record_len(record.payload_len as usize);
        let (durable, failed) = {
            let sync = self.sync.lock();
            (sync.durable, sync.failed)
        };
        if failed
            || tail.closed
            || tail.offset + length > self.limits.volume_size
            || tail.next_sequence == u32::MAX
        {
            tail.closed = true;
            return Err(Refused::Closed);
        }
        let reserve = self.limits.reserve_for(record.session);
        self.allocate(disk, tail, length, reserve).map_err(|error| self.refuse(tail, &error))?;
        record.sequence = tail.next_sequence;
        record.durable = durable;
        let header = record.encode(self.nonce, tail.offset);
        tail.marked = false;
        self.write(tail.offset, &header, payload).map_err(|error| self.refuse(tail, &error))?;

        // The caller knows the volume.
        let name = BlockRef { volume: VolumeId(0), sequence: record.sequence, cookie: record.cookie };
        let pending = Pending { offset: tail.offset, done: done(name), record };
        tail.offset += length;
        tail.next_sequence += 1;
        self.enqueue(pending);
        Ok(())
    }

    fn write(&self, offset: u64, header: &[u8], payload: &[Bytes]) -> io::Result<()> {
        let length: usize = payload.iter().map(Bytes::len).sum();
        let mut parts: Vec<&[u8]> = Vec::with_capacity(payload.len() + 2);
        parts.push(header);
        parts.extend(payload.iter().map(|segment| &segment[..]));
        // Up to the page: a partial page would be read back before it is written.
        parts.push(&ZEROS[..length.next_multiple_of(PAGE) - length]);
        write_all_at(&*self.file, &parts, offset)?;
        if record_len(length) >= EARLY_WRITEBACK {
            self.file.start_writeback(offset, record_len(length));
        }
        Ok(())
    }

    /// Reserves disk space for `length` bytes at the tail, in large steps while there is plenty.
    fn allocate(&self, disk: &dyn Disk, tail: &mut Tail, length: u64, reserve: u64) -> io::Result<()> {
        let needed = tail.offset + length;
        if needed <= tail.allocated {
            return Ok(());
        }
        let available = disk.space()?.available;
        let step_end = (needed.next_multiple_of(tail.step)).min(self.limits.volume_size).max(needed);
        let plenty = available >= reserve + 2 * STEP_MAX;
        let end = if plenty { step_end } else { needed };
        if available < reserve + (end - tail.allocated) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.allocate(tail.allocated, end - tail.allocated)?;
        tail.allocated = end;
        Ok(())
    }

    /// A full disk leaves the tail as it is: what was half written is written over. Any other error
    /// ends the volume where it is durable.
    fn refuse(&self, tail: &mut Tail, error: &io::Error) -> Refused {
        if is_full(error) {
            return Refused::NoSpace;
        }
        error!("write to volume failed, no more blocks go there: {error}");
        tail.closed = true;
        Refused::Failed
    }

    fn enqueue(&self, pending: Pending) {
        let mut sync = self.sync.lock();
        if sync.failed {
            drop(sync);
            return (pending.done)(Err(FsError::Io));
        }
        sync.written = pending.end();
        sync.pending.push_back(pending);
    }

    /// Returns when all that is written is durable or failed, or when another thread will see to it.
    /// True if this thread synced.
    pub fn make_durable(&self, target: &dyn Publish) -> bool {
        let mut sync = self.sync.lock();
        if sync.next_waits {
            return false;
        }
        if sync.running {
            sync.next_waits = true;
            self.synced.wait_while(&mut sync, |s| s.running);
            sync.next_waits = false;
        }
        let turn = sync.begin();
        drop(sync);
        turn.map(|turn| self.sync(turn, target)).is_some()
    }

    /// The caller's turn to sync what is written, unless another is at it.
    pub fn begin_sync(&self) -> Option<Turn> {
        self.sync.lock().begin()
    }

    /// Waits until nothing is pending. Only useful once no more is written.
    pub fn settle(&self, target: &dyn Publish) {
        self.make_durable(target);
        let mut sync = self.sync.lock();
        self.synced.wait_while(&mut sync, |s| s.running || (!s.failed && s.written > s.durable));
    }

    /// Makes durable what was written before the turn began. Blocks.
    pub fn sync(&self, turn: Turn, target: &dyn Publish) {
        let Turn { covered } = turn;
        let result = self.file.sync_data();

        let mut sync = self.sync.lock();
        sync.running = false;
        let settled: Vec<Pending> = match &result {
            Ok(()) => {
                sync.durable = covered;
                let count = sync.pending.partition_point(|p| p.end() <= covered);
                sync.pending.drain(..count).collect()
            }
            Err(error) => {
                error!("sync of volume failed, no more blocks go there: {error}");
                sync.failed = true;
                sync.pending.drain(..).collect()
            }
        };
        let failed = sync.failed;
        let (blocks, done): (Vec<_>, Vec<_>) =
            settled.into_iter().map(|p| ((p.offset, p.record), p.done)).unzip();
        if !failed {
            // Still under the lock, so that blocks are published in order.
            target.publish(&blocks, covered);
        }
        self.synced.notify_all();
        drop(sync);
        let outcome = if failed { Err(FsError::Io) } else { Ok(()) };
        done.into_iter().for_each(|done| done(outcome));
    }

    /// True if a sync failed: what the file holds beyond its durable part is unknown.
    pub fn has_failed(&self) -> bool {
        self.sync.lock().failed
    }

    /// Writes at the end that everything before it is durable, if it is: damage to the last blocks is told from a torn end
    /// by that. The next record is written over it. It need not reach the disk soon: the kernel is told to begin, and a loss of
    /// power before that leaves things as they were. Does nothing while somebody writes, and where a mark stands already.
    pub fn mark_end(&self) {
        let Some(mut tail) = self.tail.try_lock() else { return };
        let (durable, failed) = {
            let sync = self.sync.lock();
            (sync.durable, sync.failed)
        };
        let is_empty = tail.offset == FIRST_RECORD;
        if failed || tail.closed || tail.marked || is_empty || durable != tail.offset {
            return;
        }
        let mark = Record::without_payload(RecordKind::Mark, tail.next_sequence - 1, durable);
        match write_all_at(&*self.file, &[&mark.encode(self.nonce, tail.offset)], tail.offset) {
            Ok(()) => {
                self.file.start_writeback(tail.offset, PAGE as u64);
                tail.marked = true;
            }
            // What was half written is written over.
            Err(error) if is_full(&error) => {}
            Err(error) => warn!("cannot mark the end of a volume: {error}"),
        }
    }

    /// Ends the file with a record that has no payload, gives reserved space back, and syncs. To be
    /// called when settled. Returns the new end.
    pub fn finish(&self, kind: RecordKind) -> io::Result<u64> {
        let mut tail = self.tail.lock();
        let record = Record::without_payload(kind, tail.next_sequence - 1, self.sync.lock().durable);
        tail.closed = true;
        write_all_at(&*self.file, &[&record.encode(self.nonce, tail.offset)], tail.offset)?;
        tail.offset += record.stored_len();
        self.file.truncate(tail.offset)?;
        self.file.sync_data()?;
        Ok(tail.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_what_is_live() {
        let mib = 1 << 20;
        let steps = [0, 1, 64, 65, 128, 192, 256, 10_000].map(|live| step(live * mib) / mib);
        assert_eq!(steps, [16, 16, 16, 32, 32, 48, 64, 64]);
    }
}
