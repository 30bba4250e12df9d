//! Life files in a directory of the test.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::*;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId(5);
const OTHER: ClusterId = ClusterId(6);
const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const BOOT: BootId = BootId(9);
const OPENED: Option<Timestamp> = Some(Timestamp { secs: 3, nanos: 4 });

fn files(dir: &TempDir) -> LifeFiles {
    LifeFiles::at(dir.path().to_owned(), BOOT, "m:/ at /mnt".into())
}

fn dead(files: &LifeFiles) -> Vec<SessionId> {
    files.dead(CLUSTER).iter().map(|dead| dead.session).collect()
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_mount_that_lives_is_not_found_and_a_dead_one_is() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    let (a, b) = (files.hold(CLUSTER, A, OPENED).unwrap(), files.hold(CLUSTER, B, OPENED).unwrap());
    assert_eq!(dead(&files), []);
    // As the kernel does it for a process that was killed.
    drop(a);
    let found = files.dead(CLUSTER);
    let dead = &found[0];
    assert_eq!((dead.session, dead.opened, dead.about.as_str()), (A, OPENED, "m:/ at /mnt"));
    assert_eq!(names(&dir).len(), 2, "stays until the session is ended");
    found.into_iter().for_each(|dead| dead.remove().unwrap());
    assert_eq!(names(&dir), [judge::name(CLUSTER, B)]);
    b.remove().unwrap();
    assert_eq!(names(&dir), [""; 0], "a clean end leaves nothing");
}

#[test]
fn a_file_is_for_its_owner_only() {
    let dir = TempDir::new().unwrap();
    let held = files(&dir).hold(CLUSTER, A, OPENED).unwrap();
    assert_eq!(held.path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(rustix::io::fcntl_getfd(&held._lock).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn two_that_look_at_once_do_not_find_the_same() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    drop(files.hold(CLUSTER, A, OPENED));
    let first = files.dead(CLUSTER);
    assert_eq!(first.len(), 1);
    assert_eq!(dead(&files), []);
    // The end failed (no server): who comes next tries again.
    drop(first);
    let again = files.dead(CLUSTER);
    assert_eq!(again.len(), 1);
    // Somebody had the file open before it was removed, and gets the lock after.
    let late = File::open(&again[0].file.path).unwrap();
    again.into_iter().for_each(|dead| dead.remove().unwrap());
    assert_eq!(late.metadata().unwrap().nlink(), 0);
    assert_eq!(dead(&files), []);
}

#[test]
fn sessions_of_another_cluster_are_left() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    drop(files.hold(OTHER, A, OPENED));
    assert_eq!(dead(&files), []);
    assert_eq!(names(&dir), [judge::name(OTHER, A)]);
    assert_eq!(files.dead(OTHER).len(), 1);
}

#[test]
fn files_of_an_earlier_boot_are_removed_and_end_nothing() {
    let dir = TempDir::new().unwrap();
    drop(LifeFiles::at(dir.path().to_owned(), BootId(8), String::new()).hold(CLUSTER, A, OPENED));
    assert_eq!(dead(&files(&dir)), []);
    assert_eq!(names(&dir), [""; 0]);
}

#[test]
fn damaged_and_foreign_files_are_left_alone() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    drop(files.hold(CLUSTER, A, OPENED));
    let damaged = judge::name(CLUSTER, B);
    std::fs::write(dir.path().join(&damaged), "not what it should be").unwrap();
    let long = judge::name(CLUSTER, SessionId(3));
    std::fs::write(dir.path().join(&long), vec![0; 1 << 20]).unwrap();
    std::fs::write(dir.path().join("pid"), "1").unwrap();
    let folder = judge::name(CLUSTER, SessionId(4));
    std::fs::create_dir(dir.path().join(&folder)).unwrap();
    let link = judge::name(CLUSTER, SessionId(5));
    std::os::unix::fs::symlink(judge::name(CLUSTER, A), dir.path().join(&link)).unwrap();
    assert_eq!(dead(&files), [A], "the others do not stand in its way");
    assert_eq!(dead(&files), [A]);
    assert_eq!(names(&dir).len(), 6);
    let reported = files.place.as_ref().unwrap().reported.lock().clone();
    assert_eq!(reported, [damaged, long, "pid".into(), folder, link].map(OsString::from).into());
}

#[test]
fn what_a_killed_maker_left_is_removed_unless_it_is_being_made() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    let temporary = dir.path().join(judge::name(CLUSTER, A) + TEMPORARY);
    let made = File::create(&temporary).unwrap();
    flock(&made, FlockOperation::LockExclusive).unwrap();
    assert_eq!(dead(&files), []);
    assert!(temporary.exists());
    drop(made);
    assert_eq!(dead(&files), []);
    assert!(!temporary.exists());
}

/// Somebody who looks may take a file that was just made, and is not locked yet, for left behind.
#[test]
fn making_and_looking_at_once() {
    let dir = TempDir::new().unwrap();
    let (maker, looker) = (files(&dir), files(&dir));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(dead(&looker), []);
            }
        });
        let held: Vec<Held> = (0..300).map(|n| maker.hold(CLUSTER, SessionId(n), OPENED).unwrap()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        looking.join().unwrap();
        assert_eq!(names(&dir).len(), held.len());
    });
}

#[test]
fn without_a_place_nothing_happens() {
    let none = LifeFiles::none();
    assert!(none.hold(CLUSTER, A, OPENED).is_none() && none.watch().is_none());
    assert_eq!(dead(&none), []);
    let missing = LifeFiles::at("/nowhere/at/all".into(), BOOT, String::new());
    assert!(missing.hold(CLUSTER, A, OPENED).is_none() && missing.watch().is_none());
    assert_eq!(dead(&missing), []);
}

#[tokio::test]
async fn the_watch_tells_of_a_death_and_of_nothing_else() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    let mut watch = files.watch().unwrap();
    let held = files.hold(CLUSTER, A, OPENED).unwrap();
    assert_eq!(dead(&files), []);
    let short = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(short, watch.closed()).await.is_err(), "making and looking are no deaths");
    drop(held);
    tokio::time::timeout(std::time::Duration::from_secs(20), watch.closed()).await.unwrap().unwrap();
    assert_eq!(dead(&files), [A]);
}
