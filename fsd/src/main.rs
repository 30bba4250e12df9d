//! `cairn-fsd`: one role of the file system daemon in a process.

use anyhow::{Context, Result, bail};
use cairn_common::env::files;
use cairn_common::error::one_line;
use cairn_common::telemetry::{self, LogOptions};
use cairn_fsd::cli::{Cli, Plan};
use cairn_fsd::config::{DataConfig, MetaConfig};
use cairn_fsd::node::{start_data, start_meta};
use clap::Parser;
use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZero;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-fsd: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<()> {
    telemetry::init(&LogOptions { verbosity: cli.verbose, ..LogOptions::default() })?;
    files::raise_limit();
    match cli.role.plan()? {
        Plan::Meta(config) => run(runtime(1)?, run_meta(config)),
        Plan::Data(config) => run(runtime(2)?, run_data(config)),
    }
}

/// Runs a role to its end. What still runs in threads then, as the search for a name or a recovery that was not
/// waited for, ends with the process: everything on disk is safe at any moment.
fn run(runtime: Runtime, role: impl Future<Output = Result<()>>) -> Result<()> {
    let result = runtime.block_on(role);
    runtime.shutdown_background();
    result
}

/// Half of the processors, but at least `least` threads: for small requests a second thread costs more
/// in wake-ups than it brings.
fn runtime(least: usize) -> Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = (processors / 2).clamp(least, 8);
    Ok(Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}

async fn run_meta(config: MetaConfig) -> Result<()> {
    let stop = stop_signal()?;
    tokio::pin!(stop);
    // A long log takes its time to recover.
    let node = tokio::select! {
        node = start_meta(config) => node?,
        () = &mut stop => return Ok(()),
    };
    announce(node.address())?;
    let failure = tokio::select! {
        () = stop => None,
        line = node.failed() => Some(line),
    };
    end(failure, node.shutdown().await)
}

async fn run_data(config: DataConfig) -> Result<()> {
    let stop = stop_signal()?;
    tokio::pin!(stop);
    // A new directory waits for the metadata daemon, perhaps for long.
    let node = tokio::select! {
        node = start_data(config) => node?,
        () = &mut stop => return Ok(()),
    };
    announce(node.address())?;
    let failure = tokio::select! {
        () = stop => None,
        line = node.failed() => Some(line),
    };
    end(failure, node.shutdown().await)
}

fn end(failure: Option<String>, shutdown: Result<(), cairn_fsd::node::NodeError>) -> Result<()> {
    match failure {
        // What else fails now fails because of it.
        Some(line) => bail!(line),
        None => Ok(shutdown?),
    }
}

/// The one line on standard output: ready.
fn announce(address: SocketAddr) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {address}").and_then(|()| out.flush()).context("write to standard output")
}

/// Ends with SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
