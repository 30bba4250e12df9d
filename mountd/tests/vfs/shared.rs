//! What holds when others have the file open, too.

use super::{Mount, small};
use bytes::Bytes;
use cairn_common::attr::{Caller, SetAttr, SetTime, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Ino, SessionId};
use cairn_common::limits::COMMIT_PIECES_MAX;
use cairn_common::namespace;
use cairn_common::namespace::op::{
    Commit, Extent, ExtentData, FileCommit, LockFamily, LockOwner, LockRequest, LockType, Op, OpBody, Piece,
};
use cairn_common::proto::meta::DataLease;
use cairn_mountd::client::{EventSink, MetaClient};
use cairn_mountd::fuse::interrupt::Interrupts;
use cairn_mountd::fuse::ops::{Fh, FuseOps, WriteAt};
use cairn_mountd::vfs::VfsConfig;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A mount that stores nothing before it must, and then as blocks.
fn lazy() -> Mount {
    let config = VfsConfig { flush_after: Duration::from_secs(100), inline_max: 0, ..small() };
    Mount::new(1, false, config)
}

impl Mount {
    async fn append(&self, ino: Ino, fh: Fh, data: &'static [u8]) -> FsResult<u32> {
        let flags = libc::O_RDWR | libc::O_APPEND;
        let write = WriteAt { ino, fh, offset: 0, flags, from_mapping: false, kill_suidgid: false };
        match self.vfs.try_write(&Caller::default(), &write, data) {
            Some(result) => result,
            None => Arc::clone(&self.vfs).write(Caller::default(), write, Bytes::from_static(data)).await,
        }
    }

    /// Begins to take the lease away, in a moment in which what is buffered cannot be stored.
    async fn recall_with_data_left(&self, ino: Ino) -> JoinHandle<FsResult<()>> {
        *self.data.failures.lock() = vec![FsError::Io; 2];
        let vfs = Arc::clone(&self.vfs);
        let recall = tokio::spawn(async move { vfs.uncache(ino, 5).await });
        while self.data.puts.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.stored(ino), b"");
        recall
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_to_a_file_that_became_shared_comes_behind_what_was_buffered() {
    let mount = lazy();
    // Alone, it places appended data itself.
    mount.vfs.sole(1);
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.append(ino, fh, b"first, ").await.unwrap();
    mount.vfs.shared(2).await;
    let recall = mount.recall_with_data_left(ino).await;
    // Each failure is told once.
    while mount.append(ino, fh, b"second").await == Err(FsError::Io) {}
    assert_eq!(mount.stored(ino), b"first, second");
    recall.await.unwrap().unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), b"first, second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_a_file_that_became_shared_lies_over_what_was_buffered() {
    let mount = lazy();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, b"399, and more").await.unwrap();
    let recall = mount.recall_with_data_left(ino).await;
    while mount.write(ino, fh, 0, b"400").await == Err(FsError::Io) {}
    assert_eq!(mount.stored(ino), b"400, and more");
    recall.await.unwrap().unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), b"400, and more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_at_a_recall_is_kept_and_stored_later() {
    let mount = lazy();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, b"older").await.unwrap();
    *mount.data.failures.lock() = vec![FsError::NoSpace; 6];
    assert_eq!(mount.vfs.uncache(ino, 5).await, Err(FsError::NoSpace));
    assert!(mount.flush(ino, fh).await.is_err(), "it is told");
    mount.data.failures.lock().clear();
    mount.write(ino, fh, 0, b"new").await.unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), b"newer");
}

/// For a server that cannot be refused. Stored later, it would replace what others have written since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_is_told_and_not_stored_later() {
    let mount = lazy();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, b"older").await.unwrap();
    mount.vfs.give_up(ino, FsError::NoSpace);
    assert_eq!(mount.vfs.try_flush(ino, fh, 1), Some(Err(FsError::NoSpace)), "it is told");
    mount.write(ino, fh, 0, b"new").await.unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), b"new");
}

/// A data daemon that is away for long: the server hears of it before it evicts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_data_daemon_says_so_in_time() {
    let config = VfsConfig { give_back: Duration::from_millis(20), inline_max: 0, ..small() };
    let mount = Mount::new(1, false, config);
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, b"kept").await.unwrap();
    let put = Arc::clone(&mount.data.held).lock_owned().await;
    assert_eq!(EventSink::flush(&*mount.vfs, vec![ino]).await, Err(FsError::Unavailable));
    assert_eq!(mount.vfs.uncache(ino, 5).await, Err(FsError::Unavailable));
    assert_eq!(mount.flush(ino, fh).await, Ok(()), "it is no error");
    drop(put);
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), b"kept");
}

/// While its segment's block is on its way, a recall commits the bytes inside the operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_committed_twice() {
    let mount = Mount::new(1, false, VfsConfig { flush_after: Duration::from_millis(1), ..small() });
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    let put = Arc::clone(&mount.data.held).lock_owned().await;
    let held = Arc::clone(&mount.meta.held).lock_owned().await;
    mount.write(ino, fh, 0, b"once").await.unwrap();
    while mount.data.puts.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let vfs = Arc::clone(&mount.vfs);
    let recall = tokio::spawn(async move { vfs.uncache(ino, 5).await });
    let is_commit = |op: &Op| matches!(op.body, OpBody::Commit(_));
    while !mount.meta.log.lock().iter().any(is_commit) {
        tokio::task::yield_now().await;
    }
    drop(put);
    while mount.data.blocks.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(held);
    recall.await.unwrap().unwrap();
    mount.vfs.shutdown().await.unwrap();
    let log = mount.meta.log.lock();
    let commits =
        log.iter().filter_map(|op| if let OpBody::Commit(commit) = &op.body { Some(commit) } else { None });
    let (carrying, empty): (Vec<_>, Vec<_>) = commits.partition(|commit| !commit.pieces.is_empty());
    assert_eq!(carrying.len(), 1);
    assert_eq!(empty.len(), 1, "the block that came too late is told of, so that it is deleted");
    assert_eq!(mount.meta.maps.lock().deleted.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_a_shared_file_is_not_hidden_by_an_own_write_before() {
    let mount = lazy();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, b"mine").await.unwrap();
    mount.vfs.uncache(ino, 5).await.unwrap();
    let times = SetAttr { mtime: Some(SetTime::At(Timestamp { secs: 77, nanos: 0 })), ..SetAttr::default() };
    mount.meta.submit(&Caller::default(), OpBody::SetAttr { ino, set: times }).await.unwrap();
    assert_eq!(mount.stat(ino).await.mtime.secs, 77);
}

/// Opened here again and again while it is written through, and the server says each time that it is
/// not shared any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_while_a_file_is_shared_by_turns_are_all_there() {
    const ROUNDS: usize = 200;
    let mount = Arc::new(Mount::new(7, true, small()));
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    let appender = Arc::clone(&mount);
    let appends = tokio::spawn(async move {
        for _ in 0..ROUNDS {
            appender.append(ino, fh, b"line\n").await.unwrap();
        }
    });
    for generation in 2..2 + ROUNDS as u64 {
        mount.vfs.uncache(ino, generation).await.unwrap();
        mount.meta.generation.store(generation, Ordering::SeqCst);
        let open = Arc::clone(&mount.vfs).open(ino, libc::O_RDWR);
        let opened = open.await.unwrap();
        mount.vfs.try_release(ino, opened.fh, 0, None).unwrap().unwrap();
    }
    appends.await.unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), b"line\n".repeat(ROUNDS));
}

/// Cut by newer writes into more pieces than one commit can have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_block_is_told_of_by_two_commits() {
    const PIECES: u64 = COMMIT_PIECES_MAX as u64 + 10;
    let mount = Mount::new(1, false, VfsConfig { dirty_bytes: 64 << 20, ..small() });
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    // The first block waits until it is in pieces.
    *mount.data.failures.lock() = vec![FsError::Io; 12];
    mount.write(ino, fh, 0, &vec![1; 4 << 20]).await.unwrap();
    for piece in 0..PIECES {
        // Each failure is told once.
        while mount.write(ino, fh, piece * 100, &[2]).await == Err(FsError::Io) {}
    }
    while mount.fsync(ino, fh).await == Err(FsError::Io) {}
    mount.vfs.shutdown().await.unwrap();
    let mut expected = vec![1; 4 << 20];
    expected.iter_mut().step_by(100).take(PIECES as usize).for_each(|byte| *byte = 2);
    assert!(mount.stored(ino) == expected);
    let mut told: HashSet<BlockRef> = HashSet::new();
    let mut full = false;
    for op in mount.meta.log.lock().iter() {
        let OpBody::Commit(commit) = &op.body else { continue };
        assert!(commit.pieces.len() <= COMMIT_PIECES_MAX);
        full |= commit.pieces.len() == COMMIT_PIECES_MAX;
        for (block, _) in &commit.blocks {
            assert!(told.insert(*block), "{block:?} is told of again");
        }
        for piece in &commit.pieces {
            let ExtentData::Block { block, .. } = &piece.extent.data else { continue };
            assert!(commit.blocks.iter().any(|(own, _)| own == block));
        }
    }
    assert!(full, "the test is about this");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flock_that_changes_its_kind_is_given_up_first() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    let lock = |owner, kind, wait| {
        let owner = LockOwner { family: LockFamily::Flock, owner };
        let request = LockRequest { owner, kind, start: 0, end: u64::MAX >> 1, pid: 1 };
        let vfs = Arc::clone(&mount.vfs);
        async move {
            let (caller, never) = (Caller::default(), Arc::new(Interrupts::default()).register(1, 1));
            let set = vfs.setlk(caller, ino, fh, request, wait, never);
            tokio::time::timeout(Duration::from_secs(20), set).await.expect("it does not wait for ever")
        }
    };
    lock(1, LockType::Read, false).await.unwrap();
    lock(2, LockType::Read, false).await.unwrap();
    assert_eq!(lock(1, LockType::Write, false).await, Err(FsError::WouldBlock));
    lock(2, LockType::Write, false).await.expect("the first one's is gone");
    assert_eq!(lock(1, LockType::Read, false).await, Err(FsError::WouldBlock));
    lock(2, LockType::Read, false).await.unwrap();
    lock(1, LockType::Read, false).await.unwrap();

    let both = async {
        let first = async {
            lock(1, LockType::Write, true).await.unwrap();
            lock(1, LockType::Unlock, false).await.unwrap();
        };
        let second = async {
            lock(2, LockType::Write, true).await.unwrap();
            lock(2, LockType::Unlock, false).await.unwrap();
        };
        tokio::join!(first, second);
    };
    both.await;
    mount.vfs.shutdown().await.unwrap();
}

/// A file that is written through all the time can still be opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_file_can_be_opened_while_it_is_written() {
    let mount = lazy();
    *mount.meta.lease.lock() = DataLease::Shared;
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.vfs.uncache(ino, 1).await.unwrap();
    let writer = async {
        for _ in 0..300 {
            mount.append(ino, fh, b"x").await.unwrap();
        }
    };
    let opener = async {
        for _ in 0..20 {
            let opened = Arc::clone(&mount.vfs).open(ino, libc::O_RDONLY).await;
            let fh = opened.unwrap().fh;
            mount.vfs.try_release(ino, fh, 0, None).unwrap().unwrap();
        }
    };
    tokio::join!(writer, opener);
    assert_eq!(mount.stored(ino).len(), 300);
    mount.vfs.shutdown().await.unwrap();
}

/// Bytes that were only to be moved into a block, and could not be: moved after the recall they would lie over
/// what another mount wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_moved_after_a_recall() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    *mount.data.failures.lock() = vec![FsError::Io; 1000];
    for page in 0..140 {
        mount.write(ino, fh, page * 4096, &[1; 4096]).await.unwrap();
        mount.fsync(ino, fh).await.unwrap();
    }
    while mount.data.puts.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    mount.vfs.uncache(ino, 5).await.unwrap();
    let data = ExtentData::Inline(Bytes::from(vec![2; 4096]));
    let piece = Piece { ino, extent: Extent { offset: 0, length: 4096, data } };
    let file = FileCommit { ino, size_at_least: 4096, mtime: None, kill_suidgid: false };
    let commit = Commit { blocks: Vec::new(), pieces: vec![piece], files: vec![file] };
    let op = Op { time: mount.meta.now(), caller: Caller::default(), body: OpBody::Commit(commit) };
    namespace::apply(&mut *mount.meta.maps.lock(), SessionId(99), &op).unwrap();
    mount.data.failures.lock().clear();
    mount.vfs.shutdown().await.unwrap();
    let stored = mount.stored(ino);
    // Not assert_eq: it would print half a million numbers.
    assert!(
        stored.len() == 140 * 4096 && stored[..4096] == [2; 4096],
        "the older bytes lie over the newer ones"
    );
    assert!(stored[4096..].iter().all(|&byte| byte == 1));
}
