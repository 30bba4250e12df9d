//! The store against a map: random operations, with restarts in order and by crash of the process.

use crate::data_common::{Ids, content, open, put_request};
use cairn_common::error::FsError;
use cairn_common::ids::BlockRef;
use cairn_common::limits::PIECE;
use cairn_common::proto::data::GetRequest;
use cairn_common::wire::checksum::verify_pieces;
use cairn_fsd::data::Store;
use cairn_fsd::disk::sim::SimDisk;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use std::collections::BTreeMap;
use std::sync::Arc;

const VOLUME: u64 = 512 << 10;

#[derive(Clone, Debug)]
enum Step {
    Put {
        length: usize,
    },
    /// Reads a part of one of the blocks put so far, deleted or not.
    Get {
        which: prop::Index,
        offset: u32,
        length: u32,
    },
    Delete {
        which: Vec<prop::Index>,
    },
    Restart,
    /// The process is killed and the machine goes on: nothing written is lost.
    Kill,
}

mod prop {
    pub use proptest::sample::Index;
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::Index>;
    prop_oneof![
        6 => prop_oneof![1..10_000_usize, 1..4 * PIECE].prop_map(|length| Step::Put { length }),
        6 => (index(), 0..300_000_u32, 0..300_000_u32)
            .prop_map(|(which, offset, length)| Step::Get { which, offset, length }),
        2 => proptest::collection::vec(index(), 1..4).prop_map(|which| Step::Delete { which }),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

struct World {
    disk: SimDisk,
    ids: Arc<Ids>,
    store: Arc<Store>,
    /// All blocks ever put: tag, length, still there.
    blocks: BTreeMap<BlockRef, (u64, usize, bool)>,
}

impl World {
    async fn new() -> World {
        let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
        let store = open(&disk, VOLUME, &ids).await.unwrap();
        World { disk, ids, store, blocks: BTreeMap::new() }
    }

    fn pick(&self, which: prop::Index) -> Option<BlockRef> {
        (!self.blocks.is_empty()).then(|| *self.blocks.keys().nth(which.index(self.blocks.len())).unwrap())
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Put { length } => {
                let tag = self.blocks.len() as u64;
                let block = self.store.put(put_request(content(tag, length))).await.unwrap();
                assert!(self.blocks.insert(block, (tag, length, true)).is_none());
            }
            Step::Get { which, offset, length } => {
                let Some(block) = self.pick(which) else { return };
                self.check_get(GetRequest { block, offset, length }).await;
            }
            Step::Delete { which } => {
                let blocks: Vec<_> = which.into_iter().filter_map(|w| self.pick(w)).collect();
                self.store.delete(blocks.clone()).await.all().unwrap();
                blocks.iter().for_each(|block| self.blocks.get_mut(block).unwrap().2 = false);
            }
            Step::Restart => {
                self.store.stop().await.unwrap();
                self.reopen().await;
            }
            Step::Kill => {
                self.disk = self.disk.kill();
                self.reopen().await;
            }
        }
    }

    async fn reopen(&mut self) {
        self.store = open(&self.disk, VOLUME, &self.ids).await.unwrap();
        let stat = self.store.stat().await.unwrap();
        let live: Vec<_> = self.blocks.values().filter(|(.., there)| *there).collect();
        assert_eq!(stat.volumes.iter().map(|v| v.blocks).sum::<u64>(), live.len() as u64);
        let live_bytes: usize = live.iter().map(|(_, length, _)| length).sum();
        assert_eq!(stat.volumes.iter().map(|v| v.live_bytes).sum::<u64>(), live_bytes as u64);
    }

    async fn check_get(&self, request: GetRequest) {
        let (tag, size, there) = self.blocks[&request.block];
        let (offset, length) = (request.offset as usize, request.length as usize);
        let expected = if !there {
            Err(FsError::NotFound)
        } else if offset >= size || length == 0 {
            Err(FsError::Invalid)
        } else {
            let from = offset / PIECE * PIECE;
            Ok((from, (offset + length).next_multiple_of(PIECE).min(size)))
        };
        match (self.store.get(request).await, expected) {
            (Ok(reply), Ok((from, to))) => {
                assert_eq!(reply.offset as usize, from);
                let bytes = reply.payload.into_bytes();
                assert_eq!(bytes, content(tag, size).slice(from..to));
                assert_eq!(verify_pieces(&bytes, &reply.checksums), Ok(()));
            }
            (reply, expected) => assert_eq!(reply.map(|r| r.offset), expected.map(|_| 0)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn store_behaves_as_a_map(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.apply(step).await;
            }
            world.apply(Step::Restart).await;
        });
    }
}
