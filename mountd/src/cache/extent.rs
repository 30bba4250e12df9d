//! The extents of an open file as far as they are known here. Valid while this mount holds the file's
//! data lease: it then speaks of the file as it is after the last operation that was *submitted*, which is
//! why reads look at dirty data first and why an answer of the server is taken in only while
//! none is under way.

use cairn_common::namespace::op::{Extent, ExtentData};
use std::collections::BTreeMap;

/// Most extents kept per file; a file with more starts again (64 bytes each).
const EXTENTS_MAX: usize = 256 << 10;

/// What stands at some place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Bytes `skip..skip + length` of this extent's data.
    Extent {
        data: ExtentData,
        skip: u64,
        length: u64,
    },
    Hole {
        length: u64,
    },
    /// Not known here: ask the server.
    Unknown {
        length: u64,
    },
}

#[derive(Clone, Debug)]
struct Stored {
    length: u64,
    data: ExtentData,
    /// Bytes cut off at the front since `data` was stored.
    skip: u64,
}

/// Extents of one file.
#[derive(Debug, Default)]
pub struct ExtentCache {
    map: BTreeMap<u64, Stored>,
    /// Known ranges: start to end. What has no extent in them is a hole.
    known: BTreeMap<u64, u64>,
    bytes: u64,
    /// Those of them that are in the metadata itself.
    inline: u64,
}

impl Stored {
    fn is_inline(&self) -> bool {
        matches!(self.data, ExtentData::Inline(_))
    }
}

impl ExtentCache {
    /// A file without any extent, all of it known.
    #[must_use]
    pub fn empty_file() -> ExtentCache {
        ExtentCache { known: BTreeMap::from([(0, u64::MAX)]), ..ExtentCache::default() }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = ExtentCache::default();
    }

    /// Bytes that extents hold, if the whole file is known.
    #[must_use]
    pub fn allocated(&self) -> Option<u64> {
        let whole = self.known.first_key_value() == Some((&0, &u64::MAX));
        whole.then_some(self.bytes)
    }

    /// Bytes in extents known here whose data is in the metadata itself.
    #[must_use]
    pub fn inline_bytes(&self) -> u64 {
        self.inline
    }

    /// Those bytes: offset, length.
    #[must_use]
    pub fn inline_ranges(&self) -> Vec<(u64, u64)> {
        let inline = self.map.iter().filter(|(_, stored)| stored.is_inline());
        inline.map(|(&offset, stored)| (offset, stored.length)).collect()
    }

    /// Takes in a page of the server: all extents in `start..end`.
    pub fn learn(&mut self, start: u64, end: u64, extents: &[Extent]) {
        if self.map.len() + extents.len() > EXTENTS_MAX {
            self.clear();
        }
        self.hole(start, end);
        for extent in extents {
            let from = extent.offset.max(start);
            let to = extent.offset.saturating_add(extent.length).min(end);
            if from < to {
                let stored =
                    Stored { length: to - from, data: extent.data.clone(), skip: from - extent.offset };
                self.bytes += stored.length;
                self.inline += if stored.is_inline() { stored.length } else { 0 };
                self.map.insert(from, stored);
            }
        }
    }

    /// An operation of ours puts `extent` in place of what was there.
    pub fn replace(&mut self, extent: &Extent) {
        self.learn(extent.offset, extent.offset + extent.length, std::slice::from_ref(extent));
    }

    /// An operation of ours makes `start..end` a hole.
    pub fn hole(&mut self, start: u64, end: u64) {
        self.cut(start, end);
        self.add_known(start, end);
    }

    /// What `start..end` holds is not known any more.
    pub fn forget(&mut self, start: u64, end: u64) {
        self.cut(start, end);
        while let Some((from, to)) = self.overlapping_known(start, end) {
            self.known.remove(&from);
            if from < start {
                self.known.insert(from, start);
            }
            if to > end {
                self.known.insert(end, to);
            }
        }
    }

    /// Visits `start..end` in order, in pieces, until `visit` answers false.
    pub fn scan(&self, start: u64, end: u64, visit: &mut dyn FnMut(u64, Found) -> bool) {
        let mut at = start;
        while at < end {
            let (found, length) = self.at(at, end);
            if !visit(at, found) {
                return;
            }
            at += length;
        }
    }

    /// Bytes of `start..end` that no extent holds; unknown ones count as such.
    #[must_use]
    pub fn uncovered(&self, start: u64, end: u64) -> u64 {
        let mut bytes = 0;
        self.scan(start, end, &mut |_, found| {
            if let Found::Hole { length } | Found::Unknown { length } = found {
                bytes += length;
            }
            true
        });
        bytes
    }

    fn at(&self, at: u64, end: u64) -> (Found, u64) {
        if let Some((&offset, stored)) = self.map.range(..=at).next_back()
            && offset + stored.length > at
        {
            let length = (offset + stored.length).min(end) - at;
            let skip = stored.skip + (at - offset);
            return (Found::Extent { data: stored.data.clone(), skip, length }, length);
        }
        let next = self.map.range(at..end).next().map_or(end, |(&offset, _)| offset);
        match self.known.range(..=at).next_back() {
            Some((_, &to)) if to > at => {
                let length = to.min(next) - at;
                (Found::Hole { length }, length)
            }
            _ => {
                let known = self.known.range(at..end).next().map_or(end, |(&from, _)| from);
                let length = known.min(next) - at;
                (Found::Unknown { length }, length)
            }
        }
    }

    fn cut(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some((&offset, stored)) = self.map.range(..start).next_back()
            && offset + stored.length > start
        {
            let whole = stored.clone();
            self.lose(&whole, (offset + whole.length).min(end) - start);
            if offset + whole.length > end {
                let skip = whole.skip + (end - offset);
                let tail = Stored { length: offset + whole.length - end, data: whole.data.clone(), skip };
                self.map.insert(end, tail);
            }
            self.map.insert(offset, Stored { length: start - offset, ..whole });
        }
        while let Some((&offset, _)) = self.map.range(start..end).next() {
            let Some(stored) = self.map.remove(&offset) else { break };
            let stop = offset + stored.length;
            self.lose(&stored, stop.min(end) - offset);
            if stop > end {
                let skip = stored.skip + (end - offset);
                self.map.insert(end, Stored { length: stop - end, data: stored.data, skip });
            }
        }
    }

    fn lose(&mut self, stored: &Stored, bytes: u64) {
        self.bytes -= bytes;
        self.inline -= if stored.is_inline() { bytes } else { 0 };
    }

    fn overlapping_known(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        self.known.range(..end).next_back().map(|(&from, &to)| (from, to)).filter(|&(_, to)| to > start)
    }

    fn add_known(&mut self, start: u64, end: u64) {
        let (mut from, mut to) = (start, end);
        // Neighbours that touch become one.
        while let Some((&before, &stop)) = self.known.range(..=to).next_back() {
            if stop < from {
                break;
            }
            self.known.remove(&before);
            from = from.min(before);
            to = to.max(stop);
        }
        self.known.insert(from, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn inline(offset: u64, length: u64, byte: u8) -> Extent {
        let data = ExtentData::Inline(Bytes::from(vec![byte; usize::try_from(length).unwrap_or(0)]));
        Extent { offset, length, data }
    }

    fn shape(cache: &ExtentCache, start: u64, end: u64) -> Vec<(u64, char, u64)> {
        let mut parts = Vec::new();
        cache.scan(start, end, &mut |at, found| {
            parts.push(match found {
                Found::Extent { length, .. } => (at, 'e', length),
                Found::Hole { length } => (at, 'h', length),
                Found::Unknown { length } => (at, 'u', length),
            });
            true
        });
        parts
    }

    #[test]
    fn holes_and_unknown_ranges_are_told_apart() {
        let mut cache = ExtentCache::default();
        cache.learn(0, 100, &[inline(10, 20, 1)]);
        assert_eq!(shape(&cache, 0, 120), [(0, 'h', 10), (10, 'e', 20), (30, 'h', 70), (100, 'u', 20)]);
        assert_eq!(cache.allocated(), None);
        cache.learn(100, u64::MAX, &[]);
        assert_eq!(cache.allocated(), Some(20));
    }

    #[test]
    fn a_replaced_middle_keeps_both_ends() {
        let mut cache = ExtentCache::empty_file();
        cache.replace(&inline(0, 100, 1));
        cache.replace(&inline(40, 20, 2));
        assert_eq!(cache.allocated(), Some(100));
        let mut skips = Vec::new();
        cache.scan(0, 100, &mut |_, found| {
            if let Found::Extent { skip, length, .. } = found {
                skips.push((skip, length));
            }
            true
        });
        assert_eq!(skips, [(0, 40), (0, 20), (60, 40)]);
        cache.hole(50, u64::MAX);
        assert_eq!(cache.allocated(), Some(50));
        assert_eq!(cache.uncovered(45, 60), 10);
        assert_eq!(cache.inline_bytes(), 50);
        assert_eq!(cache.inline_ranges(), [(0, 40), (40, 10)]);
        cache.replace(&Extent { offset: 0, length: 50, data: ExtentData::Reserved });
        assert_eq!(cache.inline_bytes(), 0);
    }

    #[test]
    fn a_forgotten_range_is_unknown() {
        let mut cache = ExtentCache::empty_file();
        cache.replace(&inline(0, 100, 1));
        cache.forget(50, 60);
        assert_eq!(shape(&cache, 0, 100), [(0, 'e', 50), (50, 'u', 10), (60, 'e', 40)]);
        assert_eq!(cache.allocated(), None);
        cache.learn(50, 60, &[]);
        assert_eq!(cache.allocated(), Some(90));
    }
}
