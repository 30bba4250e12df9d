//! Appending: entries are written at once (so a killed process loses nothing) and synced soon after.

use super::recover::Recovered;
use super::segment::{self, Header, Segment};
use super::syncer::{Syncer, Turn};
use super::{Log, LogError, record};
use crate::disk::Disk;
use cairn_common::ids::{ClusterId, LogIndex};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Sizes and times of a log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes set aside for each segment (more if a group of entries needs it).
    pub segment_bytes: u64,
    /// No entry stays un-synced longer than about this.
    pub sync_after: Duration,
    /// A segment is made smaller when this would not be left beside it: the state and its checkpoints
    /// grow too.
    pub reserve_bytes: u64,
    /// A thread of its own syncs what somebody waits for, and the rest in time.
    pub thread: bool,
}

/// The log of one machine alone: segments in a directory. What is appended is decided.
pub struct FileLog {
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    options: LogOptions,
    /// Lock order: before what the syncer has.
    writer: Arc<Mutex<Writer>>,
    committed: AtomicU64,
    syncer: Syncer,
}

struct Writer {
    segment: Segment,
    next: LogIndex,
    /// First indexes of all segments that exist, the current one last.
    segments: Vec<LogIndex>,
    /// Encoded records, kept for its space.
    buffer: Vec<u8>,
}

/// A segment on a disk that is nearly full has room for this part of a whole one beyond what is needed now.
const SMALL_SHARE: u64 = 64;

/// Encoded records beyond this are not kept in memory after the append.
const BUFFER_KEEP: usize = 1 << 20;

impl FileLog {
    /// Goes on where recovery ended (everything recovered is durable).
    pub fn start(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        recovered: Recovered,
        options: LogOptions,
    ) -> Result<FileLog, LogError> {
        let last = recovered.last;
        let segment = match recovered.segment {
            Some(segment) => segment,
            None => {
                let header = Header { cluster, first: last.next(), previous: 0, nonce: rand::random() };
                create_segment(&*disk, header, &options, 0)?
            }
        };
        let mut segments = recovered.older;
        segments.push(segment.header.first);
        let file = segment.file.clone();
        let writer =
            Arc::new(Mutex::new(Writer { segment, next: last.next(), segments, buffer: Vec::new() }));
        let marked = writer.clone();
        let mark_end = Box::new(move |last| marked.lock().mark_end(last));
        let syncer = Syncer::start(file, last, options.sync_after, options.thread, mark_end)
            .map_err(|error| LogError::failed("start the sync thread".into(), error))?;
        let committed = AtomicU64::new(last.0);
        Ok(FileLog { disk, cluster, options, writer, committed, syncer })
    }

    fn append(&self, writer: &mut Writer, entries: &[&[u8]]) -> Result<LogIndex, LogError> {
        let bytes: usize = entries.iter().map(|entry| record::stored_len(entry.len())).sum();
        if !writer.segment.has_room(bytes) {
            self.roll(writer, bytes)?;
        }
        let first = writer.next;
        let durable = self.syncer.durable();
        let mut chain = writer.segment.chain;
        writer.buffer.clear();
        let mut next = first;
        for entry in entries {
            chain =
                record::encode(&mut writer.buffer, writer.segment.header.nonce, next, durable, chain, entry);
            next = next.next();
        }
        writer.segment.append(&writer.buffer, chain)?;
        if writer.buffer.capacity() > BUFFER_KEEP {
            writer.buffer = Vec::new();
        }
        writer.next = next;
        let last = LogIndex(next.0 - 1);
        self.committed.store(last.0, Ordering::Release);
        self.syncer.appended(last);
        Ok(first)
    }

    /// Goes on in a new segment. The old one is synced before, so that only the last segment can end
    /// in a torn record. One that has no record yet and is too small (a recovery that was interrupted
    /// leaves such) is replaced: the new one takes its name.
    fn roll(&self, writer: &mut Writer, bytes: usize) -> Result<(), LogError> {
        if !self.syncer.sync_all() {
            return Err(failed_before(format!("begin {}", segment::name(writer.next))));
        }
        let header = Header {
            cluster: self.cluster,
            first: writer.next,
            previous: writer.segment.link(),
            nonce: rand::random(),
        };
        let segment = create_segment(&*self.disk, header, &self.options, bytes)?;
        self.syncer.switch(segment.file.clone());
        if !writer.segment.is_empty() {
            writer.segments.push(segment.header.first);
        }
        writer.segment = segment;
        Ok(())
    }
}

impl Writer {
    /// Leaves a mark behind entry `last`, which is durable, unless more was appended since.
    fn mark_end(&mut self, last: LogIndex) -> Result<(), LogError> {
        if self.next != last.next() {
            return Ok(());
        }
        self.segment.mark(last)
    }
}

/// Makes a segment that has room for records of `bytes` bytes: a whole one, or on a disk that is nearly
/// full a small one, since what makes room has to be logged too.
fn create_segment(
    disk: &dyn Disk,
    header: Header,
    options: &LogOptions,
    bytes: usize,
) -> Result<Segment, LogError> {
    let space = disk.space().map_err(|error| LogError::failed("statvfs".into(), error))?;
    let needed = (segment::HEADER + bytes + record::MARK) as u64;
    let whole = options.segment_bytes.max(needed);
    if space.available >= whole.saturating_add(options.reserve_bytes) {
        match Segment::create(disk, header, whole) {
            // There may be less than the disk says: a quota.
            Err(LogError::NoSpace) => {}
            made => return made,
        }
    }
    let small = whole.min(needed + options.segment_bytes / SMALL_SHARE);
    if space.available < small {
        return Err(LogError::NoSpace);
    }
    Segment::create(disk, header, small)
}

/// The log is broken already; its failure says by what.
fn failed_before(what: String) -> LogError {
    LogError::failed(what, io::Error::other("the log has failed before"))
}

impl Log for FileLog {
    fn propose(&self, entries: &[&[u8]]) -> Result<LogIndex, LogError> {
        if let Some(entry) = entries.iter().find(|e| e.is_empty() || e.len() > record::PAYLOAD_MAX) {
            return Err(LogError::TooLarge(entry.len()));
        }
        let mut writer = self.writer.lock();
        if self.syncer.has_failed() {
            return Err(failed_before("append to the log".into()));
        }
        let result = self.append(&mut writer, entries);
        if let Err(error @ LogError::Failed { .. }) = &result {
            self.syncer.fail(format!("the metadata log failed: {error}"));
        }
        result
    }

    fn committed(&self) -> LogIndex {
        LogIndex(self.committed.load(Ordering::Acquire))
    }

    fn on_committed(&self, _wake: Box<dyn Fn() + Send + Sync>) {
        // Entries are decided when `propose` returns.
    }

    fn durable(&self) -> watch::Receiver<LogIndex> {
        self.syncer.watch_durable()
    }

    fn request_sync(&self, through: LogIndex) {
        self.syncer.request(through);
    }

    fn begin_sync(&self) -> Option<Turn> {
        self.syncer.begin()
    }

    fn room(&self) -> u64 {
        self.writer.lock().segment.room()
    }

    fn mark_end(&self) {
        let mut writer = self.writer.lock();
        if self.syncer.has_failed() {
            return;
        }
        if let Err(error) = writer.mark_end(self.syncer.durable()) {
            self.syncer.fail(format!("the metadata log failed: {error}"));
        }
    }

    fn forget(&self, index: LogIndex) -> Result<(), LogError> {
        let old: Vec<LogIndex> = {
            let mut writer = self.writer.lock();
            // A segment is needed as long as its successor does not begin right behind `index` or before.
            let keep = writer.segments.partition_point(|first| first.0 <= index.0 + 1).saturating_sub(1);
            writer.segments.drain(..keep).collect()
        };
        for first in old {
            let name = segment::name(first);
            self.disk.remove(&name).map_err(|error| LogError::failed(format!("remove {name}"), error))?;
        }
        Ok(())
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.syncer.watch_failure()
    }

    fn close(&self) {
        if !self.options.thread {
            // An error shows as the log's failure.
            self.syncer.sync_all();
        }
        self.syncer.stop();
    }
}
