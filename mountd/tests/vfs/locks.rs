//! Locks of a sole mount, and what becomes of them when another comes.

use super::Mount;
use cairn_common::attr::{Caller, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, SessionId};
use cairn_common::namespace::op::{LockFamily, LockOwner, LockRequest, LockType, Op, OpBody};
use cairn_common::namespace::{self, end_session_locks};
use cairn_mountd::client::{EventSink, MetaClient};
use cairn_mountd::fuse::interrupt::Interrupts;
use cairn_mountd::fuse::ops::{Fh, FuseOps};
use std::sync::Arc;
use std::time::Duration;

/// Long for what should happen at once.
const LIMIT: Duration = Duration::from_secs(20);

fn request(owner: u64, kind: LockType) -> LockRequest {
    let owner = LockOwner { family: LockFamily::Posix, owner };
    LockRequest { owner, kind, start: 0, end: 99, pid: 1 }
}

impl Mount {
    async fn lock(&self, (ino, fh): (Ino, Fh), lock: LockRequest, wait: bool) -> FsResult<()> {
        let never = Arc::new(Interrupts::default()).register(1, 1);
        let set = Arc::clone(&self.vfs).setlk(Caller::default(), ino, fh, lock, wait, never);
        tokio::time::timeout(LIMIT, set).await.expect("it does not wait for ever")
    }

    async fn file(&self) -> (Ino, Fh) {
        let made = self.create("f").await;
        (made.entry.attr.ino, made.opened.fh)
    }

    /// Owner and kind of each lock that the server knows of.
    fn told(&self, ino: Ino) -> Vec<(u64, bool)> {
        let held = namespace::tables::Read::locks(&*self.meta.maps.lock(), ino).unwrap();
        held.iter().map(|lock| (lock.owner.owner, lock.write)).collect()
    }

    async fn another_comes(&self) {
        self.vfs.shared(2).await;
        tokio::time::timeout(LIMIT, Arc::clone(&self.vfs).hand_over_locks())
            .await
            .expect("it does not wait for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_mount_keeps_its_locks_until_another_comes() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let file = mount.file().await;
    mount.lock(file, request(1, LockType::Write), false).await.unwrap();
    assert_eq!(mount.lock(file, request(2, LockType::Read), false).await, Err(FsError::WouldBlock));
    let (caller, vfs) = (Caller::default(), Arc::clone(&mount.vfs));
    let found = vfs.getlk(caller, file.0, file.1, request(2, LockType::Read)).await.unwrap().unwrap();
    assert_eq!((found.write, found.start, found.end, found.pid), (true, 0, 99, 1));
    mount.lock(file, request(1, LockType::Read), false).await.unwrap();
    mount.lock(file, request(2, LockType::Read), false).await.unwrap();
    assert!(mount.told(file.0).is_empty(), "nobody else asks");

    mount.another_comes().await;
    assert_eq!(mount.told(file.0), [(1, false), (2, false)]);
    assert_eq!(mount.lock(file, request(1, LockType::Write), false).await, Err(FsError::WouldBlock));
    let flushed = mount.vfs.try_flush(file.0, file.1, 1);
    assert!(flushed.is_none(), "the server has to be told");
    Arc::clone(&mount.vfs).flush(Caller::default(), file.0, file.1, 1).await.unwrap();
    assert_eq!(mount.told(file.0), [(2, false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_woken_here_and_after_a_move() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let file = mount.file().await;
    mount.lock(file, request(1, LockType::Write), false).await.unwrap();
    let waits = mount.lock(file, request(2, LockType::Write), true);
    let (waited, ()) = tokio::join!(waits, async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let closed = mount.vfs.try_flush(file.0, file.1, 1);
        assert_eq!(closed, Some(Ok(())), "a close drops the locks at once");
    });
    waited.unwrap();

    let waits = mount.lock(file, request(3, LockType::Write), true);
    let (waited, ()) = tokio::join!(waits, async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        mount.another_comes().await;
        mount.lock(file, request(2, LockType::Unlock), false).await.unwrap();
        mount.vfs.lock_released(file.0);
    });
    waited.unwrap();
    assert_eq!(mount.told(file.0), [(3, true)]);
}

/// What a program was given is not taken from it: the server is asked until it takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_the_server_refuses_is_told_again() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let file = mount.file().await;
    mount.meta.sync(mount.meta.last_submitted()).await.unwrap();
    mount.lock(file, request(1, LockType::Write), false).await.unwrap();
    let stranger = SessionId(99);
    let body = OpBody::Lock { ino: file.0, lock: request(1, LockType::Write) };
    let time = Timestamp { secs: 1, nanos: 0 };
    let op = Op { time, caller: Caller::default(), body };
    namespace::apply(&mut *mount.meta.maps.lock(), stranger, &op).unwrap();
    let other = mount.lock(file, request(2, LockType::Write), false);
    let refusing = async {
        while mount.meta.log.lock().iter().filter(|op| matches!(op.body, OpBody::Lock { .. })).count() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        end_session_locks(&mut *mount.meta.maps.lock(), stranger).unwrap();
    };
    let begun = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        other.await
    };
    let ((), (), other) = tokio::join!(mount.another_comes(), refusing, begun);
    assert_eq!(other, Err(FsError::WouldBlock), "nobody gets a lock while it moves");
    assert_eq!(mount.told(file.0), [(1, true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_of_an_ended_session_lock_nothing() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let file = mount.file().await;
    mount.lock(file, request(1, LockType::Write), false).await.unwrap();
    mount.next_session();
    assert_eq!(mount.lock(file, request(1, LockType::Write), false).await, Err(FsError::Evicted));
    let opened = Arc::clone(&mount.vfs).open(file.0, libc::O_RDWR).await.unwrap();
    mount.lock((file.0, opened.fh), request(2, LockType::Write), false).await.unwrap();
    assert_eq!(mount.vfs.try_flush(file.0, file.1, 1), Some(Ok(())));
    mount.another_comes().await;
    assert_eq!(mount.told(file.0), [(2, true)]);
}
