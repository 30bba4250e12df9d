//! A watchdog that outlives the mount daemon.
//!
//! The problem: a program whose request the daemon has read can't be killed until the request is answered or the
//! connection ends. When the daemon dies, the kernel ends the connection, unless a thread of it sleeps in the kernel
//! for an answer that only this daemon would give: then it stays half dead for ever, and all its users with it. And a
//! daemon whose threads wait for each other answers nobody.
//!
//! So a second process, started by the daemon, looks at it: whether requests wait in the kernel, whether the process is
//! being killed and does not end, whether the mount answers a question that needs no server. It holds nothing of
//! the mount, and ends when the daemon does, which a pipe tells. A mount that only waits for its servers answers
//! that question, and is left alone. What is detected and what is not: `docs/decisions/0009-watchdog.md`.
//!
//! ```text
//! start (in the daemon) ─▶ watch (the process) ─▶ judge (when it is beyond help)
//! ```

mod judge;
mod start;
mod watch;

pub use start::Watchdog;
pub use watch::run;

/// The first argument of the process that watches.
pub const ARGUMENT: &str = "--watch";
/// Where it finds what the process list is not to show: the mount point, and the file it logs to (none: standard error).
const MOUNT_VARIABLE: &str = "CAIRN_WATCHED_MOUNT";
const LOG_VARIABLE: &str = "CAIRN_WATCH_LOG";
/// In place of a file's name: the system's log.
const SYSLOG: &str = "syslog:";
