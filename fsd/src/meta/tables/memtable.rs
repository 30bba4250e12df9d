//! Rows that changed since a checkpoint, in memory: what an LSM tree calls a memtable (O'Neil et al.,
//! "The Log-Structured Merge-Tree", 1996). The maps are persistent: a copy costs a few reference counts, and
//! who reads a copy is not disturbed by later changes.

use super::schema::Table;
use rpds::RedBlackTreeMapSync;
use std::ops::Bound;

/// A range of keys.
pub type Bounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

/// Key to value; `None` says that the row is gone, whatever older layers have.
type Rows = RedBlackTreeMapSync<Box<[u8]>, Option<Box<[u8]>>>;

/// What a row costs beside its key and value: nodes of the tree, counts, allocations.
const ROW_OVERHEAD: usize = 128;

/// See the module.
#[derive(Clone)]
pub struct Memtable {
    tables: [Rows; Table::ALL.len()],
    bytes: usize,
}

impl Default for Memtable {
    fn default() -> Memtable {
        Memtable { tables: std::array::from_fn(|_| Rows::new_sync()), bytes: 0 }
    }
}

impl Memtable {
    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn rows(&self) -> usize {
        self.tables.iter().map(Rows::size).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// `None`: this layer does not know the row. `Some(None)`: it is gone.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.tables[table as usize].get(key).map(Option::as_deref)
    }

    /// `None`: the row is gone.
    pub fn put(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        let rows = &mut self.tables[table as usize];
        if let Some(old) = rows.get(key) {
            self.bytes -= cost(key, old.as_deref());
        }
        self.bytes += cost(key, value);
        rows.insert_mut(key.into(), value.map(Into::into));
    }

    /// Rows in order of their keys.
    pub fn range<'m>(
        &'m self,
        table: Table,
        bounds: Bounds<'m>,
    ) -> impl DoubleEndedIterator<Item = (&'m [u8], Option<&'m [u8]>)> {
        let rows = self.tables[table as usize].range::<[u8], _>(bounds);
        rows.map(|(key, value)| (&**key, value.as_deref()))
    }

    pub fn is_untouched(&self, table: Table) -> bool {
        self.tables[table as usize].is_empty()
    }
}

fn cost(key: &[u8], value: Option<&[u8]>) -> usize {
    ROW_OVERHEAD + key.len() + value.map_or(0, <[u8]>::len)
}
