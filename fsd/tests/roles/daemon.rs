//! The program itself: ready line, signals, refusals.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

fn cairn_fsd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn-fsd"));
    command.args(arguments).env_remove("CAIRN_LOG").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A daemon that is killed if a test fails.
struct Daemon {
    child: Child,
    address: String,
    out: BufReader<std::process::ChildStdout>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(arguments: &[&str]) -> Daemon {
        let mut child = cairn_fsd(arguments).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let mut daemon = Daemon { child, address: String::new(), out };
        let address = line.trim_end().strip_prefix("listening on ");
        daemon.address =
            address.unwrap_or_else(|| panic!("not ready: {line:?} {}", daemon.errors())).to_owned();
        daemon
    }

    fn errors(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn signal(&mut self, signal: rustix::process::Signal) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// It must fail by itself, with one line.
fn refused(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = cairn_fsd(arguments).output().unwrap();
    let line = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && stdout.is_empty(), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[test]
fn both_roles_start_restart_and_end_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (meta_dir, data_dir) = (dir.path().join("meta"), dir.path().join("data"));
    let listen = format!("{}:0", crate::own_loopback());
    let meta = ["meta", "--data-dir", text(&meta_dir), "--listen", &listen];
    let mut running = Daemon::start(&meta);
    let address = running.address.clone();
    let data = ["data", "--data-dir", text(&data_dir), "--listen", "127.0.0.1:0", "--meta", &address];
    let mut store = Daemon::start(&data);

    let taken = refused(&["meta", "--data-dir", text(&meta_dir), "--listen", "127.0.0.1:0"]);
    assert!(taken.contains("in use by another daemon"), "{taken}");
    let taken = refused(&data);
    assert!(taken.contains("in use by another daemon"), "{taken}");
    let busy = refused(&["meta", "--data-dir", text(&dir.path().join("x")), "--listen", &address]);
    assert!(busy.contains(&format!("listen on {address}")), "{busy}");

    assert!(store.signal(rustix::process::Signal::TERM).success());
    assert!(running.signal(rustix::process::Signal::INT).success());
    let mut rest = String::new();
    running.out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "one line on standard output and no more");

    // A data daemon that is known starts without the metadata daemon; a killed one starts again.
    let mut store = Daemon::start(&data);
    assert!(store.signal(rustix::process::Signal::KILL).code().is_none());
    let mut store = Daemon::start(&data);
    assert!(store.signal(rustix::process::Signal::TERM).success());
    let again = ["meta", "--data-dir", text(&meta_dir), "--listen", &address];
    let mut running = Daemon::start(&again);
    assert_eq!(running.address, address);
    assert!(running.signal(rustix::process::Signal::KILL).code().is_none());
    assert!(Daemon::start(&again).signal(rustix::process::Signal::TERM).success());
}

#[test]
fn a_new_data_daemon_that_waits_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    // Port 9 of loopback: nobody is there.
    let data = ["data", "--data-dir", text(dir.path()), "--listen", "127.0.0.1:0", "--meta", "127.0.0.1:9"];
    let mut child = cairn_fsd(&data).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut daemon = Daemon { child, address: String::new(), out: BufReader::new(stdout) };
    let mut stderr = BufReader::new(daemon.child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "an operator is told why it waits");
    assert!(daemon.signal(rustix::process::Signal::TERM).success());
}

#[test]
fn a_known_data_daemon_that_waits_is_stopped_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (meta_dir, data_dir) = (dir.path().join("meta"), dir.path().join("data"));
    let listen = format!("{}:0", crate::own_loopback());
    let mut meta = Daemon::start(&["meta", "--data-dir", text(&meta_dir), "--listen", &listen]);
    let address = meta.address.clone();
    let data = ["data", "--data-dir", text(&data_dir), "--listen", "127.0.0.1:0", "--meta", &address];
    assert!(Daemon::start(&data).signal(rustix::process::Signal::TERM).success());
    // The metadata daemon takes connections and says nothing.
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&meta.child),
        rustix::process::Signal::STOP,
    )
    .unwrap();
    let mut child = cairn_fsd(&data).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut daemon = Daemon { child, address: String::new(), out };
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    assert!(daemon.signal(rustix::process::Signal::TERM).success());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    meta.errors();
}

#[test]
fn a_directory_of_the_other_role_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (meta_dir, data_dir) = (dir.path().join("meta"), dir.path().join("data"));
    let meta = Daemon::start(&["meta", "--data-dir", text(&meta_dir), "--listen", "127.0.0.1:0"]);
    let address = meta.address.clone();
    let data = ["data", "--data-dir", text(&data_dir), "--listen", "127.0.0.1:0", "--meta", &address];
    drop(Daemon::start(&data));
    drop(meta);
    let line = refused(&["meta", "--data-dir", text(&data_dir), "--listen", "127.0.0.1:0"]);
    assert!(line.contains("belongs to a data daemon"), "{line}");
    let line =
        refused(&["data", "--data-dir", text(&meta_dir), "--listen", "127.0.0.1:0", "--meta", &address]);
    assert!(line.contains("belongs to a metadata daemon"), "{line}");
}

#[test]
fn bad_settings_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "data-dir = \"/tmp\"\nlisten = \"127.0.0.1:0\"\ncolour = 1\n").unwrap();
    let line = refused(&["meta", "--config", text(&file)]);
    assert!(line.contains("c.toml:3: unknown field `colour`"), "{line}");
    let line = refused(&["meta", "--listen", "127.0.0.1:0"]);
    assert!(line.contains("data-dir is missing"), "{line}");
    let line = refused(&["meta", "--data-dir", text(dir.path()), "--listen", "nowhere.invalid:1"]);
    assert!(line.contains("listen on nowhere.invalid:1"), "{line}");
    // A file where the directory should be.
    let line = refused(&["meta", "--data-dir", text(&file), "--listen", "127.0.0.1:0"]);
    assert!(line.starts_with("cairn-fsd: "), "{line}");
    let line = refused(&["meta", "--data-dir", "", "--listen", "127.0.0.1:0"]);
    assert_eq!(line, "cairn-fsd: data-dir is empty\n");
    std::fs::write(&file, "data-dir = \"/tmp\"\nlisten = 9420\n").unwrap();
    let line = refused(&["meta", "--config", text(&file)]);
    assert!(line.contains("c.toml:2: \"9420\" is a port without a host"), "{line}");
    let version = cairn_fsd(&["--version"]).output().unwrap();
    assert_eq!(version.stdout, format!("cairn-fsd {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
}
