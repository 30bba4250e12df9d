//! The data role: immutable blocks in append-only volumes.
//!
//! `service → store → lanes → volume → disk`: each knows only the next. A block is acknowledged when it and
//! all before it in its volume are durable; `docs/formats/volume.md` says why a crash at any point is safe.

pub mod bare;
pub mod cleaner;
mod history;
pub mod identity;
pub mod lanes;
pub mod leaks;
pub mod link;
pub mod opening;
pub mod report;
pub mod role;
pub mod service;
pub mod store;
mod suspect;
pub mod volume;

pub use identity::Identity;
pub use link::MetaLink;
pub use role::{Endpoint, run};
pub use service::DataServer;
pub use store::{Deleted, Store};
pub use volume::Owner;

use crate::disk::RealDisk;
use crate::durable::{self, DirLock, LockError};
use cairn_common::config::ByteSize;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::limits::{FRAME_PAYLOAD_MAX, VOLUME_SIZE};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use volume::format::{FIRST_RECORD, record_len};

/// Settings of the data role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where everything is kept; made if missing.
    pub data_dir: PathBuf,
    /// A volume is sealed when the next block would make it larger than this.
    #[serde(default = "default_volume_size")]
    pub volume_size: ByteSize,
    /// How much of the disk is left free.
    #[serde(default = "default_reserve")]
    pub reserve: ByteSize,
    /// Threads that write.
    #[serde(default = "default_put_threads")]
    pub put_threads: usize,
    /// Threads that read, delete and seal, at most.
    #[serde(default = "default_io_threads")]
    pub io_threads: usize,
    /// Payload bytes of puts that wait to become durable, at most; more wait before they are taken.
    #[serde(default = "default_in_flight")]
    pub in_flight: ByteSize,
    /// Serve although blocks that files use are missing at the end, as in an old copy.
    #[serde(default)]
    pub accept_loss: bool,
}

/// What a directory of the metadata role has: see `docs/formats/metadata.md`.
const META_FILE: &str = "tables";
/// Most that may be in flight: recovery tells a torn tail from damage by looking further than this.
const IN_FLIGHT_MAX: u64 = 64 << 20;

fn default_volume_size() -> ByteSize {
    ByteSize(VOLUME_SIZE)
}

/// More than the metadata role keeps for itself, which may be on the same disk: blocks must not fill it so
/// far that files can't even be removed.
fn default_reserve() -> ByteSize {
    ByteSize(256 << 20)
}

fn default_put_threads() -> usize {
    3
}

fn default_io_threads() -> usize {
    16
}

fn default_in_flight() -> ByteSize {
    ByteSize(IN_FLIGHT_MAX)
}

impl DataConfig {
    /// Defaults for a directory.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> DataConfig {
        DataConfig {
            data_dir,
            volume_size: default_volume_size(),
            reserve: default_reserve(),
            put_threads: default_put_threads(),
            io_threads: default_io_threads(),
            in_flight: default_in_flight(),
            accept_loss: false,
        }
    }

    /// Refuses settings that can't work.
    pub fn validate(&self) -> Result<(), DataError> {
        let smallest = FIRST_RECORD + record_len(FRAME_PAYLOAD_MAX);
        if self.volume_size.0 < smallest || self.volume_size.0 > 1 << 40 {
            return Err(DataError::Config("volume_size must be between 6 MiB and 1 TiB"));
        }
        if self.put_threads == 0 || self.put_threads > 64 || self.io_threads == 0 || self.io_threads > 256 {
            return Err(DataError::Config("put_threads must be 1 to 64, io_threads 1 to 256"));
        }
        if self.in_flight.as_usize() < FRAME_PAYLOAD_MAX || self.in_flight.0 > IN_FLIGHT_MAX {
            return Err(DataError::Config("in_flight must be between 5 MiB and 64 MiB"));
        }
        Ok(())
    }
}

/// Why the data role could not start.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("data directory: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Config(&'static str),
    #[error("data directory belongs to {have:?}, but the metadata daemon says {told:?}")]
    OtherOwner { have: Owner, told: Owner },
    #[error(
        "{} is an old copy of the data directory, or its disk has lost what it had stored: files use block {missing}, and it ends \
         before that. Put the newest copy back; if there is none, start with --accept-loss, and `cairn fsck` names the files that \
         have lost data", dir.display()
    )]
    OldCopy { dir: PathBuf, missing: BlockRef },
    #[error("metadata daemon: {0}")]
    Refused(#[from] FsError),
}

/// Where numbers for new volumes come from.
pub trait VolumeIds: Send + Sync + 'static {
    /// A number that nobody was given before.
    fn allocate(&self) -> BoxFuture<'_, FsResult<VolumeId>>;
}

/// A data directory that is ours, and knows who it is.
pub struct DataDir {
    disk: Arc<RealDisk>,
    lock: DirLock,
    identity: Identity,
}

impl DataDir {
    /// Locks the directory, making it if it is missing, and reads who it is.
    pub fn open(config: &DataConfig) -> Result<DataDir, DataError> {
        config.validate()?;
        DirLock::refuse(&config.data_dir, META_FILE, "metadata")?;
        durable::create_dir_all(&config.data_dir)?;
        let lock = DirLock::acquire(&config.data_dir)?;
        let disk = Arc::new(RealDisk::watched(&config.data_dir)?);
        let identity = match Identity::load(&*disk)? {
            Some(identity) => identity,
            None => {
                let identity = Identity { identity: rand::random(), owner: None };
                identity.store(&*disk)?;
                identity
            }
        };
        Ok(DataDir { disk, lock, identity })
    }

    /// Who a directory is, without locking or making it. `None` if nobody used it yet.
    pub fn peek(config: &DataConfig) -> Result<Option<Identity>, DataError> {
        if !config.data_dir.is_dir() {
            return Ok(None);
        }
        Ok(Identity::load(&RealDisk::open(&config.data_dir)?)?)
    }

    /// Who it is: what to register with.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Remembers, durably, what the metadata daemon answered. A directory never changes its owner.
    pub fn assign(&mut self, owner: Owner) -> Result<(), DataError> {
        match self.identity.owner {
            Some(have) if have == owner => Ok(()),
            Some(have) => Err(DataError::OtherOwner { have, told: owner }),
            None => {
                self.identity.owner = Some(owner);
                Ok(self.identity.store(&*self.disk)?)
            }
        }
    }

    /// Opens the store. [`DataDir::assign`] comes first.
    pub async fn start(self, config: &DataConfig, ids: Arc<dyn VolumeIds>) -> Result<Arc<Store>, DataError> {
        let owner = self.identity.owner.ok_or(DataError::Config("the data directory has no owner yet"))?;
        Store::open(self.disk, Some(self.lock), owner, config, ids).await
    }
}
