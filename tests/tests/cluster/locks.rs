//! Locks hold across mounts, waiters are woken, and the end of a session releases what it held.

use cairn_common::error::FsError;
use cairn_common::namespace::op::LockFamily::{Flock, Posix};
use cairn_tests::harness::{Cluster, File, LIMIT, Mount, Options, eventually, within};
use std::time::Duration;
use tokio::task::JoinHandle;

const RW: i32 = libc::O_RDWR;

async fn open_on(mount: &Mount) -> File {
    mount.open("f", RW).await.unwrap()
}

async fn two_with_a_file(options: Options) -> (Cluster, Mount, Mount) {
    let cluster = Cluster::start(options).await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    a.write_file("f", b"content").await.unwrap();
    (cluster, a, b)
}

/// Waits in the background for the whole file.
fn wait_for(file: File, family: cairn_common::namespace::op::LockFamily) -> JoinHandle<File> {
    tokio::spawn(async move {
        file.lock(file.owner(family).lock_all(true)).await.unwrap();
        file
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_conflict_where_they_overlap() {
    let (_cluster, a, b) = two_with_a_file(Options::default()).await;
    let (one, two) = (open_on(&a).await, open_on(&b).await);
    let (mine, other) = (one.owner(Posix), two.owner(Posix));
    one.try_lock(mine.lock(true, 100, 199)).await.unwrap();
    assert_eq!(two.try_lock(other.lock(true, 150, 300)).await, Err(FsError::WouldBlock));
    assert_eq!(two.try_lock(other.lock(false, 199, 199)).await, Err(FsError::WouldBlock));
    two.try_lock(other.lock(true, 200, 300)).await.unwrap();
    let conflict = two.conflict(other.lock(true, 0, 500)).await.unwrap().unwrap();
    assert_eq!((conflict.write, conflict.start, conflict.end), (true, 100, 199));
    // Cut in the middle, both ends stay.
    one.try_lock(mine.unlock(120, 179)).await.unwrap();
    two.try_lock(other.lock(true, 120, 179)).await.unwrap();
    assert_eq!(two.try_lock(other.lock(true, 119, 119)).await, Err(FsError::WouldBlock));
    assert_eq!(two.try_lock(other.lock(true, 180, 180)).await, Err(FsError::WouldBlock));
    // The two families do not see each other.
    two.try_lock(two.owner(Flock).lock_all(true)).await.unwrap();
    assert_eq!(one.try_lock(one.owner(Flock).lock_all(false)).await, Err(FsError::WouldBlock));
    one.close().await.unwrap();
    two.try_lock(other.lock(true, 0, 500)).await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_and_keep_a_writer_out() {
    let (_cluster, a, b) = two_with_a_file(Options::default()).await;
    for family in [Posix, Flock] {
        let (one, two) = (open_on(&a).await, open_on(&b).await);
        one.try_lock(one.owner(family).lock_all(false)).await.unwrap();
        two.try_lock(two.owner(family).lock_all(false)).await.unwrap();
        assert_eq!(two.try_lock(two.owner(family).lock_all(true)).await, Err(FsError::WouldBlock));
        one.close().await.unwrap();
        let alone = two.owner(family).lock_all(true);
        match family {
            // The close has waited for it.
            Posix => two.try_lock(alone).await.unwrap(),
            // With the last descriptor; nobody waits for that, in the kernel neither.
            Flock => two.lock(alone).await.unwrap(),
        }
        two.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_woken_by_an_unlock_and_by_a_close() {
    let (_cluster, a, b) = two_with_a_file(Options::default()).await;
    for family in [Posix, Flock] {
        for by_close in [false, true] {
            let (one, two) = (open_on(&a).await, open_on(&b).await);
            let all = one.owner(family);
            one.try_lock(all.lock_all(true)).await.unwrap();
            let waiting = wait_for(two, family);
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!waiting.is_finished(), "a lock was given twice");
            let one = if by_close {
                one.close().await.unwrap();
                None
            } else {
                one.try_lock(all.unlock(0, u64::MAX >> 1)).await.unwrap();
                Some(one)
            };
            let two = within("the waiter is woken", waiting).await.unwrap();
            let third = open_on(&a).await;
            assert_eq!(third.try_lock(third.owner(family).lock_all(true)).await, Err(FsError::WouldBlock));
            for file in [Some(two), Some(third), one].into_iter().flatten() {
                file.close().await.unwrap();
            }
        }
    }
}

/// Each holder adds one to a number in the file: no addition is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_changed_under_a_lock_counts_every_change() {
    const ROUNDS: u64 = 25;
    let (_cluster, a, b) = two_with_a_file(Options::default()).await;
    a.write_file("f", &0_u64.to_be_bytes()).await.unwrap();
    let count = |mount: Mount| async move {
        let file = open_on(&mount).await;
        let owner = file.owner(Posix);
        for _ in 0..ROUNDS {
            file.lock(owner.lock(true, 0, 7)).await.unwrap();
            let number = u64::from_be_bytes(file.read_at(0, 8).await.unwrap().try_into().unwrap());
            file.write_at(0, &(number + 1).to_be_bytes()).await.unwrap();
            file.try_lock(owner.unlock(0, 7)).await.unwrap();
        }
        file.close().await.unwrap();
    };
    let all: Vec<_> = [&a, &b, &a, &b].map(|mount| tokio::spawn(count(mount.clone()))).into();
    for one in all {
        within("all have counted", one).await.unwrap();
    }
    let number: [u8; 8] = b.read_file("f").await.unwrap().try_into().unwrap();
    assert_eq!(u64::from_be_bytes(number), 4 * ROUNDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_session_releases_its_locks() {
    let options = Options::default().timeout(Duration::from_secs(2));
    let (_cluster, a, b) = two_with_a_file(options).await;
    let (one, two) = (open_on(&a).await, open_on(&b).await);
    one.try_lock(one.owner(Posix).lock_all(true)).await.unwrap();
    one.try_lock(one.owner(Flock).lock_all(true)).await.unwrap();
    let waiting = wait_for(two, Posix);
    drop(one);
    a.crash();
    let two = within("the waiter is woken", waiting).await.unwrap();
    two.try_lock(two.owner(Flock).lock_all(true)).await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_outlive_a_restart_of_the_metadata_daemon() {
    let (mut cluster, a, b) = two_with_a_file(Options::default()).await;
    let (one, two) = (open_on(&a).await, open_on(&b).await);
    one.try_lock(one.owner(Posix).lock_all(true)).await.unwrap();
    let waiting = wait_for(two, Posix);
    cluster.meta.stop().await;
    cluster.meta.start().await;
    let third = open_on(&b).await;
    assert_eq!(third.try_lock(third.owner(Posix).lock_all(false)).await, Err(FsError::WouldBlock));
    assert!(!waiting.is_finished(), "a restart gave a lock away");
    one.close().await.unwrap();
    within("the waiter is woken", waiting).await.unwrap().close().await.unwrap();
    eventually("the lock is free", LIMIT, || async {
        third.try_lock(third.owner(Posix).lock_all(true)).await.map_err(|error| error.to_string())
    })
    .await;
    third.close().await.unwrap();
}

/// A sole mount decides about locks by itself; who comes later finds what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_mount_finds_the_locks_of_the_first() {
    let mut cluster = Cluster::start(Options::default()).await;
    let a = cluster.mount("a").await;
    a.write_file("f", b"content").await.unwrap();
    let one = open_on(&a).await;
    let (posix, flock) = (one.owner(Posix), one.owner(Flock));
    one.try_lock(posix.lock(true, 10, 19)).await.unwrap();
    one.try_lock(flock.lock_all(false)).await.unwrap();
    let waiting = wait_for(open_on(&a).await, Posix);
    // A new server knows nothing of these locks, but of the mount.
    cluster.meta.stop().await;
    cluster.meta.start().await;
    let b = within("a second mount comes", cluster.mount("b")).await;
    let two = open_on(&b).await;
    assert_eq!(two.try_lock(two.owner(Posix).lock(false, 19, 19)).await, Err(FsError::WouldBlock));
    two.try_lock(two.owner(Posix).lock(true, 20, 29)).await.unwrap();
    assert_eq!(two.try_lock(two.owner(Flock).lock_all(true)).await, Err(FsError::WouldBlock));
    two.try_lock(two.owner(Flock).lock_all(false)).await.unwrap();
    assert!(!waiting.is_finished(), "a lock was given twice");
    two.close().await.unwrap();
    one.try_lock(posix.unlock(0, u64::MAX >> 1)).await.unwrap();
    within("the waiter is woken", waiting).await.unwrap().close().await.unwrap();
    one.close().await.unwrap();
}
