//! `umount.cairn` and `umount.fuse.cairn`: what `umount(8)` calls for our mounts. FUSE lets an unmount return
//! before the daemon has stored what is dirty; here it is stored first, and an unmount that would lose data
//! fails instead, as soon as its servers do nothing for a while. `umount -l` and `-f` do not wait for that, and the
//! daemon stores what it can afterwards.
//!
//! A plain `umount DIR` does not look up the exact type: by statfs(2) it knows "fuse" only, and calls `umount.fuse`.
//! So that name is ours, too, and file systems of others are passed back to `umount(8)`.

use crate::mount_point::{self, fusermount};
use crate::{store_all, table};
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// Longest wait for the daemon to answer at all: it does in 2 s, whatever servers are away.
const ANSWERS: Duration = Duration::from_secs(5);
/// Longest wait for everything to be stored. The daemon ends it sooner when its servers do nothing.
const STORED: Duration = Duration::from_secs(60);
/// Longest wait for the daemon to end, which has little to do by then.
const ENDED: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// What `umount(8)` passes to `umount.TYPE`; see the section on external helpers in its manual.
#[derive(Debug, Parser)]
#[command(name = "umount.cairn", version, about = "Unmounts a Cairn tree when everything is stored")]
pub struct Cli {
    directory: PathBuf,
    /// Take it out of the tree now, in use or not; the daemon stores what is dirty when the last user has left
    #[arg(short = 'l')]
    lazy: bool,
    /// End it now: programs that wait for it get errors; the daemon stores what is dirty afterwards
    #[arg(short = 'f')]
    force: bool,
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 'r', hide = true)]
    read_only: bool,
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    #[arg(short = 't', hide = true)]
    fs_type: Option<String>,
    #[arg(short = 'N', hide = true)]
    namespace: Option<String>,
}

/// Whether this process was called as the helper.
#[must_use]
pub fn is_called(program: &Path) -> bool {
    program.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("umount."))
}

/// Reads the arguments and unmounts.
///
/// # Errors
/// One line: it is not ours, is in use, or its data could not be stored.
pub fn run(args: Vec<OsString>) -> Result<()> {
    unmount(&Cli::parse_from(args))
}

fn unmount(cli: &Cli) -> Result<()> {
    let directory = cli.directory.as_path();
    let shown = directory.display();
    if cli.namespace.is_some() {
        bail!("{shown}: other mount namespaces are entered with nsenter(1)");
    }
    let Some(mount) = table::mounted_at(directory).filter(table::Mount::is_cairn) else {
        return Err(pass_back(cli));
    };
    let wait = !cli.lazy && !cli.force;
    let daemon = if wait { stored(directory)? } else { None };
    // Counted before: the kernel gives the number of a file system that is gone to the next one.
    let places = table::places(&mount.device);
    take_away(directory, cli)?;
    if let Some(daemon) = daemon
        && places == 1
        && !has_ended(&daemon)
    {
        // All is stored, so this is no failure: it may be mounted in another namespace, too.
        eprintln!("umount.cairn: {shown}: everything is stored; the mount daemon still runs");
    }
    Ok(())
}

/// Another's file system: what `umount(8)` does without a helper. Returns only if that can't be started.
fn pass_back(cli: &Cli) -> anyhow::Error {
    let flags = [
        (cli.lazy, "-l"),
        (cli.force, "-f"),
        (cli.read_only, "-r"),
        (cli.no_mtab, "-n"),
        (cli.verbose, "-v"),
    ];
    let chosen = flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag);
    let failed = Command::new("umount").arg("-i").args(chosen).arg("--").arg(&cli.directory).exec();
    anyhow!("start umount: {failed}")
}

/// Has everything stored; the daemon, to wait for its end.
fn stored(directory: &Path) -> Result<Option<OwnedFd>> {
    let shown = directory.display();
    let (opened, is_open) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let path = directory.to_owned();
    // In a thread, so that the wait has an end.
    std::thread::spawn(move || {
        let root = store_all::open(&path);
        // The other side may have stopped waiting.
        let _told = opened.send(());
        let _told = tell.send(root.and_then(|root| store_all::store_all(&root)));
    });
    if is_open.recv_timeout(ANSWERS).is_err() {
        bail!(
            "{shown}: the mount daemon does not answer; it stays mounted (umount -f ends it, and what is not stored is lost)"
        );
    }
    match told.recv_timeout(STORED) {
        Ok(Ok(pid)) => Ok(daemon(pid)),
        // Nobody to ask: its process has died, is of another version, or serves another user only.
        Ok(Err(Errno::NOTCONN | Errno::NOTTY | Errno::ACCESS)) => Ok(None),
        Ok(Err(error)) => Err(anyhow!(
            "{shown}: written data can't be stored: {error} (the mount's log and 'cairn status' say more); it stays mounted (umount -f gives the data up)"
        )),
        Err(_late) => Err(anyhow!(
            "{shown}: written data is not stored after {} s; it stays mounted (umount -f gives the data up)",
            STORED.as_secs()
        )),
    }
}

/// The process, if it is one of ours: the daemon may count processes in another namespace.
fn daemon(pid: u32) -> Option<OwnedFd> {
    let daemon = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    matches!(name.trim_end(), "cairn-mountd" | "cairn").then_some(daemon)
}

fn take_away(directory: &Path, cli: &Cli) -> Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, cli.lazy);
    flags.set(UnmountFlags::FORCE, cli.force);
    let context = || directory.display().to_string();
    match rustix::mount::unmount(directory, flags) {
        Err(Errno::PERM) => {
            let args: &[&str] = if cli.lazy { &["-u", "-z", "--"] } else { &["-u", "--"] };
            fusermount(args, directory).with_context(context)
        }
        // Its connection has ended: in the tree, it would only be in the way.
        Err(Errno::BUSY) if cli.force => mount_point::detach(directory).with_context(context),
        Err(Errno::BUSY) => Err(anyhow!("{}: target is busy", directory.display())),
        result => result.with_context(context),
    }
}

/// Waits a while for the end of a process.
fn has_ended(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&ENDED)) == Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_umount_passes() {
        assert!(
            is_called(Path::new("/sbin/umount.fuse.cairn")) && !is_called(Path::new("/sbin/mount.cairn"))
        );
        let cli =
            Cli::try_parse_from(["umount.cairn", "/mnt", "-n", "-l", "-f", "-v", "-r", "-t", "fuse.cairn"]);
        assert!(cli.is_ok_and(|cli| cli.lazy && cli.force));
    }

    #[test]
    fn a_daemon_is_one_of_ours() {
        // This test's process is no daemon of ours.
        assert!(daemon(std::process::id()).is_none() && daemon(0).is_none());
    }
}
