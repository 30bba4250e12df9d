//! `cairn-mountd`, also `mount.cairn` and `mount.fuse.cairn`.

use anyhow::{Context, Result};
use cairn_common::telemetry::{self, LogOptions};
use cairn_mountd::background;
use cairn_mountd::cli::{How, Request};
use cairn_mountd::mount::Mounted;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Threads that talk to servers; FUSE has its own.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    match Request::from_args(std::env::args_os().collect()).and_then(|request| carry_out(&request)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-mountd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(request: &Request) -> Result<()> {
    match request.how {
        How::Fake => Ok(()),
        How::Background => background::start_child(&request.child_args()),
        How::Child => {
            background::leave_terminal()?;
            mount(request, true)
        }
        How::Foreground => mount(request, false),
    }
}

fn mount(request: &Request, child: bool) -> Result<()> {
    telemetry::init(&LogOptions { file: request.options.log_file.clone(), ..LogOptions::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mounted = Mounted::start(&request.source, &request.directory, &request.options).await?;
        if child {
            background::ready(request.options.log_file.as_deref())?;
        }
        tokio::select! {
            () = mounted.ended().cancelled_owned() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        mounted.stop().await
    })
}
