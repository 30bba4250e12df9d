//! Logs: quiet by default, one line for what an operator must know.
//!
//! Target `cairn` at level info is for operators: started, connected, lost, refused. Everything else
//! at info and below is for developers and off by default; warnings and errors of all parts are on.
//! tarpc's spans cost time per call and say nothing we need: they are off at every verbosity.

use crate::syslog::{self, Syslog};
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Environment variable with a filter in place of the verbosity: "info", "cairn_mountd=debug".
pub const FILTER_VARIABLE: &str = "CAIRN_LOG";

/// Operators' lines, and warnings of all parts. A directive covers every target that begins with
/// its name, so our crates (`cairn_fsd`...) must be taken out of `cairn` again.
const QUIET: &str = "warn,cairn=info,cairn_=warn";

/// What to log, and where.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// 0: operators' lines and warnings; 1: info; 2: debug; 3: all. How often `-v` was given.
    pub verbosity: u8,
    pub target: LogTarget,
}

/// Where the log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    #[default]
    Stderr,
    /// Appended to.
    File(PathBuf),
    /// The system's log, under this name.
    Syslog(&'static str),
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("open log file {path}: {error}")]
    File { path: PathBuf, error: std::io::Error },
    #[error("connect to the system's log: {0}")]
    Syslog(std::io::Error),
    #[error("{FILTER_VARIABLE}=\"{0}\" is no log filter; try \"info\" or \"cairn_mountd=debug\"")]
    Filter(String),
    #[error("logging is already set up")]
    Twice,
}

/// Sets up logging for this process. Call once, early in `main`.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let from_environment = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = filter(options.verbosity, from_environment.as_deref())?;
    let colours = options.target == LogTarget::Stderr && std::io::stderr().is_terminal();
    let writer = match &options.target {
        LogTarget::Stderr => BoxMakeWriter::new(std::io::stderr),
        LogTarget::File(path) => BoxMakeWriter::new(Arc::new(open(path)?)),
        LogTarget::Syslog(name) => {
            // It notes the time itself.
            let syslog = Syslog::connect(Path::new(syslog::SOCKET), name).map_err(LogError::Syslog)?;
            let lines = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false);
            return lines.with_writer(syslog).try_init().map_err(|_| LogError::Twice);
        }
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    lines.with_ansi(colours).try_init().map_err(|_| LogError::Twice)
}

fn open(path: &PathBuf) -> Result<File, LogError> {
    let opened = File::options().append(true).create(true).open(path);
    opened.map_err(|error| LogError::File { path: path.clone(), error })
}

fn filter(verbosity: u8, wanted: Option<&str>) -> Result<EnvFilter, LogError> {
    let base = match (wanted, verbosity) {
        (Some(wanted), _) => wanted,
        (None, 0) => QUIET,
        (None, 1) => "info",
        (None, 2) => "debug",
        (None, _) => "trace",
    };
    // The last directive for a target wins.
    EnvFilter::try_new(format!("{base},tarpc=off")).map_err(|_| LogError::Filter(base.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    #[test]
    fn tarpc_is_off_whatever_is_wanted() {
        for (verbosity, wanted) in [(0, None), (3, None), (0, Some("debug")), (0, Some("tarpc=trace"))] {
            let text = filter(verbosity, wanted).unwrap().to_string();
            assert!(text.contains("tarpc=off") && !text.contains("tarpc=trace"), "{text}");
        }
    }

    #[test]
    fn quiet_means_operators_lines_and_warnings() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(0, None).unwrap())
            .with_writer(Arc::new(open(&log.path().to_path_buf()).unwrap()))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "cairn", "shown: for operators");
            tracing::info!(target: "cairn_fsd::meta", "hidden");
            tracing::warn!(target: "cairn_fsd::meta", "shown: a warning");
            tracing::warn!(target: "other", "shown: a warning of a library");
            tracing::debug!(target: "cairn", "hidden");
            tracing::error!(target: "tarpc::server", "hidden");
        });
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!((text.matches("shown").count(), text.matches("hidden").count()), (3, 0), "{text}");
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = filter(0, Some("cairn=loud")).unwrap_err().to_string();
        assert!(error.contains("cairn=loud"), "{error}");
    }
}
