//! Writing a dump.

use super::line::{End, EndLine, Header, StateLine, Version};
use super::rows::Row;
use super::text::Hex64;
use super::valid::Rules;
use super::{LINE_MAX, VERSION};
use crate::meta::machine::bare::Bare;
use crate::meta::tables::Table;
use cairn_common::error::FsError;
use cairn_common::wire::checksum::Crc64;
use serde::Serialize;
use std::io::{self, Write};

/// Why a dump is not whole. One line each.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("write: {0}")]
    Write(io::Error),
    /// The tables are damaged.
    #[error("row {key} of table {table:?}: {source}")]
    Row { table: Table, key: String, source: FsError },
    /// There is what no daemon writes, and [`super::load()`] refuses.
    #[error("{place}: {what}: no daemon can work with it, and no dump that has it can be loaded")]
    Illegal { place: String, what: &'static str },
    #[error("read the tables: {0}")]
    Read(FsError),
}

/// Writes everything to `out`; answers how many rows there are.
pub fn write(bare: &Bare, out: &mut dyn Write) -> Result<u64, DumpError> {
    let mut rules = Rules::new(bare.state()).map_err(illegal("the state"))?;
    let mut lines = Lines { out, sum: Crc64::default(), line: Vec::new() };
    lines.put(&Header { cairn_dump: Version { version: VERSION } })?;
    lines.put(&StateLine { state: bare.state().into() })?;
    let mut rows = 0;
    for table in Table::ALL {
        let mut failed = None;
        let read = bare.read(|snapshot| {
            snapshot.rows(table, &mut |key, value| {
                rows += 1;
                failed = lines.row(&mut rules, table, key, value).err();
                Ok(failed.is_none())
            })
        });
        failed.map_or(Ok(()), Err)?;
        read.map_err(DumpError::Read)?;
    }
    rules.end().map_err(illegal("the tables"))?;
    lines.end(rows)?;
    Ok(rows)
}

fn illegal(place: impl Into<String>) -> impl FnOnce(&'static str) -> DumpError {
    |what| DumpError::Illegal { place: place.into(), what }
}

struct Lines<'a> {
    out: &'a mut dyn Write,
    sum: Crc64,
    /// Kept for its space.
    line: Vec<u8>,
}

impl Lines<'_> {
    fn row(&mut self, rules: &mut Rules, table: Table, key: &[u8], value: &[u8]) -> Result<(), DumpError> {
        let hex = || key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let failed = |source| DumpError::Row { table, key: hex(), source };
        let row = Row::of(table, key, value).map_err(failed)?;
        rules.check(&row).map_err(|what| illegal(format!("row {} of table {table:?}", hex()))(what))?;
        self.put(&row)?;
        if self.line.len() > LINE_MAX { Err(failed(FsError::TooBig)) } else { Ok(()) }
    }

    fn put(&mut self, line: &impl Serialize) -> Result<(), DumpError> {
        self.encode(line)?;
        self.sum.update(&self.line);
        self.out.write_all(&self.line).map_err(DumpError::Write)
    }

    fn encode(&mut self, line: &impl Serialize) -> Result<(), DumpError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line).map_err(|error| DumpError::Write(error.into()))?;
        self.line.push(b'\n');
        Ok(())
    }

    fn end(mut self, rows: u64) -> Result<(), DumpError> {
        let sum = std::mem::take(&mut self.sum).finish();
        self.encode(&EndLine { end: End { rows, crc64: Hex64(sum) } })?;
        self.out.write_all(&self.line).and_then(|()| self.out.flush()).map_err(DumpError::Write)
    }
}
