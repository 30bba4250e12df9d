//! Questions to the directories of daemons that are stopped. Nothing in them is changed, but that `--repair` deletes
//! leaked blocks.

use super::ask::{AskData, AskMeta};
use super::check::{Options, check};
use super::losses;
use super::report::{Problem, Report};
use crate::panics;
use anyhow::{Context as _, Result, bail};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::limits::FRAME_PAYLOAD_MAX;
use cairn_common::namespace::tables::{BlockUse, Read};
use cairn_common::namespace::{check as rules, users};
use cairn_common::proto::data::BlockStat;
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, BlockFate, ClusterMap, NodeInfo, TreeReport, UserReport};
use cairn_common::wire::checksum::verify_pieces;
use cairn_fsd::data::DataError;
use cairn_fsd::data::bare::BareDir as DataDir;
use cairn_fsd::data::volume::{Volume, VolumeError};
use cairn_fsd::meta::losses::Losses;
use cairn_fsd::meta::machine::OpenError;
use cairn_fsd::meta::machine::bare::{Bare, BareDir as MetaDir};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Checks the metadata in `dir`, and the volumes in `data_dirs`.
pub async fn find(dir: &Path, data_dirs: &[PathBuf], options: Options) -> Result<Report> {
    panics::quiet_in_redb();
    let place = || dir.display().to_string();
    let meta = MetaDir::open(dir)?;
    let data = data_dirs.iter().map(|dir| open_data(dir, options.repair)).collect::<Result<Vec<_>>>()?;
    let mut damage = Damage::default();
    if damage.of(meta.verify()).with_context(place)?.is_none() {
        damage.touches(meta.losses()).with_context(place)?;
    }
    let Some(bare) = damage.of(meta.load()).with_context(place)? else { return Ok(damage.report()) };
    let offline = Offline { bare, data };
    offline.check_owners(data_dirs)?;
    let Some(tree) = damage.of(offline.tree()).with_context(place)? else { return Ok(damage.report()) };
    let tree = TreeReport { problems: [damage.found.clone(), tree.problems].concat(), ..tree };
    Ok(damage.add_to(check(&offline, tree, options).await))
}

fn open_data(dir: &Path, alone: bool) -> Result<Rc<DataNode>> {
    match DataDir::open(dir, alone) {
        Ok(opened) => Ok(Rc::new(DataNode { dir: opened, volume: RefCell::default() })),
        // It names the directory.
        Err(DataError::Lock(error)) => Err(error.into()),
        Err(error) => Err(error).with_context(|| dir.display().to_string()),
    }
}

/// What is wrong with the files of the metadata.
#[derive(Default)]
struct Damage {
    found: Vec<String>,
    /// What that touches, and what is not known of it.
    touched: Vec<Problem>,
    untold: Option<String>,
}

impl Damage {
    /// `None` if there is damage in place of a result.
    fn of<T>(&mut self, result: Result<T, OpenError>) -> Result<Option<T>, OpenError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(OpenError::Corrupt(what)) => {
                let what = what.strip_prefix("metadata ").map_or(what.clone(), str::to_owned);
                if !self.found.contains(&what) {
                    self.found.push(what);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn touches(&mut self, losses: Result<Losses, OpenError>) -> Result<(), OpenError> {
        match losses {
            Ok(losses) => self.touched = losses::problems(losses),
            Err(OpenError::Corrupt(what)) => self.untold = Some(what),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// All that can be said.
    fn report(mut self) -> Report {
        let report = Report::unreadable(std::mem::take(&mut self.found));
        self.add_to(report)
    }

    fn add_to(self, mut report: Report) -> Report {
        report.problems.extend(self.touched);
        report.unchecked.extend(self.untold.map(|why| format!("which files the damage touches: {why}")));
        report
    }
}

struct Offline {
    bare: Bare,
    data: Vec<Rc<DataNode>>,
}

impl Offline {
    /// All data directories are of this cluster, and known to it.
    fn check_owners(&self, paths: &[PathBuf]) -> Result<()> {
        let nodes = self.bare.read(|snapshot| snapshot.nodes()).context("read the data daemons")?;
        for (node, path) in self.data.iter().zip(paths) {
            let (path, owner) = (path.display(), node.dir.owner);
            if owner.cluster != self.bare.cluster() {
                bail!("{path} belongs to cluster {}, the metadata to {}", owner.cluster, self.bare.cluster());
            }
            let known = nodes.iter().any(|row| (row.node, row.identity) == (owner.node, node.dir.identity));
            if !known {
                bail!("{path} belongs to data daemon {}, which the metadata does not know", owner.node);
            }
        }
        Ok(())
    }

    /// The tree compared with itself.
    fn tree(&self) -> Result<TreeReport, OpenError> {
        let tree = self.bare.read(|snapshot| {
            Ok(TreeReport { problems: rules::check(snapshot)?, totals: snapshot.totals()? })
        });
        tree.map_err(|error| OpenError::Corrupt(format!("tables: they can't be read to their end: {error}")))
    }
}

impl AskMeta for Offline {
    type Data = Rc<DataNode>;

    async fn blocks(&self) -> Result<BTreeMap<BlockRef, BlockUse>> {
        let mut all = BTreeMap::new();
        loop {
            let after = all.last_key_value().map_or(BlockRef::default(), |(block, _)| *block);
            let page = self.bare.read(|snapshot| snapshot.blocks_after(after, BLOCKS_PER_REPLY));
            let page = page.context("read the blocks")?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    async fn map(&self) -> Result<ClusterMap> {
        let read = self.bare.read(|snapshot| Ok((snapshot.nodes()?, snapshot.volumes()?)));
        let (nodes, volumes) = read.context("read the data daemons")?;
        let node = |row: cairn_fsd::meta::tables::NodeRow| NodeInfo {
            node: row.node,
            address: row.address,
            alive: false,
            stat: None,
        };
        Ok(ClusterMap { epoch: 0, nodes: nodes.into_iter().map(node).collect(), volumes })
    }

    async fn fates(&self, blocks: &[BlockRef]) -> Result<Vec<BlockFate>> {
        let fates = self.bare.read(|snapshot| blocks.iter().map(|block| snapshot.fate(*block)).collect());
        fates.context("read what has become of blocks")
    }

    async fn ended(&self, mut sessions: BTreeSet<SessionId>) -> Result<BTreeSet<SessionId>> {
        sessions.retain(|session| self.bare.has_ended(*session));
        Ok(sessions)
    }

    async fn users(&self, blocks: Vec<BlockRef>) -> Result<UserReport> {
        let blocks = blocks.into_iter().collect();
        let users = self.bare.read(|snapshot| users::users(snapshot, &blocks));
        Ok(UserReport { users: users.context("read which files are touched")?, complete: true })
    }

    async fn data(&self, node: &NodeInfo) -> Result<Rc<DataNode>, String> {
        let found = self.data.iter().find(|data| data.dir.owner.node == node.node);
        found.cloned().ok_or_else(|| "is not among the directories given by --data-dir".to_owned())
    }
}

/// A data directory, with the volume that is looked at.
struct DataNode {
    dir: DataDir,
    volume: RefCell<Option<Rc<Volume>>>,
}

impl DataNode {
    fn open(&self, id: VolumeId) -> FsResult<Rc<Volume>> {
        let mut current = self.volume.borrow_mut();
        if let Some(volume) = current.as_ref().filter(|volume| volume.id() == id) {
            return Ok(volume.clone());
        }
        let volume = Rc::new(self.dir.volume(id).map_err(|error| match error {
            VolumeError::Io(error) if error.kind() == io::ErrorKind::NotFound => FsError::NotFound,
            VolumeError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => FsError::Corrupt,
            VolumeError::Io(_) => FsError::Io,
            VolumeError::Superblock(_) | VolumeError::Foreign => FsError::Corrupt,
        })?);
        *current = Some(volume.clone());
        Ok(volume)
    }
}

impl AskData for Rc<DataNode> {
    async fn list(&self, volume: VolumeId) -> FsResult<Vec<BlockStat>> {
        Ok(self.open(volume)?.list(0, usize::MAX))
    }

    async fn verify(&self, block: BlockRef) -> FsResult<u64> {
        let volume = self.open(block.volume)?;
        let length = u32::try_from(FRAME_PAYLOAD_MAX).map_err(|_| FsError::Invalid)?;
        let span = volume.locate(block, 0, length)?;
        let mut bytes = vec![0; span.length];
        volume.read(&span, &mut bytes)?;
        verify_pieces(&bytes, &span.checksums).map_err(|_piece| FsError::Corrupt)?;
        Ok(bytes.len() as u64)
    }

    async fn delete(&self, blocks: Vec<BlockRef>) -> Result<()> {
        Ok(self.dir.delete(&blocks)?)
    }
}
