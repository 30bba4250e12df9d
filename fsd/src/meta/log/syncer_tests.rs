#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
//! Who syncs a segment, and what a sync that failed leaves behind.

use super::*;
use crate::disk::DiskFile;
use crate::disk::sim::{Call, SimDisk};
use cairn_common::ids::ClusterId;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const CLUSTER: ClusterId = ClusterId(77);
const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 512, sync_after: Duration::from_secs(3600), reserve_bytes: 0, thread: true };

/// A segment whose syncs fail, but tell so only once: a second one that runs at the same time succeeds,
/// as on Linux. The failing one takes long enough for that.
struct TellsOnce {
    inner: Arc<dyn DiskFile>,
    begun: AtomicU32,
}

impl TellsOnce {
    fn wait_for(&self, count: u32, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.begun.load(Ordering::SeqCst) < count && Instant::now() < deadline {
            std::thread::yield_now();
        }
        self.begun.load(Ordering::SeqCst) >= count
    }
}

impl DiskFile for TellsOnce {
    fn sync_data(&self) -> io::Result<()> {
        if self.begun.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        self.wait_for(2, Duration::from_millis(200));
        Err(io::Error::other("lost a page"))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn read_cached(&self, buf: &mut [u8], offset: u64) -> Option<usize> {
        self.inner.read_cached(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.inner.write_at(bufs, offset)
    }

    fn forget_cache(&self) -> io::Result<()> {
        self.inner.forget_cache()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

fn reopen(disk: &SimDisk, change: impl FnOnce(&mut Recovered)) -> FileLog {
    let mut recovered = recover(disk, CLUSTER, LogIndex(0), &mut |_, _| Ok(())).unwrap();
    change(&mut recovered);
    FileLog::start(Arc::new(disk.clone()), CLUSTER, recovered, OPTIONS).unwrap()
}

#[test]
fn a_roll_waits_for_a_sync_that_runs_and_believes_its_failure() {
    let disk = SimDisk::new();
    reopen(&disk, |_| ()).close();
    let mut file = None;
    let log = reopen(&disk, |recovered| {
        let segment = recovered.segment.as_mut().unwrap();
        let inner = segment.file.clone();
        segment.file = file.insert(Arc::new(TellsOnce { inner, begun: AtomicU32::new(0) })).clone();
    });
    let file = file.unwrap();
    log.propose(&[&[1; 300]]).unwrap();
    let turn = log.begin_sync().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| turn.sync());
        assert!(file.wait_for(1, Duration::from_secs(20)));
        // Does not fit into the segment any more.
        assert!(matches!(log.propose(&[&[2; 300]]), Err(LogError::Failed { .. })));
    });
    assert!(log.failure().borrow().as_ref().unwrap().contains("lost a page"));
    assert_eq!(*log.durable().borrow(), LogIndex(0));
    assert_eq!(file.begun.load(Ordering::SeqCst), 1, "nothing is synced after a failure");
}

#[test]
fn nothing_becomes_durable_after_a_failure() {
    let disk = SimDisk::new();
    let log = reopen(&disk, |_| ());
    log.propose(&[b"one"]).unwrap();
    let turn = log.begin_sync().unwrap();
    disk.fail_once(Call::Write, 0, io::ErrorKind::Other);
    assert!(log.propose(&[b"two"]).is_err());
    turn.sync();
    assert_eq!(*log.durable().borrow(), LogIndex(0));
}
