//! The daemon's side: starts the process that watches it.

use super::{ARGUMENT, LOG_VARIABLE, MOUNT_VARIABLE, SYSLOG};
use cairn_common::telemetry::LogTarget;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

/// The watchdog of this process. It ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    /// Nothing is ever written to it.
    _end: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts one for the mount that the kernel calls `device`. Its log goes where ours goes; in the background,
    /// `output` takes the terminal's place.
    ///
    /// # Errors
    /// If the process can't be started.
    pub fn start(
        device: &str,
        at: &Path,
        limit: Duration,
        log: &LogTarget,
        output: Option<&File>,
    ) -> io::Result<Watchdog> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ARGUMENT).arg(std::process::id().to_string()).arg(device);
        command.arg(limit.as_millis().to_string()).env(MOUNT_VARIABLE, at);
        match log {
            LogTarget::Stderr => command.env_remove(LOG_VARIABLE),
            LogTarget::File(path) => command.env(LOG_VARIABLE, path),
            LogTarget::Syslog(_) => command.env(LOG_VARIABLE, SYSLOG),
        };
        if let Some(output) = output {
            command.stderr(output.try_clone()?);
        }
        // What a terminal sends to the daemon's group is not for it: it has to see the daemon end.
        command.process_group(0).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Watchdog { _end: command.spawn()?.stdin.take() })
    }
}
