//! `cairn fsck`: compares the metadata with itself, then with what the data daemons have, while all runs.
//!
//! Order matters, as everything goes on changing. A block that seems to be missing is a problem only if the metadata
//! still has it afterwards. A block that no file uses is leaked only if the session that wrote it had ended for good
//! before the metadata was asked about it and did not know it: nobody can commit it any more.

mod ask;
mod compare;
mod report;

use anyhow::{Context as _, Result};
use ask::{Data, Meta};
use cairn_common::config::AddressList;
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::BlockStat;
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, MetaStatus, NodeInfo};
use compare::Fault;
use report::{Leaked, Node, Problem, Report, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Metadata daemons, each a host and perhaps a port
    #[arg(long, value_name = "HOST[:PORT],...", env = "CAIRN_META", default_value = "localhost")]
    meta: AddressList,
    /// Do not read the data: only ask whether all blocks are there
    #[arg(long)]
    quick: bool,
    /// Repair what can be repaired without guessing: delete blocks that no file can use any more
    #[arg(long)]
    repair: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Exit codes as of fsck(8).
mod code {
    pub const REPAIRED: u8 = 1;
    pub const PROBLEMS_LEFT: u8 = 4;
    pub const NOT_CHECKED: u8 = 8;
}

/// Damaged blocks whose files are named; more are only counted.
const NAMED_MAX: usize = BLOCKS_PER_REPLY;

/// Checks and prints.
pub fn run(args: &Args) -> ExitCode {
    let checked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(check(args)))
        .and_then(|report| Ok((print(&report, args.json)?, report)));
    match checked {
        Ok(((), report)) => ExitCode::from(exit_code(&report)),
        Err(error) => {
            eprintln!("cairn: fsck: {error:#}");
            ExitCode::from(code::NOT_CHECKED)
        }
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

fn exit_code(report: &Report) -> u8 {
    let mut code = 0;
    if report.leaked.deleted {
        code |= code::REPAIRED;
    }
    if !report.problems.is_empty() {
        code |= code::PROBLEMS_LEFT;
    }
    if !report.unchecked.is_empty() {
        code |= code::NOT_CHECKED;
    }
    code
}

async fn check(args: &Args) -> Result<Report> {
    let meta = Meta::new(args.meta.0.clone());
    let answers = meta.status().await;
    answers.with_context(|| format!("metadata daemon at {} does not answer", args.meta))?;
    let tree = meta.tree().await?;
    let used = meta.blocks().await?;
    // Only now: a block that is used lies in a volume that was known before.
    let status = meta.status().await.context("ask the metadata daemon for its data daemons")?;
    let mut report = Report { tree: Tree::new(tree.totals, used.len()), ..Report::default() };
    report.problems.extend(tree.problems.into_iter().map(|what| Problem::Tree { what }));
    let mut check = Check { meta: &meta, args, used: by_volume(used), report, bad: Vec::new() };
    for info in &status.map.nodes {
        check.node(&status, info).await?;
    }
    check.volumes_of_nobody(&status);
    check.name_files().await?;
    Ok(check.report)
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
struct Check<'a> {
    meta: &'a Meta,
    args: &'a Args,
    used: BTreeMap<VolumeId, Used>,
    report: Report,
    /// Blocks with problems, with the place of each among the problems.
    bad: Vec<(BlockRef, usize)>,
}

impl Check<'_> {
    /// All volumes of a data daemon.
    async fn node(&mut self, status: &MetaStatus, info: &NodeInfo) -> Result<()> {
        let address =
            info.address.parse().with_context(|| format!("address of data daemon {}", info.node))?;
        let data = Data::new(address);
        let mut node = Node { node: info.node.0, address: info.address.clone(), blocks: 0, verified: 0 };
        let volumes: Vec<VolumeId> =
            status.map.volumes.iter().filter(|(_, on)| *on == info.node).map(|(volume, _)| *volume).collect();
        if let Err(error) = data.answers().await {
            let blocks: usize =
                volumes.iter().filter_map(|volume| self.used.remove(volume)).map(|used| used.len()).sum();
            self.unchecked(format!(
                "data daemon {} at {} does not answer ({error}): {blocks} blocks that files use",
                info.node, info.address
            ));
            return Ok(());
        }
        for volume in &volumes {
            let used = self.used.remove(volume).unwrap_or_default();
            node.blocks += used.len() as u64;
            let listed = match data.list(*volume).await {
                // Made on paper only, or lost: then its blocks are missing.
                Err(FsError::NotFound) => Ok(Vec::new()),
                listed => listed,
            };
            match listed {
                Ok(stored) => self.volume(&data, &mut node, &used, &stored).await?,
                Err(error) => self.unchecked(format!(
                    "volume {volume} on data daemon {} at {}: {error}",
                    info.node, info.address
                )),
            }
        }
        self.report.data.push(node);
        Ok(())
    }

    async fn volume(
        &mut self,
        data: &Data,
        node: &mut Node,
        used: &Used,
        stored: &[BlockStat],
    ) -> Result<()> {
        let mut found = compare::compare(used, stored);
        if !self.args.quick {
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

    async fn leaked(&mut self, data: &Data, unused: Vec<BlockStat>) -> Result<()> {
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
        if self.args.repair && !leaked.is_empty() {
            let doomed: Vec<BlockRef> = leaked.iter().map(|stat| stat.block).collect();
            for page in doomed.chunks(BLOCKS_PER_REPLY) {
                data.delete(page.to_vec()).await.context("delete leaked blocks")?;
            }
            *deleted = true;
        }
        Ok(())
    }

    /// Blocks in volumes that the metadata itself does not know.
    fn volumes_of_nobody(&mut self, status: &MetaStatus) {
        let known: Vec<VolumeId> = status.map.volumes.iter().map(|(volume, _)| *volume).collect();
        for (volume, used) in std::mem::take(&mut self.used) {
            if known.contains(&volume) {
                self.unchecked(format!("volume {volume}: its data daemon is not registered"));
            } else {
                let what = format!("{} blocks are in volume {volume}, which no data daemon has", used.len());
                self.report.problems.push(Problem::Tree { what });
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
