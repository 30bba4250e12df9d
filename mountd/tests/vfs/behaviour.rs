//! One promise each.

use super::fake::{FakeData, FakeMeta};
use super::{Mount, small};
use bytes::Bytes;
use cairn_common::attr::{Caller, FileKind, SetAttr};
use cairn_common::error::FsError;
use cairn_common::ids::Ino;
use cairn_common::namespace;
use cairn_common::namespace::op::{ExtentData, FallocateMode, OpBody};
use cairn_mountd::client::EventSink;
use cairn_mountd::fuse::ops::{FuseOps, Make};
use cairn_mountd::vfs::{Vfs, VfsConfig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_files_take_few_puts() {
    let config = VfsConfig { flush_after: Duration::from_secs(1), ..VfsConfig::default() };
    let mount = Mount::new(1, false, config);
    for index in 0..10_000u32 {
        let made = mount.create(&format!("f{index}")).await;
        let ino = made.entry.attr.ino;
        mount.write(ino, made.opened.fh, 0, &index.to_be_bytes().repeat(1024)).await.unwrap();
        mount.vfs.try_release(ino, made.opened.fh, 0, None).unwrap().unwrap();
    }
    mount.vfs.shutdown().await.unwrap();
    let puts = mount.data.puts.load(Ordering::SeqCst);
    assert!(puts < 100, "{puts} puts");
    for index in (0..10_000u32).step_by(997) {
        let ino = Ino(100 + u64::from(index));
        assert_eq!(mount.stored(ino), index.to_be_bytes().repeat(1024));
    }
    assert_eq!(mount.meta.closes.lock().len(), 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_nothing_is_lost() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    *mount.data.failures.lock() = vec![FsError::NoSpace];
    mount.write(ino, fh, 0, &[7; 100_000]).await.unwrap();
    assert_eq!(mount.fsync(ino, fh).await, Err(FsError::NoSpace));
    assert_eq!(mount.read(ino, fh, 0, 10).await.unwrap(), [7; 10]);
    // Space is there again: the data goes by itself.
    mount.fsync(ino, fh).await.unwrap();
    assert_eq!(mount.stored(ino), [7; 100_000]);
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_a_background_flush_is_told_to_each_handle_once() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    let other = Arc::clone(&mount.vfs).open(ino, libc::O_RDWR).await.unwrap().fh;
    *mount.data.failures.lock() = vec![FsError::Io];
    mount.write(ino, fh, 0, &[7; 100_000]).await.unwrap();
    // It fails, or what had begun by itself has failed before.
    let _ = EventSink::flush(&*mount.vfs, vec![ino]).await;
    assert_eq!(mount.flush(ino, fh).await, Err(FsError::Io));
    assert_eq!(mount.flush(ino, fh).await, Ok(()));
    assert_eq!(mount.fsync(ino, other).await, Err(FsError::Io));
    mount.fsync(ino, other).await.unwrap();
    assert_eq!(mount.stored(ino), [7; 100_000]);
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_beats_data_that_is_under_way() {
    let mount = Mount::new(3, true, small());
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    for round in 0..30u8 {
        mount.write(ino, fh, 0, &vec![round + 1; 200_000]).await.unwrap();
        let flushing = Arc::clone(&mount.vfs);
        let flush = tokio::spawn(async move { EventSink::flush(&*flushing, vec![ino]).await });
        tokio::task::yield_now().await;
        let set = SetAttr { size: Some(1000), ..SetAttr::default() };
        Arc::clone(&mount.vfs).setattr(Caller::default(), ino, None, set).await.unwrap();
        flush.await.unwrap().unwrap();
        mount.fsync(ino, fh).await.unwrap();
        assert_eq!(mount.stored(ino), vec![round + 1; 1000]);
        assert_eq!(mount.stat(ino).await.size, 1000);
    }
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_come_in_the_order_of_the_writes() {
    let mount = Mount::new(5, true, small());
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    for index in 0..40u64 {
        mount.write(ino, fh, index << 20, &vec![1; 1 << 20]).await.unwrap();
    }
    mount.vfs.shutdown().await.unwrap();
    let mut last = 0;
    for op in mount.meta.log.lock().iter() {
        if let OpBody::Commit(commit) = &op.body {
            for piece in &commit.pieces {
                assert_eq!(piece.extent.offset, last, "what is committed is a prefix of what was written");
                last += piece.extent.length;
            }
        }
    }
    assert_eq!(last, 40 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_fsync_needs_no_block() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    for index in 0..100u64 {
        mount.write(ino, fh, index % 7 * 512, &[index as u8; 512]).await.unwrap();
        mount.fsync(ino, fh).await.unwrap();
    }
    assert_eq!(mount.data.puts.load(Ordering::SeqCst), 0);
    assert_eq!(mount.stored(ino).len(), 7 * 512);
    // Once the file is closed, its bytes move to a block; nothing else about it changes.
    let (bytes, before) = (mount.stored(ino), mount.meta.attr(ino));
    mount.vfs.try_release(ino, fh, 0, None).unwrap().unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.data.puts.load(Ordering::SeqCst), 1);
    let after = mount.meta.attr(ino);
    assert_eq!(mount.stored(ino), bytes);
    assert_eq!((after.mtime, after.ctime, after.allocated), (before.mtime, before.ctime, before.allocated));
    let page = cairn_common::namespace::extents(&*mount.meta.maps.lock(), ino, 0, u64::MAX).unwrap();
    assert!(page.extents.iter().all(|extent| matches!(extent.data, ExtentData::Block { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_removed_file_is_not_stored() {
    let config = VfsConfig { flush_after: Duration::from_secs(100), ..small() };
    let mount = Mount::new(1, false, config);
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, &[1; 100_000]).await.unwrap();
    let root = Ino::ROOT;
    let name = Bytes::from_static(b"f");
    Arc::clone(&mount.vfs).unlink(Caller::default(), root, name).await.unwrap();
    assert_eq!(mount.read(ino, fh, 0, 5).await.unwrap(), [1; 5], "it is still open");
    mount.vfs.try_release(ino, fh, 0, None).unwrap().unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.data.puts.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_mount_answers_stat_of_an_open_file_itself() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, &[1; 5000]).await.unwrap();
    let attr = mount.stat(ino).await;
    assert_eq!((attr.size, attr.allocated), (5000, 5000));
    assert_eq!(mount.meta.getattrs.load(Ordering::SeqCst), 0);
    mount.vfs.shutdown().await.unwrap();
}

/// Bytes of a file that are in the metadata.
fn inline_bytes(mount: &Mount, ino: Ino) -> u64 {
    let page = cairn_common::namespace::extents(&*mount.meta.maps.lock(), ino, 0, u64::MAX).unwrap();
    let inline = page.extents.iter().filter(|extent| matches!(extent.data, ExtentData::Inline(_)));
    inline.map(|extent| extent.length).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_has_a_bounded_number_of_bytes_in_the_metadata() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    for index in 0..1000u64 {
        mount.write(ino, fh, index * 4096, &[index as u8; 4096]).await.unwrap();
        mount.fsync(ino, fh).await.unwrap();
        assert!(inline_bytes(&mount, ino) <= 1 << 20);
    }
    let puts = mount.data.puts.load(Ordering::SeqCst);
    assert!((1..10).contains(&puts), "{puts} puts");
    for index in 0..1000u64 {
        assert_eq!(mount.read(ino, fh, index * 4096, 4096).await.unwrap(), [index as u8; 4096]);
    }
    mount.vfs.shutdown().await.unwrap();
}

/// Random names in one directory, from several tasks at a time.
async fn change_names(vfs: Arc<Vfs<FakeMeta, FakeData>>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..300 {
        let mut name = || Bytes::from(format!("n{}", rng.random_range(0..20)));
        let (name, other) = (name(), name());
        let (call, caller) = (Arc::clone(&vfs), Caller::default());
        let kind = if rng.random() { FileKind::Dir } else { FileKind::Fifo };
        let make = Make { parent: Ino::ROOT, name: name.clone(), kind, perm: 0o755, umask: 0, rdev: 0 };
        let _any = match rng.random_range(0..6) {
            0 | 1 => call.make(caller, make).await.map(|_| ()),
            2 => call.unlink(caller, Ino::ROOT, name).await,
            3 => call.rmdir(caller, Ino::ROOT, name).await,
            4 => call.symlink(caller, Ino::ROOT, name, other).await.map(|_| ()),
            _ => call.rename(caller, (Ino::ROOT, name), (Ino::ROOT, other), 0).await,
        };
        let root = vfs.try_getattr(&Caller::default(), Ino::ROOT, None);
        if root.is_none() {
            Arc::clone(&vfs).getattr(Caller::default(), Ino::ROOT, None).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_do_to_a_directory_is_known_without_asking() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mount = Mount::new(seed, true, small());
        mount.vfs.sole(1);
        let tasks: Vec<_> =
            (0..3).map(|task| tokio::spawn(change_names(Arc::clone(&mount.vfs), seed * 10 + task))).collect();
        for task in tasks {
            task.await.unwrap();
            assert_eq!(mount.stat(Ino::ROOT).await.size % 32, 0);
        }
        assert_eq!(mount.stat(Ino::ROOT).await, mount.meta.attr(Ino::ROOT));
        mount.vfs.shutdown().await.unwrap();
    }
    let mount = Mount::quick();
    mount.vfs.sole(1);
    for index in 0..100 {
        mount.create(&format!("f{index}")).await;
        mount.stat(Ino::ROOT).await;
    }
    assert_eq!(mount.stat(Ino::ROOT).await, mount.meta.attr(Ino::ROOT));
    assert_eq!(mount.meta.getattrs.load(Ordering::SeqCst), 1);
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_moves_the_access_time_once_and_nothing_else() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, &[1; 100]).await.unwrap();
    mount.fsync(ino, fh).await.unwrap();
    let before = mount.stat(ino).await;
    for _ in 0..3 {
        mount.read(ino, fh, 0, 100).await.unwrap();
    }
    let after = mount.stat(ino).await;
    assert!(after.atime > before.mtime);
    mount.fsync(ino, fh).await.unwrap();
    assert_eq!(mount.meta.attr(ino).atime, after.atime);
    assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
    let touches = |op: &&cairn_common::namespace::op::Op| matches!(op.body, OpBody::Touch { .. });
    // With `relatime`, a second reader finds a time that is late enough.
    let open = Arc::clone(&mount.vfs).open(ino, libc::O_RDONLY);
    let other = open.await.unwrap().fh;
    mount.read(ino, other, 0, 100).await.unwrap();
    assert_eq!(mount.meta.log.lock().iter().filter(touches).count(), 1);
    mount.vfs.shutdown().await.unwrap();
}

/// The write is committed after the hole, and is older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_has_its_own_time_although_earlier_writes_come_after_it() {
    let mount = Mount::new(1, false, VfsConfig { flush_after: Duration::from_secs(100), ..small() });
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.write(ino, fh, 0, &[1; 100_000]).await.unwrap();
    let before = mount.stat(ino).await;
    let hole = FallocateMode::PunchHole;
    Arc::clone(&mount.vfs).fallocate(Caller::default(), ino, fh, hole, 4096, 4096).await.unwrap();
    mount.fsync(ino, fh).await.unwrap();
    let after = mount.stat(ino).await;
    assert!(after.mtime > before.mtime && after.mtime == after.ctime, "{before:?} {after:?}");
    mount.write(ino, fh, 0, &[2]).await.unwrap();
    mount.fsync(ino, fh).await.unwrap();
    assert!(mount.stat(ino).await.mtime > after.mtime);
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallocate_beyond_the_free_space_fails_before_anything_is_written() {
    let mount = Mount::new(1, false, VfsConfig { flush_after: Duration::from_secs(100), ..small() });
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    mount.meta.available.store(10_000, Ordering::SeqCst);
    let fallocate = async |mode, offset, length| {
        Arc::clone(&mount.vfs).fallocate(Caller::default(), ino, fh, mode, offset, length).await
    };
    let modes = [FallocateMode::Allocate { keep_size: false }, FallocateMode::ZeroRange { keep_size: true }];
    for mode in modes {
        assert_eq!(fallocate(mode, 4096, 10_001).await, Err(FsError::NoSpace));
    }
    assert_eq!((mount.stat(ino).await.size, mount.stat(ino).await.allocated), (0, 0));
    fallocate(modes[0], 4096, 10_000).await.unwrap();
    // What is there already needs no space, be it set aside, written or dirty.
    mount.write(ino, fh, 14_096, &[3; 5000]).await.unwrap();
    mount.meta.available.store(4096, Ordering::SeqCst);
    for mode in modes {
        fallocate(mode, 0, 19_096).await.unwrap();
    }
    fallocate(FallocateMode::PunchHole, 0, 19_096).await.unwrap();
    assert_eq!(fallocate(modes[0], 0, 19_096).await, Err(FsError::NoSpace));
    // Room on a data daemon that is away, or of which nothing is known yet, counts: writes wait for it.
    mount.meta.available.store(0, Ordering::SeqCst);
    for away in [20_000, u64::MAX] {
        mount.meta.away.store(away, Ordering::SeqCst);
        fallocate(modes[0], 0, 19_096).await.unwrap();
        fallocate(FallocateMode::PunchHole, 0, 19_096).await.unwrap();
    }
    mount.vfs.shutdown().await.unwrap();
}

/// The kernel has looked the name up, and opens the file by its number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_lost_its_name_before_it_was_opened_is_whole_or_gone() {
    let mount = Mount::new(1, false, VfsConfig { flush_after: Duration::from_secs(100), ..small() });
    let made = mount.create("f").await;
    let ino = made.entry.attr.ino;
    mount.write(ino, made.opened.fh, 0, &[5; 5000]).await.unwrap();
    mount.vfs.try_release(ino, made.opened.fh, 0, None).unwrap().unwrap();
    let name = bytes::Bytes::from_static(b"f");
    Arc::clone(&mount.vfs).unlink(Caller::default(), cairn_common::ids::Ino::ROOT, name).await.unwrap();
    let open = || Arc::clone(&mount.vfs).open(ino, libc::O_RDONLY);
    let fh = open().await.unwrap().fh;
    assert_eq!(mount.read(ino, fh, 0, 8192).await.unwrap(), [5; 5000]);
    mount.vfs.try_release(ino, fh, 0, None).unwrap().unwrap();

    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while mount.meta.closes.lock().is_empty() {
        assert!(std::time::Instant::now() < deadline, "what nobody can reach is thrown away");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(open().await.err(), Some(FsError::Stale));
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.data.puts.load(Ordering::SeqCst), 0);
}

/// A rename onto a link of the same inode answers like any other, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_that_does_nothing_leaves_the_directory_as_it_is() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let ino = mount.create("a").await.entry.attr.ino;
    let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
    let vfs = || Arc::clone(&mount.vfs);
    vfs().link(Caller::default(), ino, Ino::ROOT, b.clone()).await.unwrap();
    let before = mount.stat(Ino::ROOT).await;
    vfs().rename(Caller::default(), (Ino::ROOT, a.clone()), (Ino::ROOT, b), 0).await.unwrap();
    vfs().rename(Caller::default(), (Ino::ROOT, a.clone()), (Ino::ROOT, a), 0).await.unwrap();
    assert_eq!(mount.stat(Ino::ROOT).await, before);
    assert_eq!(mount.meta.attr(Ino::ROOT), before);
    mount.vfs.shutdown().await.unwrap();
}

/// Bytes that sit in the metadata are moved into a block while the data daemon is away for writes: nobody
/// waits for it, nothing is lost, and no one is told of an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synced_write_does_not_wait_for_bytes_that_are_only_moved() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    let put = Arc::clone(&mount.data.held).lock_owned().await;
    for index in 0..200u64 {
        mount.write(ino, fh, index * 4096, &[index as u8; 4096]).await.unwrap();
        mount.fsync(ino, fh).await.unwrap();
    }
    assert_eq!(mount.data.puts.load(Ordering::SeqCst), 1, "one is on its way");
    // Newer bytes stay above those that are being moved.
    mount.write(ino, fh, 4096, &[0xee; 4096]).await.unwrap();
    mount.fsync(ino, fh).await.unwrap();
    assert_eq!(mount.data.blocks.lock().len(), 0);
    drop(put);
    while inline_bytes(&mount, ino) > 512 << 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    mount.fsync(ino, fh).await.unwrap();
    let stored = mount.stored(ino);
    for index in 0..200u64 {
        let byte = if index == 1 { 0xee } else { index as u8 };
        assert_eq!(stored[index as usize * 4096..][..4096], [byte; 4096], "page {index}");
        assert_eq!(mount.read(ino, fh, index * 4096, 4096).await.unwrap(), [byte; 4096]);
    }
    mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_would_have_too_much_in_the_metadata_waits() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    *mount.data.failures.lock() = vec![FsError::NoSpace; 1000];
    let mut synced = 0u64;
    let error = loop {
        let wrote = mount.write(ino, fh, synced * 4096, &[7; 4096]).await;
        match wrote.and(mount.fsync(ino, fh).await) {
            Ok(()) => synced += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, FsError::NoSpace);
    assert_eq!(synced, 256, "as much as a file may have there");
    mount.data.failures.lock().clear();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), vec![7; 257 * 4096]);
}

/// Found by a test with 200,000 files that were made and kept open: after a restart of the metadata daemon the session
/// could not be taken up again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_files_are_made_than_may_be_open() {
    let mount = Mount::new(1, false, VfsConfig { opens_max: 3, ..small() });
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(mount.create(name).await);
    }
    let make = |name: &'static str| {
        let name = Bytes::from_static(name.as_bytes());
        let make = Make { parent: Ino::ROOT, name, kind: FileKind::File, perm: 0o644, umask: 0, rdev: 0 };
        Arc::clone(&mount.vfs).create(Caller::default(), make, libc::O_RDWR)
    };
    assert_eq!(make("d").await.err(), Some(FsError::TooManyOpen));
    assert!(
        namespace::lookup(&*mount.meta.maps.lock(), Ino::ROOT, b"d").is_err(),
        "it was made all the same"
    );
    let unnamed = Arc::clone(&mount.vfs).tmpfile(Caller::default(), Ino::ROOT, 0o600, 0, libc::O_RDWR);
    assert_eq!(unnamed.await.err(), Some(FsError::TooManyOpen));
    // Directories and the like are not open.
    let dir = Make {
        parent: Ino::ROOT,
        name: Bytes::from_static(b"dir"),
        kind: FileKind::Dir,
        perm: 0o755,
        umask: 0,
        rdev: 0,
    };
    Arc::clone(&mount.vfs).make(Caller::default(), dir).await.unwrap();
    let closed = made.pop().unwrap();
    let (ino, fh) = (closed.entry.attr.ino, closed.opened.fh);
    Arc::clone(&mount.vfs).release(ino, fh, libc::O_RDWR, None).await.unwrap();
    make("d").await.unwrap();
}
