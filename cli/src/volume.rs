//! `cairn volume`: looks into the file of one volume, without its daemon.

use crate::view::Size;
use anyhow::{Context as _, Result, bail};
use cairn_common::summary::{self, SummaryEntry};
use cairn_fsd::data::volume::bare::{Bare, End};
use cairn_fsd::data::volume::index::Entry;
use cairn_fsd::disk::RealDisk;
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Say whose volume it is, what is in it, and how it ends
    Show { file: PathBuf },
    /// List its blocks
    List {
        file: PathBuf,
        /// Read each block and compare it with its checksums
        #[arg(long)]
        verify: bool,
        /// Print one JSON object for each block, a line each
        #[arg(long)]
        json: bool,
    },
    /// Write the content of a block to standard output
    Dump {
        file: PathBuf,
        /// Number of the block in its volume
        block: u32,
        /// Instead, say which parts of which files it was written for
        #[arg(long)]
        summary: bool,
    },
}

/// Exit code where blocks are damaged, as of fsck(8).
const DAMAGED: u8 = 4;

#[derive(Serialize)]
struct Line {
    block: u32,
    cookie: String,
    session: u64,
    /// First byte of the payload in the file.
    offset: u64,
    length: u32,
    summary: u32,
    state: &'static str,
}

/// Looks and prints.
///
/// # Errors
/// If the file is no volume or can't be read, or the block that is asked for is not there, deleted or damaged.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let code = match args {
        Args::Show { file } => show(&open(file)?, &mut out)?,
        Args::List { file, verify, json } => list(&open(file)?, *verify, *json, &mut out)?,
        Args::Dump { file, block, summary } => {
            let bare = open(file)?;
            let content = read(&bare, file, *block)?;
            if *summary {
                print_summary(&content, &mut out)?
            } else {
                out.write_all(&content.bytes)?
            }
            ExitCode::SUCCESS
        }
    };
    out.flush()?;
    Ok(code)
}

fn open(file: &Path) -> Result<Bare> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} is not the name of a file", file.display()))?;
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let disk = RealDisk::read_only(directory).with_context(|| format!("open {}", directory.display()))?;
    Bare::open(&disk, name).with_context(|| format!("{}", file.display()))
}

fn show(bare: &Bare, out: &mut impl Write) -> Result<ExitCode> {
    let of = &bare.superblock;
    writeln!(out, "volume    {} of data daemon {}, cluster {}", of.volume, of.node, of.cluster)?;
    writeln!(out, "made      {} s after 1970", of.created)?;
    let end = match bare.end {
        End::Sealed => "sealed: nothing is added any more",
        End::Stopped => "closed in order, takes more blocks",
        End::Open => "open: its daemon runs, or was killed",
    };
    writeln!(out, "state     {end}")?;
    let (dead, live): (Vec<Entry>, Vec<Entry>) =
        bare.blocks().into_iter().partition(|block| bare.is_deleted(block));
    let bytes = |blocks: &[Entry]| Size(blocks.iter().map(|block| u64::from(block.payload_len)).sum());
    writeln!(out, "blocks    {} hold {}, {} are deleted", live.len(), bytes(&live), dead.len())?;
    writeln!(out, "length    {}", Size(bare.length))?;
    if bare.damaged {
        writeln!(out, "DAMAGED   headers are broken: blocks are missing from the list")?;
        return Ok(ExitCode::from(DAMAGED));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(bare: &Bare, verify: bool, json: bool, out: &mut impl Write) -> Result<ExitCode> {
    let mut damaged = bare.damaged;
    for block in bare.blocks() {
        let state = match () {
            () if bare.is_deleted(&block) => "deleted",
            () if !verify => "live",
            () if bare.read(&block).is_ok() => "whole",
            () => "DAMAGED",
        };
        damaged |= state == "DAMAGED";
        let line = Line {
            block: block.sequence,
            cookie: format!("{:08x}", block.cookie),
            session: block.session.0,
            offset: block.offset(),
            length: block.payload_len,
            summary: block.summary_len,
            state,
        };
        if json {
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            let Line { block, cookie, session, offset, length, .. } = line;
            writeln!(
                out,
                "{block:>8} {cookie} session {session:<6} at {offset:<12} {length:>8} bytes {state}"
            )?;
        }
    }
    Ok(if damaged { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS })
}

/// What a block holds.
struct Content {
    bytes: Vec<u8>,
    summary: Vec<u8>,
}

fn read(bare: &Bare, file: &Path, sequence: u32) -> Result<Content> {
    let place = format!("block {sequence} of {}", file.display());
    let Some(block) = bare.block(sequence) else { bail!("{place}: there is none, see 'cairn volume list'") };
    if bare.is_deleted(&block) {
        bail!("{place} is deleted");
    }
    let mut bytes = bare.read(&block).with_context(|| place)?;
    let summary = bytes.split_off(bytes.len() - block.summary_len as usize);
    Ok(Content { bytes, summary })
}

fn print_summary(content: &Content, out: &mut impl Write) -> Result<()> {
    if content.summary.is_empty() {
        bail!("the block has no summary");
    }
    for SummaryEntry { ino, offset, at, length } in summary::decode(&content.summary)? {
        writeln!(out, "byte {at}: {length} bytes for inode {ino} at {offset}")?;
    }
    Ok(())
}
