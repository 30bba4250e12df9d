//! Bytes that are moved from the metadata into blocks carry nothing new: whatever happens meanwhile must stay. All found by
//! review, in moves that were ordinary commits.

use super::{Mount, small};
use cairn_common::attr::{Caller, SetAttr, SetTime, Timestamp};
use cairn_common::error::FsError;
use cairn_common::ids::{Ino, SessionId};
use cairn_common::namespace;
use cairn_common::namespace::op::{FallocateMode, Op, OpBody};
use cairn_mountd::client::{EventSink, MetaClient};
use cairn_mountd::fuse::ops::{CopyRange, Fh, FuseOps, WriteAt};
use cairn_mountd::vfs::VfsConfig;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn pages(mount: &Mount, ino: Ino, fh: Fh, from: u64, to: u64) {
    for page in from..to {
        mount.write(ino, fh, page * 4096, &[1; 4096]).await.unwrap();
        mount.fsync(ino, fh).await.unwrap();
    }
}

/// The move had failed while the other mount waited for a flush.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_truncate_by_another_mount_stays() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    *mount.data.failures.lock() = vec![FsError::Io; 1000];
    pages(&mount, ino, fh, 0, 140).await;
    while mount.data.puts.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    EventSink::flush(&*mount.vfs, vec![ino]).await.unwrap();
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    let op = Op { time: mount.meta.now(), caller: Caller::default(), body: OpBody::SetAttr { ino, set } };
    namespace::apply(&mut *mount.meta.maps.lock(), SessionId(99), &op).unwrap();
    mount.vfs.invalidate(ino).await;
    mount.data.failures.lock().clear();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino).len(), 0, "truncated by another mount, synced long before");
}

/// Between the flush that the other mount waited for and the news of its truncate, this one syncs a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_truncate_by_another_mount_stays_though_a_move_began_before_it_was_told() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    pages(&mount, ino, fh, 0, 128).await;
    EventSink::flush(&*mount.vfs, vec![ino]).await.unwrap();
    let held = Arc::clone(&mount.data.held).lock_owned().await;
    mount.write(ino, fh, 0, &[2; 4096]).await.unwrap();
    mount.write(ino, fh, 128 * 4096, &[2; 1]).await.unwrap();
    mount.fsync(ino, fh).await.unwrap();
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    let op = Op { time: mount.meta.now(), caller: Caller::default(), body: OpBody::SetAttr { ino, set } };
    namespace::apply(&mut *mount.meta.maps.lock(), SessionId(99), &op).unwrap();
    mount.vfs.invalidate(ino).await;
    drop(held);
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino).len(), 0);
}

async fn race(
    mount: &Mount,
    ino: Ino,
    fh: Fh,
    what: impl Future<Output = ()> + Send + 'static,
    is: fn(&OpBody) -> bool,
) {
    mount.write(ino, fh, 200 * 4096, &[3; 4096]).await.unwrap();
    let first = Arc::clone(&mount.data.held).lock_owned().await;
    let puts = mount.data.puts.load(Ordering::SeqCst);
    let op = tokio::spawn(what);
    while mount.data.puts.load(Ordering::SeqCst) == puts {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let held = Arc::clone(&mount.data.held);
    let second = tokio::spawn(async move { held.lock_owned().await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let vfs = Arc::clone(&mount.vfs);
    let look = tokio::spawn(async move { EventSink::flush(&*vfs, vec![ino]).await });
    while mount.data.puts.load(Ordering::SeqCst) < puts + 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(first);
    let second = second.await.unwrap();
    while !mount.meta.log.lock().iter().any(|op| is(&op.body)) {
        tokio::task::yield_now().await;
    }
    op.await.unwrap();
    drop(second);
    look.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_stays_though_a_move_began_while_it_waited() {
    let config = VfsConfig { flush_after: Duration::from_secs(100), ..small() };
    let mount = Mount::new(1, false, config);
    let from = mount.create("from").await;
    mount.write(from.entry.attr.ino, from.opened.fh, 0, &[9; 4096]).await.unwrap();
    mount.fsync(from.entry.attr.ino, from.opened.fh).await.unwrap();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    pages(&mount, ino, fh, 0, 128).await;
    let copy = CopyRange {
        from_fh: from.opened.fh,
        from_offset: 0,
        to_fh: fh,
        to_offset: 0,
        length: 4096,
        from: from.entry.attr.ino,
        to: ino,
    };
    let vfs = Arc::clone(&mount.vfs);
    let call = async move {
        assert_eq!(vfs.copy_range(Caller::default(), copy).await.unwrap(), 4096);
    };
    race(&mount, ino, fh, call, |body| matches!(body, OpBody::CloneRange { .. })).await;
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino)[0], 9, "the copy that was answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_collapsed_range_stays_though_a_move_began_while_it_waited() {
    let config = VfsConfig { flush_after: Duration::from_secs(100), ..small() };
    let mount = Mount::new(1, false, config);
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    pages(&mount, ino, fh, 0, 127).await;
    mount.write(ino, fh, 127 * 4096, &[7; 4096]).await.unwrap();
    mount.fsync(ino, fh).await.unwrap();
    let vfs = Arc::clone(&mount.vfs);
    let call = async move {
        vfs.fallocate(Caller::default(), ino, fh, FallocateMode::CollapseRange, 0, 4096).await.unwrap();
    };
    race(&mount, ino, fh, call, |body| matches!(body, OpBody::Fallocate { .. })).await;
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino)[126 * 4096], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_only_moves_fail() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    *mount.data.failures.lock() = vec![FsError::Io; 100000];
    pages(&mount, ino, fh, 0, 140).await;
    let sync = Arc::clone(&mount.vfs).store_all().await;
    let end = mount.vfs.shutdown().await;
    assert_eq!((sync, end), (Ok(()), Ok(())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_by_another_mount_waits_for_no_move() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    let held = Arc::clone(&mount.data.held).lock_owned().await;
    pages(&mount, ino, fh, 0, 140).await;
    let waited = tokio::time::timeout(Duration::from_secs(3), EventSink::flush(&*mount.vfs, vec![ino])).await;
    drop(held);
    mount.vfs.shutdown().await.unwrap();
    assert!(waited.is_ok(), "everything is at the server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_of_our_own_waits_for_no_move() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    let held = Arc::clone(&mount.data.held).lock_owned().await;
    pages(&mount, ino, fh, 0, 140).await;
    mount.vfs.invalidate(ino).await;
    let waited = tokio::time::timeout(Duration::from_secs(3), mount.stat(ino)).await;
    drop(held);
    mount.vfs.shutdown().await.unwrap();
    assert!(waited.is_ok(), "everything is at the server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn times_and_mode_that_another_mount_set_stay() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    *mount.data.failures.lock() = vec![FsError::Io; 1000];
    for page in 0..140u64 {
        let write = WriteAt {
            ino,
            fh,
            offset: page * 4096,
            flags: libc::O_RDWR,
            from_mapping: false,
            kill_suidgid: true,
        };
        mount.vfs.try_write(&Caller::default(), &write, &[1; 4096]).unwrap().unwrap();
        mount.fsync(ino, fh).await.unwrap();
    }
    while mount.data.puts.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    EventSink::flush(&*mount.vfs, vec![ino]).await.unwrap();
    let old = Timestamp { secs: 1000, nanos: 0 };
    let set = SetAttr { mtime: Some(SetTime::At(old)), perm: Some(0o4755), ..SetAttr::default() };
    let op = Op { time: mount.meta.now(), caller: Caller::default(), body: OpBody::SetAttr { ino, set } };
    namespace::apply(&mut *mount.meta.maps.lock(), SessionId(99), &op).unwrap();
    mount.data.failures.lock().clear();
    mount.vfs.shutdown().await.unwrap();
    let attr = mount.meta.attr(ino);
    assert_eq!((attr.mtime, attr.perm), (old, 0o4755));
}
