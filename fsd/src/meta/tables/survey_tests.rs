//! Damaged pages, and which rows are said to be lost: exactly those that can't be read.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::damage_tests::{create, open};
use super::schema::Table;
use super::store::Store;
use super::sums::UNIT;
use super::view::{ALL, View};
use super::view_tests::state_after as state;
use super::{Effort, Files, Gap, Memtable, Survey, TABLES, keys};
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, Overlay, read_whole, write_all_at};
use cairn_common::ids::{BlockRef, Ino, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows of a table with keys of each kind, enough for some branches.
fn filled() -> SimDisk {
    let disk = SimDisk::new();
    let store = create(&disk);
    let mut rows = Memtable::default();
    for n in 0..300_u32 {
        let (ino, hash) = (u64::from(n), n.wrapping_mul(0x9e37_79b9));
        rows.put(Table::Dentry, &keys::pair(7 + ino % 3, u64::from(hash) << 32), Some(&[5; 300]));
        rows.put(
            Table::Xattr,
            &keys::xattr(Ino(ino / 4), format!("user.{hash}").as_bytes()),
            Some(&[6; 300]),
        );
        let block = BlockRef { volume: VolumeId(1 + n % 2), sequence: n, cookie: hash };
        rows.put(Table::Block, &keys::block(block), Some(&[7; 300]));
        // Enough for branches below the root; some leaves take several pages.
        let length = if n % 100 == 0 { 9000 } else { 2100 };
        rows.put(Table::Inode, &keys::ino(Ino(ino + 1)), Some(&vec![8; length]));
    }
    store.checkpoint(&state(1), &rows).unwrap();
    store.close();
    disk
}

pub fn rows(store: &Store, table: Table) -> Rows {
    let mut rows = Rows::new();
    View::new(store.base().unwrap())
        .scan(table, ALL, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok(true)
        })
        .unwrap();
    rows
}

/// What is done to it does nothing to `disk`.
pub fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new();
    for name in disk.list().unwrap() {
        let bytes = read_whole(disk, &name).unwrap();
        let file = copy.create(&name).unwrap();
        write_all_at(&*file, &[&bytes], 0).unwrap();
        // Else what is damaged then would be written once more.
        file.sync_data().unwrap();
    }
    copy
}

pub fn damage(disk: &SimDisk, page: usize) {
    let at = page * UNIT + 77;
    let byte = read_whole(disk, TABLES).unwrap()[at];
    disk.corrupt(TABLES, at, &[byte ^ 2]);
}

fn survey(disk: &SimDisk) -> Option<Survey> {
    let below: Arc<dyn Disk> = Arc::new(copy(disk));
    Survey::open(Files::open(&Overlay::new(below)).unwrap()).ok()
}

/// Keys that can't be read: each asked for by itself, of a store of its own if one before could not be read.
pub fn unreadable(disk: &SimDisk, table: Table, expected: &Rows) -> BTreeSet<Vec<u8>> {
    let files = Files::open(&Overlay::new(Arc::new(copy(disk)))).unwrap();
    let mut opened = None;
    let lost = |key: &&Vec<u8>| {
        let store = opened.take().unwrap_or_else(|| Store::open(files.clone(), 1 << 20).unwrap());
        let found =
            store.only(table).and_then(|table| Ok(table.get(key)?.map(|value| value.value().to_vec())));
        let Ok(found) = found else { return true };
        assert_eq!(found.as_ref(), expected.get(*key), "other rows");
        opened = Some(store);
        false
    };
    expected.keys().filter(lost).cloned().collect()
}

fn within(gap: &Gap, key: &[u8]) -> bool {
    gap.after.as_deref().is_none_or(|after| after < key) && gap.before.as_deref().is_none_or(|end| key < end)
}

/// Gaps are exactly `lost`, and all other rows are shown, once.
fn assert_told(survey: &mut Survey, table: Table, expected: &Rows, lost: &BTreeSet<Vec<u8>>) -> Vec<Gap> {
    let mut shown = Rows::new();
    let gaps = survey
        .gaps(table, &mut Effort::default(), &mut |key, value| {
            assert!(shown.insert(key.to_vec(), value.to_vec()).is_none(), "{table:?}: shown twice");
            Ok(())
        })
        .unwrap();
    let named: BTreeSet<Vec<u8>> =
        expected.keys().filter(|key| gaps.iter().any(|gap| within(gap, key))).cloned().collect();
    assert!(named == *lost, "{table:?}: {} named, {} lost: {gaps:?}", named.len(), lost.len());
    let readable = expected.iter().filter(|(key, _)| !lost.contains(*key));
    assert!(shown.iter().eq(readable), "{table:?}: other rows are shown");
    assert!(gaps.iter().all(|gap| gap.complete));
    gaps
}

const FILLED: [Table; 4] = [Table::Dentry, Table::Xattr, Table::Block, Table::Inode];

/// Pages without which a table can't be read to its end, for each of [`FILLED`].
fn pages(disk: &SimDisk) -> [Vec<usize>; 4] {
    let mut pages = [const { Vec::new() }; 4];
    for page in 1..read_whole(disk, TABLES).unwrap().len() / UNIT {
        let damaged = copy(disk);
        damage(&damaged, page);
        // Where all tables begin.
        let opens = |table| open(&damaged).is_ok_and(|store| store.only(table).is_ok());
        if !Table::ALL.into_iter().any(opens) {
            continue;
        }
        for (table, pages) in FILLED.into_iter().zip(&mut pages) {
            let Ok(store) = open(&damaged) else { break };
            let rows = store.only(table).and_then(|table| table.range(ALL, false));
            if rows.map_or(true, |mut rows| rows.any(|row| row.is_err())) {
                pages.push(page);
                break;
            }
        }
    }
    pages
}

#[test]
fn one_damaged_page_loses_its_rows_and_no_others() {
    let disk = filled();
    let whole = open(&copy(&disk)).unwrap();
    for (table, pages) in FILLED.into_iter().zip(pages(&disk)) {
        let expected = rows(&whole, table);
        let (mut leaves, mut branches, mut roots) = (0, 0, 0);
        for page in pages {
            let damaged = copy(&disk);
            damage(&damaged, page);
            let lost = unreadable(&damaged, table, &expected);
            let mut survey = survey(&damaged).unwrap();
            let gaps = assert_told(&mut survey, table, &expected, &lost);
            assert_eq!(gaps.len(), 1, "{table:?}");
            assert_eq!(gaps[0].places, BTreeSet::from([(page * UNIT) as u64]), "{table:?}");
            assert!(survey.has_state().unwrap());
            match lost.len() {
                0..20 => leaves += 1,
                count if count < expected.len() => branches += 1,
                _ => roots += 1,
            }
        }
        assert!(leaves > 10 && roots == 1, "{table:?}: {leaves} leaves, {roots} roots");
        assert!(table != Table::Inode || branches > 0, "none between root and leaves");
    }
}

#[test]
fn of_several_damaged_pages_each_is_told() {
    let disk = filled();
    let expected = rows(&open(&copy(&disk)).unwrap(), Table::Dentry);
    let [pages, ..] = pages(&disk);
    let lost = |page: usize| {
        let damaged = copy(&disk);
        damage(&damaged, page);
        (page, unreadable(&damaged, Table::Dentry, &expected))
    };
    let mut leaves: Vec<(usize, BTreeSet<Vec<u8>>)> = pages.into_iter().map(lost).collect();
    leaves.retain(|(_, lost)| lost.len() < 20);
    // In the order of their keys.
    leaves.sort_by(|(_, one), (_, two)| one.first().cmp(&two.first()));
    let last = leaves.len() - 1;
    assert!(last > 15, "{last}");
    for chosen in [vec![0, last], vec![3, 10], vec![5, 6], vec![5, 7], vec![1, 2, 3, 9, 12, last]] {
        let damaged = copy(&disk);
        chosen.iter().for_each(|n| damage(&damaged, leaves[*n].0));
        let lost: BTreeSet<Vec<u8>> = chosen.iter().flat_map(|n| leaves[*n].1.iter().cloned()).collect();
        let gaps = assert_told(&mut survey(&damaged).unwrap(), Table::Dentry, &expected, &lost);
        let apart = 1 + chosen.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
        assert_eq!(gaps.len(), apart, "{chosen:?}");
    }
}

/// Whatever is damaged: it is told, or nothing can be opened, and no row is another one.
#[test]
fn no_page_is_damaged_without_a_word() {
    let disk = filled();
    let whole = open(&copy(&disk)).unwrap();
    let expected: Vec<Rows> = Table::ALL.map(|table| rows(&whole, table)).into();
    let (mut told, mut closed) = (0, 0);
    for page in (1..read_whole(&disk, TABLES).unwrap().len() / UNIT).step_by(3) {
        let damaged = copy(&disk);
        damage(&damaged, page);
        let Some(mut survey) = survey(&damaged) else {
            closed += 1;
            continue;
        };
        let mut gaps = 0;
        for (table, expected) in Table::ALL.into_iter().zip(&expected) {
            let mut effort = Effort::default();
            let found = survey.gaps(table, &mut effort, &mut |key, value| {
                assert_eq!(expected.get(key).map(Vec::as_slice), Some(value));
                Ok(())
            });
            gaps += found.unwrap().len();
        }
        told += usize::from(gaps > 0);
        let state = survey.has_state().unwrap();
        let needed = gaps > 0 || !state;
        if needed {
            assert!(open(&copy(&damaged)).unwrap().verify().is_err(), "page {page}");
        }
    }
    assert!(told > 50 && closed < 20, "{told} {closed}");
}
