//! The state: in redb as of the last checkpoint, with what changed since in memory above it; keys, values,
//! and the transaction that the namespace rules run over.

mod backend;
mod base;
mod files;
mod gaps;
mod inventory;
pub mod keys;
mod memtable;
mod rows;
mod schema;
mod snapshot;
mod store;
pub mod sums;
mod survey;
mod tx;
pub mod values;
mod view;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
pub mod survey_tests;
#[cfg(test)]
mod view_tests;

pub use backend::ReadFailure;
pub use base::Base;
pub use files::{Files, SUMS, TABLES};
pub use gaps::{Effort, Gap};
pub use memtable::Memtable;
pub use schema::Table;
#[cfg(test)]
pub use snapshot::Dump;
pub use snapshot::Snapshot;
pub use store::{SessionRow, Store, StoreError};
pub use survey::{Survey, Visit};
pub use tx::Tx;
pub use values::State;
pub use view::View;

use cairn_common::error::FsError;
use cairn_common::ids::NodeId;

/// A data daemon as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    pub node: NodeId,
    pub identity: u128,
    pub address: String,
}

/// What redb says, for callers that only know that the store failed: the log has the reason.
fn failed(error: impl Into<redb::Error>) -> FsError {
    let error: redb::Error = error.into();
    tracing::error!("metadata tables: {error}");
    FsError::Io
}

/// [`failed`], where it is known in which table.
fn failed_in(table: Table, error: impl Into<redb::Error>) -> FsError {
    let error: redb::Error = error.into();
    tracing::error!("metadata tables: in the table {table:?}: {error}");
    FsError::Io
}
