//! `cairn`: what a person types.

mod connect;
mod demo;
mod fsck;
mod meta;
mod panics;
mod status;
mod view;
mod volume;

use cairn_common::error::one_line;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// Cairn, a network file system.
#[derive(Debug, Parser)]
#[command(name = "cairn", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole Cairn in this process and mount it: to try it, not to keep data
    Demo(demo::Args),
    /// Say what runs: versions, space, inodes, sessions, data daemons
    Status(status::Args),
    /// Check metadata and data against each other: of a running Cairn, or in the directories of a stopped one
    Fsck(fsck::Args),
    /// Look into the file of one volume, without its daemon
    #[command(subcommand)]
    Volume(volume::Args),
    /// Write the metadata of a stopped daemon as text, or make a directory for a daemon of such a text
    #[command(subcommand)]
    Meta(meta::Args),
}

fn main() -> ExitCode {
    let given = Cli::command().get_matches();
    let Cli { command } = Cli::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    // There is one: it is required.
    let own = given.subcommand().map_or_else(ArgMatches::default, |(_name, own)| own.clone());
    let result = match command {
        Command::Demo(args) => demo::run(args),
        Command::Status(args) => status::run(&args),
        Command::Fsck(args) => Ok(fsck::run(&args, &own)),
        Command::Volume(args) => volume::run(&args),
        Command::Meta(args) => meta::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cairn: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
