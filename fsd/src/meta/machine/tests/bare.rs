//! Looking at a directory without a daemon: all of the state is found, and nothing on disk is changed.

use super::random::Random;
use super::*;
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, read_whole};
use crate::meta::machine::bare::{Bare, BareDir};
use cairn_common::namespace::check;
use cairn_common::namespace::op::XattrMode;
use std::collections::BTreeMap;
use std::sync::Arc;

const BIRTH: Birth = Birth { cluster: ClusterId(6), time: Timestamp { secs: 1, nanos: 0 } };

fn contents(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.list().unwrap();
    names.into_iter().map(|name| (name.clone(), read_whole(disk, &name).unwrap())).collect()
}

async fn begin(disk: &SimDisk, seed: u64) -> (Machine, SessionId, Random) {
    let machine = Machine::open_on(Arc::new(disk.clone()), None, small(), &BIRTH).unwrap();
    let session = open_session(&machine).await;
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply else {
        panic!("no numbers")
    };
    (machine, session, Random::new(seed, range.first))
}

fn bare_dir(disk: &SimDisk) -> BareDir {
    BareDir::on(Arc::new(disk.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_found_and_nothing_changed_after_any_end() {
    for seed in 0..6 {
        let disk = SimDisk::new();
        let (machine, session, mut random) = begin(&disk, seed).await;
        for n in 0..8 {
            batch(&machine, session, n * 20 + 1, random.ops(20)).await.unwrap();
            if n == seed {
                machine.checkpoint();
            }
        }
        let ended = open_session(&machine).await;
        machine.submit(Command::EndSession { session: ended }).await.unwrap();
        // What nobody has synced is torn when the power goes.
        batch(&machine, session, 161, random.ops(60)).await.unwrap();
        let state = machine.read(|snapshot| snapshot.dump()).unwrap();
        if seed % 3 == 0 {
            machine.shutdown().await.unwrap();
        }
        let without_power: Vec<SimDisk> = (0..6).map(|seed| disk.power_cycle(seed)).collect();
        let killed = disk.kill();
        drop(machine);
        let bare = look(&killed);
        assert_eq!(bare.read(|snapshot| snapshot.dump()).unwrap(), state, "seed {seed}");
        assert!(bare.has_ended(ended) && !bare.has_ended(session));
        assert!(!bare.has_ended(SessionId(ended.0 + 1)), "never given");
        without_power.iter().for_each(|disk| drop(look(disk)));
    }
}

/// The state is whole, and nothing changed by looking at it.
fn look(disk: &SimDisk) -> Bare {
    let before = contents(disk);
    let dir = bare_dir(disk);
    dir.verify().unwrap();
    let bare = dir.load().unwrap();
    assert_eq!(bare.read(check::check).unwrap(), Vec::<String>::new());
    assert!(contents(disk) == before, "changed");
    bare
}

/// What decoding does not see: a byte of a row that makes sense in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_of_the_tables_is_found_by_its_checksum() {
    const MARK: &[u8] = b"CANARY-CANARY-CANARY";
    let disk = SimDisk::new();
    let (machine, session, _) = begin(&disk, 1).await;
    let (name, value) = ("user.mark".into(), MARK.into());
    let body = OpBody::SetXattr { ino: Ino::ROOT, name, value, mode: XattrMode::Set };
    batch(&machine, session, 1, vec![Op { body, ..chmod(0o700) }]).await.unwrap();
    machine.shutdown().await.unwrap();
    drop(machine);
    bare_dir(&disk).verify().unwrap();
    let tables = read_whole(&disk, "tables").unwrap();
    let places = tables.windows(MARK.len()).enumerate().filter(|(_, bytes)| *bytes == MARK);
    let places: Vec<usize> = places.map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| disk.corrupt("tables", at + 3, b"B"));
    let line = bare_dir(&disk).verify().unwrap_err().to_string();
    assert!(line.contains("metadata tables") && !line.contains('\n'), "{line}");
    assert!(line.contains("tables is damaged at byte"), "{line}");
    let bare = bare_dir(&disk).load();
    let read = bare.map(|bare| bare.read(|snapshot| snapshot.xattr(Ino::ROOT, b"user.mark")));
    assert!(!matches!(read, Ok(Ok(_))), "it is not read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_the_log_is_said_in_words() {
    let disk = SimDisk::new();
    let (machine, session, mut random) = begin(&disk, 2).await;
    for n in 0..20 {
        batch(&machine, session, n * 3 + 1, random.ops(3)).await.unwrap();
        machine.sync(machine.progress().applied).await.unwrap();
    }
    let killed = disk.kill();
    drop(machine);
    let name = killed.list().unwrap().into_iter().find(|name| name.starts_with("log-")).unwrap();
    let byte = read_whole(&killed, &name).unwrap()[700];
    killed.corrupt(&name, 700, &[byte ^ 0x10]);
    let before = contents(&killed);
    let line = bare_dir(&killed).load().map(drop).unwrap_err().to_string();
    assert!(line.contains(&name) && line.contains("is damaged at byte"), "{line}");
    assert_eq!(contents(&killed), before);
}

#[test]
fn a_directory_without_metadata_is_refused_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let error = BareDir::open(&dir.path().join("absent")).map(drop).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
    let empty = BareDir::open(dir.path()).unwrap();
    assert!(empty.load().map(drop).unwrap_err().to_string().starts_with("tables: "));
    std::fs::write(dir.path().join("NODE"), b"").unwrap();
    let error = BareDir::open(dir.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("belongs to a data daemon"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
