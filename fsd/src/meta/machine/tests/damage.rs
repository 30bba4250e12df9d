//! A disk that changes bytes of the tables: what is read is what was written, or the machine ends with a line that says
//! where.

use super::random::Random;
use super::*;
use crate::disk::read_whole;
use crate::disk::sim::SimDisk;
use crate::meta::machine::bare::BareDir;
use crate::meta::tables::Dump;
use std::sync::Arc;

const BIRTH: Birth = Birth { cluster: ClusterId(7), time: Timestamp { secs: 1, nanos: 0 } };
/// redb's page.
const PAGE: usize = 4096;

/// Nothing that was read once is kept.
fn no_cache() -> MachineConfig {
    MachineConfig { cache_bytes: 0, checkpoint_after: Duration::from_secs(3600), ..small() }
}

fn open_on(disk: &SimDisk) -> Result<Machine, OpenError> {
    Machine::open_on(Arc::new(disk.clone()), None, no_cache(), &BIRTH)
}

/// A directory whose tables have been changed by several checkpoints, and what is in it.
async fn made(seed: u64) -> (SimDisk, Dump) {
    let disk = SimDisk::new();
    let machine = open_on(&disk).unwrap();
    let session = open_session(&machine).await;
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply else {
        panic!("no numbers")
    };
    let mut random = Random::new(seed, range.first);
    for n in 0..4 {
        batch(&machine, session, n * 100 + 1, random.ops(100)).await.unwrap();
        machine.checkpoint();
    }
    let dump = machine.read(|snapshot| snapshot.dump()).unwrap();
    machine.shutdown().await.unwrap();
    (disk, dump)
}

/// Bytes to change: all of the header, and some of each page that was ever written.
fn places(tables: &[u8], per_page: usize) -> Vec<usize> {
    let written =
        tables.chunks(PAGE).enumerate().skip(1).filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let in_pages =
        written.flat_map(|(n, _)| (0..per_page).map(move |i| n * PAGE + (i * 1009 + n * 131) % PAGE));
    (0..320).chain(in_pages).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_bit_on_disk_is_never_read_as_data() {
    let (disk, expected) = made(1).await;
    let tables = read_whole(&disk, "tables").unwrap();
    let bare = BareDir::on(Arc::new(disk.clone()));
    let (mut same, mut refused) = (0, 0);
    for at in places(&tables, 6) {
        disk.corrupt("tables", at, &[tables[at] ^ 1 << (at % 8)]);
        let found = bare.load().map(|bare| bare.read(|snapshot| snapshot.dump()));
        match found {
            Ok(Ok(dump)) => {
                same += 1;
                assert!(dump == expected, "byte {at}: other rows");
            }
            Ok(Err(_)) => refused += 1,
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("tables"), "byte {at}: {error}");
            }
        }
        disk.corrupt("tables", at, &tables[at..=at]);
    }
    assert!(same > 100 && refused > 100, "{same} {refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_changes_while_it_runs_ends_the_machine_with_a_line() {
    let (made, expected) = made(2).await;
    let tables = read_whole(&made, "tables").unwrap();
    let (mut same, mut refused) = (0, 0);
    for at in places(&tables, 4).into_iter().skip(320) {
        let disk = made.kill();
        let machine = open_on(&disk).unwrap();
        disk.corrupt("tables", at, &[tables[at] ^ 1 << (at % 8)]);
        match machine.read(|snapshot| snapshot.dump()) {
            Ok(dump) => {
                same += 1;
                assert!(dump == expected, "byte {at}: other rows");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error, FsError::Io, "byte {at}");
                let line = machine.failed().await;
                let page = at / PAGE * PAGE;
                assert!(line.contains(&format!("tables is damaged at byte {page}")), "byte {at}: {line}");
                assert_eq!(machine.submit(Command::Start).await, Err(FsError::Io), "byte {at}");
                assert_eq!(machine.shutdown().await, Err(FsError::Io), "byte {at}");
            }
        }
        drop(machine);
    }
    assert!(same > 10 && refused > 10, "{same} {refused}");
}

/// A checkpoint reads pages to change them: it does not change damaged ones, which would give them a right sum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_over_damage_fails_or_keeps_all_rows() {
    let (made, _) = made(3).await;
    let tables = read_whole(&made, "tables").unwrap();
    let mut failed = 0;
    for at in places(&tables, 1).into_iter().skip(320) {
        let disk = made.kill();
        let machine = open_on(&disk).unwrap();
        let session = open_session(&machine).await;
        batch(&machine, session, 1, vec![chmod(0o701)]).await.unwrap();
        let before = machine.read(|snapshot| snapshot.dump()).unwrap();
        disk.corrupt("tables", at, &[tables[at] ^ 1 << (at % 8)]);
        machine.checkpoint();
        let shutdown = machine.shutdown().await;
        drop(machine);
        if shutdown.is_err() {
            failed += 1;
        } else {
            // What it did not touch is still damaged.
            let found = BareDir::on(Arc::new(disk.clone())).load();
            let Ok(Ok(dump)) = found.map(|bare| bare.read(|snapshot| snapshot.dump())) else { continue };
            assert!(dump == before, "byte {at}: other rows");
        }
    }
    assert!(failed > 0);
}
