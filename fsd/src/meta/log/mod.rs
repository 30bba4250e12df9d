//! The operation log, behind one small trait: propose, then committed at an index.
//!
//! The log is the truth: a command that it took is applied, here now or after a restart. The form on
//! disk is drawn in `docs/formats/log.md`.

mod record;
mod recover;
mod segment;
mod syncer;
#[cfg(test)]
mod syncer_tests;
#[cfg(test)]
mod tests;
mod writer;

pub use record::PAYLOAD_MAX;
pub use recover::{RecoverError, Recovered, recover};
pub use syncer::Turn;
pub use writer::{FileLog, LogOptions};

use crate::disk::Disk;
use cairn_common::ids::{ClusterId, LogIndex};
use segment::{Header, Segment};
use std::io;
use tokio::sync::watch;

/// Why the log did not take entries.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing was written: there is no space for the entries. They may be proposed again later.
    #[error("no space left for the metadata log")]
    NoSpace,
    /// One entry is above the limit; nothing was written.
    #[error("log entry of {0} bytes is above the limit")]
    TooLarge(usize),
    /// The disk failed. The log is broken from here on: the daemon has to stop.
    #[error("{what}: {source}")]
    Failed { what: String, source: io::Error },
}

impl LogError {
    fn failed(what: String, source: io::Error) -> LogError {
        LogError::Failed { what, source }
    }
}

/// Makes the log for tables that have all entries up to `applied`, in a directory that has none: one empty segment, which
/// the first append replaces by one that has room.
pub fn begin_log(disk: &dyn Disk, cluster: ClusterId, applied: LogIndex) -> Result<(), LogError> {
    let header = Header { cluster, first: applied.next(), previous: 0, nonce: rand::random() };
    Segment::create(disk, header, segment::HEADER as u64).map(drop)
}

/// A log of commands. One machine alone keeps it in files; Raft will keep it on a majority.
pub trait Log: Send + Sync + 'static {
    /// Puts entries at the end, in order, all or none; answers the index of the first.
    fn propose(&self, entries: &[&[u8]]) -> Result<LogIndex, LogError>;
    /// Up to here entries are decided and may be applied: no crash of a process takes them back.
    fn committed(&self) -> LogIndex;
    /// Calls `wake` after [`Log::committed`] has grown outside of [`Log::propose`]. A log that decides
    /// within `propose` never does.
    fn on_committed(&self, wake: Box<dyn Fn() + Send + Sync>);
    /// Up to here entries are on stable storage: no loss of power takes them back.
    fn durable(&self) -> watch::Receiver<LogIndex>;
    /// Asks for entries up to `through` to become durable at once; [`Log::durable`] tells when they are.
    fn request_sync(&self, through: LogIndex);
    /// The caller's turn to make all entries durable on its own thread, if nobody else is at it.
    fn begin_sync(&self) -> Option<Turn>;
    /// Bytes of entries that can be proposed before all that there are have to be durable: what is proposed beyond waits for
    /// whoever is making them so.
    fn room(&self) -> u64;
    /// Leaves behind the last entry that all are on stable storage, if they are: damage to them is told from a torn tail
    /// by it. A log with a thread of its own does so by itself when nothing is appended any more.
    fn mark_end(&self);
    /// Entries up to `index` are in a durable checkpoint and may be forgotten.
    fn forget(&self, index: LogIndex) -> Result<(), LogError>;
    /// What broke the log, once it is broken: one line for the operator.
    fn failure(&self) -> watch::Receiver<Option<String>>;
    /// Makes everything durable and ends background work.
    fn close(&self);
}
