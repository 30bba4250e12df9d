#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
//! What is dumped and loaded is the same, byte for byte; what is not whole is refused, and leaves nothing.

use super::text::Hex64;
use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Call, SimDisk};
use crate::meta::apply::{Command, Reply};
use crate::meta::machine::bare::{Bare, BareDir};
use crate::meta::machine::tests::random::Random;
use crate::meta::machine::{Birth, Machine, MachineConfig, OpenError};
use bytes::Bytes;
use cairn_common::attr::{Caller, Timestamp};
use cairn_common::ids::{ClusterId, Ino, NodeId, Seq, SessionId};
use cairn_common::namespace::op::{Create, Op, OpBody, OpResult, XattrMode};
use cairn_common::proto::meta::ClientInfo;
use cairn_common::wire::checksum::crc64;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

/// One row of each kind and more, as version 1 writes them.
const GOLDEN: &str = include_str!("golden.dump");

fn config() -> MachineConfig {
    MachineConfig {
        segment_bytes: 64 << 10,
        reserve_bytes: 0,
        cache_bytes: 8 << 20,
        ..MachineConfig::default()
    }
}

fn try_open(disk: &SimDisk) -> Result<Machine, OpenError> {
    let birth = Birth { cluster: ClusterId(7), time: Timestamp { secs: 1, nanos: 0 } };
    Machine::open_on(Arc::new(disk.clone()), None, config(), &birth)
}

fn open(disk: &SimDisk) -> Machine {
    try_open(disk).unwrap()
}

fn bare(disk: &SimDisk) -> Bare {
    BareDir::on(Arc::new(disk.clone())).load().unwrap()
}

fn dump(disk: &SimDisk) -> String {
    let mut text = Vec::new();
    write(&bare(disk), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn loaded(text: &str) -> SimDisk {
    let disk = SimDisk::new();
    load(&mut text.as_bytes(), &disk).unwrap();
    disk
}

/// Why a text is refused; nothing is left of it.
fn refused(text: &[u8]) -> String {
    let disk = SimDisk::new();
    let line = load(&mut &*text, &disk).unwrap_err().to_string();
    assert!(disk.list().unwrap().is_empty(), "{line}: {:?}", disk.list());
    assert!(!line.contains('\n'), "{line}");
    line
}

/// A dump of these lines with a right last one.
pub fn sealed(lines: &[&str]) -> String {
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let sum = serde_json::to_string(&Hex64(crc64(text.as_bytes()))).unwrap();
    writeln!(text, r#"{{"end":{{"rows":{},"crc64":{sum}}}}}"#, lines.len() - 2).unwrap();
    text
}

async fn batch(machine: &Machine, session: SessionId, first: u64, ops: Vec<Op>) -> Vec<OpResult> {
    let command = Command::Batch { session, first: Seq(first), ops, full: false };
    match machine.submit(command).await.unwrap().reply {
        Reply::Results(results) => results,
        other => panic!("{other:?}"),
    }
}

async fn open_session(machine: &Machine, mount_point: &str) -> SessionId {
    let client = ClientInfo {
        mount_point: mount_point.into(),
        host: "h\u{f6}st \"1\"".into(),
        ..ClientInfo::default()
    };
    let command = Command::OpenSession { client, time: Timestamp { secs: 2, nanos: 3 } };
    match machine.submit(command).await.unwrap().reply {
        Reply::Session(session) => session,
        other => panic!("{other:?}"),
    }
}

/// Names and values that are no text.
fn strange(ino: Ino) -> Vec<Op> {
    let create = Create {
        parent: Ino::ROOT,
        name: Bytes::from_static(b"not \xff text \n"),
        ino,
        kind: cairn_common::attr::FileKind::Fifo,
        perm: 0o6755,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
    };
    let value = Bytes::from_iter(0..=255_u8);
    let xattr = OpBody::SetXattr { ino: Ino::ROOT, name: "user.b\u{fc}".into(), value, mode: XattrMode::Set };
    let long = Bytes::from(vec![0; 40_000]);
    let zeros =
        OpBody::SetXattr { ino: Ino::ROOT, name: "user.zeros".into(), value: long, mode: XattrMode::Set };
    let time = Timestamp { secs: -5, nanos: 999_999_999 };
    let op = |body| Op { time, caller: Caller::default(), body };
    [OpBody::Create(create), xattr, zeros].into_iter().map(op).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_loaded_is_what_was_dumped_and_goes_on_as_the_old_one() {
    for seed in 0..8 {
        let disk = SimDisk::new();
        let machine = open(&disk);
        let register = Command::RegisterNode { node: None, identity: 1 << 100, address: "a:1".into() };
        machine.submit(register).await.unwrap();
        machine.submit(Command::CreateVolume { node: NodeId(1) }).await.unwrap();
        let (one, two) = (open_session(&machine, "/a").await, open_session(&machine, "/b").await);
        let allocate = Command::AllocateInos { session: one };
        let Reply::Inos(range) = machine.submit(allocate).await.unwrap().reply else { panic!("no numbers") };
        batch(&machine, two, 1, strange(Ino(range.first.0 + range.count - 1))).await;
        let mut random = Random::new(seed, range.first);
        let mut last = (1, Vec::new(), Vec::new());
        for n in 0..10 {
            let ops = random.ops(30);
            let results = batch(&machine, one, n * 30 + 1, ops.clone()).await;
            last = (n * 30 + 1, ops, results);
            if n == seed {
                machine.checkpoint();
            }
        }
        if seed % 2 == 0 {
            machine.submit(Command::EndSession { session: two }).await.unwrap();
            machine.shutdown().await.unwrap();
        }
        let expected = (machine.epoch(), machine.progress().applied);
        let killed = disk.kill();
        drop(machine);

        let text = dump(&killed);
        assert!(text.contains(r#"{"hex":"6e6f7420ff2074657874200a"}"#));
        let disk = loaded(&text);
        assert_eq!(dump(&disk), text, "seed {seed}");
        let (old, new) = (bare(&killed), bare(&disk));
        assert_eq!(old.state(), new.state());
        let rows = |bare: &Bare| bare.read(|snapshot| snapshot.dump()).unwrap();
        assert_eq!(rows(&old), rows(&new), "seed {seed}");

        let (old, new) = (open(&killed), open(&disk));
        assert_eq!(new.epoch().0, expected.0.0 + 1);
        assert_eq!(new.progress().applied.0, expected.1.0 + 1);
        assert_eq!(new.check().unwrap(), Vec::<String>::new());
        assert_eq!(new.sessions(), old.sessions());
        assert_eq!(batch(&new, one, last.0, last.1.clone()).await, last.2, "the replies are kept");
        for n in 10..14 {
            let ops = random.ops(30);
            let first = n * 30 + 1;
            assert_eq!(batch(&new, one, first, ops.clone()).await, batch(&old, one, first, ops).await);
        }
        new.shutdown().await.unwrap();
        drop(new);
        let again = open(&disk);
        let rows = |machine: &Machine| machine.read(|snapshot| snapshot.dump()).unwrap();
        assert_eq!(rows(&again), rows(&old), "seed {seed}");
    }
}

#[test]
fn golden_text() {
    let disk = loaded(GOLDEN);
    assert_eq!(dump(&disk), GOLDEN);
    for kind in [
        "inode",
        "dentry",
        "extent",
        "xattr",
        "lock",
        "lock_by_session",
        "block",
        "delete",
        "orphan",
        "node",
        "volume",
        "session",
    ] {
        assert!(GOLDEN.contains(&format!("\n{{\"{kind}\":")), "there is a {kind}");
    }
    let lines: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(sealed(&lines[..lines.len() - 1]), GOLDEN);
}

#[test]
fn a_cut_dump_is_refused() {
    for length in 0..GOLDEN.len() {
        if length % 5 == 0 || GOLDEN.as_bytes()[length.saturating_sub(1)] == b'\n' {
            let line = refused(&GOLDEN.as_bytes()[..length]);
            let number = GOLDEN.as_bytes()[..length].iter().filter(|byte| **byte == b'\n').count() + 1;
            assert_eq!(line, format!("line {number}: the dump is cut off here"));
        }
    }
}

#[test]
fn a_changed_dump_is_refused() {
    for at in (0..GOLDEN.len()).step_by(3) {
        let mut text = GOLDEN.as_bytes().to_vec();
        text[at] ^= 1 << (at % 7);
        let line = refused(&text);
        assert!(line.starts_with("line "), "{line}");
    }
    let lines: Vec<&str> = GOLDEN.lines().collect();
    let other = GOLDEN.replace("\"uid\":1000", "\"uid\":1001");
    let line = refused(other.as_bytes());
    assert_eq!(line, format!("line {}: the checksum does not match: a line was changed", lines.len()));
    let line = refused(format!("{GOLDEN}\n").as_bytes());
    assert_eq!(line, format!("line {}: there are more lines behind the last", lines.len()));
    let mut fewer = lines.clone();
    fewer.remove(5);
    let line = refused((fewer.join("\n") + "\n").as_bytes());
    assert!(line.contains(&format!(
        "there are {} rows, the last line says {}",
        lines.len() - 4,
        lines.len() - 3
    )));
}

#[test]
fn other_files_and_versions_are_refused_by_their_first_line() {
    assert_eq!(refused(b"\x7fELF\n"), "line 1: this is no dump of cairn's metadata");
    assert_eq!(refused(b"{}\n"), "line 1: this is no dump of cairn's metadata");
    let later = GOLDEN.replacen("\"version\":1", "\"version\":2,\"more\":true", 1);
    assert_eq!(refused(later.as_bytes()), "line 1: dump version 2, this program reads 1");
}

#[test]
fn rows_are_there_once_and_in_order() {
    let lines: Vec<&str> = GOLDEN.lines().collect();
    let rows = lines.len() - 1;
    let mut twice = lines[..rows].to_vec();
    twice.insert(3, lines[2]);
    assert_eq!(refused(sealed(&twice).as_bytes()), "line 4: this row is there twice, or out of order");
    let mut swapped = lines[..rows].to_vec();
    swapped.swap(3, rows - 1);
    assert!(refused(sealed(&swapped).as_bytes()).contains("out of order"));
}

#[test]
fn a_row_that_the_daemon_could_not_work_with_is_refused_with_its_line() {
    let lines: Vec<&str> = GOLDEN.lines().collect();
    let rows = &lines[..lines.len() - 1];
    let place = |start: &str| rows.iter().position(|line| line.starts_with(start)).unwrap();
    for (start, from, to, what) in [
        (r#"{"state":"#, "\"epoch\":3", "\"epoch\":8388608", "too large"),
        (r#"{"state":"#, "\"applied\":17", "\"applied\":18446744073709551615", "too large"),
        (r#"{"state":"#, "\"next_ino\":65538", "\"next_ino\":1", "the root"),
        (r#"{"inode":"#, "\"data_version\":1", "\"data_version\":9223372036854775808", "too large"),
        (r#"{"session":"#, "\"applied\":12", "\"applied\":18446744073709551615", "too large"),
        (r#"{"inode":"#, "\"ino\":1,", "\"ino\":0,", "never given"),
        (r#"{"inode":"#, "\"ino\":1,", "\"ino\":70000,", "never given"),
        (r#"{"inode":"#, "\"perm\":\"0755\"", "\"perm\":\"0999\"", "octal"),
        (r#"{"inode":"#, "\"kind\":\"dir\"", "\"kind\":\"door\"", "unknown variant `door`"),
        (r#"{"inode":"#, "\"nlink\":", "\"links\":", "unknown field `links`"),
        (r#"{"inode":"#, "\"uid\":0,", "\"uid\":-1,", "invalid value"),
        (r#"{"inode":"#, "\"uid\":0,", "\"uid\":0,\"uid\":0,", "duplicate field"),
        (r#"{"inode":"#, "\"size\":", "\"size\":9223372036854775808,\"none\":", "unknown field"),
        (r#"{"inode":"#, "{\"inode\":", "{\"node\":", "unknown field"),
        (r#"{"dentry":"#, "\"name\":\"file\"", "\"name\":\"a/b\"", "no name"),
        (r#"{"dentry":"#, "\"name\":\"file\"", "\"name\":\"..\"", "no name"),
        (r#"{"dentry":"#, "\"name\":\"file\"", "\"name\":{\"hex\":\"6\"}", "pairs of digits"),
        (r#"{"extent":"#, "\"length\":100", "\"length\":0", "empty"),
        (
            r#"{"extent":"#,
            "\"offset\":0,\"length\":100",
            "\"offset\":9223372036854775807,\"length\":100",
            "beyond",
        ),
        (r#"{"xattr":"#, "\"name\":\"user.bytes\"", "\"name\":\"\"", "extended attribute"),
        (r#"{"lock":"#, "\"start\":5", "\"start\":50", "ends before"),
        (r#"{"block":"#, "1/1:0000abcd", "1/1:abcd", "expected a block"),
        (r#"{"node":"#, "\"node\":1", "\"node\":9", "never given"),
        (r#"{"volume":"#, "\"volume\":1", "\"volume\":9", "never given"),
        (r#"{"session":"#, "\"session\":1", "\"session\":9", "never given"),
        (r#"{"session":"#, "\"results\":[", "\"results\":[\"ff\",", "can't be stored"),
    ] {
        let at = place(start);
        let mut changed = rows.to_vec();
        let line = changed[at].replacen(from, to, 1);
        assert_ne!(line, changed[at], "{from} is in the line");
        changed[at] = &line;
        let line = refused(sealed(&changed).as_bytes());
        assert!(line.starts_with(&format!("line {}: ", at + 1)) && line.contains(what), "{to}: {line}");
    }
}

#[test]
fn more_rows_than_are_kept_in_memory() {
    let state = GOLDEN.lines().nth(1).unwrap().replace("\"next_ino\":65538", "\"next_ino\":200000");
    let inode = GOLDEN.lines().nth(2).unwrap();
    let header = GOLDEN.lines().next().unwrap();
    let inodes: Vec<String> =
        (1..120_000).map(|ino| inode.replacen("\"ino\":1,", &format!("\"ino\":{ino},"), 1)).collect();
    let lines: Vec<&str> = [header, &state].into_iter().chain(inodes.iter().map(String::as_str)).collect();
    let text = sealed(&lines);
    assert_eq!(dump(&loaded(&text)), text);
}

#[test]
fn only_an_empty_directory_is_filled() {
    let disk = loaded(GOLDEN);
    let names = disk.list().unwrap();
    let line = load(&mut GOLDEN.as_bytes(), &disk).unwrap_err().to_string();
    assert!(line.starts_with("it is not empty: there is "), "{line}");
    assert_eq!(disk.list().unwrap(), names);

    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("meta");
    let missing = load_dir(&mut GOLDEN.as_bytes(), &dir.join("deep")).unwrap_err().to_string();
    assert!(missing.contains("No such file"), "{missing}");
    load_dir(&mut &GOLDEN.as_bytes()[..500], &dir).unwrap_err();
    assert!(!dir.exists());
    std::fs::create_dir(&dir).unwrap();
    load_dir(&mut &GOLDEN.as_bytes()[..500], &dir).unwrap_err();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    load_dir(&mut GOLDEN.as_bytes(), &dir).unwrap();
    let mut text = Vec::new();
    write(&BareDir::open(&dir).unwrap().load().unwrap(), &mut text).unwrap();
    assert_eq!(text, GOLDEN.as_bytes());
    load_dir(&mut GOLDEN.as_bytes(), &dir).unwrap_err();
    BareDir::open(&dir).unwrap().verify().unwrap();
}

/// What there is after a load was ended at some point: nothing at all, as before it began, or the whole, or what
/// everybody refuses but the next load. Answers which.
fn ended(disk: &SimDisk, when: &str) -> &'static str {
    let names = disk.list().unwrap();
    if names.is_empty() {
        return "nothing";
    }
    if !names.contains(&"LOADING".to_owned()) {
        assert_eq!(dump(disk), GOLDEN, "{when}");
        drop(open(disk));
        return "whole";
    }
    let bare = BareDir::on(Arc::new(disk.clone()));
    for error in [try_open(disk).map(drop), bare.verify(), bare.load().map(drop)] {
        let line = error.unwrap_err().to_string();
        assert!(line.contains("'cairn meta load' began") && line.ends_with("run it again"), "{when}: {line}");
    }
    assert_eq!(disk.list().unwrap(), names, "{when}: who refuses it changes nothing");
    load(&mut GOLDEN.as_bytes(), disk).unwrap();
    assert_eq!(dump(disk), GOLDEN, "{when}");
    "half"
}

/// Found by review: a load that was killed early left a directory that a daemon took for a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_is_killed_or_loses_its_power_leaves_nothing_or_all_or_what_is_refused() {
    let mut seen = std::collections::BTreeMap::new();
    for changes in 0.. {
        let disk = SimDisk::new();
        disk.power_off_after(changes);
        let done = load(&mut GOLDEN.as_bytes(), &disk).is_ok();
        let mut after = vec![("killed", disk.kill())];
        for seed in 6 * changes..6 * changes + 6 {
            after.push(("without power", disk.power_cycle(seed)));
        }
        for (how, after) in after {
            let found = ended(&after, &format!("{how} at {changes}"));
            assert!(found == "whole" || !done, "{how} at {changes}");
            assert!(found != "nothing" || changes < 2 || how != "killed", "{how} at {changes}: it had begun");
            *seen.entry((how, found)).or_insert(0) += 1;
        }
        if done {
            break;
        }
    }
    for how in ["killed", "without power"] {
        assert!(["half", "whole"].iter().all(|found| seen.contains_key(&(how, *found))), "{seen:?}");
    }
}

/// As long as a load waits for the dump's first line, it has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_has_read_nothing_is_seen() {
    struct Waits<'a>(&'a SimDisk);
    impl io::Read for Waits<'_> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            assert_eq!(ended(&self.0.power_cycle(1), "at the first line"), "half");
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let disk = SimDisk::new();
    load(&mut io::BufReader::new(Waits(&disk)), &disk).unwrap_err();
    assert!(disk.list().unwrap().is_empty());
}

/// Files of others are never taken for the remains of a load.
#[test]
fn a_half_loaded_directory_with_other_files_is_not_emptied() {
    let disk = SimDisk::new();
    for name in ["LOADING", "tables.tmp", "log-0000000000000001", "notes"] {
        disk.create(name).unwrap();
    }
    let line = load(&mut GOLDEN.as_bytes(), &disk).unwrap_err().to_string();
    assert_eq!(line, "it is not empty: there is notes");
    assert_eq!(disk.list().unwrap().len(), 4);
}

/// What could not be removed after an error is not taken for anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_can_not_clear_up_leaves_what_is_refused() {
    let text = &GOLDEN.as_bytes()[..GOLDEN.len() / 2];
    let fail: [fn(&SimDisk, u64); 2] = [
        |disk, calls| disk.fail_once(Call::Name, calls, io::ErrorKind::PermissionDenied),
        |disk, calls| disk.fail_always(Call::Name, calls, io::ErrorKind::PermissionDenied),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (fail, calls) in fail.iter().flat_map(|fail| (2..12).map(move |calls| (fail, calls))) {
        let disk = SimDisk::new();
        fail(&disk, calls);
        load(&mut &*text, &disk).unwrap_err();
        seen.insert(ended(&disk.kill(), &format!("after {calls} calls")));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["half", "nothing"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    for call in [Call::Write, Call::Sync, Call::Allocate] {
        let disk = SimDisk::new();
        disk.fail_once(call, 0, io::ErrorKind::StorageFull);
        load(&mut GOLDEN.as_bytes(), &disk).unwrap_err();
        assert!(disk.list().unwrap().is_empty(), "{call:?}: {:?}", disk.list());
        load(&mut GOLDEN.as_bytes(), &disk).unwrap();
    }
}

/// Found by review: who puts a file there while a dump is read, as a slow pipe allows, still has it after an error.
#[test]
fn a_failed_load_removes_only_what_it_made() {
    struct Intruder<'a>(&'a SimDisk);
    impl io::Read for Intruder<'_> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.create("notes")?;
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let disk = SimDisk::new();
    let begun = &GOLDEN.as_bytes()[..GOLDEN.len() / 2];
    let mut input = io::BufReader::new(io::Read::chain(begun, Intruder(&disk)));
    load(&mut input, &disk).unwrap_err();
    assert_eq!(disk.list().unwrap(), ["notes"]);
}

/// The reader of a pipe may go away.
#[test]
fn a_failed_write_ends_the_dump() {
    struct Full(usize);
    impl io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bare = bare(&loaded(GOLDEN));
    for room in [0, 100, 1000, GOLDEN.len() - 1] {
        assert!(matches!(write(&bare, &mut Full(room)), Err(DumpError::Write(_))), "{room}");
    }
    write(&bare, &mut Full(GOLDEN.len())).unwrap();
}
