//! Alone, a mount lets its kernel cache; with company, it does not. Who does not answer any more is
//! put out, and the others go on.

use crate::model::pattern;
use cairn_common::error::FsError;
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{LockFamily, LockOwner, LockRequest, LockType, OpBody};
use cairn_mountd::fuse::ops::Lookup;
use cairn_tests::harness::{Cluster, LIMIT, Mount, Options, Proxy, RawSession, Silence, eventually, within};
use cairn_tests::harness::{MountSettings, posix::END_OF_FILE};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(2);

/// How long the kernel may keep a name that exists, and one that does not.
async fn times(mount: &Mount) -> (Duration, Duration) {
    let found = match mount.lookup(Ino::ROOT, "there").await.unwrap() {
        Lookup::Found(entry) => {
            assert_eq!(entry.entry_ttl, entry.attr_ttl);
            entry.entry_ttl
        }
        Lookup::Missing { .. } => panic!("the file is gone"),
    };
    match mount.lookup(Ino::ROOT, "not there").await.unwrap() {
        Lookup::Missing { ttl } => (found, ttl),
        Lookup::Found(_) => panic!("a file that nobody made"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_may_cache_names_only_while_the_mount_is_alone() {
    let cluster = Cluster::new().await;
    let a = cluster.mount("a").await;
    a.write_file("there", b"").await.unwrap();
    let (found, missing) = times(&a).await;
    assert!(found >= Duration::from_secs(60) && missing >= Duration::from_secs(60), "{found:?} {missing:?}");
    let epochs = a.kernel().epochs();
    let b = cluster.mount("b").await;
    // When the second one is there, the first has taken everything back.
    assert!(a.kernel().epochs() > epochs, "the kernel was not told");
    assert_eq!(times(&a).await, (Duration::ZERO, Duration::ZERO));
    assert_eq!(times(&b).await, (Duration::ZERO, Duration::ZERO));
    b.leave().await;
    eventually("the first is alone again", LIMIT, || async {
        let (found, missing) = times(&a).await;
        if found.is_zero() || missing.is_zero() { Err("times are 0".into()) } else { Ok(()) }
    })
    .await;
    a.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_does_not_give_a_file_back_is_put_out() {
    let cluster = Cluster::start(Options::default().timeout(TIMEOUT)).await;
    let a = cluster.mount("a").await;
    let mut dead = RawSession::open(cluster.meta.address()).await;
    let ino = dead.create_open("f").await;
    let owner = LockOwner { family: LockFamily::Posix, owner: 1 };
    let lock = LockRequest { owner, kind: LockType::Write, start: 0, end: END_OF_FILE, pid: 1 };
    dead.op(OpBody::Lock { ino, lock }).await.unwrap();
    // It has the file open for writing, and never answers when it is asked to give it back.
    let started = Instant::now();
    let file = a.open("f", libc::O_RDWR).await.unwrap();
    let took = started.elapsed();
    assert!(took >= TIMEOUT / 2, "nobody waited for the holder: {took:?}");
    file.write_at(0, b"mine").await.unwrap();
    file.lock(file.owner(LockFamily::Posix).lock_all(true)).await.unwrap();
    // Nothing that it does counts any more.
    let unlink = OpBody::Unlink { parent: Ino::ROOT, name: "f".into() };
    assert_eq!(dead.op(unlink).await, Err(FsError::Evicted));
    let getattr =
        dead.ask(|client, context, session| async move { client.getattr(context, session, ino).await });
    assert_eq!(getattr.await, Err(FsError::Evicted));
    assert_eq!(dead.attach_again().await.map(|_| ()), Err(FsError::Evicted));
    assert_eq!(dead.events().await, Err(FsError::Evicted));
    assert_eq!(file.read_all().await.unwrap(), b"mine");
    file.close().await.unwrap();
    eventually("alone again", LIMIT, || async {
        a.write_file("there", b"").await.unwrap();
        if times(&a).await.0.is_zero() { Err("times are 0".into()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_does_not_keep_a_new_mount_out() {
    let cluster = Cluster::start(Options::default().timeout(TIMEOUT)).await;
    let dead = RawSession::open(cluster.meta.address()).await;
    assert!(dead.attached.sole);
    // It must say that its kernel caches nothing, and does not: it is put out.
    let a = cluster.mount("a").await;
    a.write_file("f", b"1").await.unwrap();
    assert_eq!(dead.events().await, Err(FsError::Evicted));
    a.leave().await;
}

/// A mount behind a network that went silent: others go on without it, nothing of what it had not
/// stored appears later, its programs are told, and it works again with a new session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_was_cut_off_comes_back_with_a_new_session() {
    let cluster = Cluster::start(Options::default().timeout(TIMEOUT)).await;
    let a = cluster.mount("a").await;
    let proxy = Proxy::new(cluster.meta.address()).await;
    let b = Mount::attach("b", proxy.address(), MountSettings::default()).await;
    let old = b.session();
    let lost = b.create("f").await.unwrap();
    lost.write_at(0, &pattern(1, 10_000)).await.unwrap();
    lost.fsync().await.unwrap();
    lost.write_at(0, &pattern(2, 10_000)).await.unwrap();
    proxy.silence(Silence::BOTH);
    let file = a.open("f", libc::O_RDWR).await.unwrap();
    assert!(file.read_all().await.unwrap() == pattern(1, 10_000));
    file.write_at(0, b"mine").await.unwrap();
    file.close().await.unwrap();
    proxy.silence(Silence::NONE);
    eventually("the mount has a new session", LIMIT, || async {
        if b.session() == old { Err("the old one".into()) } else { Ok(()) }
    })
    .await;
    let told = within("fsync", lost.fsync()).await;
    assert!(told.is_err(), "lost data was not reported");
    let mut expected = pattern(1, 10_000);
    expected[..4].copy_from_slice(b"mine");
    assert!(b.read_file("f").await.unwrap() == expected, "what was lost came back");
    assert!(a.read_file("f").await.unwrap() == expected);
    b.write_file("g", b"works").await.unwrap();
    assert_eq!(a.read_file("g").await.unwrap(), b"works");
    let _told_already = lost.close().await;
}
