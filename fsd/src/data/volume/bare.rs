//! A volume as its files lie there, without a daemon: for people who want to know what is in it. Nothing is changed,
//! also if the volume is damaged, or grows meanwhile.

use super::format::{PAGE, Superblock};
use super::index::{Entry, Index};
use super::recover;
use super::tombstone::{Tombstone, TombstoneLog};
use super::{VOLUME_SUFFIX, VolumeError};
use crate::disk::{Disk, DiskFile, read_exact_at};
use cairn_common::limits::PIECE;
use cairn_common::wire::checksum::verify_pieces;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

/// How a volume ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing follows, ever.
    Sealed,
    /// Its daemon stopped in order.
    Stopped,
    /// Its daemon runs, or was killed.
    Open,
}

/// See the module.
pub struct Bare {
    pub superblock: Superblock,
    pub end: End,
    /// Where the next record would begin, in bytes.
    pub length: u64,
    /// There are broken headers: their blocks are not listed.
    pub damaged: bool,
    index: Index,
    dead: HashSet<Tombstone>,
    file: Arc<dyn DiskFile>,
}

impl Bare {
    /// Reads the headers of the volume in the file `name`, and what the log of deletes beside it says.
    pub fn open(disk: &dyn Disk, name: &str) -> Result<Bare, VolumeError> {
        let file = disk.open(name)?;
        let mut page = [0; PAGE];
        read_exact_at(&*file, &mut page, 0)?;
        let superblock = Superblock::decode(&page)?;
        let Superblock { volume, nonce, .. } = superblock;
        let dead = match name.strip_suffix(VOLUME_SUFFIX) {
            Some(stem) => TombstoneLog::open(disk, super::tombstones_of(stem), volume, nonce)?.1,
            None => Vec::new(),
        };
        let dead: HashSet<Tombstone> = dead.into_iter().collect();
        let scan = recover::scan(&*file, nonce, |record| dead.contains(&(record.sequence, record.cookie)))?;
        let end = match (scan.sealed, scan.clean) {
            (true, _) => End::Sealed,
            (false, true) => End::Stopped,
            (false, false) => End::Open,
        };
        let index = Index::Memory(scan.index);
        Ok(Bare { superblock, end, length: scan.end, damaged: scan.damaged, index, dead, file })
    }

    /// All blocks whose headers are whole, in order; deleted ones too.
    #[must_use]
    pub fn blocks(&self) -> Vec<Entry> {
        self.index.after(0, usize::MAX)
    }

    /// The block `sequence`.
    #[must_use]
    pub fn block(&self, sequence: u32) -> Option<Entry> {
        self.index.get(sequence)
    }

    /// Deleted: its bytes may be gone.
    #[must_use]
    pub fn is_deleted(&self, block: &Entry) -> bool {
        self.dead.contains(&(block.sequence, block.cookie))
    }

    /// The payload: what files have of it, then its summary. `InvalidData` if it does not match its checksums, with the
    /// first byte of the first piece that does not.
    pub fn read(&self, block: &Entry) -> io::Result<Vec<u8>> {
        let mut payload = vec![0; block.payload_len as usize];
        read_exact_at(&*self.file, &mut payload, block.offset())?;
        let checksums = self.index.checksums(block, 0, payload.len().div_ceil(PIECE));
        verify_pieces(&payload, &checksums).map_err(|piece| {
            let what = format!("damaged: checksum mismatch at byte {}", piece * PIECE);
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        Ok(payload)
    }
}
