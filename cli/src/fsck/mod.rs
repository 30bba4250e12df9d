//! `cairn fsck`: compares the metadata with itself, then with what the volumes have: while all runs, or on the
//! directories of daemons that are stopped.

mod ask;
mod check;
mod compare;
mod losses;
mod offline;
mod online;
mod report;

use anyhow::{Context as _, Result, bail};
use cairn_common::config::AddressList;
use cairn_common::error::one_line;
use check::{Options, check};
use clap::ArgMatches;
use clap::parser::ValueSource;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Metadata daemons, each a host and perhaps a port
    #[arg(long, value_name = "HOST[:PORT],...", env = "CAIRN_META", default_value = "localhost")]
    meta: AddressList,
    /// Check the metadata in this directory, whose daemon is stopped, and ask no daemon; nothing in it is changed
    #[arg(long, value_name = "DIR")]
    meta_dir: Option<PathBuf>,
    /// Check the volumes in this directory too, whose daemon is stopped; may be repeated. Without any, the metadata
    /// is compared with itself alone
    #[arg(long, value_name = "DIR", requires = "meta_dir")]
    data_dir: Vec<PathBuf>,
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
    pub const USAGE: u8 = 2;
    pub const PROBLEMS_LEFT: u8 = 4;
    pub const NOT_CHECKED: u8 = 8;
}

/// Checks and prints. `given` tells what of `args` was typed.
pub fn run(args: &Args, given: &ArgMatches) -> ExitCode {
    if let Some(line) = contradiction(given) {
        eprintln!("cairn: fsck: {line}");
        return ExitCode::from(code::USAGE);
    }
    let checked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(find(args)))
        .and_then(|report| Ok((print(&report, args.json)?, report)));
    match checked {
        Ok(((), report)) => ExitCode::from(exit_code(&report)),
        Err(error) => {
            eprintln!("cairn: fsck: {}", one_line(error.as_ref()));
            ExitCode::from(code::NOT_CHECKED)
        }
    }
}

/// Who names daemons does not want a directory checked in their place. The environment names them for all commands, and is
/// no contradiction.
fn contradiction(given: &ArgMatches) -> Option<&'static str> {
    let names_daemons = given.value_source("meta") == Some(ValueSource::CommandLine);
    let both = names_daemons && given.contains_id("meta_dir");
    both.then_some(
        "--meta names daemons to ask, --meta-dir a directory to check without any: give one of the two",
    )
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

async fn find(args: &Args) -> Result<Report> {
    let options = Options { quick: args.quick, repair: args.repair, data: true };
    if let Some(dir) = &args.meta_dir {
        if args.repair && args.data_dir.is_empty() {
            bail!("--repair deletes blocks: name the directories that have them with --data-dir");
        }
        let options = Options { data: !args.data_dir.is_empty(), ..options };
        return offline::find(dir, &args.data_dir, options).await;
    }
    let meta = online::Meta::new(args.meta.0.clone());
    let answers = meta.status().await;
    answers.with_context(|| format!("metadata daemon at {} does not answer", args.meta))?;
    let tree = meta.tree().await?;
    Ok(check(&meta, tree, options).await)
}
