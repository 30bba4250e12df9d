//! The layers against a plain map: random changes, checkpoints that begin and end between them, and reads
//! of views that were taken before.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::schema::Table;
use super::store::Store;
use super::values::State;
use super::view::{ALL, View};
use super::{Files, Memtable, keys};
use crate::disk::sim::SimDisk;
use cairn_common::ids::{ClusterId, Epoch, Ino, LogIndex, NodeId, SessionId, VolumeId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

const TABLE: Table = Table::Extent;
type Model = BTreeMap<[u8; 16], Vec<u8>>;

/// Of a new file system, as if so many entries of the log were applied.
pub fn state_after(applied: u64) -> State {
    State {
        cluster: ClusterId(1),
        epoch: Epoch(1),
        applied: LogIndex(applied),
        next_ino: Ino(2),
        next_session: SessionId(1),
        next_node: NodeId(1),
        next_volume: VolumeId(1),
        totals: Default::default(),
    }
}

fn state() -> State {
    state_after(0)
}

fn store(disk: &SimDisk) -> Store {
    let store = Store::open(Files::create(disk).unwrap(), 1 << 20).unwrap();
    store.init(state(), |_tx| Ok(())).unwrap();
    store
}

/// Few keys, so that layers hide each other's rows.
fn key(random: &mut StdRng) -> [u8; 16] {
    keys::pair(random.random_range(0..4), random.random_range(0..12))
}

fn change(random: &mut StdRng, view: &mut View, model: &mut Model) {
    let key = key(random);
    if random.random_bool(0.4) {
        view.remove(TABLE, &key);
        model.remove(&key);
    } else {
        let value: Vec<u8> = (0..random.random_range(1..20)).map(|_| random.random()).collect();
        view.put(TABLE, &key, &value);
        model.insert(key, value);
    }
}

fn compare(random: &mut StdRng, view: &View, model: &Model) {
    let one = key(random);
    assert_eq!(view.get(TABLE, &one).unwrap().map(|v| v.to_vec()), model.get(&one).cloned());
    assert_eq!(view.len(TABLE).unwrap(), model.len() as u64);
    let (a, b) = (key(random), key(random));
    let (first, last) = (a.min(b), a.max(b));
    let mut rows = Vec::new();
    let limit = random.random_range(1..60);
    let bounds = (Included(&first[..]), Excluded(&last[..]));
    view.scan(TABLE, bounds, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Ok(rows.len() < limit)
    })
    .unwrap();
    let of_model = |(key, value): (&[u8; 16], &Vec<u8>)| (key.to_vec(), value.clone());
    let expected: Vec<_> = model.range(first..last).take(limit).map(of_model).collect();
    assert_eq!(rows, expected);
    let found = view.last(TABLE, bounds, |key, value| Ok((key.to_vec(), value.to_vec()))).unwrap();
    assert_eq!(found, model.range(first..last).next_back().map(of_model));
}

fn all(view: &View) -> Model {
    let mut rows = Model::new();
    view.scan(TABLE, ALL, &mut |key, value| {
        rows.insert(key.try_into().unwrap(), value.to_vec());
        Ok(true)
    })
    .unwrap();
    rows
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let store = store(&disk);
    let mut view = View::new(store.base().unwrap());
    let mut model = Model::new();
    let mut frozen: Option<Arc<Memtable>> = None;
    let mut taken: Option<(View, Model)> = None;
    for _ in 0..400 {
        match random.random_range(0..10) {
            0 if frozen.is_none() => frozen = Some(view.freeze()),
            1 if let Some(rows) = frozen.take() => view.thaw(store.checkpoint(&state(), &rows).unwrap()),
            2 => taken = Some((view.clone(), model.clone())),
            3 if let Some((view, model)) = &taken => {
                assert_eq!(&all(view), model, "seed {seed}: an old view changed")
            }
            4..=6 => compare(&mut random, &view, &model),
            _ => change(&mut random, &mut view, &mut model),
        }
    }
    if let Some(rows) = frozen {
        view.thaw(store.checkpoint(&state(), &rows).unwrap());
    }
    let rows = view.freeze();
    let base = store.checkpoint(&state(), &rows).unwrap();
    assert_eq!(all(&View::new(base)), model, "seed {seed}: what is in redb");
}

#[test]
fn layers_are_one_map() {
    for seed in 0..60 {
        run(seed);
    }
}

#[test]
fn memory_is_counted_and_given_back() {
    let disk = SimDisk::new();
    let store = store(&disk);
    let mut view = View::new(store.base().unwrap());
    for round in 0..1000_u32 {
        view.put(TABLE, &keys::pair(1, 1), &round.to_be_bytes());
    }
    assert!(view.active_bytes() < 1000, "one row: {}", view.active_bytes());
    let rows = view.freeze();
    assert_eq!(view.active_bytes(), 0);
    assert!(view.is_frozen());
    view.thaw(store.checkpoint(&state(), &rows).unwrap());
    assert!(!view.is_frozen());
}
