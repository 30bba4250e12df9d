//! The system's log, by its socket: where a process in the background writes if nobody says otherwise.
//! journald, rsyslog and busybox all take these datagrams.

use parking_lot::Mutex;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where the system's log listens.
pub const SOCKET: &str = "/dev/log";
/// Facility "daemon", as in syslog(3).
const DAEMON: u8 = 3 << 3;

/// Sends each line as one message.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    name: &'static str,
    socket: Mutex<Option<UnixDatagram>>,
}

impl Syslog {
    /// Fails if nobody listens at `path`.
    pub fn connect(path: &Path, name: &'static str) -> io::Result<Syslog> {
        let socket = Mutex::new(Some(open(path)?));
        Ok(Syslog { path: path.to_owned(), name, socket })
    }

    fn line(&self, level: Level) -> Line<'_> {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let head = format!("<{}>{}[{}]: ", DAEMON | severity, self.name, std::process::id());
        Line { log: self, text: head.into_bytes() }
    }

    /// A log that was restarted is connected to again. What it does not take is lost: it must not hold us up.
    fn send(&self, message: &[u8]) {
        let mut socket = self.socket.lock();
        if socket.as_ref().is_some_and(|socket| socket.send(message).is_ok()) {
            return;
        }
        *socket = open(&self.path).ok();
        if let Some(socket) = &*socket {
            // There is nowhere to say that this failed.
            let _sent = socket.send(message);
        }
    }
}

fn open(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// A message being written; sent when dropped.
#[derive(Debug)]
pub struct Line<'a> {
    log: &'a Syslog,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.log.send(self.text.trim_ascii_end());
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line(Level::INFO)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        self.line(*meta.level())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    fn received(log: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = log.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_is_a_message_also_after_the_log_was_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(Syslog::connect(&path, "cairn-mountd").is_err());
        let log = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::connect(&path, "cairn-mountd").unwrap();
        let subscriber =
            tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(syslog).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "cairn", "data is lost");
            let pid = std::process::id();
            assert_eq!(received(&log), format!("<27>cairn-mountd[{pid}]: ERROR cairn: data is lost"));
            drop(log);
            tracing::info!(target: "cairn", "nobody hears this");
            std::fs::remove_file(&path).unwrap();
            let log = UnixDatagram::bind(&path).unwrap();
            tracing::info!(target: "cairn", "back");
            assert!(received(&log).ends_with("INFO cairn: back"));
        });
    }
}
