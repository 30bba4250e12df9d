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
    _lock: DirLock,
}

impl BareDir {
    /// Keeps daemons out of the directory; with `alone` also others who look, as [`BareDir::delete`] needs.
    pub fn open(dir: &Path, alone: bool) -> Result<BareDir, DataError> {
        DirLock::refuse(dir, META_FILE, "metadata")?;
        // First: a daemon that runs may be about to write who it is.
        let lock = if alone { DirLock::alone(dir)? } else { DirLock::share(dir)? };
        let disk = RealDisk::read_only(dir)?;
        let identity = Identity::load(&disk)?;
        let Some(Identity { identity, owner: Some(owner) }) = identity else {
            return Err(DataError::Config("no data daemon has used it yet"));
        };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::data::volume::Condition;
    use crate::data::volume::format::{Record, RecordKind};
    use crate::data::volume::segment::Done;
    use crate::data::{DataConfig, DataDir};
    use crate::durable::{LOCK, LockError};
    use bytes::Bytes;
    use cairn_common::ids::{ClusterId, NodeId, SessionId};
    use cairn_common::wire::checksum::{piece_checksums, verify_pieces};
    use std::cell::Cell;
    use std::io;
    use std::time::SystemTime;
    use tempfile::TempDir;

    const OWNER: Owner = Owner { cluster: ClusterId(0xc1), node: NodeId(7) };
    const ID: VolumeId = VolumeId(3);
    const LIMITS: Limits = Limits { volume_size: 1 << 20, reserve: 0 };

    /// The directory of a daemon that was killed when it had stored these, and was about to store more.
    fn killed(contents: &[&[u8]]) -> (TempDir, Vec<BlockRef>) {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
        Identity { identity: 5, owner: Some(OWNER) }.store(&*disk).unwrap();
        let volume = Volume::create(disk.clone(), OWNER, ID, 0, 99, LIMITS).unwrap();
        let blocks = contents.iter().map(|content| put(&volume, &*disk, content)).collect();
        let torn = disk.open("vol-00000003.cv").unwrap();
        crate::disk::write_all_at(&*torn, &[b"half a record"], volume.stat().bytes).unwrap();
        (dir, blocks)
    }

    fn put(volume: &Volume, disk: &dyn Disk, content: &[u8]) -> BlockRef {
        let payload = [Bytes::copy_from_slice(content)];
        let record = Record {
            kind: RecordKind::Block,
            sequence: 0,
            cookie: 0xab,
            session: SessionId(3),
            payload_len: u32::try_from(content.len()).unwrap(),
            summary_len: 0,
            durable: 0,
            checksums: piece_checksums(&payload),
        };
        let (segment, named) = (volume.segment(), Cell::new(BlockRef::default()));
        let done = |block| -> Done {
            named.set(block);
            Box::new(|result| result.unwrap())
        };
        segment.append(disk, &mut segment.writer(), record, &payload, done).unwrap();
        segment.make_durable(volume);
        BlockRef { volume: volume.id(), ..named.get() }
    }

    fn read(volume: &Volume, block: BlockRef) -> Vec<u8> {
        let span = volume.locate(block, 0, u32::MAX).unwrap();
        let mut bytes = vec![0; span.length];
        volume.read(&span, &mut bytes).unwrap();
        verify_pieces(&bytes, &span.checksums).unwrap();
        bytes
    }

    /// All files with their content and the time of their last change.
    fn files(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
        let file = |entry: io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            let changed = path.metadata().unwrap().modified().unwrap();
            (path.display().to_string(), (std::fs::read(&path).unwrap(), changed))
        };
        std::fs::read_dir(dir).unwrap().map(file).collect()
    }

    fn open(dir: &Path, alone: bool) -> Result<(), DataError> {
        BareDir::open(dir, alone).map(drop)
    }

    #[test]
    fn what_a_killed_daemon_left_is_read_and_not_changed() {
        let (dir, blocks) = killed(&[b"one", &[7; 70_000]]);
        let before = files(dir.path());
        let bare = BareDir::open(dir.path(), false).unwrap();
        assert_eq!((bare.identity, bare.owner), (5, OWNER));
        let volume = bare.volume(ID).unwrap();
        assert_eq!(volume.list(0, usize::MAX).iter().map(|stat| stat.block).collect::<Vec<_>>(), blocks);
        assert_eq!(read(&volume, blocks[0]), b"one");
        assert_eq!(read(&volume, blocks[1]), [7; 70_000]);
        drop((volume, bare));
        assert!(files(dir.path()) == before);
    }

    #[test]
    fn a_volume_that_is_missing_or_of_another_daemon_is_refused() {
        let (dir, _) = killed(&[b"one"]);
        let bare = BareDir::open(dir.path(), false).unwrap();
        let missing = bare.volume(VolumeId(4)).map(drop).unwrap_err();
        assert!(matches!(missing, VolumeError::Io(error) if error.kind() == io::ErrorKind::NotFound));
        std::fs::copy(dir.path().join("vol-00000003.cv"), dir.path().join("vol-00000004.cv")).unwrap();
        assert!(matches!(bare.volume(VolumeId(4)), Err(VolumeError::Foreign)));
    }

    #[test]
    fn a_deleted_block_is_gone_for_its_daemon_too() {
        let (dir, blocks) = killed(&[b"one", b"two", b"three"]);
        BareDir::open(dir.path(), true).unwrap().delete(&[blocks[1], blocks[1]]).unwrap();
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let (volume, condition) = Volume::open(disk, OWNER, ID, LIMITS).unwrap();
        assert_eq!(condition, Condition::Open, "it was ended in order");
        let live: Vec<bool> = blocks.iter().map(|block| volume.is_live(*block)).collect();
        assert_eq!(live, [true, false, true]);
        assert_eq!(read(&volume, blocks[2]), b"three");
        let bare = BareDir::open(dir.path(), true).unwrap();
        assert!(!bare.volume(ID).unwrap().is_live(blocks[1]));
        bare.delete(&blocks).unwrap();
        assert!(blocks.iter().all(|block| !bare.volume(ID).unwrap().is_live(*block)));
        let absent = BlockRef { volume: VolumeId(9), ..blocks[0] };
        assert!(matches!(bare.delete(&[absent]), Err(VolumeError::Io(_))));
    }

    /// Found by review: in a copy without the file `LOCK` nobody was kept out.
    #[test]
    fn its_daemon_is_kept_out_and_nothing_is_made() {
        let (dir, _) = killed(&[b"one"]);
        let config = DataConfig::new(dir.path().to_owned());
        let before = files(dir.path());
        for alone in [false, true] {
            let bare = BareDir::open(dir.path(), alone).unwrap();
            let daemon = DataDir::open(&config).map(drop);
            assert!(matches!(daemon, Err(DataError::Lock(LockError::InUse(_)))), "alone: {alone}");
            assert_eq!(open(dir.path(), false).is_ok(), !alone);
            assert!(matches!(open(dir.path(), true), Err(DataError::Lock(LockError::InUse(_)))));
            drop(bare);
            assert!(files(dir.path()) == before, "alone: {alone}");
        }
        let daemon = DataDir::open(&config).unwrap();
        assert!(dir.path().join(LOCK).exists());
        for alone in [false, true] {
            assert!(matches!(open(dir.path(), alone), Err(DataError::Lock(LockError::InUse(_)))));
        }
        drop(daemon);
        open(dir.path(), true).unwrap();
    }

    /// Found by review: who it belongs to was read before it was locked, perhaps while a daemon wrote it.
    #[test]
    fn a_directory_in_use_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("NODE"), b"half").unwrap();
        let _daemon = DirLock::acquire(dir.path()).unwrap();
        for alone in [false, true] {
            assert!(matches!(open(dir.path(), alone), Err(DataError::Lock(LockError::InUse(_)))));
        }
    }

    #[test]
    fn what_is_no_data_directory_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let refused = |path: &Path| {
            let before = path.exists().then(|| files(path));
            let [one, other] = [false, true].map(|alone| open(path, alone).unwrap_err().to_string());
            assert_eq!(one, other);
            assert!(path.exists().then(|| files(path)) == before);
            one
        };
        assert!(refused(&path.join("absent")).contains("absent: No such file"));
        assert_eq!(refused(path), "no data daemon has used it yet");
        Identity { identity: 5, owner: None }.store(&RealDisk::open(path).unwrap()).unwrap();
        assert_eq!(refused(path), "no data daemon has used it yet");
        std::fs::write(path.join("NODE"), b"something else").unwrap();
        assert!(refused(path).contains("NODE is damaged"));
        std::fs::write(path.join(META_FILE), b"").unwrap();
        assert!(refused(path).contains("belongs to a metadata daemon"));
    }
}
