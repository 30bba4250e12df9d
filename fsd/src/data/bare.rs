//! A data directory as its files lie there, without a daemon: for who checks it. Nothing on disk is changed but by
//! [`BareDir::delete`]: what recovery does to a volume stays in memory.

use super::identity::Identity;
use super::volume::segment::Limits;
use super::volume::{Owner, Volume, VolumeError};
use super::{DataError, META_FILE};
use crate::disk::{Disk, Overlay, RealDisk};
use crate::durable::DirLock;
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::limits::VOLUME_SIZE;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Nothing is put into volumes here.
const LIMITS: Limits = Limits { volume_size: VOLUME_SIZE, reserve: 0 };

/// A directory that nobody else changes as long as this exists.
pub struct BareDir {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Drawn when the directory was first used.
    pub identity: u128,
    pub owner: Owner,
    _lock: Option<DirLock>,
}

impl BareDir {
    /// Keeps daemons out of the directory; with `alone` also others who look, as [`BareDir::delete`] needs.
    pub fn open(dir: &Path, alone: bool) -> Result<BareDir, DataError> {
        DirLock::refuse(dir, META_FILE, "metadata")?;
        let disk = RealDisk::read_only(dir)?;
        let identity = Identity::load(&disk)?;
        let Some(Identity { identity, owner: Some(owner) }) = identity else {
            return Err(DataError::Config("no data daemon has used it yet"));
        };
        let lock = if alone { Some(DirLock::acquire(dir)?) } else { DirLock::share(dir)? };
        Ok(BareDir { path: dir.to_owned(), disk: Arc::new(disk), identity, owner, _lock: lock })
    }

    /// The volume as its daemon would find it.
    pub fn volume(&self, id: VolumeId) -> Result<Volume, VolumeError> {
        let overlay = Overlay::new(self.disk.clone());
        Ok(Volume::open(Arc::new(overlay), self.owner, id, LIMITS)?.0)
    }

    /// Deletes blocks, durably, as the daemon does. What a crash left half done in their volumes is recovered before.
    pub fn delete(&self, blocks: &[BlockRef]) -> Result<(), VolumeError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&self.path)?);
        let mut by_volume: BTreeMap<VolumeId, Vec<BlockRef>> = BTreeMap::new();
        for block in blocks {
            by_volume.entry(block.volume).or_default().push(*block);
        }
        for (id, blocks) in by_volume {
            let (volume, _) = Volume::open(disk.clone(), self.owner, id, LIMITS)?;
            volume.delete(&blocks)?;
            volume.stop()?;
        }
        Ok(())
    }
}
