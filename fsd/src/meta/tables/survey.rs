//! Reading tables of which some pages can't be read: which rows are not to be had ([`super::gaps`]), and the others.

use super::Files;
use super::base::{OneTable, RowKey, key_width};
use super::gaps::{self, Effort, Gap, Rows, Walk};
use super::memtable::Bounds;
use super::schema::Table;
use super::store::{Store, StoreError};
use cairn_common::error::FsResult;
use std::sync::Arc;

/// Bytes of redb's cache: each page is read a few times at most.
const CACHE: usize = 8 << 20;

/// Gets keys and values, in no order.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> FsResult<()> + 'v;

/// The tables as of the last checkpoint. After a read that failed redb fails all others, so they are opened anew then.
pub struct Survey {
    files: Files,
    store: Option<Store>,
    /// Of this store.
    table: Option<(Table, Arc<OneTable>)>,
}

impl Survey {
    /// What is opened may be changed: `files` should be copies.
    ///
    /// # Errors
    /// None of the tables can be opened.
    pub fn open(files: Files) -> Result<Survey, StoreError> {
        let mut survey = Survey { files, store: None, table: None };
        let mut place = 0;
        for table in Table::ALL {
            match survey.table(table)? {
                Ok(_) => return Ok(survey),
                Err(at) => place = at,
            }
        }
        Err(StoreError::new(&format!("none of the tables can be opened: damaged at byte {place}")))
    }

    /// Rows of `table` that can't be read; the others are shown to `visit`.
    pub fn gaps(
        &mut self,
        table: Table,
        effort: &mut Effort,
        visit: &mut Visit<'_>,
    ) -> Result<Vec<Gap>, StoreError> {
        gaps::gaps(&mut TableRows { survey: self, table, visit }, effort)
    }

    /// Whether the counters and positions can be read.
    pub fn has_state(&mut self) -> Result<bool, StoreError> {
        let loads = self.store()?.load().is_ok();
        self.close();
        Ok(loads)
    }

    fn store(&mut self) -> Result<&Store, StoreError> {
        if self.store.is_none() {
            self.store = Some(Store::open(self.files.clone(), CACHE)?);
        }
        Ok(self.store.as_ref().expect("opened above"))
    }

    fn close(&mut self) {
        self.table = None;
        self.store = None;
    }

    /// A table, or where opening it fails: then none of it can be read.
    fn table(&mut self, table: Table) -> Result<Result<Arc<OneTable>, u64>, StoreError> {
        if let Some((opened, rows)) = &self.table
            && *opened == table
        {
            return Ok(Ok(rows.clone()));
        }
        let Ok(rows) = self.store()?.only(table) else { return self.failed().map(Err) };
        let rows = Arc::new(rows);
        self.table = Some((table, rows.clone()));
        Ok(Ok(rows))
    }

    /// A read has failed: where.
    fn failed(&mut self) -> Result<u64, StoreError> {
        let place = self.store.as_ref().and_then(|store| store.read_failure().place());
        self.close();
        place.ok_or_else(|| StoreError::new("they contradict themselves"))
    }
}

/// See [`Rows`].
struct TableRows<'s, 'v> {
    survey: &'s mut Survey,
    table: Table,
    visit: &'s mut Visit<'v>,
}

impl Rows for TableRows<'_, '_> {
    type Error = StoreError;

    fn walk(&mut self, bounds: Bounds<'_>, backwards: bool) -> Result<Walk, StoreError> {
        let table = match self.survey.table(self.table)? {
            Ok(table) => table,
            Err(place) => return Ok(Walk { failed: Some(place), ..Walk::default() }),
        };
        let Ok(rows) = table.range(bounds, backwards) else {
            return Ok(Walk { failed: Some(self.survey.failed()?), ..Walk::default() });
        };
        let (mut first, mut last): (Option<RowKey>, Option<RowKey>) = (None, None);
        let mut failed = None;
        for row in rows {
            let Ok((key, value)) = row else {
                failed = Some(self.survey.failed()?);
                break;
            };
            (self.visit)(&key, value.value())
                .map_err(|error| StoreError::new(&format!("a row of {:?}: {error}", self.table)))?;
            first.get_or_insert_with(|| key.clone());
            last = Some(key);
        }
        Ok(Walk { first: first.map(RowKey::into_vec), last: last.map(RowKey::into_vec), failed })
    }

    fn probe(&mut self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        let table = match self.survey.table(self.table)? {
            Ok(table) => table,
            Err(place) => return Ok(Some(place)),
        };
        match table.get(key) {
            Ok(_) => Ok(None),
            Err(_) => self.survey.failed().map(Some),
        }
    }

    fn key_width(&mut self) -> Result<Option<usize>, StoreError> {
        Ok(key_width(self.table))
    }
}
