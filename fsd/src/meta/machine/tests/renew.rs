//! Tables of which little is left, written anew: whatever fails or ends meanwhile, the rows are there, and who reads the old
//! file goes on reading.

use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Call, SimDisk};
use crate::disk::sweep::sweep;
use crate::meta::tables::{Dump, TABLES};
use std::sync::Arc;

const BIRTH: Birth = Birth { cluster: ClusterId(5), time: Timestamp { secs: 1, nanos: 0 } };
const FILES: u64 = 3000;
const LEFT: u64 = 50;
/// Less than what so many files leave behind.
const SLACK: u64 = 128 << 10;

fn open(disk: &SimDisk) -> Result<Machine, OpenError> {
    let config = MachineConfig {
        slack_bytes: SLACK,
        checkpoint_after: Duration::from_secs(3600),
        sync_after: Duration::from_secs(3600),
        ..small()
    };
    Machine::open_on(Arc::new(disk.clone()), None, config, &BIRTH)
}

fn size(disk: &SimDisk) -> u64 {
    disk.open(TABLES).unwrap().allocated().unwrap()
}

fn dump(machine: &Machine) -> Dump {
    machine.read(|snapshot| snapshot.dump()).unwrap()
}

fn name(number: u64) -> String {
    format!("{number:05}")
}

async fn ops(machine: &Machine, session: SessionId, next: &mut u64, ops: Vec<Op>) -> FsResult<()> {
    let count = ops.len() as u64;
    let results = batch(machine, session, *next, ops).await?;
    assert!(results.iter().all(Result::is_ok));
    *next += count;
    Ok(())
}

async fn make_all(machine: &Machine, session: SessionId, next: &mut u64, first: u64) {
    for part in (0..FILES).collect::<Vec<_>>().chunks(500) {
        let made = part.iter().map(|n| make(&name(*n), Ino(first + n))).collect();
        ops(machine, session, next, made).await.unwrap();
    }
}

async fn remove_most(machine: &Machine, session: SessionId, next: &mut u64) {
    for part in (LEFT..FILES).collect::<Vec<_>>().chunks(500) {
        let body = |n: &u64| OpBody::Unlink { parent: Ino::ROOT, name: name(*n).into() };
        ops(machine, session, next, part.iter().map(|n| Op { body: body(n), ..chmod(1) }).collect())
            .await
            .unwrap();
    }
    let inos = machine.read(|snapshot| snapshot.orphans(Ino(0), usize::MAX)).unwrap();
    machine.submit(Command::Reap { inos }).await.unwrap();
}

/// A directory whose tables are much larger than what is in them, as nobody has noticed yet.
async fn emptied() -> (SimDisk, SessionId, u64) {
    let disk = SimDisk::new();
    let machine = open(&disk).unwrap();
    let session = open_session(&machine).await;
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply else {
        panic!("no numbers")
    };
    let mut next = 1;
    make_all(&machine, session, &mut next, range.first.0).await;
    machine.checkpoint();
    remove_most(&machine, session, &mut next).await;
    machine.sync(machine.progress().applied).await.unwrap();
    (disk.kill(), session, next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_is_gone_takes_no_space_in_the_tables() {
    let (disk, session, mut next) = emptied().await;
    let machine = open(&disk).unwrap();
    let before = (size(&disk), dump(&machine));
    machine.checkpoint();
    assert_eq!(*machine.inner.shared.failure.borrow(), None);
    println!("{} bytes, then {}", before.0, size(&disk));
    assert!(size(&disk) < before.0 / 2 && before.0 - size(&disk) >= SLACK);
    assert!(dump(&machine) == before.1);
    // The new file is the one that is changed, and found by the next start.
    ops(&machine, session, &mut next, vec![chmod(0o711)]).await.unwrap();
    machine.checkpoint();
    let after = dump(&machine);
    assert!(after != before.1);
    machine.shutdown().await.unwrap();
    drop(machine);
    for disk in [disk.power_cycle(1), disk.kill()] {
        let machine = open(&disk).unwrap();
        assert!(dump(&machine) == after);
        assert_eq!(machine.check().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_the_old_file_goes_on_reading_it() {
    let (disk, session, mut next) = emptied().await;
    let machine = open(&disk).unwrap();
    let large = size(&disk);
    let retired = || machine.inner.shared.renewal.lock().has_retired();
    // A reader of the tables before they were emptied would keep all pages in use.
    disk.set_available(0);
    machine.checkpoint();
    disk.set_available(1 << 30);
    let view = machine.inner.shared.published.read().view.clone().unwrap();
    let expected = dump(&machine);
    machine.checkpoint();
    assert!(size(&disk) < large / 2 && retired());
    // Its tables change, and it is closed; the reader sees what it saw.
    ops(&machine, session, &mut next, vec![chmod(0o711)]).await.unwrap();
    machine.checkpoint();
    assert!(retired());
    let totals = machine.read(|snapshot| snapshot.totals()).unwrap();
    assert!(crate::meta::tables::Snapshot::new(view, totals).dump().unwrap() == expected);
    ops(&machine, session, &mut next, vec![chmod(0o722)]).await.unwrap();
    machine.checkpoint();
    assert!(!retired(), "nobody reads it any more");
    machine.shutdown().await.unwrap();
}

/// Power goes, or the process dies, between any two changes of the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_point_leaves_the_old_file_or_the_new_one() {
    let (start, ..) = emptied().await;
    let expected = dump(&open(&start.kill()).unwrap());
    let large = size(&start.kill());
    let mut seen = [0, 0];
    for changes in 0.. {
        let disk = start.kill();
        disk.power_off_after(changes);
        let Ok(machine) = open(&disk) else { continue };
        machine.checkpoint();
        let done = !disk.is_off();
        let crashed = [disk.kill(), disk.power_cycle(changes), disk.power_cycle(changes + 1000)];
        drop(machine);
        for (way, disk) in crashed.into_iter().enumerate() {
            seen[usize::from(size(&disk) < large / 2)] += 1;
            let context = format!("off after {changes} changes, way {way}");
            let machine = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(dump(&machine) == expected, "{context}: other tables");
            assert_eq!(machine.check().unwrap(), Vec::<String>::new(), "{context}");
        }
        if done {
            break;
        }
    }
    println!("old and new files found: {seen:?}");
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}

/// A copy that fails is no harm; one that may have its names already ends the daemon, which finds one or the other.
#[test]
fn any_call_of_the_disk_may_fail() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (start, expected) = runtime.block_on(async {
        let (disk, ..) = emptied().await;
        let expected = dump(&open(&disk.kill()).unwrap());
        (disk, Arc::new(expected))
    });
    let (large, went_on) = (size(&start.kill()), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let met = sweep(&start, |disk, failing| {
        let (expected, went_on) = (expected.clone(), went_on.clone());
        async move {
            if let Ok(machine) = open(&disk) {
                machine.checkpoint();
                let failed = machine.inner.shared.failure.borrow().is_some();
                if !failed && disk.failures() > 0 && size(&disk) > large / 2 {
                    went_on.fetch_add(1, Ordering::SeqCst);
                    assert!(dump(&machine) == *expected, "{failing:?}: other tables");
                    assert!(
                        disk.list().unwrap().iter().all(|name| !name.ends_with(".tmp"))
                            || failing.call == Call::Name
                    );
                }
            }
            for disk in [disk.kill(), disk.power_cycle(failing.nth)] {
                let machine = open(&disk).unwrap_or_else(|error| panic!("{failing:?}: {error}"));
                assert!(dump(&machine) == *expected, "{failing:?}: other tables after a restart");
            }
        }
    });
    let went_on = went_on.load(Ordering::SeqCst);
    println!("failures met: {met:?}, {went_on} times it went on with the large file");
    assert!(went_on > 10, "{went_on}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_copied_into_the_reserve() {
    let (disk, session, mut next) = emptied().await;
    let machine = open(&disk).unwrap();
    let large = size(&disk);
    for available in [0, 1000] {
        disk.set_available(available);
        ops(&machine, session, &mut next, vec![chmod(0o700)]).await.unwrap();
        machine.checkpoint();
        assert!(size(&disk) >= large, "{available} bytes are free");
    }
    disk.set_available(1 << 30);
    ops(&machine, session, &mut next, vec![chmod(0o711)]).await.unwrap();
    machine.checkpoint();
    assert!(size(&disk) < large / 2, "when there is room, it is");
}
