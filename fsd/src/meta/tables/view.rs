//! The tables as of one entry of the log, in three layers:
//!
//! ```text
//! active   what changed since the last checkpoint began     changed by transactions
//! frozen   what changed before, while it is written to ...  empty but during a checkpoint
//! base     redb, as of the last finished checkpoint
//! ```
//!
//! A newer layer's row hides the older ones'. A view never changes: a transaction works on a copy, which
//! takes the place of the old one when it has succeeded.

use super::base::{Base, RowKey, Stored};
use super::memtable::{Bounds, Memtable};
use super::schema::Table;
use super::values::SessionRow;
use super::{keys, values};
use cairn_common::error::FsResult;
use cairn_common::ids::SessionId;
use std::ops::{Bound, Deref};
use std::sync::Arc;

/// All keys.
pub const ALL: Bounds<'static> = (Bound::Unbounded, Bound::Unbounded);

/// See the module.
#[derive(Clone)]
pub struct View {
    active: Memtable,
    frozen: Arc<Memtable>,
    base: Arc<Base>,
}

/// Gets keys and values; false: enough.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> FsResult<bool> + 'v;

/// A value, in whichever layer it is.
pub enum Found<'v> {
    Memory(&'v [u8]),
    Base(Stored),
}

impl Deref for Found<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Found::Memory(bytes) => bytes,
            Found::Base(stored) => stored.value(),
        }
    }
}

impl View {
    pub fn new(base: Arc<Base>) -> View {
        View { active: Memtable::default(), frozen: Arc::default(), base }
    }

    /// Memory that the rows changed since the last checkpoint began take, about.
    pub fn active_bytes(&self) -> usize {
        self.active.bytes()
    }

    /// How many rows changed since the last checkpoint began.
    pub fn active_rows(&self) -> usize {
        self.active.rows()
    }

    /// A checkpoint has begun and is not finished.
    pub fn is_frozen(&self) -> bool {
        !self.frozen.is_empty()
    }

    /// Begins a checkpoint: what is returned must be in the base of the next [`View::thaw`].
    pub fn freeze(&mut self) -> Arc<Memtable> {
        assert!(!self.is_frozen(), "one checkpoint at a time");
        self.frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen.clone()
    }

    /// `base` has everything of the last [`View::freeze`].
    pub fn thaw(&mut self, base: Arc<Base>) {
        self.base = base;
        self.frozen = Arc::default();
    }

    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.active.put(table, key, Some(value));
    }

    pub fn remove(&mut self, table: Table, key: &[u8]) {
        self.active.put(table, key, None);
    }

    /// `None`: it has ended.
    pub fn put_session(&mut self, session: SessionId, row: Option<&SessionRow>) -> FsResult<()> {
        let key = keys::session(session);
        match row {
            Some(row) => {
                let mut value = Vec::new();
                values::encode_session(row, &mut value)?;
                self.put(Table::Session, &key, &value);
            }
            None => self.remove(Table::Session, &key),
        }
        Ok(())
    }

    pub fn get(&self, table: Table, key: &[u8]) -> FsResult<Option<Found<'_>>> {
        for layer in [&self.active, &*self.frozen] {
            if let Some(row) = layer.get(table, key) {
                return Ok(row.map(Found::Memory));
            }
        }
        Ok(self.base.get(table, key)?.map(Found::Base))
    }

    pub fn contains(&self, table: Table, key: &[u8]) -> FsResult<bool> {
        Ok(self.get(table, key)?.is_some())
    }

    /// Visits rows in order of their keys, until `visit` answers false.
    pub fn scan(&self, table: Table, bounds: Bounds<'_>, visit: &mut Visit<'_>) -> FsResult<()> {
        let mut rows = Merge::new(self, table, bounds, false)?;
        while let Some(row) = rows.next_row()? {
            if let Some(value) = row.value()
                && !visit(row.key(), value)?
            {
                break;
            }
        }
        Ok(())
    }

    /// The last row of a range, given to `decode`.
    pub fn last<T>(
        &self,
        table: Table,
        bounds: Bounds<'_>,
        decode: impl FnOnce(&[u8], &[u8]) -> FsResult<T>,
    ) -> FsResult<Option<T>> {
        let mut rows = Merge::new(self, table, bounds, true)?;
        while let Some(row) = rows.next_row()? {
            if let Some(value) = row.value() {
                return decode(row.key(), value).map(Some);
            }
        }
        Ok(None)
    }

    /// How many rows a table has. Costs a look into the base for each row that changed since.
    pub fn len(&self, table: Table) -> FsResult<u64> {
        let mut rows = self.base.len(table)?;
        let active = self.active.range(table, ALL);
        let frozen = self.frozen.range(table, ALL).filter(|(key, _)| self.active.get(table, key).is_none());
        for (key, value) in active.chain(frozen) {
            match (self.base.get(table, key)?.is_some(), value.is_some()) {
                (false, true) => rows += 1,
                (true, false) => rows -= 1,
                _ => {}
            }
        }
        Ok(rows)
    }
}

/// A row of one layer.
enum Row<'v> {
    Memory(&'v [u8], Option<&'v [u8]>),
    Base(RowKey, Stored),
}

impl Row<'_> {
    fn key(&self) -> &[u8] {
        match self {
            Row::Memory(key, _) => key,
            Row::Base(key, _) => key,
        }
    }

    /// `None`: the row is gone.
    fn value(&self) -> Option<&[u8]> {
        match self {
            Row::Memory(_, value) => *value,
            Row::Base(_, value) => Some(value.value()),
        }
    }
}

/// The next row of one layer, and those behind it.
struct Layer<'v> {
    head: Option<Row<'v>>,
    rest: LayerRows<'v>,
}

type LayerRows<'v> = Box<dyn Iterator<Item = FsResult<Row<'v>>> + 'v>;

impl<'v> Layer<'v> {
    fn new(mut rest: LayerRows<'v>) -> FsResult<Layer<'v>> {
        Ok(Layer { head: rest.next().transpose()?, rest })
    }

    fn of(memtable: &'v Memtable, table: Table, bounds: Bounds<'v>, backwards: bool) -> FsResult<Layer<'v>> {
        let row = |(key, value)| Ok(Row::Memory(key, value));
        let rows = memtable.range(table, bounds);
        Layer::new(if backwards { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) })
    }

    fn advance(&mut self) -> FsResult<Option<Row<'v>>> {
        let next = self.rest.next().transpose()?;
        Ok(std::mem::replace(&mut self.head, next))
    }
}

/// All layers' rows as one, newest first where keys are equal.
struct Merge<'v> {
    layers: SmallLayers<'v>,
    backwards: bool,
}

type SmallLayers<'v> = smallvec::SmallVec<[Layer<'v>; 3]>;

impl<'v> Merge<'v> {
    fn new(view: &'v View, table: Table, bounds: Bounds<'v>, backwards: bool) -> FsResult<Merge<'v>> {
        let mut layers = SmallLayers::new();
        for memtable in [&view.active, &*view.frozen] {
            if !memtable.is_untouched(table) {
                layers.push(Layer::of(memtable, table, bounds, backwards)?);
            }
        }
        let base = view.base.range(table, bounds, backwards)?;
        layers.push(Layer::new(Box::new(base.map(|row| row.map(|(key, value)| Row::Base(key, value)))))?);
        Ok(Merge { layers, backwards })
    }

    /// The next row; those of older layers with the same key are skipped.
    fn next_row(&mut self) -> FsResult<Option<Row<'v>>> {
        let Some(first) = self.first() else { return Ok(None) };
        let row = self.layers[first].advance()?;
        if let Some(row) = &row {
            for layer in &mut self.layers[first + 1..] {
                if layer.head.as_ref().is_some_and(|head| head.key() == row.key()) {
                    layer.advance()?;
                }
            }
        }
        Ok(row)
    }

    /// The layer whose next row is first in order, the newest of several.
    fn first(&self) -> Option<usize> {
        let mut first: Option<(usize, &[u8])> = None;
        for (at, layer) in self.layers.iter().enumerate() {
            let Some(head) = &layer.head else { continue };
            let before = |best: &[u8]| if self.backwards { head.key() > best } else { head.key() < best };
            if first.is_none_or(|(_, best)| before(best)) {
                first = Some((at, head.key()));
            }
        }
        first.map(|(at, _)| at)
    }
}
