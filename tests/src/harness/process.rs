//! A daemon as a real process: the only kind that `kill -9` can be tried on.

use super::wait::within;
use cairn_common::config::Address;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Lines of its log that are shown when a test fails.
const TAIL: usize = 20;

/// A running `cairn-fsd`. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    pub address: Address,
}

impl Process {
    /// Starts `cairn-fsd` with `arguments` and waits until it listens. Its log is appended to `log`.
    pub async fn start(arguments: &[String], log: &Path) -> Process {
        let errors = File::options().create(true).append(true).open(log).unwrap();
        let mut child = Command::new(program("cairn-fsd"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let output = child.stdout.take().expect("it is piped");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_length| line)
        });
        // Dropped on failure, it ends the process and shows the log.
        let mut process = Process { child, log: log.to_owned(), address: Address::new("127.0.0.1", 0) };
        let line = within("a daemon starts", line).await.unwrap().unwrap();
        let address = line.trim().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("cairn-fsd {arguments:?} says {line:?}"));
        process.address = address.parse().unwrap();
        process
    }

    /// SIGTERM, and waits for its end.
    pub async fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let child = &mut self.child;
        within("a daemon ends after SIGTERM", async {
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // An error: it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!("--- end of {}\n{}", self.log.display(), tail.join("\n"));
        }
    }
}

/// A program of the workspace: cargo puts it two folders above the tests' own programs.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).expect("tests run from target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}
