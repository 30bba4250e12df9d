//! Reading tables of which some pages can't be read: which rows are not to be had ([`super::gaps`]), and the others.

use super::Files;
use super::base::{Base, RowKey};
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
    opened: Option<(Store, Arc<Base>)>,
}

impl Survey {
    /// What is opened may be changed: `files` should be copies.
    pub fn open(files: Files) -> Result<Survey, StoreError> {
        let mut survey = Survey { files, opened: None };
        survey.base()?;
        Ok(survey)
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
        self.base()?;
        let loaded = self.opened.take().map(|(store, _base)| store.load());
        Ok(matches!(loaded, Some(Ok(_))))
    }

    fn base(&mut self) -> Result<Arc<Base>, StoreError> {
        if let Some((_, base)) = &self.opened {
            return Ok(base.clone());
        }
        let store = Store::open(self.files.clone(), CACHE)?;
        let base = store.base().map_err(|error| match store.read_failure().get() {
            Some(line) => StoreError::new(line),
            None => StoreError::new(&error.to_string()),
        })?;
        self.opened = Some((store, base.clone()));
        Ok(base)
    }

    /// A read has failed: where.
    fn failed(&mut self) -> Result<u64, StoreError> {
        let place = self.opened.take().and_then(|(store, _base)| store.read_failure().place());
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
        let base = self.survey.base()?;
        let Ok(rows) = base.range(self.table, bounds, backwards) else {
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
        match self.survey.base()?.get(self.table, key) {
            Ok(_) => Ok(None),
            Err(_) => self.survey.failed().map(Some),
        }
    }

    fn key_width(&mut self) -> Result<Option<usize>, StoreError> {
        Ok(self.survey.base()?.key_width(self.table))
    }
}
