//! What `cairn fsck` found: one structure, as JSON or as text for people.

use super::compare::Fault;
use crate::view::Size;
use cairn_common::ids::BlockRef;
use cairn_common::namespace::tables::Totals;
use serde::Serialize;
use std::fmt;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub tree: Tree,
    /// `None`: no data was to be looked at.
    pub data: Option<Vec<Node>>,
    pub problems: Vec<Problem>,
    /// What could not be looked at, and why.
    pub unchecked: Vec<String>,
    /// Stored blocks of mounts that ended without committing them.
    pub leaked: Leaked,
}

#[derive(Debug, Default, Serialize)]
pub struct Tree {
    pub inodes: u64,
    pub allocated: u64,
    pub blocks: u64,
    pub block_bytes: u64,
}

/// One data daemon.
#[derive(Debug, Serialize)]
pub struct Node {
    pub node: u32,
    pub address: String,
    /// Blocks that files use, and that it should have.
    pub blocks: u64,
    /// Bytes read and compared with their checksums.
    pub verified: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "where")]
pub enum Problem {
    /// The metadata contradicts itself.
    Tree { what: String },
    /// Rows of the metadata that can't be read.
    Rows {
        table: &'static str,
        /// Of inodes, or what else has these rows; `None`: from the first, to the last.
        first: Option<u64>,
        last: Option<u64>,
        what: String,
        /// Names of files that this touches.
        files: Vec<String>,
        /// How many are not named.
        more: u64,
    },
    Block {
        block: String,
        node: u32,
        what: String,
        /// Names of files that use it; some of them if `complete` is false.
        files: Vec<String>,
        complete: bool,
    },
}

#[derive(Debug, Default, Serialize)]
pub struct Leaked {
    pub blocks: u64,
    pub bytes: u64,
    pub deleted: bool,
}

impl Tree {
    /// What the metadata counts; its blocks are not listed yet.
    pub fn new(totals: Totals) -> Tree {
        let Totals { inodes, allocated, block_bytes, .. } = totals;
        Tree { inodes, allocated, block_bytes, blocks: 0 }
    }
}

impl Report {
    /// Of metadata that can't be read.
    pub fn unreadable(damage: Vec<String>) -> Report {
        Report {
            problems: damage.into_iter().map(|what| Problem::Tree { what }).collect(),
            unchecked: vec!["everything else: it needs the metadata".to_owned()],
            ..Report::default()
        }
    }
}

impl Problem {
    /// A block without the names of its files, which are asked for together later.
    pub fn block(block: BlockRef, node: u32, fault: Fault) -> Problem {
        let what = match fault {
            Fault::Missing => "is missing".to_owned(),
            Fault::Length { stored, expected } => format!("has {stored} bytes instead of {expected}"),
            Fault::Damaged => "is damaged: its bytes do not match their checksums".to_owned(),
            Fault::Unreadable => "can't be read from its disk".to_owned(),
            Fault::VolumeDamaged => "is in a volume whose file is damaged at its beginning".to_owned(),
        };
        Problem::Block { block: block.to_string(), node, what, files: Vec::new(), complete: false }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Tree { what } => write!(f, "metadata: {what}"),
            Problem::Rows { what, files, more, .. } => {
                write!(f, "metadata: {what}")?;
                files.iter().try_for_each(|file| write!(f, "\n          {file}"))?;
                if *more == 0 { Ok(()) } else { write!(f, "\n          and {more} more") }
            }
            Problem::Block { block, node, what, files, complete } => {
                write!(f, "block {block} on data daemon {node} {what}")?;
                files.iter().try_for_each(|file| write!(f, "\n          in {file}"))?;
                if *complete { Ok(()) } else { write!(f, "\n          and perhaps in more files") }
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = &self.tree;
        let (held, stored) = (Size(tree.allocated), Size(tree.block_bytes));
        writeln!(f, "metadata  {} inodes hold {held}, {stored} of blocks", tree.inodes)?;
        if self.data.is_none() {
            writeln!(f, "data      not looked at")?;
        }
        for node in self.data.iter().flatten() {
            write!(f, "data {:<4} {} blocks in use", node.node, node.blocks)?;
            if node.verified > 0 {
                write!(f, ", {} read and verified", Size(node.verified))?;
            }
            writeln!(f)?;
        }
        if self.leaked.blocks > 0 {
            let Leaked { blocks, bytes, deleted } = &self.leaked;
            let then = if *deleted { "deleted" } else { "--repair deletes them" };
            writeln!(f, "leaked    {blocks} blocks, {}, of mounts that ended: {then}", Size(*bytes))?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "PROBLEM   {problem}"))?;
        self.unchecked.iter().try_for_each(|what| writeln!(f, "UNCHECKED {what}"))?;
        match (self.problems.len(), self.unchecked.is_empty()) {
            (0, true) => writeln!(f, "no problem found"),
            (0, false) => writeln!(f, "no problem found in what could be checked"),
            (1, _) => writeln!(f, "1 problem found"),
            (count, _) => writeln!(f, "{count} problems found"),
        }
    }
}
