//! Arguments: as `cairn-mountd` a person's, as `mount.cairn` and `mount.fuse.cairn` those of `mount(8)`.

use crate::mount_point;
use crate::options::{MountOptions, OptionError};
use crate::source::Source;
use anyhow::Result;
use clap::{ArgAction, Parser};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const OPTIONS_HELP: &str = "\
Mount options (-o, comma-separated):
  ro, rw                 read-only or not
  noatime, relatime, strictatime
                         when reading changes access times (default: relatime)
  nosuid, nodev, noexec  as for every file system
  sync, dirsync          each write, each change of a directory is on stable storage before it returns
  allow_other            other users may use the mount (default for root; noallow_other turns it off)
  hard                   wait for servers that are away, for ever (default)
  soft, timeo=TIME       fail with EIO after TIME (default 60s) instead
  watchdog=TIME|off      when the daemon answers nothing for TIME, its programs get errors (default 5min)
  cache=SIZE             memory for file content (default 256MiB)
  dirty=SIZE             memory for content that is not stored yet (default 256MiB)
  logfile=FILE           where the log goes in the background (default: the system's log,
                         without one /var/log/cairn/ or ~/.local/state/cairn/)
  remount                change a mount that is there: ro, rw, nosuid, noatime, ...
  fsname=TEXT            device shown in /proc/mounts instead of SOURCE
  default_permissions, _netdev, nofail, auto, noauto, user, x-*
                         accepted: always on, or for other tools";

/// Mounts a Cairn tree.
#[derive(Debug, Parser)]
#[command(name = "cairn-mountd", version, after_help = OPTIONS_HELP)]
pub struct Cli {
    /// What to mount, see the module [`crate::source`]
    #[arg(help = "What to mount: host[:port][,host[:port]...]:/path")]
    pub source: String,
    /// Where to mount it
    pub directory: PathBuf,
    /// Mount options, comma-separated; may be given several times
    #[arg(short = 'o', value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<String>,
    /// Stay in the foreground and log to the terminal
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// The process in the background, started by the one that the user called
    #[arg(long, hide = true)]
    pub child: bool,
}

/// What `mount(8)` passes to `mount.TYPE`; see the section on external helpers in its manual.
#[derive(Debug, Parser)]
#[command(name = "mount.cairn", version, after_help = OPTIONS_HELP)]
struct HelperCli {
    source: String,
    directory: PathBuf,
    #[arg(short = 'o', value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<String>,
    /// Check everything, mount nothing
    #[arg(short = 'f')]
    fake: bool,
    /// Tolerate unknown mount options
    #[arg(short = 's')]
    sloppy: bool,
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 'v')]
    verbose: bool,
    #[arg(short = 't', hide = true)]
    fs_type: Option<String>,
    #[arg(short = 'N', hide = true)]
    namespace: Option<String>,
}

/// What is to be done.
#[derive(Debug)]
pub struct Request {
    /// Source and options as they were given, for the child.
    given: (String, Vec<String>),
    pub source: Source,
    pub directory: PathBuf,
    pub options: MountOptions,
    pub how: How,
}

/// How to go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Start a child that mounts, wait until it works.
    Background,
    /// Be that child.
    Child,
    /// Mount and stay.
    Foreground,
    /// Only check the arguments.
    Fake,
    /// Change a mount that is there.
    Remount,
}

impl Request {
    /// Reads the arguments of this process. Exits by itself for `--help`, `--version` and wrong usage.
    ///
    /// # Errors
    /// One line that says which argument is wrong.
    pub fn from_args(args: Vec<OsString>) -> Result<Request> {
        let program = args.first().map(PathBuf::from).unwrap_or_default();
        if is_mount_helper(&program) {
            helper(HelperCli::parse_from(args))
        } else {
            person(Cli::parse_from(args))
        }
    }

    /// Arguments for the process in the background, which is always called as `cairn-mountd`.
    #[must_use]
    pub fn child_args(&self) -> Vec<OsString> {
        let (source, words) = &self.given;
        let mut args = vec!["--child".into(), "-o".into(), words.join(",").into(), "--".into()];
        args.extend([source.into(), self.directory.clone().into()]);
        args
    }
}

/// `mount(8)` calls `/sbin/mount.TYPE`.
fn is_mount_helper(program: &Path) -> bool {
    program.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("mount."))
}

fn person(cli: Cli) -> Result<Request> {
    let how = match (cli.child, cli.foreground) {
        (true, _) => How::Child,
        (false, true) => How::Foreground,
        (false, false) => How::Background,
    };
    request(cli.source, &cli.directory, &cli.options, false, how)
}

fn helper(cli: HelperCli) -> Result<Request> {
    let how = if cli.fake { How::Fake } else { How::Background };
    request(cli.source, &cli.directory, &cli.options, cli.sloppy, how)
}

fn request(given: String, directory: &Path, lists: &[String], sloppy: bool, how: How) -> Result<Request> {
    let source = given.parse()?;
    let mut options = MountOptions::default();
    let mut words = Vec::new();
    for word in lists.iter().flat_map(|list| list.split(',')) {
        match options.parse(word) {
            Err(OptionError::Unknown(_)) if sloppy => {}
            result => {
                result?;
                words.push(word.to_owned());
            }
        }
    }
    let directory = mount_point::resolve(directory)?;
    let how = if options.remount && how != How::Fake { How::Remount } else { how };
    Ok(Request { given: (given, words), source, directory, options, how })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request> {
        Request::from_args(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn a_person_and_mount_mean_different_things_by_f() {
        assert_eq!(parse("cairn-mountd m:/ /tmp -f").expect("valid").how, How::Foreground);
        assert_eq!(parse("/sbin/mount.cairn m:/ /tmp -f").expect("valid").how, How::Fake);
        assert_eq!(parse("/sbin/mount.fuse.cairn m:/ /tmp -o rw -n").expect("valid").how, How::Background);
    }

    #[test]
    fn sloppy_tolerates_unknown_options_only_from_mount() {
        assert!(parse("/sbin/mount.cairn m:/ /tmp -s -o fast,ro").expect("valid").options.read_only);
        assert!(parse("/sbin/mount.cairn m:/ /tmp -o fast").is_err());
        assert!(parse("cairn-mountd m:/ /tmp -o fast").is_err());
    }

    #[test]
    fn the_child_gets_what_the_parent_understood() {
        let request = parse("/sbin/mount.cairn m:/a /tmp -s -o fast,ro -o noatime").expect("valid");
        let mut args = vec![OsString::from("cairn-mountd")];
        args.extend(request.child_args());
        let child = Request::from_args(args).expect("valid");
        assert_eq!(child.how, How::Child);
        assert_eq!((child.source, child.directory), (request.source, request.directory));
        assert_eq!(child.options, request.options);
    }

    #[test]
    fn a_remount_starts_nothing() {
        assert_eq!(parse("/sbin/mount.fuse.cairn m:/ /tmp -o ro,remount").expect("valid").how, How::Remount);
        assert_eq!(parse("cairn-mountd m:/ /tmp -f -o remount").expect("valid").how, How::Remount);
        assert_eq!(parse("/sbin/mount.cairn m:/ /tmp -f -o remount").expect("valid").how, How::Fake);
    }

    #[test]
    fn the_mount_point_must_be_a_directory() {
        let error = parse("cairn-mountd m:/ /nonexistent/dir").expect_err("no such directory");
        assert!(error.to_string().contains("/nonexistent/dir"));
        assert!(parse("cairn-mountd m:/ /etc/passwd").is_err());
    }
}
