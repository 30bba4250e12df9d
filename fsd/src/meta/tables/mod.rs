//! The state in redb: keys, values, and the transaction that the namespace rules run over.

mod backend;
mod inventory;
pub mod keys;
mod rows;
mod schema;
mod snapshot;
mod store;
mod tx;
pub mod values;

#[cfg(test)]
pub use snapshot::Dump;
pub use snapshot::Snapshot;
pub use store::{SessionRow, Store, StoreError};
pub use tx::Tx;
pub use values::State;

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
