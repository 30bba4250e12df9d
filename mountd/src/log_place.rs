//! Where a mount in the background logs: where the user says, else to the system's log, else to a file.

use cairn_common::syslog;
use cairn_common::telemetry::LogTarget;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where root's mounts log if the machine has no system log.
const ROOTS_LOGS: &str = "/var/log/cairn";
/// The same for others, in their home directory.
const USERS_LOGS: &str = ".local/state/cairn";

/// The place for the log of the mount at `mount_point`; standard error if there is none.
#[must_use]
pub fn choose(asked: Option<&Path>, mount_point: &Path) -> LogTarget {
    if let Some(file) = asked {
        return LogTarget::File(file.to_owned());
    }
    if listens(Path::new(syslog::SOCKET)) {
        return LogTarget::Syslog("cairn-mountd");
    }
    match directory().filter(|dir| std::fs::create_dir_all(dir).is_ok()) {
        Some(dir) => LogTarget::File(dir.join(file_name(mount_point))),
        None => LogTarget::Stderr,
    }
}

fn listens(socket: &Path) -> bool {
    UnixDatagram::unbound().and_then(|own| own.connect(socket)).is_ok()
}

fn directory() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(ROOTS_LOGS.into());
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(|state| Path::new(&state).join("cairn"));
    state.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(USERS_LOGS)))
}

/// The mount point as one name: `/mnt/a` logs to `mnt-a.log`.
fn file_name(mount_point: &Path) -> String {
    let path = mount_point.to_string_lossy();
    format!("{}.log", path.trim_matches('/').replace('/', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wins() {
        let chosen = choose(Some(Path::new("/tmp/x.log")), Path::new("/mnt"));
        assert_eq!(chosen, LogTarget::File("/tmp/x.log".into()));
    }

    #[test]
    fn each_mount_point_has_a_name() {
        assert_eq!(file_name(Path::new("/mnt/a b")), "mnt-a b.log");
        assert!(!listens(Path::new("/nonexistent/log")));
    }
}
