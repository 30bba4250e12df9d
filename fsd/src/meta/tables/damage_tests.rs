//! What the disk changes or loses below the tables: rows are read as they were written, or not at all.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::backend::{Backend, ReadFailure, Severed, Unknown};
use super::schema::Table;
use super::store::{Store, StoreError};
use super::sums::SECTOR;
use super::view::{ALL, View};
use super::view_tests::state_after as state;
use super::{Files, Memtable, SUMS, TABLES, keys};
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, read_whole};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

const TABLE: Table = Table::Extent;
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

pub fn create(disk: &SimDisk) -> Store {
    let store = Store::open(Files::create(disk).unwrap(), 1 << 20).unwrap();
    store.init(state(0), |_tx| Ok(())).unwrap();
    store.close();
    Files::publish(disk).unwrap();
    open(disk).unwrap()
}

pub fn open(disk: &SimDisk) -> Result<Store, StoreError> {
    Store::open(Files::open(disk).unwrap(), 64 << 10)
}

/// Why a start would have to verify everything.
fn learning(disk: &SimDisk) -> Option<Unknown> {
    Backend::open(Files::open(disk).unwrap(), Severed::default(), ReadFailure::default()).unwrap().learning()
}

fn rows(store: &Store) -> Rows {
    let mut rows = Rows::new();
    let view = View::new(store.base().unwrap());
    view.scan(TABLE, ALL, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        Ok(true)
    })
    .unwrap();
    rows
}

/// One checkpoint of random rows, some of which take several pages. False if it failed.
fn change(store: &Store, rng: &mut StdRng, applied: u64, model: &mut Rows) -> bool {
    let mut changes = Memtable::default();
    for _ in 0..rng.random_range(1..40) {
        let key = keys::pair(rng.random_range(0..4), rng.random_range(0..40));
        let length =
            if rng.random_bool(0.1) { rng.random_range(5000..30_000) } else { rng.random_range(1..900) };
        let value = vec![rng.random::<u8>(); length];
        if rng.random_bool(0.7) {
            changes.put(TABLE, &key, Some(&value));
            model.insert(key.to_vec(), value);
        } else {
            changes.put(TABLE, &key, None);
            model.remove(&key[..]);
        }
    }
    store.checkpoint(&state(applied), &changes).is_ok()
}

fn made(seed: u64) -> (SimDisk, Rows) {
    let disk = SimDisk::new();
    let mut rng = StdRng::seed_from_u64(seed);
    let store = create(&disk);
    let mut model = Rows::new();
    assert!((1..6).all(|applied| change(&store, &mut rng, applied, &mut model)));
    // Enough for several sectors of sums.
    let mut large = Memtable::default();
    for n in 0..40 {
        let (key, value) = (keys::pair(9, n), vec![7; 20_000]);
        large.put(TABLE, &key, Some(&value));
        model.insert(key.to_vec(), value);
    }
    store.checkpoint(&state(6), &large).unwrap();
    assert!(rows(&store) == model);
    // Not closed: that would cut off what is free.
    drop(store);
    (disk, model)
}

/// Checksums come back whole from any crash, so that nobody has to verify everything, and fit what is read.
#[test]
fn a_crash_anywhere_leaves_each_page_with_its_checksum() {
    for seed in 0..3 {
        for at in (0..).step_by(11) {
            let disk = SimDisk::new();
            let mut rng = StdRng::seed_from_u64(seed);
            let store = create(&disk);
            disk.power_off_after(at);
            let mut states = vec![Rows::new()];
            let mut durable = 0;
            let done = (1..8).all(|applied| {
                let mut model = states.last().cloned().unwrap_or_default();
                let made = change(&store, &mut rng, applied, &mut model);
                states.push(model);
                durable += usize::from(made);
                made && (applied % 3 > 0 || store.idle_bytes().is_ok())
            });
            let (killed, lost) = (disk.kill(), [1, 2, 3].map(|n| disk.power_cycle(seed + n * at)));
            drop(store);
            for (n, after) in [killed].into_iter().chain(lost).enumerate() {
                let context = format!("seed {seed}, power off at {at}, way {n}");
                assert_eq!(learning(&after), None, "{context}");
                let store = open(&after).unwrap_or_else(|error| panic!("{context}: {error}"));
                let (found, _) = store.load().unwrap();
                let found = usize::try_from(found.applied.0).unwrap();
                assert!(found >= durable, "{context}: a checkpoint is lost");
                assert!(rows(&store) == states[found], "{context}: other rows");
                store.verify().unwrap();
            }
            if done {
                break;
            }
        }
    }
}

/// What is learnt is durable at once, and nothing is read that was not verified.
#[test]
fn sums_that_can_not_be_trusted_are_made_again_from_what_was_verified() {
    let (made, expected) = made(1);
    let stored = read_whole(&made, SUMS).unwrap();
    // Behind these may be those of pages that were cut off.
    let used = (read_whole(&made, TABLES).unwrap().len() / 4096 + 1).div_ceil(124);
    assert!(used > 1);
    let mut damaged = vec![(made.kill(), Unknown::Missing)];
    damaged[0].0.remove(SUMS).unwrap();
    for sector in 0..used {
        let disk = made.kill();
        let at = sector * SECTOR + 100 + sector;
        disk.corrupt(SUMS, at, &[stored[at] ^ 4]);
        damaged.push((disk, Unknown::Damaged));
    }
    let cut = made.kill();
    cut.open(SUMS).unwrap().truncate((used * SECTOR) as u64 - 1).unwrap();
    damaged.push((cut, Unknown::Damaged));
    let header = made.kill();
    // Bytes of the header that redb does not look at.
    header.corrupt(TABLES, 4000, &[1]);
    damaged.push((header, Unknown::OtherHeader));
    for (disk, why) in damaged {
        assert_eq!(learning(&disk), Some(why));
        let store = open(&disk).unwrap();
        assert!(rows(&store) == expected, "{why:?}");
        let disk = disk.power_cycle(1);
        assert_eq!(learning(&disk), None, "{why:?}");
        drop(store);
        assert!(rows(&open(&disk).unwrap()) == expected, "{why:?}");
    }
}

/// Who has changed the tables without their sums, as older versions do, has changed the header.
#[test]
fn sums_of_other_tables_are_not_believed() {
    let (disk, mut expected) = made(2);
    let old = read_whole(&disk, SUMS).unwrap();
    let store = open(&disk).unwrap();
    assert!(change(&store, &mut StdRng::seed_from_u64(9), 9, &mut expected));
    store.close();
    disk.corrupt(SUMS, 0, &old);
    assert_eq!(learning(&disk), Some(Unknown::OtherHeader));
    assert!(rows(&open(&disk).unwrap()) == expected);
}

/// Damage of tables without sums is what redb itself finds; it gets no sum.
#[test]
fn damaged_pages_are_never_learnt() {
    let (made, expected) = made(3);
    let tables = read_whole(&made, TABLES).unwrap();
    let mut refused = 0;
    for page in 1..tables.len() / 4096 {
        let at = page * 4096 + 50;
        let disk = made.kill();
        disk.remove(SUMS).unwrap();
        disk.corrupt(TABLES, at, &[tables[at] ^ 1]);
        let opened = catch_unwind(AssertUnwindSafe(|| open(&disk).map(|store| rows(&store))));
        match opened {
            Ok(Ok(found)) => assert!(found == expected, "page {page}"),
            Ok(Err(_)) | Err(_) => {
                refused += 1;
                assert_eq!(learning(&disk), Some(Unknown::Missing), "page {page}");
            }
        }
    }
    assert!(refused > 10, "{refused}");
}
