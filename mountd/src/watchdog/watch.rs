//! The process that watches.

use super::judge::{End, Judge, Probe, Process};
use super::{LOG_VARIABLE, MOUNT_VARIABLE, SYSLOG};
use crate::fuse::control::Control;
use crate::{proc_status, table};
use anyhow::{Context, Result};
use cairn_common::telemetry::{self, LogOptions, LogTarget};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// After its connection was ended a daemon has so long to end by itself.
const LAST_CHANCE: Duration = Duration::from_secs(10);

/// Watches until the daemon is gone. `args` are those that [`super::Watchdog`] gives, after the program's name and the
/// first.
///
/// # Errors
/// One line: the arguments are wrong, or the kernel's control files are out of reach.
pub fn run(args: &[OsString]) -> Result<()> {
    let watched = Watched::from_args(args).context("usage of --watch, which is internal")?;
    telemetry::init(&LogOptions { target: log_target(), ..LogOptions::default() })?;
    // It ends with the daemon, not before: a service manager signals both.
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    let Ok(control) = Control::open(&watched.device) else {
        tracing::info!(target: "cairn", "{}: no watchdog, as the kernel's control files (fusectl) are out of reach", watched.at.display());
        return Ok(());
    };
    watched.watch(&control)
}

fn log_target() -> LogTarget {
    match std::env::var_os(LOG_VARIABLE) {
        None => LogTarget::Stderr,
        Some(text) if text == SYSLOG => LogTarget::Syslog("cairn-mountd"),
        Some(path) => LogTarget::File(path.into()),
    }
}

struct Watched {
    pid: u32,
    device: String,
    at: PathBuf,
    limit: Duration,
}

impl Watched {
    fn from_args(args: &[OsString]) -> Option<Watched> {
        let [pid, device, limit] = args else { return None };
        Some(Watched {
            pid: pid.to_str()?.parse().ok()?,
            device: device.to_str()?.to_owned(),
            limit: Duration::from_millis(limit.to_str()?.parse().ok()?),
            at: std::env::var_os(MOUNT_VARIABLE)?.into(),
        })
    }

    fn watch(&self, control: &Control) -> Result<()> {
        let mut judge = Judge::new(self.limit);
        let mut probes = Probes::default();
        let pause = LOOK.min(self.limit / 4);
        while !is_over(pause)? {
            // Without a connection there is nobody to help.
            let Ok(waiting) = control.waiting() else { return Ok(()) };
            let (process, probe) = if waiting == 0 {
                (Process::Runs, Probe::Unasked)
            } else {
                (self.process(), probes.ask(self))
            };
            if let Some(end) = judge.look(Instant::now(), process, probe) {
                self.end(control, end)?;
                return Ok(());
            }
        }
        Ok(())
    }

    fn process(&self) -> Process {
        let Some(status) = proc_status::read(self.pid) else { return Process::Dying };
        match proc_status::state(&status) {
            // Its first thread has ended; another one has not.
            Some('Z' | 'X') => Process::Dying,
            _ if proc_status::has_sigkill_pending(&status) => Process::Dying,
            Some('T' | 't') => Process::Stopped,
            _ => Process::Runs,
        }
    }

    fn end(&self, control: &Control, end: End) -> Result<()> {
        let at = self.at.display();
        let why = match end {
            End::Dying => "the mount daemon was killed and can't end".to_owned(),
            End::Wedged => format!("the mount daemon has answered nothing for {} s", self.limit.as_secs()),
        };
        tracing::error!(target: "cairn", "{at}: {why}: its programs get errors from now on; unmount it or mount it again (what was not synced may be lost)");
        control.abort().context("end the connection to the kernel")?;
        if is_over(LAST_CHANCE)? {
            return Ok(());
        }
        // It serves nobody any more, but may hold locks and leases of other mounts up. The number is its own as long as
        // the pipe is open.
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("its process number")?;
        kill_process(pid, Signal::KILL).context("kill the mount daemon")
    }
}

/// Whether the daemon is gone: the kernel has closed its end of the pipe. Waits for that a while.
fn is_over(pause: Duration) -> Result<bool> {
    let pause = Timespec::try_from(pause).context("a pause is short")?;
    match poll(&mut [PollFd::new(&std::io::stdin(), PollFlags::IN)], Some(&pause)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("wait for the mount daemon"),
    }
}

/// Questions to the mount, one at a time: `statfs`, which is answered in 2 s whatever servers are away.
#[derive(Default)]
struct Probes {
    asked: Option<Receiver<()>>,
}

impl Probes {
    /// Looks after the last question, or asks the next one.
    fn ask(&mut self, watched: &Watched) -> Probe {
        match self.asked.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => Probe::Waits,
            _ => {
                self.asked = start_probe(watched);
                if self.asked.is_some() { Probe::Answered } else { Probe::Unasked }
            }
        }
    }
}

/// In a thread, which may have to wait. `None`: the mount is not to be found at its place.
fn start_probe(watched: &Watched) -> Option<Receiver<()>> {
    table::mounted_at(&watched.at).filter(|mount| mount.device == watched.device)?;
    let (tell, told) = mpsc::channel();
    let at = watched.at.clone();
    let ask = move || {
        let _figures = rustix::fs::statfs(Path::new(&at));
        // The other side looks when it likes.
        let _told = tell.send(());
    };
    std::thread::Builder::new().name("probe".into()).spawn(ask).ok().map(|_| told)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    #[test]
    fn wrong_arguments_are_refused() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(Watched::from_args(&args(&["1", "0:41"])).is_none());
        assert!(Watched::from_args(&args(&["x", "0:41", "1000"])).is_none());
    }

    #[test]
    fn a_process_that_runs_is_seen_as_such() {
        let watched = |pid| Watched { pid, device: "0:0".into(), at: "/".into(), limit: LOOK };
        assert_eq!(watched(std::process::id()).process(), Process::Runs);
        assert_eq!(watched(u32::MAX).process(), Process::Dying);
    }

    #[test]
    fn what_is_not_mounted_is_not_asked() {
        let watched = Watched { pid: 1, device: "0:0".into(), at: "/".into(), limit: LOOK };
        assert_eq!(Probes::default().ask(&watched), Probe::Unasked);
    }
}
