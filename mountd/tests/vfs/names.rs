//! What a sole mount says of names and attributes without asking must be what the server would say.

use super::fake::{FakeData, FakeMeta};
use super::{Mount, small};
use bytes::Bytes;
use cairn_common::attr::{Caller, FileKind};
use cairn_common::error::FsError;
use cairn_common::ids::{Ino, SessionId};
use cairn_common::limits::NAME_MAX;
use cairn_common::namespace;
use cairn_common::namespace::op::{Create, Op, OpBody, XattrMode};
use cairn_mountd::client::{EventSink, MetaClient};
use cairn_mountd::fuse::ops::{FuseOps, Lookup, Make};
use cairn_mountd::vfs::Vfs;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

type Tree = Arc<Vfs<FakeMeta, FakeData>>;

const NAMES: u32 = 12;
const CAPABILITY: &[u8] = b"security.capability";

fn name(n: u32) -> Bytes {
    Bytes::from(format!("n{n}"))
}

async fn make(vfs: &Tree, parent: Ino, name: Bytes, kind: FileKind) -> Result<Ino, FsError> {
    let make = Make { parent, name, kind, perm: 0o755, umask: 0, rdev: 0 };
    Arc::clone(vfs).make(Caller::default(), make).await.map(|entry| entry.attr.ino)
}

/// Whether this mount says without asking that the name is not there.
fn is_missing(vfs: &Tree, parent: Ino, name: &[u8]) -> bool {
    match vfs.try_lookup(&Caller::default(), parent, name) {
        Some(Ok(Lookup::Missing { .. })) => true,
        Some(_) => panic!("only missing names are known"),
        None => false,
    }
}

/// How many names it says are missing; each of them must be.
fn check(mount: &Mount, dirs: &[Ino], seed: u64) -> u32 {
    let mut missing = 0;
    for dir in dirs {
        for name in (0..NAMES).map(name).filter(|name| is_missing(&mount.vfs, *dir, name)) {
            let found = namespace::lookup(&*mount.meta.maps.lock(), *dir, &name);
            assert!(found.is_err(), "seed {seed}: {name:?} is in {dir:?}");
            missing += 1;
        }
    }
    missing
}

async fn change(vfs: &Tree, random: &mut StdRng, dirs: &[Ino]) {
    let (dir, other) = (dirs[random.random_range(0..dirs.len())], dirs[random.random_range(0..dirs.len())]);
    let (from, to) = (name(random.random_range(0..NAMES)), name(random.random_range(0..NAMES)));
    let (call, caller) = (Arc::clone(vfs), Caller::default());
    let flags = [0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE][random.random_range(0..4)];
    let _any = match random.random_range(0..9) {
        0 | 1 => make(vfs, dir, from, FileKind::Fifo).await.map(|_| ()),
        2 => make(vfs, dir, from, FileKind::Dir).await.map(|_| ()),
        3 => call.unlink(caller, dir, from).await,
        4 => call.rmdir(caller, dir, from).await,
        5 => call.symlink(caller, dir, from, to).await.map(|_| ()),
        6 => match Arc::clone(vfs).lookup(caller.clone(), other, to).await {
            Ok(Lookup::Found(entry)) => call.link(caller, entry.attr.ino, dir, from).await.map(|_| ()),
            _ => Ok(()),
        },
        _ => call.rename(caller, (dir, from), (other, to), flags).await,
    };
}

/// Another mount makes a file.
fn made_by_another(mount: &Mount, parent: Ino, name: Bytes, ino: u64) {
    let create = Create {
        parent,
        name,
        ino: Ino(ino),
        kind: FileKind::File,
        perm: 0o644,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
    };
    let op = Op { time: mount.meta.now(), caller: Caller::default(), body: OpBody::Create(create) };
    let _exists = namespace::apply(&mut *mount.meta.maps.lock(), SessionId(99), &op);
}

async fn directories(mount: &Mount) -> Vec<Ino> {
    let mut dirs = vec![Ino::ROOT];
    for n in 0..3 {
        dirs.push(make(&mount.vfs, Ino::ROOT, Bytes::from(format!("dir{n}")), FileKind::Dir).await.unwrap());
    }
    dirs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_names_are_missing() {
    let mut known = 0;
    for seed in 0..30 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mount = Mount::quick();
        let mut generation = 1;
        mount.vfs.sole(generation);
        let dirs = directories(&mount).await;
        for step in 0..300 {
            change(&mount.vfs, &mut random, &dirs).await;
            known += check(&mount, &dirs, seed);
            if random.random_bool(0.02) {
                mount.vfs.shared(generation + 1).await;
                made_by_another(&mount, dirs[1], name(step % NAMES), 1_000_000 + u64::from(step));
                assert_eq!(check(&mount, &dirs, seed), 0, "not while there are others");
                generation += 2;
                mount.vfs.sole(generation);
            }
        }
        mount.vfs.shutdown().await.unwrap();
    }
    assert!(known > 10_000, "hardly anything is known: {known}");
}

/// Answers come in another order than the operations were applied in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_names_are_missing_after_changes_at_the_same_time() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mount = Mount::new(seed, true, small());
        mount.vfs.sole(1);
        let dirs = directories(&mount).await;
        let tasks: Vec<_> = (0..3)
            .map(|task| {
                let (vfs, dirs) = (Arc::clone(&mount.vfs), dirs.clone());
                tokio::spawn(async move {
                    let mut random = StdRng::seed_from_u64(seed * 10 + task);
                    for _ in 0..100 {
                        change(&vfs, &mut random, &dirs).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        check(&mount, &dirs, seed);
        mount.vfs.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_a_meaning_of_their_own_are_asked_for() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let dir = make(&mount.vfs, Ino::ROOT, Bytes::from("d"), FileKind::Dir).await.unwrap();
    assert!(is_missing(&mount.vfs, dir, b"plain"));
    assert!(!is_missing(&mount.vfs, dir, b".") && !is_missing(&mount.vfs, dir, b".."));
    assert!(!is_missing(&mount.vfs, dir, &[b'x'; NAME_MAX + 1]), "that one is too long, not missing");
    mount.vfs.evicted();
    assert!(!is_missing(&mount.vfs, dir, b"plain"));
    mount.vfs.shutdown().await.unwrap();
}

/// Whether this mount says without asking that there is no such attribute.
fn lacks(vfs: &Tree, ino: Ino, name: &[u8]) -> bool {
    matches!(vfs.try_getxattr(&Caller::default(), ino, name), Some(Err(FsError::NoAttr)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_mount_knows_that_a_file_has_no_capabilities() {
    let mount = Mount::quick();
    let vfs = &mount.vfs;
    vfs.sole(1);
    let ino = mount.create("f").await.entry.attr.ino;
    assert!(lacks(vfs, ino, CAPABILITY), "it is new");
    assert!(!lacks(vfs, ino, b"user.a"), "only what the kernel asks for");
    let value = Bytes::from_static(b"cap");
    let (caller, cap) = (Caller::default(), Bytes::from_static(CAPABILITY));
    let set = Arc::clone(vfs).setxattr(caller.clone(), ino, cap.clone(), value.clone(), XattrMode::Set);
    set.await.unwrap();
    assert!(!lacks(vfs, ino, CAPABILITY));
    assert_eq!(Arc::clone(vfs).getxattr(caller.clone(), ino, cap.clone()).await.unwrap(), value);
    assert!(!lacks(vfs, ino, CAPABILITY));
    Arc::clone(vfs).removexattr(caller.clone(), ino, cap.clone()).await.unwrap();
    assert_eq!(Arc::clone(vfs).getxattr(caller.clone(), ino, cap.clone()).await, Err(FsError::NoAttr));
    assert!(lacks(vfs, ino, CAPABILITY), "it has been asked for");
    // Others may set it while they are there.
    vfs.shared(2).await;
    assert!(!lacks(vfs, ino, CAPABILITY));
    vfs.sole(3);
    assert!(!lacks(vfs, ino, CAPABILITY));
    vfs.shutdown().await.unwrap();
}

/// The answer is from before the attribute was set, and arrives after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attribute_that_is_set_meanwhile_is_not_taken_for_absent() {
    let mount = Mount::quick();
    let vfs = &mount.vfs;
    let ino = mount.create("f").await.entry.attr.ino;
    vfs.sole(1);
    let (caller, cap) = (Caller::default(), Bytes::from_static(CAPABILITY));
    let held = Arc::clone(&mount.meta.held).lock_owned().await;
    let call =
        Arc::clone(vfs).setxattr(caller.clone(), ino, cap.clone(), Bytes::from_static(b"c"), XattrMode::Set);
    let set = tokio::spawn(call);
    while !mount.meta.log.lock().iter().any(|op| matches!(op.body, OpBody::SetXattr { .. })) {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::clone(vfs).getxattr(caller, ino, cap).await, Err(FsError::NoAttr));
    drop(held);
    set.await.unwrap().unwrap();
    assert!(!lacks(vfs, ino, CAPABILITY));
    vfs.shutdown().await.unwrap();
}

/// Found by review. The kernel lets nobody in so early, unless the process that made it was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_is_used_before_its_mkdir_is_heard_of() {
    let mut wrong = 0;
    for seed in 0..60 {
        let mount = Mount::new(seed, true, small());
        mount.vfs.sole(1);
        let call = Arc::clone(&mount.vfs);
        let mk = Make {
            parent: Ino::ROOT,
            name: Bytes::from("d"),
            kind: FileKind::Dir,
            perm: 0o755,
            umask: 0,
            rdev: 0,
        };
        let mkdir = tokio::spawn(async move { call.make(Caller::default(), mk).await });
        let dir = loop {
            match Arc::clone(&mount.vfs).lookup(Caller::default(), Ino::ROOT, Bytes::from("d")).await {
                Ok(Lookup::Found(entry)) => break entry.attr.ino,
                _ => tokio::task::yield_now().await,
            }
        };
        let mk = Make {
            parent: dir,
            name: Bytes::from("f"),
            kind: FileKind::Fifo,
            perm: 0o755,
            umask: 0,
            rdev: 0,
        };
        Arc::clone(&mount.vfs).make(Caller::default(), mk).await.unwrap();
        mkdir.await.unwrap().unwrap();
        wrong += u32::from(mount.vfs.try_lookup(&Caller::default(), dir, b"f").is_some());
        mount.vfs.shutdown().await.unwrap();
    }
    assert_eq!(wrong, 0, "of 60");
}
