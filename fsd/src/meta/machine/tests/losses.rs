//! What damaged pages of the tables touch: named, all of it and nothing else.

use super::*;
use crate::disk::read_whole;
use crate::disk::sim::SimDisk;
use crate::meta::losses::{Losses, Named};
use crate::meta::machine::bare::BareDir;
use crate::meta::tables::survey_tests::{Rows, copy, damage, rows, unreadable};
use crate::meta::tables::{Files, Store, Table, keys, values};
use bytes::Bytes;
use cairn_common::namespace::op::{Commit, Extent, ExtentData, FileCommit, Piece};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const BIRTH: Birth = Birth { cluster: ClusterId(8), time: Timestamp { secs: 1, nanos: 0 } };
const PAGE: usize = 4096;
/// Of these every other one has content.
const FILES: u64 = 400;

fn content(ino: Ino) -> Op {
    let data = ExtentData::Inline(Bytes::from(vec![b'x'; 500]));
    let extent = Extent { offset: 0, length: 500, data };
    let file = FileCommit { ino, size_at_least: 500, mtime: None, kill_suidgid: false };
    let commit = Commit { blocks: vec![], pieces: vec![Piece { ino, extent }], files: vec![file] };
    Op { body: OpBody::Commit(commit), ..chmod(1) }
}

fn made_in(parent: Ino, name: &str, ino: Ino, kind: FileKind) -> Op {
    let Op { body: OpBody::Create(create), time, caller } = make(name, ino) else { unreachable!() };
    Op { body: OpBody::Create(Create { parent, kind, ..create }), time, caller }
}

/// A directory `/d` of files, on a disk.
async fn tree() -> SimDisk {
    let disk = SimDisk::new();
    let machine = Machine::open_on(Arc::new(disk.clone()), None, small(), &BIRTH).unwrap();
    let session = open_session(&machine).await;
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply else {
        panic!("no numbers")
    };
    let dir = range.first;
    let mut ops = vec![made_in(Ino::ROOT, "d", dir, FileKind::Dir)];
    for n in 1..=FILES {
        let ino = Ino(dir.0 + n);
        ops.push(made_in(dir, &format!("{n:0>120}"), ino, FileKind::File));
        if n % 2 == 0 {
            ops.push(content(ino));
        }
    }
    let mut first = 1;
    for some in ops.chunks(100) {
        let results = batch(&machine, session, first, some.to_vec()).await.unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        first += some.len() as u64;
    }
    machine.shutdown().await.unwrap();
    disk
}

fn ino_of(key: &[u8]) -> Ino {
    keys::ino_of(key.first_chunk().unwrap())
}

/// Paths, or for names that are lost in a directory, its path with their number.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    inodes: BTreeSet<String>,
    extents: BTreeSet<String>,
    names: BTreeMap<String, u64>,
    nameless: BTreeSet<Ino>,
}

fn told(losses: &Losses) -> Told {
    let mut told = Told::default();
    for loss in &losses.rows {
        for file in &loss.files.some {
            let path = String::from_utf8(file.path.to_vec()).unwrap();
            match loss.table {
                Table::Inode => drop(told.inodes.insert(path)),
                Table::Extent => drop(told.extents.insert(path)),
                Table::Dentry => drop(told.names.insert(path, file.names)),
                // Of a table that can't be opened nobody knows that it is empty.
                Table::Xattr | Table::Lock if loss.owners == (0..=u64::MAX) => {}
                other => panic!("files of {other:?}"),
            }
        }
    }
    told.nameless = losses.nameless.some.iter().copied().collect();
    told
}

/// All rows, of a tree that is whole.
struct Whole {
    inodes: Rows,
    extents: Rows,
    names: Rows,
}

impl Whole {
    fn new(disk: &SimDisk) -> Whole {
        let store = Store::open(Files::open(&copy(disk)).unwrap(), 1 << 20).unwrap();
        let of = |table| rows(&store, table);
        Whole { inodes: of(Table::Inode), extents: of(Table::Extent), names: of(Table::Dentry) }
    }

    /// What must be told: asks for each row by itself.
    fn expected(&self, disk: &SimDisk) -> Told {
        let lost = |table, rows| unreadable(disk, table, rows);
        let inodes: BTreeSet<Ino> = lost(Table::Inode, &self.inodes).iter().map(|key| ino_of(key)).collect();
        let extents: BTreeSet<Ino> =
            lost(Table::Extent, &self.extents).iter().map(|key| ino_of(key)).collect();
        let names = lost(Table::Dentry, &self.names);
        let entry = |key: &[u8], value: &[u8]| (ino_of(key), values::decode_dentry(0, value).unwrap());
        let entries = || self.names.iter().filter(|(key, _)| !names.contains(*key));
        let dir = entries().map(|(key, value)| entry(key, value)).find(|(parent, _)| *parent == Ino::ROOT);
        let number = self.names.keys().map(|key| ino_of(key)).find(|ino| *ino != Ino::ROOT).unwrap();
        let dir = dir.map_or_else(|| format!("(inode {number})"), |_| "/d".to_owned());
        let mut told = Told::default();
        for (key, value) in entries() {
            let (parent, dentry) = entry(key, value);
            let name = String::from_utf8(dentry.name.to_vec()).unwrap();
            let path = if parent == Ino::ROOT { format!("/{name}") } else { format!("{dir}/{name}") };
            if inodes.contains(&dentry.ino) {
                told.inodes.insert(path);
            } else if extents.contains(&dentry.ino) {
                told.extents.insert(path);
            }
        }
        if inodes.contains(&Ino::ROOT) {
            told.inodes.insert("/".to_owned());
        }
        for key in &names {
            let (parent, dentry) = entry(key, &self.names[key]);
            if !inodes.contains(&parent) {
                let path = if parent == Ino::ROOT { "/".to_owned() } else { dir.clone() };
                *told.names.entry(path).or_default() += 1;
            }
            if !inodes.contains(&dentry.ino) {
                told.nameless.insert(dentry.ino);
            }
        }
        told
    }
}

fn look(disk: &SimDisk) -> Option<Losses> {
    BareDir::on(Arc::new(copy(disk))).losses().ok()
}

/// Those that some row or the list of rows needs, without those that nothing can be opened without.
fn needed(disk: &SimDisk) -> Vec<usize> {
    let pages = 1..read_whole(disk, "tables").unwrap().len() / PAGE;
    let needs = |page: &usize| {
        let damaged = copy(disk);
        damage(&damaged, *page);
        look(&damaged).is_some_and(|losses| !losses.rows.is_empty())
    };
    pages.filter(needs).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_file_that_damage_touches_is_named_and_no_other() {
    let disk = tree().await;
    let whole = Whole::new(&disk);
    let sound = look(&disk).unwrap();
    assert!(sound.rows.is_empty() && sound.nameless.some.is_empty() && !sound.state);
    let pages = needed(&disk);
    assert!(pages.len() > 40, "{}", pages.len());
    let mut kinds = [0; 3];
    for page in pages.iter().step_by(2) {
        let damaged = copy(&disk);
        damage(&damaged, *page);
        let told = told(&look(&damaged).unwrap());
        assert_eq!(told, whole.expected(&damaged), "page {page}");
        for (kind, some) in
            kinds.iter_mut().zip([!told.inodes.is_empty(), !told.extents.is_empty(), !told.names.is_empty()])
        {
            *kind += usize::from(some);
        }
    }
    assert!(kinds.iter().all(|kind| *kind >= 4), "{kinds:?}");
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..15 {
        let damaged = copy(&disk);
        let chosen: Vec<usize> =
            (0..rng.random_range(2..6)).map(|_| pages[rng.random_range(0..pages.len())]).collect();
        chosen.iter().collect::<BTreeSet<_>>().into_iter().for_each(|page| damage(&damaged, *page));
        let told = told(&look(&damaged).unwrap());
        assert_eq!(told, whole.expected(&damaged), "pages {chosen:?}");
    }
}

/// All is lost: that is said in a few lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_that_are_named_have_a_bound() {
    let disk = tree().await;
    let damaged = copy(&disk);
    needed(&disk).into_iter().for_each(|page| damage(&damaged, page));
    let losses = look(&damaged).unwrap();
    let tables: Vec<Table> = losses.rows.iter().map(|loss| loss.table).collect();
    assert!([Table::Inode, Table::Extent, Table::Dentry].iter().all(|table| tables.contains(table)));
    assert!(losses.rows.iter().all(|loss| loss.owners == (0..=u64::MAX)), "{losses:?}");
    // Nothing else is left to be named.
    assert!(losses.rows.iter().flat_map(|loss| &loss.files.some).all(|file| file.path == "/"), "{losses:?}");
    let mut named = Named::default();
    let mut room = 3;
    (0..5).for_each(|n| named.add(&mut room, || n));
    assert_eq!((named.some, named.more, room), (vec![0, 1, 2], 2, 0));
}
