//! Which keys of a table can't be read, when some pages of its file can't: found by reading alone, with nothing known
//! of the format but that the table is a tree, ordered by keys.
//!
//! Reading from either end until it fails leaves a gap. A read also tells which page it failed at, and that
//! decides: all keys below one page are neighbours, so if both edges of a gap fail at the same page, all between does.
//! If they fail at different ones, the key in the middle is tried. It may fail as well: then each half is a gap of its
//! own. Or it can be read: then all around it is, until that fails. No I/O here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{self, Excluded, Included, Unbounded};

pub type Key = Vec<u8>;

/// Bytes of keys of any length that the middle of two is made of: enough for an inode and the beginning of a name.
const LOOSE_WIDTH: usize = 32;
/// Readable stretches between damaged pages that are found in one table.
const ISLANDS_MAX: usize = 63;

/// How much is tried, in all tables: after each read that failed, all must be opened anew.
pub struct Effort {
    failures: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { failures: 1000 }
    }
}

impl Effort {
    fn failed(&mut self) {
        self.failures = self.failures.saturating_sub(1);
    }

    fn is_spent(&self) -> bool {
        self.failures == 0
    }
}

/// Neighbouring rows that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last key before them that was read; `None`: there is none.
    pub after: Option<Key>,
    /// The first key behind them that was read.
    pub before: Option<Key>,
    /// Where reads failed.
    pub places: BTreeSet<u64>,
    /// False if rows between could perhaps be read, as it was not looked for them to the end.
    pub complete: bool,
}

/// What one walk has read.
#[derive(Default)]
pub struct Walk {
    pub first: Option<Key>,
    pub last: Option<Key>,
    /// Where it failed, if it did not come to its end.
    pub failed: Option<u64>,
}

/// A table. Each method may be called after others have failed.
pub trait Rows {
    /// It can't be opened any more.
    type Error;
    /// Reads rows between the bounds, in the order of their keys or against it, until that fails.
    fn walk(&mut self, bounds: (Bound<&[u8]>, Bound<&[u8]>), backwards: bool) -> Result<Walk, Self::Error>;
    /// Looks for one key, which may be there or not; answers where this failed.
    fn probe(&mut self, key: &[u8]) -> Result<Option<u64>, Self::Error>;
    /// Bytes of each key, if all have as many.
    fn key_width(&mut self) -> Result<Option<usize>, Self::Error>;
}

/// Finds all gaps, in order. Reads each row that can be read once.
pub fn gaps<R: Rows>(rows: &mut R, effort: &mut Effort) -> Result<Vec<Gap>, R::Error> {
    let up = rows.walk((Unbounded, Unbounded), false)?;
    let Some(place) = up.failed else { return Ok(Vec::new()) };
    effort.failed();
    let left = Edge { key: up.last, place };
    let down = rows.walk((bound(left.key.as_ref()), Unbounded), true)?;
    // A disk that fails only now and then: by now all was read.
    let Some(place) = down.failed else { return Ok(Vec::new()) };
    effort.failed();
    let right = Edge { key: down.last, place };
    let mut search = Search { width: rows.key_width()?, rows, effort, found: Found::default() };
    search.all(Span { left: left.clone(), right: right.clone() })?;
    Ok(search.found.gaps(left, &right))
}

fn bound(key: Option<&Key>) -> Bound<&[u8]> {
    key.map_or(Unbounded, |key| Excluded(key))
}

/// Where a gap begins or ends.
#[derive(Clone)]
struct Edge {
    /// `None`: the end of the table.
    key: Option<Key>,
    /// Where a read fails that goes from there into the gap.
    place: u64,
}

#[derive(Clone)]
struct Span {
    left: Edge,
    right: Edge,
}

/// Rows between gaps.
struct Island {
    last: Key,
    /// Where reads fail below the first row, and above the last.
    below: u64,
    above: u64,
}

#[derive(Default)]
struct Found {
    /// By their first keys.
    islands: BTreeMap<Key, Island>,
    /// Where reads of these keys failed.
    failed: Vec<(Key, u64)>,
    /// What was not looked at to the end.
    left_over: Vec<Span>,
}

struct Search<'s, R> {
    rows: &'s mut R,
    width: Option<usize>,
    effort: &'s mut Effort,
    found: Found,
}

impl<R: Rows> Search<'_, R> {
    /// The widest first, so that what is left over at the end is little.
    fn all(&mut self, span: Span) -> Result<(), R::Error> {
        let mut waiting = VecDeque::from([span]);
        while let Some(span) = waiting.pop_front() {
            if span.left.place == span.right.place {
                continue;
            }
            if self.effort.is_spent() || self.found.islands.len() >= ISLANDS_MAX {
                self.found.left_over.push(span);
            } else {
                waiting.extend(self.divide(span)?);
            }
        }
        Ok(())
    }

    /// Tries the middle; what is to be looked at then.
    fn divide(&mut self, span: Span) -> Result<Vec<Span>, R::Error> {
        let Span { left, right } = span;
        let width = self.width.unwrap_or(LOOSE_WIDTH);
        let Some(middle) = middle(left.key.as_deref(), right.key.as_deref(), width) else {
            if self.width.is_none() {
                self.found.left_over.push(Span { left, right });
            }
            return Ok(Vec::new());
        };
        let Some(place) = self.rows.probe(&middle)? else { return self.island(left, right, middle) };
        self.effort.failed();
        self.found.failed.push((middle.clone(), place));
        let edge = Edge { key: Some(middle), place };
        Ok(vec![Span { left, right: edge.clone() }, Span { left: edge, right }])
    }

    /// `middle` can be read: reads all around it.
    fn island(&mut self, left: Edge, right: Edge, middle: Key) -> Result<Vec<Span>, R::Error> {
        let down = self.rows.walk((bound(left.key.as_ref()), Excluded(&middle)), true)?;
        let up = self.rows.walk((Included(&middle), bound(right.key.as_ref())), false)?;
        let mut spans = Vec::new();
        // What did not fail has come to the rows that were known before.
        if let Some(place) = down.failed {
            self.effort.failed();
            let key = Some(down.last.clone().unwrap_or_else(|| middle.clone()));
            spans.push(Span { left: left.clone(), right: Edge { key, place } });
        }
        if let Some(place) = up.failed {
            self.effort.failed();
            let key = Some(up.last.clone().unwrap_or(middle));
            spans.push(Span { left: Edge { key, place }, right: right.clone() });
        }
        if let (Some(first), Some(last)) = (down.last.or(up.first), up.last.or(down.first)) {
            let below = down.failed.unwrap_or(left.place);
            let above = up.failed.unwrap_or(right.place);
            self.found.islands.insert(first, Island { last, below, above });
        }
        Ok(spans)
    }
}

impl Found {
    /// What is between the islands.
    fn gaps(mut self, mut left: Edge, right: &Edge) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (first, island) in std::mem::take(&mut self.islands) {
            let end = Edge { key: Some(first), place: island.below };
            gaps.push(self.gap(&left, &end));
            left = Edge { key: Some(island.last), place: island.above };
        }
        gaps.push(self.gap(&left, right));
        gaps
    }

    fn gap(&self, left: &Edge, right: &Edge) -> Gap {
        let (after, before) = (left.key.clone(), right.key.clone());
        let above = |key: Option<&Key>| after.as_ref() <= key;
        let below = |key: Option<&Key>| match (key, &before) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(key), Some(before)) => key <= before,
        };
        let within = self.failed.iter().filter(|(key, _)| above(Some(key)) && below(Some(key)));
        let places = within.map(|(_, place)| *place).chain([left.place, right.place]).collect();
        let left_over =
            self.left_over.iter().any(|span| above(span.left.key.as_ref()) && below(span.right.key.as_ref()));
        Gap { after, before, places, complete: !left_over }
    }
}

/// A key of `width` bytes between two; `None`: the lowest, and the highest. `None` if there is none between.
fn middle(low: Option<&[u8]>, high: Option<&[u8]>, width: usize) -> Option<Key> {
    let byte = |key: Option<&[u8]>, otherwise: u8, at: usize| {
        u16::from(key.map_or(otherwise, |key| key.get(at).copied().unwrap_or(0)))
    };
    let mut sum = vec![0; width];
    let mut carry = 0;
    for (at, place) in sum.iter_mut().enumerate().rev() {
        let [more, rest] = (byte(low, 0, at) + byte(high, 0xff, at) + carry).to_be_bytes();
        *place = rest;
        carry = u16::from(more);
    }
    for place in &mut sum {
        let [_, half] = ((carry << 8 | u16::from(*place)) >> 1).to_be_bytes();
        carry = u16::from(*place & 1);
        *place = half;
    }
    let between = low.is_none_or(|low| low < &sum[..]) && high.is_none_or(|high| &sum[..] < high);
    between.then_some(sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// Leaves of rows, each with a page above some of them.
    struct Tree {
        rows: BTreeMap<Key, usize>,
        /// First keys of leaves, but of the first.
        separators: Vec<Key>,
        /// Leaves to the page at which reads of them fail.
        damaged: BTreeMap<usize, u64>,
        read: Vec<Key>,
    }

    impl Tree {
        fn new(leaves: usize, rng: &mut StdRng) -> Tree {
            let mut keys = BTreeSet::new();
            while keys.len() < leaves * 3 {
                keys.insert(rng.random_range(0..1_u64 << [12, 40, 63][leaves % 3]).to_be_bytes().to_vec());
            }
            let rows: BTreeMap<Key, usize> =
                keys.into_iter().enumerate().map(|(n, key)| (key, n / 3)).collect();
            let firsts = rows.keys().step_by(3).skip(1).cloned().collect();
            Tree { rows, separators: firsts, damaged: BTreeMap::new(), read: Vec::new() }
        }

        fn leaf_of(&self, key: &[u8]) -> usize {
            self.separators.iter().filter(|first| &first[..] <= key).count()
        }

        fn unreadable(&self) -> Vec<Key> {
            let damaged = self.rows.iter().filter(|(_, leaf)| self.damaged.contains_key(leaf));
            damaged.map(|(key, _)| key.clone()).collect()
        }
    }

    impl Rows for Tree {
        type Error = ();

        fn walk(&mut self, bounds: (Bound<&[u8]>, Bound<&[u8]>), backwards: bool) -> Result<Walk, ()> {
            let mut walk = Walk::default();
            let rows = self.rows.range::<[u8], _>(bounds);
            let rows: Vec<(&Key, &usize)> = if backwards { rows.rev().collect() } else { rows.collect() };
            for (key, leaf) in rows {
                if let Some(place) = self.damaged.get(leaf) {
                    walk.failed = Some(*place);
                    break;
                }
                self.read.push(key.clone());
                walk.first.get_or_insert_with(|| key.clone());
                walk.last = Some(key.clone());
            }
            Ok(walk)
        }

        fn probe(&mut self, key: &[u8]) -> Result<Option<u64>, ()> {
            Ok(self.damaged.get(&self.leaf_of(key)).copied())
        }

        fn key_width(&mut self) -> Result<Option<usize>, ()> {
            Ok(Some(8))
        }
    }

    fn within(gap: &Gap, key: &Key) -> bool {
        gap.after.as_ref().is_none_or(|after| after < key) && gap.before.as_ref().is_none_or(|end| key < end)
    }

    #[test]
    fn each_row_is_read_once_or_in_a_gap() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let leaves = rng.random_range(1..60);
            let mut tree = Tree::new(leaves, &mut rng);
            let mut damaged = BTreeSet::new();
            for _ in 0..rng.random_range(0..5) {
                let first = rng.random_range(0..leaves);
                damaged.extend(first..leaves.min(first + rng.random_range(1..4)));
            }
            // Neighbours may have been lost with one page above.
            let (mut place, mut last) = (0, None);
            for leaf in damaged {
                if last != Some(leaf) || rng.random_bool(0.5) {
                    place += 1;
                }
                last = Some(leaf + 1);
                tree.damaged.insert(leaf, place);
            }
            let found = gaps(&mut tree, &mut Effort { failures: 1 << 20 }).unwrap();
            assert!(found.iter().all(|gap| gap.complete), "seed {seed}");
            let unreadable = tree.unreadable();
            for key in tree.rows.keys() {
                let gaps = found.iter().filter(|gap| within(gap, key)).count();
                assert_eq!(gaps, usize::from(unreadable.contains(key)), "seed {seed}: {key:?} in {found:?}");
                let reads = tree.read.iter().filter(|read| *read == key).count();
                assert_eq!(reads + gaps, 1, "seed {seed}: {key:?}");
            }
            let places: BTreeSet<u64> = found.iter().flat_map(|gap| gap.places.iter().copied()).collect();
            assert!(places.iter().all(|place| tree.damaged.values().any(|at| at == place)), "seed {seed}");
        }
    }

    #[test]
    fn who_has_no_effort_left_says_so() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut tree = Tree::new(40, &mut rng);
        tree.damaged = BTreeMap::from([(3, 7), (20, 8)]);
        let [gap]: [Gap; 1] = gaps(&mut tree, &mut Effort { failures: 2 }).unwrap().try_into().unwrap();
        assert!(!gap.complete);
        assert!(tree.unreadable().iter().all(|key| within(&gap, key)));
        assert_eq!(gaps(&mut tree, &mut Effort::default()).unwrap().len(), 2);
    }

    /// No more pieces than fit a report.
    #[test]
    fn many_gaps_are_joined() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut tree = Tree::new(400, &mut rng);
        tree.damaged = (0..200).map(|n| (n * 2, 1000 + n as u64)).collect();
        let found = gaps(&mut tree, &mut Effort { failures: 1 << 20 }).unwrap();
        assert_eq!(found.len(), ISLANDS_MAX + 1);
        assert!(found.iter().any(|gap| !gap.complete));
        assert!(tree.unreadable().iter().all(|key| found.iter().any(|gap| within(gap, key))));
    }

    #[test]
    fn the_middle_is_between() {
        let at = |low: Option<&[u8]>, high: Option<&[u8]>| middle(low, high, 2);
        assert_eq!(at(None, None), Some(vec![0x7f, 0xff]));
        assert_eq!(at(Some(&[1, 0]), Some(&[2, 0])), Some(vec![1, 0x80]));
        assert_eq!(at(Some(&[0xff, 0xf0]), None), Some(vec![0xff, 0xf7]));
        assert_eq!(at(Some(&[1, 0]), Some(&[1, 1])), None);
        assert_eq!(at(Some(&[1, 0, 5]), Some(&[1, 0, 9])), None);
        assert_eq!(at(None, Some(&[0, 0])), None);
        assert_eq!(at(Some(&[0xff, 0xff]), None), None);
    }
}
