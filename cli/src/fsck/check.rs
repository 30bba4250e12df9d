//! Comparing the metadata with the volumes.
//!
//! Order matters, as everything may go on changing. A block that seems to be missing is a problem only if the metadata
//! still has it afterwards. A block that no file uses is leaked only if the session that wrote it had ended for good
//! before the metadata was asked about it and did not know it: nobody can commit it any more.

use super::ask::{AskData, AskMeta};
use super::compare::{self, Fault};
use super::report::{Leaked, Node, Problem, Report, Tree};
use anyhow::{Context as _, Result};
use cairn_common::error::{FsError, one_line};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::BlockStat;
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, ClusterMap, NodeInfo, TreeReport};
use std::collections::{BTreeMap, BTreeSet};

/// Damaged blocks whose files are named; more are only counted.
const NAMED_MAX: usize = BLOCKS_PER_REPLY;

/// What to look at, and what to do about it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Do not read blocks.
    pub quick: bool,
    pub repair: bool,
    /// Look at the volumes at all.
    pub data: bool,
}

/// Compares. `tree` says what the metadata has found about itself. What ends the check early does not take with it what
/// was found before.
pub async fn check<M: AskMeta>(meta: &M, tree: TreeReport, options: Options) -> Report {
    let mut report = Report { tree: Tree::new(tree.totals), ..Report::default() };
    report.problems.extend(tree.problems.into_iter().map(|what| Problem::Tree { what }));
    let sound = report.problems.is_empty();
    if options.repair && !sound {
        // A block of which it has lost the row is as unknown to it as a leaked one.
        report.unchecked.push("leaked blocks are not deleted while the metadata itself has problems".into());
    }
    let options = Options { repair: options.repair && sound, ..options };
    let mut check = Check { meta, options, used: BTreeMap::new(), report, bad: Vec::new() };
    if let Err(error) = check.all().await {
        check.unchecked(format!("the rest: {}", one_line(error.as_ref())));
    }
    check.report
}

type Used = BTreeMap<BlockRef, BlockUse>;

fn by_volume(used: Used) -> BTreeMap<VolumeId, Used> {
    let mut volumes: BTreeMap<VolumeId, Used> = BTreeMap::new();
    for (block, usage) in used {
        volumes.entry(block.volume).or_default().insert(block, usage);
    }
    volumes
}

/// A check under way.
struct Check<'a, M> {
    meta: &'a M,
    options: Options,
    used: BTreeMap<VolumeId, Used>,
    report: Report,
    /// Blocks with problems, with the place of each among the problems.
    bad: Vec<(BlockRef, usize)>,
}

impl<M: AskMeta> Check<'_, M> {
    async fn all(&mut self) -> Result<()> {
        let used = self.meta.blocks().await?;
        self.report.tree.blocks = used.len() as u64;
        self.used = by_volume(used);
        // Only now: a block that is used lies in a volume that was known before.
        let map = self.meta.map().await?;
        if self.options.data {
            self.nodes(&map).await?;
        }
        self.volumes_of_nobody(&map);
        self.name_files().await
    }

    async fn nodes(&mut self, map: &ClusterMap) -> Result<()> {
        self.report.data = Some(Vec::new());
        for info in &map.nodes {
            let on_node = map.volumes.iter().filter(|(_, on)| *on == info.node);
            let volumes: Vec<VolumeId> = on_node.map(|(volume, _)| *volume).collect();
            match self.meta.data(info).await {
                Ok(data) => self.node(&data, info, &volumes).await?,
                Err(why) => self.node_unchecked(info, &volumes, &why),
            }
        }
        Ok(())
    }

    fn node_unchecked(&mut self, info: &NodeInfo, volumes: &[VolumeId], why: &str) {
        let blocks: usize =
            volumes.iter().filter_map(|volume| self.used.remove(volume)).map(|used| used.len()).sum();
        self.unchecked(format!(
            "data daemon {} at {} {why}: {blocks} blocks that files use",
            info.node, info.address
        ));
    }

    /// All volumes of a data daemon.
    async fn node(&mut self, data: &M::Data, info: &NodeInfo, volumes: &[VolumeId]) -> Result<()> {
        let mut node = Node { node: info.node.0, address: info.address.clone(), blocks: 0, verified: 0 };
        for volume in volumes {
            let used = self.used.remove(volume).unwrap_or_default();
            node.blocks += used.len() as u64;
            match data.list(*volume).await {
                Ok(stored) => self.volume(data, &mut node, &used, &stored).await?,
                // Made on paper only, or lost: then its blocks are missing.
                Err(FsError::NotFound) => self.volume(data, &mut node, &used, &[]).await?,
                Err(FsError::Corrupt) => {
                    let lost = used.keys().map(|block| (*block, Fault::VolumeDamaged)).collect();
                    self.confirm(&node, lost).await?;
                }
                Err(error) => self.unchecked(format!(
                    "volume {volume} on data daemon {} at {}: {error}",
                    info.node, info.address
                )),
            }
        }
        self.report.data.get_or_insert_default().push(node);
        Ok(())
    }

    async fn volume(
        &mut self,
        data: &M::Data,
        node: &mut Node,
        used: &Used,
        stored: &[BlockStat],
    ) -> Result<()> {
        let mut found = compare::compare(used, stored);
        if !self.options.quick {
            let faulty: BTreeSet<BlockRef> = found.faults.iter().map(|(block, _)| *block).collect();
            for block in used.keys().copied().filter(|block| !faulty.contains(block)) {
                match data.verify(block).await {
                    Ok(bytes) => node.verified += bytes,
                    Err(FsError::Corrupt) => found.faults.push((block, Fault::Damaged)),
                    Err(FsError::Io) => found.faults.push((block, Fault::Unreadable)),
                    Err(FsError::NotFound) => found.faults.push((block, Fault::Missing)),
                    Err(error) => {
                        self.unchecked(format!("block {block} on data daemon {}: {error}", node.node));
                        break;
                    }
                }
            }
        }
        self.confirm(node, found.faults).await?;
        self.leaked(data, found.unused).await
    }

    async fn confirm(&mut self, node: &Node, faults: Vec<(BlockRef, Fault)>) -> Result<()> {
        let blocks: Vec<BlockRef> = faults.iter().map(|(block, _)| *block).collect();
        let fates = self.meta.fates(&blocks).await?;
        for (block, fault) in compare::confirmed(faults, &fates) {
            self.bad.push((block, self.report.problems.len()));
            self.report.problems.push(Problem::block(block, node.node, fault));
        }
        Ok(())
    }

    async fn leaked(&mut self, data: &M::Data, unused: Vec<BlockStat>) -> Result<()> {
        if unused.is_empty() {
            return Ok(());
        }
        let ended = self.meta.ended(unused.iter().map(|stat| stat.session).collect()).await?;
        let blocks: Vec<BlockRef> = unused.iter().map(|stat| stat.block).collect();
        let fates = self.meta.fates(&blocks).await?;
        let leaked = compare::leaked(unused, &ended, &fates);
        let Leaked { blocks, bytes, deleted } = &mut self.report.leaked;
        *blocks += leaked.len() as u64;
        *bytes += leaked.iter().map(|stat| u64::from(stat.length)).sum::<u64>();
        if self.options.repair && !leaked.is_empty() {
            let doomed: Vec<BlockRef> = leaked.iter().map(|stat| stat.block).collect();
            for page in doomed.chunks(BLOCKS_PER_REPLY) {
                data.delete(page.to_vec()).await.context("delete leaked blocks")?;
            }
            *deleted = true;
        }
        Ok(())
    }

    /// Blocks in volumes that the metadata itself does not know.
    fn volumes_of_nobody(&mut self, map: &ClusterMap) {
        let known: BTreeSet<VolumeId> = map.volumes.iter().map(|(volume, _)| *volume).collect();
        for (volume, used) in std::mem::take(&mut self.used) {
            if !known.contains(&volume) {
                let what = format!("{} blocks are in volume {volume}, which no data daemon has", used.len());
                self.report.problems.push(Problem::Tree { what });
            } else if self.options.data {
                self.unchecked(format!("volume {volume}: its data daemon is not registered"));
            }
        }
    }

    /// Says which files the bad blocks belong to.
    async fn name_files(&mut self) -> Result<()> {
        if self.bad.is_empty() {
            return Ok(());
        }
        let asked: Vec<BlockRef> = self.bad.iter().take(NAMED_MAX).map(|(block, _)| *block).collect();
        let answer = self.meta.users(asked).await?;
        for (block, place) in self.bad.iter().take(NAMED_MAX) {
            if let Problem::Block { files, complete, .. } = &mut self.report.problems[*place] {
                let users = answer.users.iter().filter(|user| user.block == *block);
                files.extend(users.flat_map(|user| match user.paths.as_slice() {
                    [] => vec![format!("inode {} (removed, still open)", user.ino)],
                    paths => paths.iter().map(|path| path.escape_ascii().to_string()).collect(),
                }));
                *complete = answer.complete;
            }
        }
        Ok(())
    }

    fn unchecked(&mut self, what: String) {
        self.report.unchecked.push(what);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use cairn_common::error::FsResult;
    use cairn_common::ids::{NodeId, SessionId};
    use cairn_common::namespace::tables::Totals;
    use cairn_common::proto::meta::{BlockFate, UserReport};
    use std::cell::RefCell;
    use std::rc::Rc;

    const BLOCK: BlockRef = BlockRef { volume: VolumeId(1), sequence: 1, cookie: 7 };

    /// One volume with a block that the metadata does not know, of a session that has ended.
    #[derive(Clone, Default)]
    struct Small {
        deleted: Rc<RefCell<Vec<BlockRef>>>,
        /// The metadata can't be read to its end.
        torn: bool,
    }

    impl AskMeta for Small {
        type Data = Small;

        async fn blocks(&self) -> Result<BTreeMap<BlockRef, BlockUse>> {
            anyhow::ensure!(!self.torn, "a torn page");
            Ok(BTreeMap::new())
        }
        async fn map(&self) -> Result<ClusterMap> {
            let node = NodeInfo { node: NodeId(1), address: "there".into(), alive: true, stat: None };
            Ok(ClusterMap { epoch: 1, nodes: vec![node], volumes: vec![(VolumeId(1), NodeId(1))] })
        }
        async fn fates(&self, blocks: &[BlockRef]) -> Result<Vec<BlockFate>> {
            Ok(vec![BlockFate::Unknown; blocks.len()])
        }
        async fn ended(&self, sessions: BTreeSet<SessionId>) -> Result<BTreeSet<SessionId>> {
            Ok(sessions)
        }
        async fn users(&self, _: Vec<BlockRef>) -> Result<UserReport> {
            Ok(UserReport { users: Vec::new(), complete: true })
        }
        async fn data(&self, _: &NodeInfo) -> Result<Small, String> {
            Ok(self.clone())
        }
    }

    impl AskData for Small {
        async fn list(&self, _: VolumeId) -> FsResult<Vec<BlockStat>> {
            let session = SessionId(1);
            Ok(vec![BlockStat { block: BLOCK, session, length: 9, summary_len: 0, deleted: false }])
        }
        async fn verify(&self, _: BlockRef) -> FsResult<u64> {
            Ok(9)
        }
        async fn delete(&self, blocks: Vec<BlockRef>) -> Result<()> {
            self.deleted.borrow_mut().extend(blocks);
            Ok(())
        }
    }

    fn repaired(problems: Vec<String>) -> (Report, Vec<BlockRef>) {
        let small = Small::default();
        let options = Options { quick: false, repair: true, data: true };
        let tree = TreeReport { problems, totals: Totals::default() };
        let report = futures::executor::block_on(check(&small, tree, options));
        (report, small.deleted.take())
    }

    /// Found by review: metadata that has lost a block's row does not know the block either.
    #[test]
    fn nothing_is_deleted_on_the_word_of_damaged_metadata() {
        let (report, deleted) = repaired(vec!["a page is damaged".into()]);
        assert_eq!((deleted, report.leaked.blocks, report.leaked.deleted), (vec![], 1, false));
        assert_eq!((report.problems.len(), report.unchecked.len()), (1, 1));
        let (report, deleted) = repaired(Vec::new());
        assert_eq!((deleted, report.leaked.blocks, report.leaked.deleted), (vec![BLOCK], 1, true));
    }

    #[test]
    fn what_ends_a_check_early_leaves_what_was_found() {
        let small = Small { torn: true, ..Small::default() };
        let options = Options { quick: false, repair: true, data: true };
        let tree = TreeReport { problems: vec!["found before".into()], totals: Totals::default() };
        let report = futures::executor::block_on(check(&small, tree, options));
        assert!(matches!(&report.problems[..], [Problem::Tree { what }] if what == "found before"));
        assert_eq!(report.unchecked.last().unwrap(), "the rest: a torn page");
        assert!(small.deleted.take().is_empty() && !report.leaked.deleted);
    }
}
