//! Going to the background: the process that the user called starts itself again as a child, waits
//! until the child says that the mount works, and ends. A child by `exec` instead of `fork`: nothing
//! that already runs (threads, locks, a runtime) is cut in half, and no unsafe code is needed.

use anyhow::{Context, Result, bail};
use cairn_common::telemetry::LogTarget;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the child writes when the mount works.
const READY: &[u8] = b"ready\n";
/// A child that has failed closes its output and ends soon after.
const CHILD_EXIT: Duration = Duration::from_secs(10);

/// Starts this program again with `args` and returns once it is ready. The child's error goes to the
/// terminal by itself.
///
/// # Errors
/// If the child can't be started, or ended without getting ready; [`SaidByChild`] if the user knows why.
pub fn start_child(args: &[OsString]) -> Result<()> {
    let program = std::env::current_exe().context("find the own program")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the process in the background")?;
    let mut said = Vec::new();
    let output = child.stdout.take().context("the child's output is a pipe")?;
    output.take(READY.len() as u64).read_to_end(&mut said).context("read from the child")?;
    if said == READY { Ok(()) } else { Err(failure(&mut child)) }
}

/// The child has said why, on the terminal that it shares with this process.
#[derive(Debug, thiserror::Error)]
#[error("mount failed")]
pub struct SaidByChild;

/// What [`std::process::ExitCode::FAILURE`] is: the child ended in order, after a line that says why.
const SAID_WHY: i32 = 1;

fn failure(child: &mut Child) -> anyhow::Error {
    let deadline = Instant::now() + CHILD_EXIT;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            let said = status.code() == Some(SAID_WHY);
            return if said { SaidByChild.into() } else { anyhow::anyhow!("mount failed ({status})") };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::anyhow!("mount failed: the process in the background does not end")
}

/// In the child, first of all: leave the terminal's session.
///
/// # Errors
/// If this process leads a process group already: it was not started by [`start_child`].
pub fn leave_terminal() -> Result<()> {
    match rustix::process::setsid() {
        Ok(_) => Ok(()),
        Err(error) => bail!("leave the terminal's session: {error} (--child is for internal use)"),
    }
}

/// In the child, when the mount works: tells the parent, and lets go of the terminal.
///
/// # Errors
/// If the parent is gone.
pub fn ready(output: &File) -> Result<()> {
    std::io::stdout().write_all(READY).and_then(|()| std::io::stdout().flush()).context("tell the parent")?;
    std::env::set_current_dir("/").context("change to the root directory")?;
    rustix::stdio::dup2_stdout(output).context("redirect standard output")?;
    rustix::stdio::dup2_stderr(output).context("redirect standard error")?;
    Ok(())
}

/// In the child, before it mounts: where its output goes once it is ready. Later, the mount may cover the path.
///
/// # Errors
/// If the log file can't be opened.
pub fn open_output(log: &LogTarget) -> Result<File> {
    let (path, create) = match log {
        LogTarget::File(path) => (path.as_path(), true),
        LogTarget::Stderr | LogTarget::Syslog(_) => (Path::new("/dev/null"), false),
    };
    OpenOptions::new()
        .append(true)
        .create(create)
        .open(path)
        .with_context(|| format!("open log file {}", path.display()))
}
