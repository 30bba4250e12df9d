//! What is worth cleaning, and how what is live is packed. Pure.

use super::super::volume::format::PAGE;
use bytes::Bytes;
use cairn_common::ids::{BlockRef, SessionId};
use cairn_common::limits::{BLOCK_MAX, FRAME_PAYLOAD_MAX};
use cairn_common::namespace::op::Relocation;
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::{PutRequest, VolumeStat};
use cairn_common::proto::meta::{FileRange, LivePiece, LivePieces, RelocateRequest};
use cairn_common::summary::{self, SummaryEntry};
use cairn_common::wire::Payload;
use cairn_common::wire::checksum::piece_checksums;

/// Most stretches that one new block has: all of them are changed over in one operation, while which nothing else is applied.
/// A single block of more goes alone.
pub const PIECES_MAX: usize = 4096;
/// Most blocks whose live bytes are gathered before they are stored.
pub const SOURCES_MAX: usize = 64;

/// True if less than half of a block is live: moving it gives back more than it takes. Below half, the space that is taken
/// stays under twice of what is live, and moving costs at most one byte written for each that is given back.
#[must_use]
pub fn is_sparse(usage: BlockUse) -> bool {
    usage.live.saturating_mul(2) < u64::from(usage.length)
}

/// A block that is worth cleaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub block: BlockRef,
    /// Bytes of it that files use.
    pub live: u64,
    /// Bytes that it takes, and with it what goes when it goes.
    pub taken: u64,
}

/// Blocks of a volume to clean: those that are sparse. All, if the headers that deleted blocks leave behind in a sealed volume take
/// more than what is live in it: without blocks, the volume goes, and so each of them has its share of the headers.
#[must_use]
pub fn candidates(uses: &[(BlockRef, BlockUse)], volume: &VolumeStat) -> Vec<Candidate> {
    let live: u64 = uses.iter().map(|(_, usage)| usage.live).sum();
    let headers = volume.deleted.saturating_mul(PAGE as u64);
    let all = volume.sealed && headers > live;
    let share = if all { headers / (uses.len() as u64).max(1) } else { 0 };
    let candidate = |(block, usage): &(BlockRef, BlockUse)| Candidate {
        block: *block,
        live: usage.live,
        taken: u64::from(usage.length) + share,
    };
    uses.iter().filter(|(_, usage)| all || is_sparse(*usage)).map(candidate).collect()
}

/// Keeps the `max` blocks of which the smallest part is live, those first.
pub fn best(sparse: &mut Vec<Candidate>, max: usize) {
    // In thousandths, so that all are compared as whole numbers.
    sparse.sort_by_key(|candidate| {
        (candidate.live.saturating_mul(1000) / candidate.taken.max(1), candidate.block)
    });
    sparse.truncate(max);
}

/// The summary at the end of a payload; `None` if there is none, or one of another version.
#[must_use]
pub fn entries(payload: &[u8], summary_len: u32) -> Option<Vec<SummaryEntry>> {
    let begin = payload.len().checked_sub(summary_len as usize)?;
    summary::decode(&payload[begin..]).ok()
}

/// The stretches of files that a block was written for, each byte of a file once: one that was written twice within the
/// block is in its summary twice.
#[must_use]
pub fn ranges(entries: &[SummaryEntry]) -> Vec<FileRange> {
    let mut sorted: Vec<_> = entries.iter().map(|entry| (entry.ino, entry.offset, entry.length)).collect();
    sorted.sort_unstable();
    let mut ranges: Vec<FileRange> = Vec::new();
    for (ino, offset, length) in sorted {
        let end = offset.saturating_add(length.into());
        let last = ranges.last_mut().filter(|last| last.ino == ino && offset < end_of(last));
        match last {
            // All stretches of a block together are shorter than a block.
            Some(last) => {
                last.length = u32::try_from(end.max(end_of(last)) - last.offset).unwrap_or(u32::MAX);
            }
            None => ranges.push(FileRange { ino, offset, length }),
        }
    }
    ranges
}

fn end_of(range: &FileRange) -> u64 {
    range.offset.saturating_add(range.length.into())
}

/// What is live of a block.
#[derive(Clone, Debug)]
pub struct Source {
    block: BlockRef,
    pieces: Vec<LivePiece>,
    /// Their bytes, one behind the other.
    bytes: Vec<u8>,
}

impl Source {
    /// `None` unless the pieces are all that is live of the block, and lie within its payload: what a copy shares is not found by
    /// the summary, and the block would stay.
    #[must_use]
    pub fn new(block: BlockRef, found: LivePieces, payload: &[u8]) -> Option<Source> {
        let LivePieces { live, pieces } = found;
        let sum: u64 = pieces.iter().map(|piece| u64::from(piece.length)).sum();
        if live != sum || live > BLOCK_MAX as u64 {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(live).ok()?);
        for piece in &pieces {
            let (at, length) = (piece.at as usize, piece.length as usize);
            bytes.extend_from_slice(payload.get(at..at.checked_add(length)?)?);
        }
        Some(Source { block, pieces, bytes })
    }

    /// Bytes that it takes when it is moved: what is live, and its part of a summary, which is more than that for the smallest files.
    fn packed(&self) -> u64 {
        packed_len(self.bytes.len(), self.pieces.len())
    }

    /// True if moving it gives back a quarter at least of the bytes that it takes now: else the same would be done again and again.
    #[must_use]
    pub fn is_worth_moving(&self, taken: u64) -> bool {
        self.packed().saturating_mul(4) <= taken.saturating_mul(3)
    }
}

/// Bytes that so many live ones in so many pieces take in a new block.
fn packed_len(live: usize, pieces: usize) -> u64 {
    (live + summary::encoded_len(pieces)) as u64
}

/// What is found of a block that is worth cleaning.
#[derive(Clone, Debug)]
pub enum Found {
    Source(Source),
    /// It can't be moved as long as so many bytes of it are live.
    Unmovable(u64),
    /// It is gone meanwhile.
    Nothing,
}

impl Candidate {
    /// What the block is, now that it is known what of its payload is live.
    #[must_use]
    pub fn found(self, pieces: LivePieces, payload: &[u8]) -> Found {
        let live = pieces.live;
        if live == 0 {
            return Found::Nothing;
        }
        let source = Source::new(self.block, pieces, payload);
        let source = source.filter(|source| source.is_worth_moving(self.taken));
        source.map_or(Found::Unmovable(live), Found::Source)
    }
}

/// Live pieces of several blocks, up to one block of them.
#[derive(Debug, Default)]
pub struct Batch {
    sources: Vec<Source>,
    live: usize,
    pieces: usize,
    /// Bytes that the sources take now.
    taken: u64,
}

impl Batch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// How many blocks it comes from.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Bytes that cleaning it gives back.
    #[must_use]
    pub fn gain(&self) -> u64 {
        self.taken.saturating_sub(self.packed())
    }

    /// Bytes that are written for each byte that was taken, 0 to 1.
    #[must_use]
    pub fn cost(&self) -> f64 {
        if self.gain() > 0 { self.packed() as f64 / self.taken as f64 } else { 1.0 }
    }

    fn packed(&self) -> u64 {
        packed_len(self.live, self.pieces)
    }

    /// Whether a source fits besides what is there.
    #[must_use]
    pub fn has_room(&self, source: &Source) -> bool {
        self.is_empty()
            || self.live + source.bytes.len() <= BLOCK_MAX
                && self.pieces + source.pieces.len() <= PIECES_MAX
                && self.sources.len() < SOURCES_MAX
    }

    /// Adds a source that takes so many bytes now.
    pub fn add(&mut self, source: Source, taken: u64) {
        self.live += source.bytes.len();
        self.pieces += source.pieces.len();
        self.taken += taken;
        self.sources.push(source);
    }

    /// The new block, and what to change over once it is stored under some name: `None` if it would be above the limit of a block,
    /// which only a single source of very many pieces can be. Files lie in it one after the other, each in the order of its bytes.
    #[must_use]
    pub fn pack(self) -> Option<Packed> {
        let mut parts: Vec<(LivePiece, BlockRef, Bytes)> = Vec::with_capacity(self.pieces);
        for source in self.sources {
            let bytes = Bytes::from(source.bytes);
            let mut at = 0;
            for piece in source.pieces {
                let end = at + piece.length as usize;
                parts.push((piece, source.block, bytes.slice(at..end)));
                at = end;
            }
        }
        parts.sort_unstable_by_key(|(piece, ..)| (piece.ino, piece.offset));
        let (mut entries, mut pieces) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        let (mut content, mut at) = (Vec::with_capacity(self.live), 0);
        for (piece, from, bytes) in parts {
            let LivePiece { ino, offset, length, at: from_at } = piece;
            entries.push(SummaryEntry { ino, offset, at, length });
            pieces.push(Relocation { ino, offset, length, from, from_at, to_at: at });
            content.extend_from_slice(&bytes);
            at += length;
        }
        let summary = summary::encode(&entries);
        let summary_len = u32::try_from(summary.len()).ok()?;
        let segments = vec![Bytes::from(content), Bytes::from(summary)];
        let length = u32::try_from(segments.iter().map(Bytes::len).sum::<usize>()).ok()?;
        if length as usize > FRAME_PAYLOAD_MAX {
            return None;
        }
        let put = PutRequest {
            session: SessionId::NOBODY,
            summary_len,
            checksums: piece_checksums(&segments),
            payload: Payload::from_segments(segments),
        };
        Some(Packed { put, length, pieces })
    }
}

/// A block to store, and what of it is to be changed over then.
#[derive(Clone, Debug)]
pub struct Packed {
    pub put: PutRequest,
    length: u32,
    pieces: Vec<Relocation>,
}

impl Packed {
    /// What to ask of the metadata daemon when it is stored as `block`.
    #[must_use]
    pub fn stored_as(self, block: BlockRef) -> RelocateRequest {
        RelocateRequest { block, length: self.length, pieces: self.pieces }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
