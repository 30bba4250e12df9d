//! `cairn-mountd`, also `mount.cairn`, `umount.cairn`, the same for `fuse.cairn`, and `umount.fuse`.

use anyhow::{Context, Result, bail};
use cairn_common::error::one_line;
use cairn_common::telemetry::{self, LogOptions, LogTarget};
use cairn_mountd::cli::{How, Request};
use cairn_mountd::mount::Mounted;
use cairn_mountd::watchdog::{self, Watchdog};
use cairn_mountd::{background, log_place, mount_point, remount, umount};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Threads that talk to servers; FUSE has its own.
const WORKERS: usize = 2;
/// As `umount(8)` has it: "mount failure".
const UNMOUNT_FAILED: u8 = 32;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(program) = args.first().filter(|program| umount::is_called(Path::new(program))) {
        let name = Path::new(program).file_name().unwrap_or_default().display().to_string();
        return finish(&name, umount::run(args), UNMOUNT_FAILED);
    }
    if args.get(1).is_some_and(|word| word == watchdog::ARGUMENT) {
        return finish("cairn-mountd", watchdog::run(&args[2..]), ExitCode::FAILURE);
    }
    let result = Request::from_args(args).and_then(|request| carry_out(&request));
    finish("cairn-mountd", result, ExitCode::FAILURE)
}

fn finish(program: &str, result: Result<()>, failed: impl Into<ExitCode>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<background::SaidByChild>() => failed.into(),
        Err(error) => {
            eprintln!("{program}: {}", one_line(error.as_ref()));
            failed.into()
        }
    }
}

fn carry_out(request: &Request) -> Result<()> {
    match request.how {
        How::Fake => Ok(()),
        How::Remount => remount::remount(&request.directory, &request.options),
        How::Background => {
            mount_point::clear(&request.directory, &shown_source(request))?;
            background::start_child(&request.child_args())
        }
        How::Child => {
            background::leave_terminal()?;
            let log = log_place::choose(request.options.log_file.as_deref(), &request.directory);
            telemetry::init(&LogOptions { target: log.clone(), ..LogOptions::default() })?;
            log_panics();
            let output = background::open_output(&log)?;
            // Nobody reads what a process in the background says when it ends.
            mount(request, Some(&output), &log).inspect_err(|error| {
                tracing::error!(target: "cairn", "{}: {}", request.directory.display(), one_line(error.as_ref()));
            })
        }
        How::Foreground => {
            mount_point::clear(&request.directory, &shown_source(request))?;
            let log = foreground_log(request);
            telemetry::init(&LogOptions { target: log.clone(), ..LogOptions::default() })?;
            mount(request, None, &log)
        }
    }
}

fn foreground_log(request: &Request) -> LogTarget {
    request.options.log_file.clone().map_or(LogTarget::Stderr, LogTarget::File)
}

/// As the kernel shows it.
fn shown_source(request: &Request) -> String {
    request.options.fsname.clone().unwrap_or_else(|| request.source.to_string())
}

/// Panics go to the log: standard error leads nowhere, or into the same file.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!(target: "cairn", "{panic}")));
}

/// The mount works without one, too.
fn watchdog_of(
    mounted: &Mounted,
    request: &Request,
    log: &LogTarget,
    output: Option<&File>,
) -> Option<Watchdog> {
    let (device, limit) = (mounted.device()?, request.options.watchdog?);
    Watchdog::start(device, &request.directory, limit, log, output)
        .inspect_err(|error| tracing::warn!(target: "cairn", "no watchdog: {error}"))
        .ok()
}

/// Mounts and stays until the end. In the background, `output` takes the terminal's place.
fn mount(request: &Request, output: Option<&File>, log: &LogTarget) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        // The servers may be away.
        let mounted = tokio::select! {
            mounted = Mounted::start(&request.source, &request.directory, &request.options) => mounted?,
            _ = terminate.recv() => bail!("ended by a signal before it was mounted"),
            _ = interrupt.recv() => bail!("ended by a signal before it was mounted"),
        };
        // Until all is done: what is stored last may be what hangs.
        let _watchdog = watchdog_of(&mounted, request, log, output);
        if let Some(output) = output {
            background::ready(output)?;
        }
        tokio::select! {
            () = mounted.ended().cancelled_owned() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let hurry = mounted.hurry();
        let mut end = mounted.stop();
        tokio::select! {
            result = &mut end => return result,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        hurry.cancel();
        end.await
    });
    // The search for a name may still run, in a thread that nobody can stop.
    runtime.shutdown_background();
    result
}
