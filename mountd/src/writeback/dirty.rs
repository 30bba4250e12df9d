//! Which stretches of a file are written but not committed, and where in the write buffer their bytes
//! are. Newer writes replace older ones; a truncate or a hole cuts them: what is left when the block has
//! been stored is what its commit makes visible.

use std::collections::BTreeMap;

/// A place in the write buffer: byte `at` of segment `segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub segment: u64,
    pub at: u32,
}

impl Slot {
    fn skip(self, bytes: u64) -> Slot {
        let bytes = u32::try_from(bytes).expect("an interval is at most one segment long");
        Slot { segment: self.segment, at: self.at + bytes }
    }
}

/// A stretch of dirty bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirty {
    pub offset: u64,
    pub length: u64,
    pub slot: Slot,
    /// The inline commit that carries these bytes at the moment; 0: none. They are not overwritten in place.
    pub commit: u64,
    /// The server has these bytes, inside its metadata: they are here only to be moved into a block.
    pub stored: bool,
}

impl Dirty {
    /// First byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    fn clip(self, start: u64, end: u64) -> Dirty {
        let from = self.offset.max(start);
        let to = self.end().min(end);
        Dirty { offset: from, length: to - from, slot: self.slot.skip(from - self.offset), ..self }
    }
}

/// The dirty stretches of one file, by offset, without overlaps.
#[derive(Debug, Default)]
pub struct DirtyMap {
    map: BTreeMap<u64, Dirty>,
    bytes: u64,
}

impl DirtyMap {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Dirty bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stretches that the server does not have in any form, in order.
    pub fn unstored(&self) -> impl Iterator<Item = &Dirty> {
        self.iter().filter(|dirty| !dirty.stored)
    }

    /// Bytes that the server does not have in any form.
    #[must_use]
    pub fn unstored_bytes(&self) -> u64 {
        self.unstored().map(|dirty| dirty.length).sum()
    }

    /// Whether there are bytes that are only to be moved.
    #[must_use]
    pub fn has_stored(&self) -> bool {
        self.iter().any(|dirty| dirty.stored)
    }

    /// Number of stretches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are bytes that the server does not have in any form.
    #[must_use]
    pub fn has_unstored(&self) -> bool {
        self.unstored().next().is_some()
    }

    /// End of the last stretch that the server does not have.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.map.values().rev().find(|dirty| !dirty.stored).map_or(0, Dirty::end)
    }

    /// All stretches in order.
    pub fn iter(&self) -> impl Iterator<Item = &Dirty> {
        self.map.values()
    }

    /// The newest segment that holds bytes of this file which the server does not have.
    #[must_use]
    pub fn newest_segment(&self) -> Option<u64> {
        self.unstored().map(|dirty| dirty.slot.segment).max()
    }

    /// Stretches within `start..end`, cut to it, in order.
    pub fn range(&self, start: u64, end: u64) -> impl Iterator<Item = Dirty> + '_ {
        let first = self.map.range(..start).next_back().map(|(_, dirty)| *dirty).filter(|d| d.end() > start);
        let rest = if start < end { Some(self.map.range(start..end).map(|(_, dirty)| *dirty)) } else { None };
        first
            .filter(|_| start < end)
            .into_iter()
            .chain(rest.into_iter().flatten())
            .map(move |dirty| dirty.clip(start, end))
    }

    /// Where `offset..offset + length` lies in `segment`, if one stretch covers it that no commit carries
    /// and that the server does not have.
    #[must_use]
    pub fn in_place(&self, offset: u64, length: u64, segment: u64) -> Option<u32> {
        let (_, dirty) = self.map.range(..=offset).next_back()?;
        let free = dirty.commit == 0 && !dirty.stored;
        let fits = dirty.slot.segment == segment && free && dirty.end() >= offset + length;
        fits.then(|| dirty.slot.skip(offset - dirty.offset).at)
    }

    /// Adds a stretch that was written; what it replaces goes to `freed` as (segment, bytes).
    pub fn insert(&mut self, offset: u64, length: u64, slot: Slot, freed: &mut dyn FnMut(u64, u64)) {
        self.put(Dirty { offset, length, slot, commit: 0, stored: false }, freed);
    }

    /// Adds a stretch that the server has inside its metadata, where nothing is dirty.
    pub fn insert_stored(&mut self, offset: u64, length: u64, slot: Slot) {
        debug_assert!(self.first_in(offset, offset + length).is_none(), "newer bytes are there");
        self.put(Dirty { offset, length, slot, commit: 0, stored: true }, &mut |_, _| ());
    }

    fn put(&mut self, new: Dirty, freed: &mut dyn FnMut(u64, u64)) {
        let Dirty { offset, length, slot, .. } = new;
        self.remove(offset, offset + length, freed);
        self.bytes += length;
        if let Some((_, last)) = self.map.range_mut(..offset).next_back() {
            let follows = last.end() == offset
                && last.commit == 0
                && last.stored == new.stored
                && last.slot.segment == slot.segment
                && last.slot.skip(last.length).at == slot.at;
            if follows {
                last.length += length;
                return;
            }
        }
        self.map.insert(offset, new);
    }

    /// Forgets `start..end`.
    pub fn remove(&mut self, start: u64, end: u64, freed: &mut dyn FnMut(u64, u64)) {
        while let Some(found) = self.first_in(start, end) {
            let gone = found.clip(start, end);
            self.map.remove(&found.offset);
            if found.offset < start {
                self.map.insert(found.offset, found.clip(found.offset, start));
            }
            if found.end() > end {
                let tail = found.clip(end, found.end());
                self.map.insert(tail.offset, tail);
            }
            self.bytes -= gone.length;
            freed(gone.slot.segment, gone.length);
        }
    }

    /// Forgets what the server has of `start..end`: it stays inside the metadata.
    pub fn remove_stored(&mut self, start: u64, end: u64, freed: &mut dyn FnMut(u64, u64)) {
        let stored: Vec<Dirty> = self.range(start, end).filter(|dirty| dirty.stored).collect();
        stored.into_iter().for_each(|dirty| self.remove(dirty.offset, dirty.end(), freed));
    }

    fn first_in(&self, start: u64, end: u64) -> Option<Dirty> {
        if start >= end {
            return None;
        }
        let before = self.map.range(..start).next_back().map(|(_, dirty)| *dirty).filter(|d| d.end() > start);
        before.or_else(|| self.map.range(start..end).next().map(|(_, dirty)| *dirty))
    }

    /// What is left of a stretch that was written as `offset..offset + length` at `slot`.
    pub fn remaining(&self, offset: u64, length: u64, slot: Slot) -> impl Iterator<Item = Dirty> + '_ {
        self.range(offset, offset + length)
            .filter(move |dirty| dirty.slot == slot.skip(dirty.offset - offset))
    }

    /// A stretch that was written as `offset..offset + length` at `slot` is committed: what is left of it is clean.
    pub fn clean(&mut self, offset: u64, length: u64, slot: Slot, freed: &mut dyn FnMut(u64, u64)) {
        let done: Vec<Dirty> = self.remaining(offset, length, slot).collect();
        for dirty in done {
            self.remove(dirty.offset, dirty.end(), freed);
        }
    }

    /// Marks all that is not stored as carried by the inline commit `id`.
    pub fn mark(&mut self, id: u64) {
        for dirty in self.map.values_mut().filter(|dirty| !dirty.stored) {
            dirty.commit = id;
        }
    }

    /// The inline commit `id` has been applied (what is left of it is clean) or has failed.
    pub fn settle(&mut self, id: u64, applied: bool, freed: &mut dyn FnMut(u64, u64)) {
        let marked: Vec<Dirty> = self.map.values().filter(|dirty| dirty.commit == id).copied().collect();
        for dirty in marked {
            if applied {
                self.remove(dirty.offset, dirty.end(), freed);
            } else if let Some(kept) = self.map.get_mut(&dirty.offset) {
                kept.commit = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(segment: u64, at: u32) -> Slot {
        Slot { segment, at }
    }

    #[test]
    fn a_newer_write_cuts_an_older_one_in_two() {
        let mut map = DirtyMap::default();
        let mut freed = Vec::new();
        map.insert(0, 100, slot(1, 0), &mut |segment, bytes| freed.push((segment, bytes)));
        map.insert(40, 20, slot(2, 7), &mut |segment, bytes| freed.push((segment, bytes)));
        assert_eq!(freed, [(1, 20)]);
        assert_eq!(map.bytes(), 100);
        let parts: Vec<_> = map.range(30, 70).map(|d| (d.offset, d.length, d.slot)).collect();
        assert_eq!(parts, [(30, 10, slot(1, 30)), (40, 20, slot(2, 7)), (60, 10, slot(1, 60))]);
    }

    #[test]
    fn what_follows_in_file_and_buffer_is_one_stretch() {
        let mut map = DirtyMap::default();
        map.insert(0, 10, slot(1, 50), &mut |_, _| ());
        map.insert(10, 10, slot(1, 60), &mut |_, _| ());
        assert_eq!(map.len(), 1);
        map.insert(20, 10, slot(1, 71), &mut |_, _| ());
        assert_eq!(map.len(), 2);
        assert_eq!(map.in_place(5, 15, 1), Some(55));
        assert_eq!(map.in_place(5, 16, 1), None);
        assert_eq!(map.in_place(5, 5, 2), None);
    }

    #[test]
    fn only_what_is_left_becomes_clean() {
        let mut map = DirtyMap::default();
        map.insert(0, 100, slot(1, 0), &mut |_, _| ());
        map.insert(0, 50, slot(2, 0), &mut |_, _| ());
        map.remove(90, 200, &mut |_, _| ());
        let left: Vec<_> = map.remaining(0, 100, slot(1, 0)).map(|d| (d.offset, d.length)).collect();
        assert_eq!(left, [(50, 40)]);
        map.clean(0, 100, slot(1, 0), &mut |_, _| ());
        assert_eq!((map.bytes(), map.len()), (50, 1));
    }

    #[test]
    fn stored_bytes_are_in_no_inline_commit_and_not_overwritten_in_place() {
        let mut map = DirtyMap::default();
        map.insert_stored(0, 10, slot(1, 0));
        map.insert(10, 10, slot(1, 10), &mut |_, _| ());
        assert_eq!(map.len(), 2, "they are not one stretch");
        map.insert_stored(20, 10, slot(1, 20));
        assert_eq!((map.bytes(), map.unstored_bytes()), (30, 10));
        assert_eq!(map.in_place(0, 10, 1), None);
        map.mark(3);
        map.settle(3, true, &mut |_, _| ());
        assert_eq!((map.bytes(), map.unstored_bytes()), (20, 0));
        assert_eq!((map.has_unstored(), map.end(), map.newest_segment()), (false, 0, None));
        map.insert(5, 2, slot(1, 30), &mut |_, _| ());
        let left: Vec<_> = map.iter().map(|d| (d.offset, d.length, d.stored)).collect();
        assert_eq!(left, [(0, 5, true), (5, 2, false), (7, 3, true), (20, 10, true)]);
        let mut freed = Vec::new();
        map.remove_stored(4, 25, &mut |segment, bytes| freed.push((segment, bytes)));
        assert_eq!(freed, [(1, 1), (1, 3), (1, 5)]);
        let left: Vec<_> = map.iter().map(|d| (d.offset, d.length, d.stored)).collect();
        assert_eq!(left, [(0, 4, true), (5, 2, false), (25, 5, true)]);
    }

    #[test]
    fn bytes_under_an_inline_commit_are_not_overwritten_in_place() {
        let mut map = DirtyMap::default();
        map.insert(0, 10, slot(1, 0), &mut |_, _| ());
        map.mark(7);
        assert_eq!(map.in_place(0, 10, 1), None);
        map.insert(0, 4, slot(1, 10), &mut |_, _| ());
        map.settle(7, true, &mut |_, _| ());
        assert_eq!((map.bytes(), map.len()), (4, 1));
    }
}
