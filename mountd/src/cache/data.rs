//! Verified pieces of blocks, least recently used first out. Blocks never change, so a piece is right
//! for ever. Readers that miss the same piece wait for one fetch; blocks that are read from front to back are
//! fetched in longer and longer runs, which also brings the neighbours of small files along.

use crate::client::DataClient;
use crate::fuse::ops::ReadData;
use bytes::Bytes;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::limits::PIECE;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

const SHARDS: usize = 8;
/// Longest run of pieces fetched by one call: 1 MiB.
const RUN_MAX: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    volume: VolumeId,
    sequence: u32,
    piece: u32,
}

/// One fetch that others may wait for.
type Flight = watch::Receiver<Option<FsResult<Fetched>>>;

#[derive(Clone, Debug)]
struct Fetched {
    first: u32,
    bytes: Bytes,
}

#[derive(Debug)]
struct Shard {
    pieces: LruCache<Key, Bytes>,
    bytes: usize,
    flights: HashMap<Key, Flight>,
}

/// The read cache over a [`DataClient`].
#[derive(Debug)]
pub struct PieceCache<D> {
    client: Arc<D>,
    runtime: Handle,
    // A block's pieces share a shard. Never held over I/O.
    shards: Vec<Mutex<Shard>>,
    shard_bytes: usize,
}

/// Part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    pub block: BlockRef,
    pub at: u32,
    pub length: u32,
}

impl BlockRange {
    fn pieces(&self) -> std::ops::RangeInclusive<u32> {
        let piece = u32::try_from(PIECE).expect("a piece is 64 KiB");
        self.at / piece..=(self.at + self.length.max(1) - 1) / piece
    }

    fn key(&self, piece: u32) -> Key {
        Key { volume: self.block.volume, sequence: self.block.sequence, piece }
    }

    /// Adds what `bytes` of piece `piece` holds of this range to `out`; false if it ends too early.
    fn take(&self, piece: u32, bytes: &Bytes, out: &mut ReadData) -> bool {
        let start = piece as usize * PIECE;
        let from = (self.at as usize).max(start) - start;
        let to = (self.at as usize + self.length as usize).min(start + PIECE) - start;
        if to > bytes.len() {
            return false;
        }
        out.push(bytes.slice(from..to));
        true
    }
}

impl<D: DataClient> PieceCache<D> {
    /// A cache of at most `bytes` bytes.
    #[must_use]
    pub fn new(client: Arc<D>, runtime: Handle, bytes: usize) -> PieceCache<D> {
        let shard = || Mutex::new(Shard { pieces: LruCache::unbounded(), bytes: 0, flights: HashMap::new() });
        PieceCache {
            client,
            runtime,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            shard_bytes: bytes / SHARDS,
        }
    }

    fn shard(&self, block: BlockRef) -> &Mutex<Shard> {
        let mixed = block.sequence.wrapping_add(block.volume.0.wrapping_mul(0x9E37_79B1));
        &self.shards[mixed as usize % SHARDS]
    }

    /// Adds the range to `out` if all of it is here.
    pub fn try_read(&self, range: BlockRange, out: &mut ReadData) -> bool {
        let mut shard = self.shard(range.block).lock();
        range.pieces().all(|piece| {
            shard.pieces.get(&range.key(piece)).is_some_and(|bytes| range.take(piece, bytes, out))
        })
    }

    /// Adds the range to `out`, fetching what is not here.
    pub async fn read(self: &Arc<Self>, range: BlockRange, out: &mut ReadData) -> FsResult<()> {
        let plan = self.plan(range);
        for (piece, source) in range.pieces().zip(plan) {
            let bytes = match source {
                Source::Here(bytes) => bytes,
                Source::Coming(flight) => wait(flight, piece).await?,
            };
            if !range.take(piece, &bytes, out) {
                return Err(FsError::Corrupt);
            }
        }
        Ok(())
    }

    /// Starts fetching what is not here of the range.
    pub fn prefetch(self: &Arc<Self>, range: BlockRange) {
        drop(self.plan(range));
    }

    fn plan(self: &Arc<Self>, range: BlockRange) -> Vec<Source> {
        let mut shard = self.shard(range.block).lock();
        let mut sources = Vec::new();
        let mut next = *range.pieces().start();
        let last = *range.pieces().end();
        while next <= last {
            let key = range.key(next);
            if let Some(bytes) = shard.pieces.get(&key) {
                sources.push(Source::Here(bytes.clone()));
                next += 1;
            } else if let Some(flight) = shard.flights.get(&key) {
                sources.push(Source::Coming(flight.clone()));
                next += 1;
            } else {
                let run = shard.run(&range, next, last);
                let flight = self.launch(&mut shard, range, next, run);
                let wanted = run.min(last - next + 1);
                sources.extend((0..wanted).map(|_| Source::Coming(flight.clone())));
                next += wanted;
            }
        }
        sources
    }

    /// Fetches `count` pieces from `first` on, in a task of its own: who asked may go away.
    fn launch(self: &Arc<Self>, shard: &mut Shard, range: BlockRange, first: u32, count: u32) -> Flight {
        let (sender, flight) = watch::channel(None);
        for piece in first..first + count {
            shard.flights.insert(range.key(piece), flight.clone());
        }
        let cache = Arc::clone(self);
        self.runtime.spawn(async move {
            let piece = u32::try_from(PIECE).expect("a piece is 64 KiB");
            let got = cache.client.get(range.block, first * piece, count * piece).await;
            let result = got.map(|(offset, bytes)| Fetched { first: offset / piece, bytes });
            cache.land(range, first, count, result.as_ref().ok());
            sender.send_replace(Some(result));
        });
        flight
    }

    fn land(&self, range: BlockRange, first: u32, count: u32, fetched: Option<&Fetched>) {
        let mut shard = self.shard(range.block).lock();
        for piece in first..first + count {
            let key = range.key(piece);
            shard.flights.remove(&key);
            if let Some(bytes) = fetched.and_then(|fetched| fetched.piece(piece)) {
                shard.insert(key, bytes);
            }
        }
        let limit = self.shard_bytes;
        while shard.bytes > limit {
            let Some((_, bytes)) = shard.pieces.pop_lru() else { break };
            shard.bytes -= bytes.len();
        }
    }

    /// Bytes of pieces held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

enum Source {
    Here(Bytes),
    Coming(Flight),
}

async fn wait(mut flight: Flight, piece: u32) -> FsResult<Bytes> {
    let landed = flight.wait_for(Option::is_some).await.map_err(|_ended| FsError::Io)?.clone();
    let fetched = landed.ok_or(FsError::Io)??;
    fetched.piece(piece).ok_or(FsError::Corrupt)
}

impl Fetched {
    fn piece(&self, piece: u32) -> Option<Bytes> {
        let start = piece.checked_sub(self.first)? as usize * PIECE;
        let end = (start + PIECE).min(self.bytes.len());
        (start < end).then(|| self.bytes.slice(start..end))
    }
}

impl Shard {
    fn insert(&mut self, key: Key, bytes: Bytes) {
        self.bytes += bytes.len();
        if let Some((_, old)) = self.pieces.push(key, bytes) {
            self.bytes -= old.len();
        }
    }

    /// How many pieces to fetch from `first` on: what is asked for, or, if the block is being read
    /// from front to back, as much again as has been read of it so far.
    fn run(&self, range: &BlockRange, first: u32, last: u32) -> u32 {
        let mut behind = 0;
        while behind < RUN_MAX && behind < first && self.pieces.contains(&range.key(first - behind - 1)) {
            behind += 1;
        }
        let wanted = (last - first + 1).max(behind).min(RUN_MAX);
        let is_free = |piece: u32| {
            let key = range.key(piece);
            !self.pieces.contains(&key) && !self.flights.contains_key(&key)
        };
        (0..wanted).take_while(|ahead| is_free(first + ahead)).fold(0, |count, _| count + 1)
    }
}
