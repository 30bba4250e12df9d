//! A disk that is nearly full: nothing grows, everything can be removed, nobody is stuck.

use super::*;
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use std::sync::Arc;

const RESERVE: u64 = 1 << 20;
const SEGMENT: u64 = 8 << 10;

fn open_on(disk: &SimDisk) -> Machine {
    open_with(disk, MachineConfig { reserve_bytes: RESERVE, segment_bytes: SEGMENT, ..small() })
}

fn open_with(disk: &SimDisk, config: MachineConfig) -> Machine {
    let birth = Birth { cluster: ClusterId(1), time: time(1) };
    Machine::open_on(Arc::new(disk.clone()), None, config, &birth).unwrap()
}

fn unlink(name: &str) -> Op {
    Op { body: OpBody::Unlink { parent: Ino::ROOT, name: name.to_owned().into() }, ..chmod(1) }
}

/// A session with one file, `old`, from operation 1; and its next inode number. The disk has `available`
/// bytes left from then on.
async fn begin(disk: &SimDisk, available: u64) -> (Machine, SessionId, Ino) {
    let machine = open_on(disk);
    let session = open_session(&machine).await;
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply else {
        panic!("no numbers")
    };
    batch(&machine, session, 1, vec![make("old", range.first)]).await.unwrap()[0].clone().unwrap();
    machine.shutdown().await.unwrap();
    disk.set_available(available);
    // The space is looked at by the first command of a start, and then once per so many bytes of log.
    (open_on(disk), session, Ino(range.first.0 + 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_that_grow_are_refused_one_by_one_and_once() {
    let disk = SimDisk::new();
    let (machine, session, ino) = begin(&disk, RESERVE - 1).await;
    let ops = vec![make("new", ino), chmod(0o700), unlink("old"), make("new", ino)];
    let results = batch(&machine, session, 2, ops.clone()).await.unwrap();
    assert_eq!([&results[0], &results[3]], [&Err(FsError::NoSpace); 2]);
    assert!(matches!(results[1], Ok(OpReply::Attr(_))), "{results:?}");
    assert!(matches!(results[2], Ok(OpReply::Unlinked { nlink: 0, .. })), "{results:?}");
    assert_eq!(batch(&machine, session, 2, ops.clone()).await.unwrap(), results);

    // What was refused stays refused when the log is applied again, whatever room there is by then.
    let killed = disk.kill();
    drop(machine);
    killed.set_available(1 << 30);
    let machine = open_on(&killed);
    assert_eq!(batch(&machine, session, 2, ops).await.unwrap(), results);
    assert_eq!(machine.check().unwrap(), Vec::<String>::new());
    let again = batch(&machine, session, 6, vec![make("new", ino)]).await.unwrap();
    assert!(matches!(again[0], Ok(OpReply::Entry { created: true, .. })), "{again:?}");
}

/// Who asks what is free is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_known_to_be_full_while_it_refuses_growth() {
    let disk = SimDisk::new();
    let (machine, session, ino) = begin(&disk, RESERVE - 1).await;
    assert_eq!(batch(&machine, session, 2, vec![make("new", ino)]).await.unwrap(), [Err(FsError::NoSpace)]);
    assert!(machine.is_full());
    disk.set_available(1 << 30);
    batch(&machine, session, 3, vec![make("new", ino)]).await.unwrap()[0].clone().unwrap();
    assert!(!machine.is_full());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_from_before_gets_its_results_again() {
    let disk = SimDisk::new();
    let (machine, session, ino) = begin(&disk, 1 << 30).await;
    let ops = vec![make("new", ino)];
    let results = batch(&machine, session, 2, ops.clone()).await.unwrap();
    drop(machine);
    disk.set_available(RESERVE - 1);
    let machine = open_on(&disk);
    let applied = machine.progress().applied;
    assert_eq!(batch(&machine, session, 2, ops).await.unwrap(), results);
    assert_eq!(machine.progress().applied, applied, "it needs no entry, and so no room");
    // Commands that are no batch are refused as a whole.
    let open = Command::OpenSession { client: ClientInfo::default(), time: time(2) };
    assert_eq!(machine.submit(open).await, Err(FsError::NoSpace));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_goes_on_with_less_than_a_segment_left() {
    let names: Vec<String> = (0..200).map(|n| format!("a name of some length {n}")).collect();
    let disk = SimDisk::new();
    let (machine, session, first) = begin(&disk, 1 << 30).await;
    let inos = (first.0..).map(Ino);
    let creates: Vec<Op> = names.iter().zip(inos).map(|(name, ino)| make(name, ino)).collect();
    assert!(batch(&machine, session, 2, creates).await.unwrap().iter().all(Result::is_ok));
    disk.set_available(SEGMENT / 4);
    let segments = || disk.list().unwrap().iter().filter(|name| name.starts_with("log-")).count();
    let before = segments();
    for (name, n) in names.iter().zip(202..) {
        let results = batch(&machine, session, n, vec![unlink(name)]).await.unwrap();
        assert!(results[0].is_ok(), "{name}: {results:?}");
    }
    assert!(segments() > before + 1, "the first segment was large enough");
    let killed = disk.kill();
    drop(machine);
    let machine = open_on(&killed);
    assert_eq!(machine.read(|snapshot| Ok(snapshot.inode(Ino::ROOT)?.unwrap().entries)).unwrap(), 1);
}

/// Fills a disk with files until the first is refused; answers the names of those that are there. `next` is the next
/// operation's sequence.
async fn fill(machine: &Machine, session: SessionId, next: &mut u64) -> Vec<String> {
    const BATCH: u64 = 32;
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply else {
        panic!("no numbers")
    };
    let name = |n: u64| format!("{n:0>200}");
    let mut names = Vec::new();
    for first in (0..range.count).step_by(32) {
        let numbers: Vec<u64> = (first..first + BATCH).collect();
        let ops = numbers.iter().map(|n| make(&name(*n), Ino(range.first.0 + n))).collect();
        let results = batch(machine, session, *next, ops).await.unwrap();
        *next += BATCH;
        let made = numbers.iter().zip(&results).filter(|(_, result)| result.is_ok());
        names.extend(made.map(|(n, _)| name(*n)));
        if let Some(refused) = results.iter().find_map(|result| result.as_ref().err()) {
            assert_eq!(*refused, FsError::NoSpace);
            return names;
        }
    }
    panic!("it never runs full")
}

/// Removes files in an order that touches all tables everywhere.
async fn remove_all(machine: &Machine, session: SessionId, next: &mut u64, mut names: Vec<String>) {
    names.sort_by_key(|name| name.bytes().rev().collect::<Vec<_>>());
    for names in names.chunks(16) {
        let ops = names.iter().map(|name| unlink(name)).collect();
        let results = batch(machine, session, *next, ops).await.unwrap();
        *next += names.len() as u64;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

/// Waits until something may grow again, and it is known how much: after a start only once a checkpoint is made.
async fn has_room(machine: &Machine) {
    let shared = machine.inner.shared.clone();
    tokio::task::spawn_blocking(move || shared.checkpoint()).await.unwrap();
    let full = || machine.inner.shared.core.lock().room.is_full();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while full() {
        assert!(std::time::Instant::now() < deadline, "what was removed never counts as free");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Found by thought: removing what lies scattered over the tables costs a page for each row, and one checkpoint of
/// the usual size would need more than the reserve; and the tables' file keeps what is freed in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_full_disk_can_be_removed_and_used_again() {
    let config = || MachineConfig { reserve_bytes: 4 << 20, ..small() };
    let mut disk = SimDisk::new();
    disk.set_capacity(12 << 20);
    let mut machine = open_with(&disk, config());
    let session = open_session(&machine).await;
    let mut next = 1;
    let mut most = 0;
    for round in 0..2 {
        has_room(&machine).await;
        let names = fill(&machine, session, &mut next).await;
        println!("round {round}: {} files, {} bytes free", names.len(), disk.space().unwrap().available);
        most = most.max(names.len());
        assert!(names.len() > most / 4, "space does not come back: {} files after {most}", names.len());
        remove_all(&machine, session, &mut next, names).await;
        println!("removed: {} bytes free", disk.space().unwrap().available);
        disk = disk.kill();
        drop(machine);
        machine = open_with(&disk, config());
        assert_eq!(machine.read(|snapshot| Ok(snapshot.inode(Ino::ROOT)?.unwrap().entries)).unwrap(), 0);
        assert_eq!(machine.check().unwrap(), Vec::<String>::new());
    }
}
