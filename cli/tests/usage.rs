#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
//! The program itself: what of its arguments contradicts the rest is refused with a line.

use std::process::{Command, Output};

/// Exit code and what is said.
fn cairn(meta: Option<&str>, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(arguments).env_remove("CAIRN_META");
    if let Some(meta) = meta {
        command.env("CAIRN_META", meta);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let line = String::from_utf8(stderr).unwrap();
    assert!(stdout.is_empty() && line.lines().count() == 1, "{arguments:?}: {line}");
    (status.code().unwrap(), line)
}

/// Found by review: the daemons that were named were not asked, and nothing was said of it.
#[test]
fn daemons_and_directories_are_not_checked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("none");
    let dir = dir.to_str().unwrap();
    for arguments in [
        ["fsck", "--meta", "127.0.0.1:1", "--meta-dir", dir, "--quick"],
        ["fsck", "--meta-dir", dir, "--quick", "--meta", "127.0.0.1:1"],
        ["fsck", "--meta-dir", dir, "--meta=localhost", "--data-dir", dir],
    ] {
        for environment in [None, Some("127.0.0.1:1")] {
            let (code, line) = cairn(environment, &arguments);
            assert_eq!(code, 2, "{line}");
            assert!(line.contains("--meta ") && line.contains("--meta-dir "), "{line}");
        }
    }
}

/// The environment names the daemons for all commands; who types a directory means that.
#[test]
fn the_environment_gives_way_to_what_is_typed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("none");
    let dir = dir.to_str().unwrap();
    for environment in [None, Some("127.0.0.1:1")] {
        let (code, line) = cairn(environment, &["fsck", "--meta-dir", dir]);
        assert_eq!(code, 8, "{line}");
        assert!(line.contains(dir) && !line.contains("127.0.0.1"), "{line}");
    }
    let (code, line) = cairn(Some("127.0.0.1:1"), &["fsck"]);
    assert!(code == 8 && line.contains("127.0.0.1:1"), "{code}: {line}");
    let (code, line) = cairn(Some("127.0.0.1:1"), &["fsck", "--meta", "127.0.0.1:2"]);
    assert!(code == 8 && line.contains("127.0.0.1:2"), "{code}: {line}");
}
