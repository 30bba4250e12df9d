//! `cairn demo`: all daemons and a mount in one process, over real sockets on loopback.

use anyhow::{Context, Result, bail};
use cairn_common::config::{Address, AddressList};
use cairn_common::env::files;
use cairn_common::telemetry::{self, LogOptions};
use cairn_fsd::config::{DataConfig, MetaConfig};
use cairn_fsd::node::{RunningData, RunningMeta, start_data, start_meta};
use cairn_mountd::mount::Mounted;
use cairn_mountd::options::MountOptions;
use cairn_mountd::source::Source;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// Threads for all daemons together.
const WORKERS: usize = 4;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to mount the tree; made if it does not exist
    pub mount_point: PathBuf,
    /// Keep the tree in this directory; without it everything is removed at the end
    #[arg(long)]
    pub state: Option<PathBuf>,
}

/// Runs until Ctrl-C, SIGTERM, SIGHUP or `umount`.
///
/// # Errors
/// If a daemon can't be started, the tree can't be mounted, or the end is not clean.
pub fn run(args: Args) -> Result<ExitCode> {
    telemetry::init(&LogOptions::default())?;
    files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(demo(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn demo(args: Args) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    // The terminal was closed.
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    let made = make_mount_point(&args.mount_point)?;
    let state = State::open(args.state.as_deref())?;
    let (meta, data) = start_daemons(state.path()).await?;
    let source = Source { servers: vec![Address::from(meta.address())], path: Vec::new() };
    let mounted =
        Mounted::start(&source, &args.mount_point.canonicalize()?, &MountOptions::default()).await?;
    announce(&args.mount_point, &source, args.state.as_deref());
    let failure = tokio::select! {
        () = mounted.ended().cancelled_owned() => None,
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        _ = hangup.recv() => None,
        line = meta.failed() => Some(line),
        line = data.failed() => Some(line),
    };
    // The mount first, so that it can store what is dirty.
    let unmounted = mounted.stop().await;
    let stopped = stop_daemons(meta, data).await;
    if made {
        std::fs::remove_dir(&args.mount_point).context("remove the mount point")?;
    }
    if let Some(line) = failure {
        bail!(line);
    }
    unmounted.and(stopped)
}

/// True if it had to be made.
fn make_mount_point(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    std::fs::create_dir(path).with_context(|| format!("make mount point {}", path.display()))?;
    Ok(true)
}

async fn start_daemons(state: &Path) -> Result<(RunningMeta, RunningData)> {
    let loopback = || Address::new("127.0.0.1", 0);
    let meta = start_meta(MetaConfig::new(state.join("meta"), loopback())).await?;
    let address = Address::from(meta.address());
    let data = start_data(DataConfig::new(state.join("data"), loopback(), vec![address])).await?;
    Ok((meta, data))
}

async fn stop_daemons(meta: RunningMeta, data: RunningData) -> Result<()> {
    let data = data.shutdown().await;
    meta.shutdown().await?;
    Ok(data?)
}

fn announce(mount_point: &Path, source: &Source, state: Option<&Path>) {
    println!("ready: {source} is mounted on {}", mount_point.display());
    match state {
        Some(state) => println!("The tree is kept in {}.", state.display()),
        None => println!("The tree is removed at the end; --state DIR keeps it."),
    }
    println!("What runs: cairn status --meta {}", AddressList(source.servers.clone()));
    println!("Ctrl-C unmounts and ends everything.");
}

/// Where the daemons keep their data.
enum State {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl State {
    fn open(kept: Option<&Path>) -> Result<State> {
        match kept {
            Some(path) => {
                std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
                Ok(State::Kept(path.to_owned()))
            }
            None => Ok(State::Temporary(tempfile::tempdir().context("make a temporary directory")?)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            State::Kept(path) => path,
            State::Temporary(dir) => dir.path(),
        }
    }
}
