//! Power fails while blocks are put and deleted; what was acknowledged is there afterwards.
//!
//! For each seed the same operations run on a simulated disk whose power goes during the n-th change, for
//! n over the whole run. Any part of what was not synced survives, sector by sector. After that:
//! an acknowledged block reads back exactly, unless its delete was asked for; an acknowledged delete holds;
//! whatever else is listed is whole; and the store takes blocks again. Then the power fails once more.

use crate::data_common::{Ids, content, open, put_request, read_all};
use cairn_common::error::FsError;
use cairn_common::ids::BlockRef;
use cairn_fsd::data::volume::bare::Bare;
use cairn_fsd::data::{Deleted, Store};
use cairn_fsd::disk::Disk;
use cairn_fsd::disk::sim::SimDisk;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Small, so that volumes are sealed in the middle of a run.
pub const VOLUME: u64 = 256 << 10;
/// Of operations in one life.
const ROUNDS: usize = 8;

/// What the test knows of a block that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Stored,
    /// A delete was asked for and not answered.
    MaybeDeleted,
    Deleted,
}

/// What must be in a store.
#[derive(Clone, Default)]
pub struct Model {
    /// Tag and length of each.
    blocks: BTreeMap<BlockRef, (u64, usize, Known)>,
    next_tag: u64,
    /// Puts and deletes that failed.
    pub refused: usize,
}

impl Model {
    /// A few operations; some at the same time. Failures are no surprise: the power may be off.
    pub async fn operate(&mut self, store: &Store, rng: &mut StdRng, rounds: usize) {
        for _ in 0..rounds {
            let puts: Vec<_> = (0..rng.random_range(1..4))
                .map(|_| {
                    self.next_tag += 1;
                    let largest = if rng.random_bool(0.3) { 100_000 } else { 6000 };
                    (self.next_tag, rng.random_range(1..largest))
                })
                .collect();
            let storing = futures::future::join_all(
                puts.iter().map(|(tag, length)| store.put(put_request(content(*tag, *length)))),
            );
            // As when nothing is put for a while, and what comes next is written over it; or in the midst of puts.
            let (marks, marks_later) = (rng.random_bool(0.3), rng.random_bool(0.3));
            let (stored, ()) = futures::join!(storing, mark_end(store, marks));
            mark_end(store, marks_later).await;
            for ((tag, length), result) in puts.iter().zip(stored) {
                let Ok(block) = result else {
                    self.refused += 1;
                    continue;
                };
                assert!(self.blocks.insert(block, (*tag, *length, Known::Stored)).is_none(), "{block} twice");
            }
            if rng.random_bool(0.5) {
                self.delete_some(store, rng).await;
            }
        }
    }

    async fn delete_some(&mut self, store: &Store, rng: &mut StdRng) {
        // At times everything: then whole volumes go.
        let share = if rng.random_bool(0.1) { 1.0 } else { 0.2 };
        let chosen: Vec<BlockRef> = self.blocks.keys().copied().filter(|_| rng.random_bool(share)).collect();
        let Deleted { gone, failed } = store.delete(chosen.clone()).await;
        self.refused += usize::from(failed.is_some());
        for block in &chosen {
            let (.., known) = self.blocks.get_mut(block).unwrap();
            let deleted = gone.contains(block) || matches!(*known, Known::Deleted);
            *known = if deleted { Known::Deleted } else { Known::MaybeDeleted };
        }
    }

    /// Compares with the store; what may or may not be deleted is known from now on.
    pub async fn check(&mut self, store: &Store, context: &str) {
        for (block, (tag, length, known)) in &mut self.blocks {
            match (read_all(store, *block).await, *known) {
                (Ok(bytes), Known::Stored | Known::MaybeDeleted) => {
                    assert!(bytes == content(*tag, *length), "{context}: {block} has other bytes");
                    *known = Known::Stored;
                }
                (Err(FsError::NotFound), Known::Deleted | Known::MaybeDeleted) => *known = Known::Deleted,
                (result, known) => {
                    panic!("{context}: {block} is {known:?}, got {:?}", result.map(|b| b.len()))
                }
            }
        }
        for volume in store.stat().await.unwrap().volumes {
            // Removed meanwhile, as nothing was left in it.
            let Ok(mut live) = store.list(volume.volume, 0) else { continue };
            live.retain(|listed| !listed.deleted);
            let bytes: u64 = live.iter().map(|listed| u64::from(listed.length)).sum();
            assert_eq!((volume.blocks, volume.live_bytes), (live.len() as u64, bytes), "{context}");
            for listed in live.iter().filter(|listed| !self.blocks.contains_key(&listed.block)) {
                // Never acknowledged: whole all the same (`read_all` verifies).
                assert_eq!(read_all(store, listed.block).await.unwrap().len(), listed.length as usize);
            }
        }
    }

    /// Reads everything while the disk may fail, as files are read and as cleaning does: what is given out is right.
    pub async fn look(&self, store: &Store, context: &str) {
        for (block, (tag, length, known)) in &self.blocks {
            let cleaned = store.whole(*block).await.map(|(bytes, _)| bytes);
            for result in [read_all(store, *block).await, cleaned] {
                match (result, known) {
                    (Ok(bytes), Known::Stored | Known::MaybeDeleted) => {
                        assert!(bytes == content(*tag, *length), "{context}: {block} has other bytes");
                    }
                    (Err(FsError::Io), _)
                    | (Err(FsError::NotFound), Known::Deleted | Known::MaybeDeleted) => {}
                    (Err(FsError::NotFound), Known::Stored) => {
                        assert!(store.volume_stat(block.volume).is_none(), "{context}: {block} is not there");
                    }
                    (result, known) => {
                        panic!("{context}: {block} is {known:?}, got {:?}", result.map(|b| b.len()))
                    }
                }
            }
        }
    }
}

async fn mark_end(store: &Store, wanted: bool) {
    if wanted {
        store.mark_end().await.unwrap();
    }
}

/// Runs with a power failure during each change, until one run gets through. Returns how many changes that took.
fn sweep(seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut at = 0;
    loop {
        let finished = runtime.block_on(run(seed, at));
        at += 1;
        if finished {
            return at;
        }
    }
}

/// One run; true if the power stayed on.
async fn run(seed: u64, power_off_after: u64) -> bool {
    let context = format!("seed {seed}, power off after {power_off_after}");
    let mut rng = StdRng::seed_from_u64(seed);
    let ids = Arc::new(Ids::default());
    let mut model = Model::default();
    let mut disk = SimDisk::new();
    let mut went_off = false;
    for life in 0..3 {
        let store = open(&disk, VOLUME, &ids).await.unwrap();
        model.check(&store, &format!("{context}, life {life}")).await;
        if life < 2 {
            disk.power_off_after(power_off_after);
        }
        model.operate(&store, &mut rng, ROUNDS).await;
        let stopped = store.stop().await.is_ok();
        assert!(stopped || disk.is_off(), "{context}: stop failed");
        went_off |= disk.is_off();
        drop(store);
        disk = disk.power_cycle(seed ^ (power_off_after << 8) ^ life);
        assert_undamaged(&disk, &format!("{context}, life {life}"));
        if rng.random_bool(0.5) {
            // A process that is killed while it recovers, or just after, and then the power: what was
            // found in memory only must not be believed.
            let again = open(&disk, VOLUME, &ids).await.unwrap();
            model.operate(&again, &mut rng, ROUNDS).await;
            disk = disk.kill();
            let found = open(&disk, VOLUME, &ids).await.unwrap();
            model.check(&found, &format!("{context}, killed in life {life}")).await;
            disk = disk.power_cycle(seed ^ life);
            assert_undamaged(&disk, &format!("{context}, after life {life}"));
        }
    }
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    model.check(&store, &format!("{context}, last life")).await;
    !went_off
}

/// A loss of power damages nothing: what is torn is not taken for that, or its volume would take no more blocks.
fn assert_undamaged(disk: &SimDisk, context: &str) {
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".cv")) {
        let bare = Bare::open(disk, name).unwrap_or_else(|error| panic!("{context}: {name}: {error}"));
        assert!(!bare.damaged, "{context}: {name} looks damaged");
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let random = rand::random::<u64>() >> 16;
    println!("seeds 0 to 3 and {random}");
    for seed in (0..4).chain([random]) {
        let changes = sweep(seed);
        assert!(changes > 20, "the power went during the first {changes} changes only");
    }
}
