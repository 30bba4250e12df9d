#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
#![allow(clippy::cast_possible_truncation, reason = "any number will do")]
//! Whatever legal tables hold is dumped and loaded again; what no daemon wrote is named, and never dumped as if it were
//! whole.

use super::line::{Header, StateLine, Version};
use super::rows::{Data, InodeLine, LockLine, Row, SessionLine};
use super::tests::sealed;
use super::text::{Block, Hex, Hex64, Hex128, Perm, Raw, Time};
use super::{DumpError, VERSION, load, write};
use crate::disk::sim::SimDisk;
use crate::meta::log::begin_log;
use crate::meta::machine::bare::{Bare, BareDir};
use crate::meta::tables::{Files, Memtable, State, Store};
use cairn_common::attr::{FileKind, Timestamp};
use cairn_common::ids::{BlockRef, ClusterId, Epoch, Ino, LogIndex, NodeId, Seq, SessionId, VolumeId};
use cairn_common::namespace::op::LockFamily;
use cairn_common::namespace::tables::Totals;
use proptest::prelude::*;
use proptest::sample::select;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The largest number that most fields may hold.
const MAX: u64 = i64::MAX as u64;

/// A directory with these tables and an empty log.
fn directory(state: State, rows: &[Row]) -> SimDisk {
    let disk = SimDisk::new();
    begin_log(&disk, state.cluster, state.applied).unwrap();
    let store = Store::open(Files::create(&disk).unwrap(), 1 << 20).unwrap();
    store.init(state, |_tx| Ok(())).unwrap();
    let mut table = Memtable::default();
    for row in rows {
        let stored = row.stored().unwrap();
        table.put(stored.table, &stored.key, Some(&stored.value));
    }
    store.checkpoint(&state, &table).unwrap();
    store.close();
    Files::publish(&disk).unwrap();
    disk
}

fn bare(disk: &SimDisk) -> Bare {
    BareDir::on(Arc::new(disk.clone())).load().unwrap()
}

fn dump(disk: &SimDisk) -> Result<String, DumpError> {
    let mut text = Vec::new();
    write(&bare(disk), &mut text)?;
    Ok(String::from_utf8(text).unwrap())
}

/// Loads a dump, and compares all there is.
fn comes_back(disk: &SimDisk, text: &str) {
    let new = SimDisk::new();
    load(&mut text.as_bytes(), &new).unwrap();
    assert_eq!(dump(&new).unwrap(), text);
    let all = |disk: &SimDisk| {
        let bare = bare(disk);
        (bare.state(), bare.read(|snapshot| snapshot.dump()).unwrap())
    };
    assert!(all(disk) == all(&new), "{text}");
}

/// Numbers of `legal`, its ends among them; one of fifty of a `wild` state may be any.
fn number(legal: RangeInclusive<u64>, wild: bool) -> BoxedStrategy<u64> {
    let ends = select(vec![*legal.start(), *legal.end()]);
    let legal = prop_oneof![ends, legal].boxed();
    let any = prop_oneof![select(vec![0, 1, MAX, MAX + 1, u64::MAX]), any::<u64>()];
    if wild { prop_oneof![49 => legal, 1 => any].boxed() } else { legal }
}

/// As [`number`], of 32 bits.
fn small(wild: bool) -> BoxedStrategy<u32> {
    number(1..=u64::from(u32::MAX), wild).prop_map(|number| number as u32).boxed()
}

fn bytes(legal: RangeInclusive<usize>, wild: bool) -> BoxedStrategy<Raw> {
    let lengths = if wild { 0..=legal.end() + 1 } else { legal };
    let text = "[a-z\u{e4}\n\"]{1,9}".prop_map(|text| Raw(text.into()));
    let any = proptest::collection::vec(1..=255_u8, lengths);
    let any =
        any.prop_map(|bytes| Raw(bytes.into_iter().map(|b| if b == b'/' { b'.' } else { b }).collect()));
    let dots = select(vec![".", "..", "a/b", "\0", ""]).prop_map(|text| Raw(text.into()));
    if wild { prop_oneof![50 => text, 50 => any, 1 => dots].boxed() } else { prop_oneof![text, any].boxed() }
}

fn name(wild: bool) -> BoxedStrategy<Raw> {
    // What is only dots is another test's.
    let safe = |Raw(name): Raw| Raw(if matches!(&name[..], b"." | b"..") { "dots".into() } else { name });
    if wild { bytes(1..=255, true) } else { bytes(1..=255, false).prop_map(safe).boxed() }
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos }.into())
}

fn block() -> impl Strategy<Value = Block> {
    let parts = any::<(u32, u32, u32)>();
    parts
        .prop_map(|(volume, sequence, cookie)| Block(BlockRef { volume: VolumeId(volume), sequence, cookie }))
}

fn state(wild: bool) -> impl Strategy<Value = State> {
    let places = (any::<u128>(), number(0..=(1 << 23) - 1, wild), number(0..=MAX, false));
    let next = (number(2..=MAX, wild), number(1..=MAX, wild), small(wild), small(wild));
    let totals = (number(0..=MAX, wild), number(0..=MAX, wild), number(0..=MAX, wild));
    (places, next, totals).prop_map(|((cluster, epoch, applied), (ino, session, node, volume), totals)| {
        State {
            cluster: ClusterId(cluster),
            epoch: Epoch(epoch),
            applied: LogIndex(applied),
            next_ino: Ino(ino),
            next_session: SessionId(session),
            next_node: NodeId(node),
            next_volume: VolumeId(volume),
            totals: Totals { inodes: totals.0, allocated: totals.1, block_bytes: totals.2 },
        }
    })
}

fn inode(ino: BoxedStrategy<u64>, kind: Option<FileKind>, wild: bool) -> BoxedStrategy<Row> {
    let kinds = select(kind.map_or(KINDS.to_vec(), |kind| vec![kind]));
    let numbers =
        (number(0..=MAX, wild), number(0..=MAX, wild), number(0..=MAX, wild), number(0..=MAX, wild));
    let times = (time(), time(), time(), time());
    let rest = (number(0..=0o7777, wild), any::<(u32, u32, u32, u32)>(), any::<u64>(), bytes(0..=4095, wild));
    (ino, kinds, numbers, times, rest)
        .prop_map(|(ino, kind, numbers, times, (perm, owner, parent, target))| {
            let target = if kind == FileKind::Symlink { target } else { Raw::default() };
            Row::Inode(InodeLine {
                ino: Ino(ino),
                kind,
                perm: Perm(perm as u16),
                uid: owner.0,
                gid: owner.1,
                nlink: owner.2,
                rdev: owner.3,
                size: numbers.0,
                allocated: numbers.1,
                data_version: numbers.2,
                parent: Ino(parent),
                entries: numbers.3,
                atime: times.0,
                mtime: times.1,
                ctime: times.2,
                btime: times.3,
                target,
            })
        })
        .boxed()
}

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Dir,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDevice,
    FileKind::BlockDevice,
];

fn dentry(ino: BoxedStrategy<u64>, wild: bool) -> BoxedStrategy<Row> {
    let cookie = number(16..=MAX - 1, wild);
    (ino.clone(), cookie, prop_oneof![ino, Just(0)], select(KINDS.to_vec()), name(wild))
        .prop_map(|(parent, cookie, ino, kind, name)| {
            let name = if ino == 0 { Raw::default() } else { name };
            Row::Dentry { parent: Ino(parent), cookie: Hex64(cookie), ino: Ino(ino), kind, name }
        })
        .boxed()
}

fn extent(ino: BoxedStrategy<u64>, wild: bool) -> BoxedStrategy<Row> {
    let data = prop_oneof![
        (block(), any::<u32>()).prop_map(|(block, offset)| Data::Block { block, offset }),
        bytes(1..=5000, wild).prop_map(Data::Inline),
        Just(Data::Reserved),
    ];
    (ino, number(0..=MAX - 5000, wild), number(1..=5000, wild), data)
        .prop_map(|(ino, offset, length, data)| {
            let length = match &data {
                Data::Inline(Raw(bytes)) => bytes.len() as u64,
                _ => length,
            };
            Row::Extent { ino: Ino(ino), offset, length, data }
        })
        .boxed()
}

fn lock(session: BoxedStrategy<u64>) -> BoxedStrategy<LockLine> {
    let family = prop_oneof![Just(LockFamily::Posix), Just(LockFamily::Flock)];
    (family, any::<bool>(), session, any::<(u64, u64, u64, u32)>())
        .prop_map(|(family, write, session, (owner, one, two, pid))| LockLine {
            family,
            write,
            session: SessionId(session),
            owner: Hex64(owner),
            start: one.min(two),
            end: one.max(two),
            pid,
        })
        .boxed()
}

fn session(session: BoxedStrategy<u64>, wild: bool) -> BoxedStrategy<Row> {
    let results = proptest::collection::vec(select(vec![Hex(vec![0, 0]), Hex(vec![1, 0])]), 0..5);
    (session, (".{0,9}", ".{0,9}", ".{0,9}"), any::<u32>(), time(), number(0..=MAX, wild), results)
        .prop_map(|(session, (host, mount_point, version), pid, opened, applied, results)| {
            let session = SessionId(session);
            let applied = Seq(applied);
            Row::Session(SessionLine { session, host, mount_point, version, pid, opened, applied, results })
        })
        .boxed()
}

fn row(state: &State, wild: bool) -> BoxedStrategy<Row> {
    let ino = number(1..=state.next_ino.0.max(2) - 1, wild);
    let mut all = vec![
        dentry(ino.clone(), wild),
        extent(ino.clone(), wild),
        (ino.clone(), name(wild), bytes(0..=9000, wild))
            .prop_map(|(ino, name, value)| Row::Xattr { ino: Ino(ino), name, value })
            .boxed(),
        (block(), any::<(u32, u64)>())
            .prop_map(|(block, (length, live))| Row::Block { block, length, live })
            .boxed(),
        block().prop_map(|block| Row::Delete { block }).boxed(),
        ino.clone().prop_map(|ino| Row::Orphan { ino: Ino(ino) }).boxed(),
    ];
    if state.next_ino.0 > 2 {
        // The root has its own row.
        all.push(inode(number(2..=state.next_ino.0 - 1, wild), None, wild));
    }
    if state.next_session.0 > 1 {
        let given = number(1..=state.next_session.0 - 1, wild);
        let locks = proptest::collection::vec(lock(given.clone()), 1..4);
        let locks = (ino.clone(), locks).prop_map(|(ino, locks)| Row::Lock { ino: Ino(ino), locks });
        let held = (given.clone(), ino);
        let held =
            held.prop_map(|(session, ino)| Row::LockBySession { session: SessionId(session), ino: Ino(ino) });
        all.extend([locks.boxed(), held.boxed(), session(given, wild)]);
    }
    all.extend(cluster_rows(state, wild));
    proptest::strategy::Union::new(all).boxed()
}

/// Rows of data daemons and their volumes.
fn cluster_rows(state: &State, wild: bool) -> Vec<BoxedStrategy<Row>> {
    let given = |next: u32| {
        let numbers = number(1..=u64::from(next.saturating_sub(1).max(1)), wild);
        numbers.prop_map(|number| number as u32).boxed()
    };
    let (node, volume) = (given(state.next_node.0), given(state.next_volume.0));
    let mut all = Vec::new();
    if state.next_node.0 > 1 {
        let address = "[a-z0-9:.]{1,255}";
        let nodes = (node.clone(), any::<u128>(), address).prop_map(|(node, identity, address)| Row::Node {
            node: NodeId(node),
            identity: Hex128(identity),
            address,
        });
        all.push(nodes.boxed());
    }
    if state.next_node.0 > 1 && state.next_volume.0 > 1 {
        let volumes = (volume, node);
        let volumes =
            volumes.prop_map(|(volume, node)| Row::Volume { volume: VolumeId(volume), node: NodeId(node) });
        all.push(volumes.boxed());
    }
    all
}

/// State and rows; one of ten wild ones has no root.
fn tables(wild: bool) -> impl Strategy<Value = (State, Vec<Row>)> {
    state(wild).prop_flat_map(move |state| {
        let root = inode(Just(1).boxed(), Some(FileKind::Dir), wild);
        let roots = proptest::collection::vec(root, if wild { 0..=9 } else { 1..=1 });
        let rows = proptest::collection::vec(row(&state, wild), if wild { 0..6 } else { 0..30 });
        (Just(state), (roots, rows).prop_map(|(roots, rows)| [roots, rows].concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_legal_comes_back((state, rows) in tables(false)) {
        let disk = directory(state, &rows);
        comes_back(&disk, &dump(&disk).unwrap());
    }

    #[test]
    fn what_is_dumped_can_be_loaded((state, rows) in tables(true)) {
        let disk = directory(state, &rows);
        match dump(&disk) {
            Ok(text) => comes_back(&disk, &text),
            Err(DumpError::Illegal { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// The state and one row of each kind, as the golden dump has them.
fn golden() -> (State, Vec<Row>) {
    let mut lines = include_str!("golden.dump").lines().skip(1);
    let StateLine { state } = serde_json::from_str(lines.next().unwrap()).unwrap();
    let rows = lines.map_while(|line| serde_json::from_str(line).ok());
    (State::from(state), rows.collect())
}

/// What is said of the golden tables with this state and these rows in place of theirs with the same key.
fn refused(state: State, changed: &[Row]) -> String {
    let rows = [golden().1, changed.to_vec()].concat();
    let line = dump(&directory(state, &rows)).unwrap_err().to_string();
    assert!(!line.contains('\n') && line.contains("can be loaded"), "{line}");
    line
}

#[test]
fn a_state_that_no_daemon_wrote_is_named() {
    let (state, rows) = golden();
    assert!(dump(&directory(state, &rows)).is_ok());
    let zero = "numbers from 1 on";
    for (state, what) in [
        (State { next_ino: Ino(0), ..state }, "the root has a number"),
        (State { next_ino: Ino(1), ..state }, "the root has a number"),
        (State { next_ino: Ino(MAX + 1), ..state }, "too large"),
        (State { next_session: SessionId(0), ..state }, zero),
        (State { next_session: SessionId(MAX + 1), ..state }, "too large"),
        (State { next_node: NodeId(0), ..state }, zero),
        (State { next_volume: VolumeId(0), ..state }, zero),
        (State { epoch: Epoch(1 << 23), ..state }, "too large"),
        (State { totals: Totals { inodes: MAX + 1, ..state.totals }, ..state }, "too large"),
        (State { totals: Totals { allocated: MAX + 1, ..state.totals }, ..state }, "too large"),
        (State { totals: Totals { block_bytes: MAX + 1, ..state.totals }, ..state }, "too large"),
    ] {
        let line = refused(state, &[]);
        assert!(line.starts_with("the state: ") && line.contains(what), "{state:?}: {line}");
    }
}

/// Found by review: a dump of such tables was written as if it were whole, and could not be loaded.
#[test]
fn rows_that_no_daemon_wrote_are_named() {
    let (state, rows) = golden();
    let text = |row: &Row| serde_json::to_string(row).unwrap();
    let parsed = |line: &str| serde_json::from_str::<Row>(line).unwrap();
    let changed = |start: &str, from: &str, to: &str| {
        let line = rows.iter().map(text).find(|line| line.starts_with(start)).unwrap();
        assert!(line.contains(from), "{from} is in {line}");
        parsed(&line.replacen(from, to, 1))
    };
    let Row::Inode(mut setbits) = changed(r#"{"inode":"#, "\"ino\":1,", "\"ino\":2,") else {
        panic!("an inode")
    };
    setbits.perm = Perm(0o10_644);
    for (row, key, what) in [
        (Row::Inode(setbits), "0000000000000002", "12 bits"),
        (changed(r#"{"inode":"#, "\"dir\"", "\"file\""), "0000000000000001", "the root"),
        (changed(r#"{"inode":"#, "\"ino\":1,", "\"ino\":65538,"), "0000000000010002", "never given"),
        (changed(r#"{"inode":"#, "\"size\":4192", "\"size\":9223372036854775808"), "01", "too long"),
        (changed(r#"{"inode":"#, "\"nlink\":2", "\"nlink\":2,\"target\":\"a\""), "01", "symbolic link"),
        (changed(r#"{"dentry":"#, "0000000000000010", "000000000000000f"), "0f", "cookie"),
        (changed(r#"{"dentry":"#, "0000000000000010", "7fffffffffffffff"), "7fffffffffffffff", "cookie"),
        (changed(r#"{"dentry":"#, "0000000000000010", "8000000000000000"), "8000000000000000", "cookie"),
        (changed(r#"{"dentry":"#, "0000000000000010", "ffffffffffffffff"), "ffffffffffffffff", "cookie"),
        (changed(r#"{"dentry":"#, "\"file\"}", "\"..\"}"), "10", "no name"),
        (
            changed(r#"{"extent":"#, "\"offset\":0,", "\"offset\":9223372036854775807,"),
            "7fffffffffffffff",
            "beyond",
        ),
        (
            changed(r#"{"extent":"#, "\"offset\":0,", "\"offset\":18446744073709551615,"),
            "ffffffffffffffff",
            "beyond",
        ),
        (changed(r#"{"extent":"#, "\"length\":100", "\"length\":0"), "00", "empty"),
        (changed(r#"{"xattr":"#, "\"user.bytes\"", "\"\\u0000\""), "0200", "no name"),
        (changed(r#"{"lock":"#, "\"start\":5", "\"start\":10"), "02", "ends before"),
        (changed(r#"{"lock":"#, "\"session\":1", "\"session\":0"), "02", "never given"),
        (Row::Lock { ino: Ino(2), locks: Vec::new() }, "02", "no lock"),
        (changed(r#"{"lock_by_session":"#, "\"session\":1", "\"session\":3"), "02", "never given"),
        (changed(r#"{"orphan":"#, "\"ino\":4", "\"ino\":0"), "00", "never given"),
        (changed(r#"{"node":"#, "\"node\":1", "\"node\":0"), "00000000", "never given"),
        (changed(r#"{"node":"#, "data1:9421", ""), "00000001", "no address"),
        (changed(r#"{"volume":"#, "\"volume\":1", "\"volume\":3"), "00000003", "never given"),
        (changed(r#"{"volume":"#, "\"node\":1", "\"node\":0"), "00000001", "never given"),
        (changed(r#"{"session":"#, "\"session\":1", "\"session\":0"), "00", "never given"),
        (changed(r#"{"session":"#, "\"applied\":12", "\"applied\":9223372036854775808"), "01", "too large"),
    ] {
        let line = refused(state, std::slice::from_ref(&row));
        let table = format!(" of table {:?}: ", row.stored().unwrap().table);
        let place = line.strip_prefix("row ").and_then(|line| line.split_once(&table));
        let Some((named, rest)) = place else { panic!("{}: {line}", text(&row)) };
        assert!(named.ends_with(key) && rest.contains(what), "{}: {line}", text(&row));
    }
    let rootless: Vec<Row> = rows.iter().skip(1).cloned().collect();
    let line = dump(&directory(state, &rootless)).unwrap_err().to_string();
    assert!(line.starts_with("row 0000000000000002 of table Inode: the root, inode 1, is missing"), "{line}");
    let line = dump(&directory(state, &[])).unwrap_err().to_string();
    assert!(line.starts_with("the tables: the root, inode 1, is missing"), "{line}");
}

#[test]
fn a_dump_without_a_root_is_not_loaded() {
    let (state, rows) = golden();
    let lines = [
        serde_json::to_string(&Header { cairn_dump: Version { version: VERSION } }).unwrap(),
        serde_json::to_string(&StateLine { state: state.into() }).unwrap(),
        serde_json::to_string(&rows[1]).unwrap(),
    ];
    for (kept, at) in [(3, 3), (2, 3)] {
        let lines: Vec<&str> = lines[..kept].iter().map(String::as_str).collect();
        let disk = SimDisk::new();
        let line = load(&mut sealed(&lines).as_bytes(), &disk).unwrap_err().to_string();
        assert_eq!(line, format!("line {at}: the root, inode 1, is missing or no directory"));
    }
}
