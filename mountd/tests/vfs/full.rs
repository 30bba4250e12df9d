//! Data daemons whose disks are full: whoever writes is told, at the latest when it closes, and nobody else waits.

use super::{Mount, small};
use bytes::Bytes;
use cairn_common::attr::{Caller, SetAttr};
use cairn_common::error::FsError;
use cairn_common::ids::Ino;
use cairn_mountd::client::EventSink;
use cairn_mountd::fuse::ops::{Fh, FuseOps};
use cairn_mountd::vfs::VfsConfig;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SIZE: usize = 100_000;

impl Mount {
    /// Nothing is stored by itself.
    fn lazy() -> Mount {
        Mount::new(1, false, VfsConfig { flush_after: Duration::from_secs(100), ..small() })
    }

    async fn named(&self, name: &str) -> (Ino, Fh) {
        let made = self.create(name).await;
        (made.entry.attr.ino, made.opened.fh)
    }

    /// The disks have so much room.
    fn free(&self, bytes: u64) {
        self.meta.available.store(bytes, Ordering::SeqCst);
        self.data.full.store(bytes == 0, Ordering::SeqCst);
    }

    /// Closes it while nothing is stored.
    async fn closes_at_once(&self, ino: Ino, fh: Fh) {
        let flush = tokio::time::timeout(Duration::from_secs(20), self.flush(ino, fh));
        assert_eq!(flush.await, Ok(Ok(())), "nobody is waited for");
    }

    fn puts(&self) -> u64 {
        self.data.puts.load(Ordering::SeqCst)
    }
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_a_file_that_has_no_room_is_told_and_its_bytes_are_kept() {
    let mount = Mount::lazy();
    let (ino, fh) = mount.named("f").await;
    mount.free(0);
    mount.write(ino, fh, 0, &[7; SIZE]).await.unwrap();
    assert_eq!(mount.flush(ino, fh).await, Err(FsError::NoSpace));
    assert!(mount.puts() > 0 && mount.data.blocks.lock().is_empty());
    assert_eq!(mount.read(ino, fh, 0, 10).await.unwrap(), [7; 10]);
    mount.free(1 << 40);
    mount.fsync(ino, fh).await.unwrap();
    assert_eq!(mount.stored(ino), [7; SIZE]);
    assert_eq!(mount.flush(ino, fh).await, Ok(()), "it was told once");
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_the_end_a_close_waits_until_the_file_is_stored() {
    let mount = Mount::lazy();
    let (ino, fh) = mount.named("f").await;
    mount.free(1 << 20);
    mount.write(ino, fh, 0, &[7; SIZE]).await.unwrap();
    mount.flush(ino, fh).await.unwrap();
    assert_eq!(mount.stored(ino), [7; SIZE]);
    // Who only reads it, and who has removed it, has nothing to wait for.
    let put = Arc::clone(&mount.data.held).lock_owned().await;
    mount.write(ino, fh, 0, &[8; SIZE]).await.unwrap();
    let reader = Arc::clone(&mount.vfs).open(ino, libc::O_RDONLY).await.unwrap().fh;
    mount.closes_at_once(ino, reader).await;
    let name = Bytes::from_static(b"f");
    Arc::clone(&mount.vfs).unlink(Caller::default(), Ino::ROOT, name).await.unwrap();
    mount.closes_at_once(ino, fh).await;
    drop(put);
    mount.vfs.shutdown().await.unwrap();
}

/// Whoever closes it may be the shell that is to start them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_waits_for_no_servers_that_do_not_even_say_what_is_free() {
    let mount = Mount::lazy();
    let (ino, fh) = mount.named("f").await;
    mount.free(1 << 20);
    mount.write(ino, fh, 0, &[7; SIZE]).await.unwrap();
    mount.flush(ino, fh).await.unwrap();
    let puts = mount.puts();
    mount.meta.silent.store(true, Ordering::SeqCst);
    // What they said is known for a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let put = Arc::clone(&mount.data.held).lock_owned().await;
    mount.write(ino, fh, 0, &[8; SIZE]).await.unwrap();
    mount.closes_at_once(ino, fh).await;
    assert_eq!(mount.puts(), puts, "it was not even tried");
    drop(put);
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), [8; SIZE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_the_end_a_close_waits_a_while_for_servers_that_do_nothing() {
    let mount = Mount::lazy();
    let (ino, fh) = mount.named("f").await;
    mount.free(1 << 20);
    let put = Arc::clone(&mount.data.held).lock_owned().await;
    mount.write(ino, fh, 0, &[7; SIZE]).await.unwrap();
    let flush = tokio::time::timeout(Duration::from_secs(30), mount.flush(ino, fh));
    assert_eq!(flush.await, Ok(Ok(())), "it goes on without them");
    assert!(mount.data.blocks.lock().is_empty());
    drop(put);
    mount.fsync(ino, fh).await.unwrap();
    assert_eq!(mount.stored(ino), [7; SIZE]);
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_room_a_close_waits_for_nobody() {
    let mount = Mount::lazy();
    let (ino, fh) = mount.named("f").await;
    // Nothing is stored before the files are closed, not even begun.
    let put = Arc::clone(&mount.data.held).lock_owned().await;
    mount.write(ino, fh, 0, &[7; SIZE]).await.unwrap();
    mount.closes_at_once(ino, fh).await;
    // What was just asked for is not asked for again.
    let asked = mount.meta.statfs.load(Ordering::SeqCst);
    for number in 0..50 {
        let (ino, fh) = mount.named(&format!("f{number}")).await;
        mount.write(ino, fh, 0, &[7; 1000]).await.unwrap();
        mount.closes_at_once(ino, fh).await;
    }
    assert!(mount.meta.statfs.load(Ordering::SeqCst) - asked < 50);
    assert_eq!(mount.puts(), 0);
    drop(put);
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), [7; SIZE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_waits_for_no_data_daemon_that_is_away() {
    // It will have room; or nothing is known of it.
    for away in [1 << 40, u64::MAX] {
        let mount = Mount::lazy();
        let (ino, fh) = mount.named("f").await;
        mount.free(0);
        mount.meta.away.store(away, Ordering::SeqCst);
        mount.write(ino, fh, 0, &[7; SIZE]).await.unwrap();
        mount.closes_at_once(ino, fh).await;
        assert_eq!(mount.puts(), 0);
        mount.free(1 << 40);
        mount.vfs.shutdown().await.unwrap();
    }
}

/// The servers' figures are late: there seems to be plenty of room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_before_the_disk_was_known_to_be_full_is_told_and_no_more_is_taken() {
    let mount = Mount::lazy();
    let (first, other) = (mount.named("first").await, mount.named("other").await);
    let dup = Arc::clone(&mount.vfs).open(first.0, libc::O_RDWR).await.unwrap().fh;
    mount.data.full.store(true, Ordering::SeqCst);
    mount.write(first.0, first.1, 0, &[1; SIZE]).await.unwrap();
    mount.write(other.0, other.1, 0, &[2; 1000]).await.unwrap();
    mount.flush(first.0, first.1).await.unwrap();
    assert_eq!(mount.puts(), 0, "nobody knows yet");
    // What the mount does by itself after a while.
    assert_eq!(EventSink::flush(&*mount.vfs, vec![first.0]).await, Err(FsError::NoSpace));
    for (ino, fh) in [first, (first.0, dup), other] {
        assert_eq!(mount.flush(ino, fh).await, Err(FsError::NoSpace), "each handle is told");
    }
    // A new file: little is taken, its close tells; more is refused at once, each time.
    let (ino, fh) = mount.named("new").await;
    mount.write(ino, fh, 0, &[3; 1000]).await.unwrap();
    assert_eq!(mount.flush(ino, fh).await, Err(FsError::NoSpace));
    let (ino, fh) = mount.named("large").await;
    for _ in 0..3 {
        assert_eq!(mount.write(ino, fh, 0, &[4; SIZE]).await, Err(FsError::NoSpace));
    }
    assert_eq!(mount.stat(ino).await.size, 0);
    assert_eq!(mount.read(first.0, first.1, 0, 10).await.unwrap(), [1; 10]);
    // With room, what waits is stored by itself, and all goes on.
    mount.data.full.store(false, Ordering::SeqCst);
    eventually(|| mount.stored(first.0) == [1; SIZE]).await;
    mount.write(ino, fh, 0, &[4; SIZE]).await.unwrap();
    mount.flush(ino, fh).await.unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!((mount.stored(other.0), mount.stored(ino)), (vec![2; 1000], vec![4; SIZE]));
}

/// Nothing that waits is needed any more: writing goes on although the disk is as full as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_what_had_no_room_ends_the_refusal_of_writes() {
    let mount = Mount::lazy();
    let (ino, fh) = mount.named("f").await;
    mount.free(0);
    mount.write(ino, fh, 0, &[1; SIZE]).await.unwrap();
    assert_eq!(mount.flush(ino, fh).await, Err(FsError::NoSpace));
    let (next, next_fh) = mount.named("next").await;
    assert_eq!(mount.write(next, next_fh, 0, &[2; SIZE]).await, Err(FsError::NoSpace));
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    Arc::clone(&mount.vfs).setattr(Caller::default(), ino, None, set).await.unwrap();
    mount.data.full.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(20);
    while mount.write(next, next_fh, 0, &[2; SIZE]).await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    mount.flush(next, next_fh).await.unwrap();
    assert_eq!(mount.stored(next), [2; SIZE]);
    mount.vfs.shutdown().await.unwrap();
}

/// The metadata daemon answers that nothing is free, and refuses the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_metadata_disk_is_told_at_close_too() {
    let mount = Mount::lazy();
    let (ino, fh) = mount.named("f").await;
    mount.meta.available.store(0, Ordering::SeqCst);
    mount.meta.full.store(true, Ordering::SeqCst);
    mount.write(ino, fh, 0, &[7; SIZE]).await.unwrap();
    assert_eq!(mount.flush(ino, fh).await, Err(FsError::NoSpace));
    mount.meta.full.store(false, Ordering::SeqCst);
    eventually(|| mount.stored(ino) == [7; SIZE]).await;
    mount.vfs.shutdown().await.unwrap();
}

/// `soft`: a few blocks are tried at a time; what waits behind them is no more stored than they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_a_file_while_the_mount_has_given_the_servers_up_is_told_though_its_block_was_never_tried()
{
    let mount = Mount::lazy();
    let (first, first_fh) = mount.named("first").await;
    let (next, next_fh) = mount.named("next").await;
    mount.free(1 << 40);
    *mount.data.failures.lock() = vec![FsError::TimedOut; 1000];
    mount.write(first, first_fh, 0, &[1; SIZE]).await.unwrap();
    assert_eq!(mount.fsync(first, first_fh).await, Err(FsError::TimedOut));
    mount.write(next, next_fh, 0, &[2; SIZE]).await.unwrap();
    assert_eq!(mount.flush(next, next_fh).await, Err(FsError::TimedOut));
    let (little, little_fh) = mount.named("little").await;
    mount.closes_at_once(little, little_fh).await;
    mount.write(little, little_fh, 0, &[3; 100]).await.unwrap();
    mount.closes_at_once(little, little_fh).await;
    assert_eq!(mount.stored(little), [3; 100], "in the metadata");
    mount.data.failures.lock().clear();
    eventually(|| mount.stored(first) == [1; SIZE]).await;
    mount.closes_at_once(next, next_fh).await;
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(next), [2; SIZE]);
}
