//! Gives back the space of blocks that are partly dead: what is live in several of them is packed into a new one.
//!
//! Each step may be the last. Before the new block is stored nothing has happened. Before the metadata daemon has changed extents over,
//! durably, the new block is nobody's, and found like any block that was never committed (`leaks.rs`). Afterwards the old ones
//! have no live bytes, and are deleted like all others. Files may be written, cut, copied and removed at any time: only what still
//! is where it was moves. A mount that goes by an old extent is told that the block is not there, and asks again.
//!
//! `docs/decisions/0010-cleaning.md` tells why it is done here and so.

mod plan;

pub use plan::{Batch, Candidate, Found, Packed, SOURCES_MAX, Source, best, candidates, entries, ranges};

use super::Store;
use super::link::MetaLink;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, LivePieces};
use cairn_common::summary::SummaryEntry;
use futures::future::try_join_all;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How often it is looked whether there is reason for a pass.
const TICK: Duration = Duration::from_millis(100);
/// Pause between two passes without a reason.
const EVERY: Duration = Duration::from_secs(30);
/// A look at very many blocks is followed by so many times its length without one.
const SHARE: u32 = 20;
/// The same while there is reason for a pass.
const SHARE_BUSY: u32 = 2;
/// So many bytes stored since the last pass are a reason for the next.
const CHURN: u64 = 16 << 20;
/// Less than this is not worth a block.
const GAIN_MIN: u64 = 256 << 10;
/// Pause after each page of blocks: nobody waits for this.
const PAGE_PAUSE: Duration = Duration::from_millis(5);
/// After each new block a pause, up to this: programs want the disk, too. It is as long as the work took if that gave nothing back,
/// and the shorter the more it gave.
const REST_MAX: Duration = Duration::from_secs(1);
/// So many blocks are read and asked about at a time.
const AT_ONCE: usize = 4;
/// Most blocks that are remembered as not to be moved.
const UNMOVABLE_MAX: usize = 100_000;

/// Cleans until the shutdown.
pub async fn run(store: Arc<Store>, meta: Arc<dyn MetaLink>, shutdown: CancellationToken) {
    let mut cleaner = Cleaner::new(store, meta);
    let mut pace = Pace::new(Instant::now());
    let mut seen = 0;
    loop {
        let stored = cleaner.store.put_bytes();
        // An idle daemon sleeps.
        let idle = stored == seen && !pace.moved;
        seen = stored;
        let look = async {
            if idle {
                // Either way it is time to look.
                drop(timeout_at(pace.due(stored).into(), cleaner.store.stores_beyond(stored)).await);
            } else {
                sleep(TICK).await;
            }
        };
        if shutdown.run_until_cancelled(look).await.is_none() {
            return;
        }
        if !pace.is_due(Instant::now(), cleaner.store.put_bytes()) {
            continue;
        }
        match shutdown.run_until_cancelled(cleaner.pass()).await {
            Some(Ok(passed)) => pace.passed(Instant::now(), cleaner.store.put_bytes(), passed),
            // A full disk, or a metadata daemon that is away: there is time.
            Some(Err(error)) => {
                debug!("cleaning: {error}");
                pace.passed(Instant::now(), cleaner.store.put_bytes(), Passed::default());
            }
            None => return,
        }
    }
}

/// When to look at all blocks again.
struct Pace {
    /// With a reason, and without.
    earliest: Instant,
    next: Instant,
    /// Bytes that had been stored at the last pass.
    stored: u64,
    moved: bool,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { earliest: now, next: now, stored: 0, moved: false }
    }

    /// When the next pass begins if nothing more is stored.
    fn due(&self, stored: u64) -> Instant {
        let reason = self.moved || stored.saturating_sub(self.stored) >= CHURN;
        if reason { self.earliest.min(self.next) } else { self.next }
    }

    fn is_due(&self, now: Instant, stored: u64) -> bool {
        now >= self.due(stored)
    }

    fn passed(&mut self, end: Instant, stored: u64, Passed { moved, looked }: Passed) {
        let next = end + EVERY.max(looked * SHARE);
        *self = Pace { earliest: end + looked * SHARE_BUSY, next, stored, moved: moved > 0 };
    }
}

/// See the module.
pub struct Cleaner {
    store: Arc<Store>,
    meta: Arc<dyn MetaLink>,
    /// Blocks of which not all that is live is where the summary says, with the live bytes they had.
    unmovable: HashMap<BlockRef, u64>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Blocks that were moved.
    pub moved: usize,
    /// How long it took to find them.
    looked: Duration,
}

/// So many blocks are cleaned before all are looked at again: few if that takes no time, since those that are overwritten right
/// now have less to move a little later.
fn blocks_at_once(looked: Duration) -> usize {
    usize::try_from(looked.as_millis() / 2).unwrap_or(usize::MAX).clamp(SOURCES_MAX, 64 * SOURCES_MAX)
}

impl Cleaner {
    #[must_use]
    pub fn new(store: Arc<Store>, meta: Arc<dyn MetaLink>) -> Cleaner {
        Cleaner { store, meta, unmovable: HashMap::new() }
    }

    /// Looks at all blocks that files use here, and cleans those that give back most.
    ///
    /// # Errors
    /// If the metadata daemon is away, or the disk full. What was not done is found by the next pass.
    pub async fn pass(&mut self) -> FsResult<Passed> {
        let begin = Instant::now();
        let mut sparse = self.look().await?;
        let looked = begin.elapsed();
        // What is not seen any more is forgotten.
        let known = std::mem::take(&mut self.unmovable);
        sparse.retain(|Candidate { block, live, .. }| {
            let same = known.get(block) == Some(live);
            if same {
                self.unmovable.insert(*block, *live);
            }
            !same
        });
        best(&mut sparse, blocks_at_once(looked));
        let (mut moved, mut batch) = (0, Batch::default());
        for some in sparse.chunks(AT_ONCE) {
            let found = some.iter().map(|candidate| self.source(*candidate));
            for (candidate, found) in some.iter().zip(try_join_all(found).await?) {
                let source = match found {
                    Found::Source(source) => source,
                    Found::Unmovable(live) => {
                        self.leave(candidate.block, live);
                        continue;
                    }
                    Found::Nothing => continue,
                };
                if !batch.has_room(&source) {
                    moved += self.clean(std::mem::take(&mut batch)).await?;
                }
                batch.add(source, candidate.taken);
            }
        }
        if batch.gain() >= GAIN_MIN {
            moved += self.clean(batch).await?;
        }
        Ok(Passed { moved, looked })
    }

    /// What is worth cleaning.
    async fn look(&self) -> FsResult<Vec<Candidate>> {
        let mut sparse = Vec::new();
        for volume in self.store.volumes() {
            let uses = self.uses(volume).await?;
            let Some(stat) = self.store.volume_stat(volume) else { continue };
            sparse.extend(candidates(&uses, &stat));
        }
        Ok(sparse)
    }

    /// The blocks of a volume that files use.
    async fn uses(&self, volume: VolumeId) -> FsResult<Vec<(BlockRef, BlockUse)>> {
        let mut uses: Vec<(BlockRef, BlockUse)> = Vec::new();
        loop {
            let after = uses.last().map_or(BlockRef { volume, ..BlockRef::default() }, |(block, _)| *block);
            let page = self.meta.blocks(after).await?;
            let whole = page.len() == BLOCKS_PER_REPLY;
            let its = page.iter().take_while(|(block, _)| block.volume == volume).count();
            uses.extend_from_slice(&page[..its]);
            sleep(PAGE_PAUSE).await;
            if !whole || its < page.len() {
                return Ok(uses);
            }
        }
    }

    /// What is live of a block.
    async fn source(&self, candidate: Candidate) -> FsResult<Found> {
        let Candidate { block, live, .. } = candidate;
        let (payload, summary_len) = match self.store.whole(block).await {
            Ok(whole) => whole,
            Err(FsError::NotFound) => return Ok(Found::Nothing),
            // Damage is told where it is read.
            Err(FsError::Corrupt | FsError::Io) => return Ok(Found::Unmovable(live)),
            Err(error) => return Err(error),
        };
        let Some(entries) = entries(&payload, summary_len) else {
            return Ok(Found::Unmovable(live));
        };
        match self.live(block, &entries).await {
            Ok(pieces) => Ok(candidate.found(pieces, &payload)),
            Err(FsError::TooBig) => Ok(Found::Unmovable(live)),
            Err(error) => Err(error),
        }
    }

    /// The block is not looked at again as long as so many bytes of it are live.
    fn leave(&mut self, block: BlockRef, live: u64) {
        if self.unmovable.len() < UNMOVABLE_MAX {
            self.unmovable.insert(block, live);
        }
    }

    async fn live(&self, block: BlockRef, entries: &[SummaryEntry]) -> FsResult<LivePieces> {
        let mut all = LivePieces::default();
        for asked in ranges(entries).chunks(BLOCKS_PER_REPLY) {
            let LivePieces { live, pieces } = self.meta.live_pieces(block, asked.to_vec()).await?;
            all.live = live;
            all.pieces.extend(pieces);
        }
        Ok(all)
    }

    /// Stores what is live once more, and has it changed over. How many blocks that were.
    async fn clean(&self, batch: Batch) -> FsResult<usize> {
        let begin = Instant::now();
        let (blocks, gain, cost) = (batch.len(), batch.gain(), batch.cost());
        let Some(packed) = batch.pack() else { return Ok(0) };
        let block = self.store.put(packed.put.clone()).await?;
        // Once: without an answer it may be applied later still, and the new block must stay for that.
        self.meta.relocate(packed.stored_as(block)).await?;
        debug!("cleaned {blocks} blocks: {} KiB are given back", gain >> 10);
        sleep(begin.elapsed().mul_f64(cost).min(REST_MAX)).await;
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_follow_what_is_stored_and_otherwise_leave_time() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        assert!(pace.is_due(begin, 0), "the first");
        let second = Duration::from_secs(1);
        let passed = |moved, looked| Passed { moved, looked };
        pace.passed(begin, 1000, passed(0, second));
        let now = begin + second * 4;
        assert!(!pace.is_due(now, 1000));
        assert!(!pace.is_due(now, 1000 + CHURN - 1));
        assert!(pace.is_due(now, 1000 + CHURN));
        assert!(!pace.is_due(begin + second, 1000 + CHURN), "not all of the time");
        assert!(!pace.is_due(begin + EVERY - second, 1000));
        assert!(pace.is_due(begin + EVERY, 1000));
        pace.passed(begin, 1000, passed(0, second * 10));
        assert!(!pace.is_due(begin + second * 199, 1000), "a long pass is followed by a long pause");
        pace.passed(begin, 1000, passed(1, second));
        assert!(pace.is_due(now, 1000), "where something was moved there is more, perhaps");
    }
}
