//! Writes inputs from which the fuzzer starts: one of each kind, as this version encodes them. Needed again when a format
//! changes; `run.sh` and what `docs/testing.md` says about `-merge=1` grow the corpus from there.
//!
//! ```text
//! cargo run --manifest-path tests/fuzz/Cargo.toml --profile ci --no-default-features --example seeds
//! ```

use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, FileKind, SetAttr, SetTime, Timestamp};
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, ClusterId, Epoch, Ino, LogIndex, NodeId, Seq, SessionId, VolumeId};
use cairn_common::limits::FILE_SIZE_MAX;
use cairn_common::namespace::op::{
    Commit, Create, Extent, ExtentData, FallocateMode, FileCommit, LockFamily, LockOwner, LockRequest,
    LockType, Move, Op, OpBody, OpReply, OpResult, Piece, Relocation, Rename, XattrMode,
};
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode, Totals};
use cairn_common::proto::data::{DataServiceRequest, DataServiceResponse, GetReply, GetRequest, PutRequest};
use cairn_common::proto::meta::{
    AttachRequest, Batch, ClientInfo, Event, EventBody, MetaServiceRequest, MetaServiceResponse,
};
use cairn_common::summary::{self, SummaryEntry};
use cairn_common::wire::checksum::crc64;
use cairn_common::wire::codec::encode;
use cairn_common::wire::hello::{Hello, ServiceKind};
use cairn_common::wire::payload::encode_with;
use cairn_fsd::data::volume::format::RecordKind;
use cairn_fsd::meta::apply::Command;
use cairn_fsd::meta::tables::NodeRow;
use cairn_fsd::meta::tables::sums::Sums;
use cairn_fsd::meta::tables::values::{self, SessionRow, State};
use serde::Serialize;
use std::path::Path;

const BLOCK: BlockRef = BlockRef { volume: VolumeId(1), sequence: 2, cookie: 0xabcd };
const TIME: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 5 };

fn main() {
    frame();
    hello();
    messages();
    ops();
    commands();
    values_of_tables();
    disk();
    text();
}

fn write(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir).expect("make the directory");
    std::fs::write(dir.join(name), bytes).expect("write the seed");
}

/// Bytes with their length before them, as `Input::chunk` reads them.
fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&u16::try_from(bytes.len()).expect("seeds are small").to_be_bytes(), bytes].concat()
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    encode_with(|| encode(value).expect("seeds are small")).0
}

fn frame() {
    let good = [&[9, 2, 0][..], &chunk("hello"), &chunk(""), &[1], &chunk("head"), &chunk("pay")].concat();
    write("frame", "two-frames", &good);
    write("frame", "two-frames-and-http", [&good[..], b"GET / HTTP/1.1\r\nHost"].concat());
    write(
        "frame",
        "nothing-but-a-fixed-part",
        b"\0\0CRNF\x01\x02\0\0\0\0\0\x06\0\0\x01\x02\xb4\xd0\xf2\x7dheader",
    );
}

fn hello() {
    let meta = Hello::new(ServiceKind::Meta, ClusterId(7), "mount host:/mnt").encode();
    let data = Hello::new(ServiceKind::Data, ClusterId(0), "").encode();
    write("hello", "agree", [&chunk(&meta)[..], &meta].concat());
    write("hello", "mismatch", [&chunk(&meta)[..], &data].concat());
}

fn messages() {
    let message = |which: u8, name: &str, payload: &[u8], message: &[u8]| {
        write("message", name, [&[which][..], &chunk(payload), message].concat());
    };
    let session = SessionId(1);
    let client = ClientInfo { host: "h".into(), mount_point: "/m".into(), version: "0".into(), pid: 1 };
    let attach = AttachRequest { session: Some(session), client, opens: Vec::new() };
    message(0, "attach", b"", &encoded(&MetaServiceRequest::Attach { request: attach }));
    let batch = Batch { session, first: Seq(1), ops: all_ops(), sync_follows: true };
    message(0, "batch", b"", &encoded(&MetaServiceRequest::Apply { batch }));
    let event = Event { id: 1, body: EventBody::Uncache { ino: Ino(2), generation: 3 } };
    message(1, "events", b"", &encoded(&MetaServiceResponse::Events(Ok(vec![event]))));
    let put =
        PutRequest { session, summary_len: 1, checksums: vec![1], payload: Bytes::from_static(b"ab").into() };
    message(2, "put", b"ab", &encoded(&DataServiceRequest::Put { request: put }));
    let get = GetRequest { block: BLOCK, offset: 0, length: 2 };
    message(2, "get", b"", &encoded(&DataServiceRequest::Get { request: get }));
    let got = GetReply { offset: 0, checksums: vec![1], payload: Bytes::from_static(b"ab").into() };
    message(3, "got", b"ab", &encoded(&DataServiceResponse::Get(Ok(got))));
}

fn all_ops() -> Vec<Op> {
    let (root, file, dir) = (Ino::ROOT, Ino(10), Ino(11));
    let name = |text: &'static str| Bytes::from_static(text.as_bytes());
    let create = |ino, text, kind| {
        let (perm, umask, rdev) = (0o755, 0o22, 0);
        OpBody::Create(Create {
            parent: root,
            name: name(text),
            ino,
            kind,
            perm,
            umask,
            rdev,
            exclusive: true,
            open: true,
        })
    };
    let inline = ExtentData::Inline(name("abcd"));
    let in_block = ExtentData::Block { block: BLOCK, offset: 0 };
    let piece = |data, length| Piece { ino: file, extent: Extent { offset: 0, length, data } };
    let file_commit = FileCommit { ino: file, size_at_least: 8, mtime: Some(TIME), kill_suidgid: true };
    let commit =
        |data, length, blocks| Commit { blocks, pieces: vec![piece(data, length)], files: vec![file_commit] };
    let moved = Move { ino: file, offset: 0, length: 4, block: BLOCK, at: 0, sum: crc64(b"abcd") };
    let owner = LockOwner { family: LockFamily::Posix, owner: 7 };
    let lock = LockRequest { owner, kind: LockType::Write, start: 1, end: 9, pid: 1 };
    let rename = Rename {
        parent: root,
        name: name("f"),
        new_parent: dir,
        new_name: name("g"),
        flags: 0,
        whiteout: Ino(0),
    };
    let set = SetAttr { perm: Some(0o600), size: Some(100), mtime: Some(SetTime::Now), ..SetAttr::default() };
    let (mode, user) = (XattrMode::Set, name("user.a"));
    let acl = Bytes::from_static(
        b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff",
    );
    let bodies = vec![
        create(file, "f", FileKind::File),
        create(dir, "d", FileKind::Dir),
        OpBody::SetXattr { ino: dir, name: name("system.posix_acl_default"), value: acl, mode },
        OpBody::Symlink { parent: dir, name: name("s"), ino: Ino(12), target: name("f") },
        OpBody::Tmpfile { parent: root, ino: Ino(13), perm: 0o644, umask: 0 },
        OpBody::Link { ino: file, parent: dir, name: name("l") },
        OpBody::SetXattr { ino: file, name: user.clone(), value: name("v"), mode },
        OpBody::RemoveXattr { ino: file, name: user },
        OpBody::Commit(commit(inline.clone(), 4, Vec::new())),
        OpBody::CommitAndMove { commit: commit(in_block, 8, vec![(BLOCK, 64)]), moves: vec![moved] },
        OpBody::Append { ino: file, length: 4, data: inline, block_length: 0, kill_suidgid: false },
        OpBody::Fallocate {
            ino: file,
            mode: FallocateMode::Allocate { keep_size: true },
            offset: 4,
            length: 40,
        },
        OpBody::Fallocate { ino: file, mode: FallocateMode::InsertRange, offset: 0, length: 4096 },
        OpBody::CloneRange { from: file, from_offset: 0, to: Ino(13), to_offset: 2, length: 6 },
        OpBody::Relocate,
        OpBody::Lock { ino: file, lock },
        OpBody::ReleaseLocks { ino: file, owner },
        OpBody::SetAttr { ino: file, set },
        OpBody::Touch { ino: file, atime: TIME },
        OpBody::Rename(rename),
        OpBody::Unlink { parent: dir, name: name("l") },
        OpBody::Rmdir { parent: root, name: name("d") },
    ];
    bodies.into_iter().map(|body| Op { time: TIME, caller: Caller::default(), body }).collect()
}

/// At the edges of what numbers can be, on the file that [`all_ops`] makes first.
fn extreme_ops() -> Vec<Op> {
    let ino = Ino(10);
    let time = Timestamp { secs: i64::MAX, nanos: 999_999_999 };
    let in_block = ExtentData::Block { block: BLOCK, offset: u32::MAX };
    let last = FILE_SIZE_MAX - 4096;
    let piece = |offset, length| Piece { ino, extent: Extent { offset, length, data: in_block.clone() } };
    let file = |size_at_least| FileCommit { ino, size_at_least, mtime: Some(time), kill_suidgid: false };
    let commit =
        |piece, file| Commit { blocks: vec![(BLOCK, u32::MAX)], pieces: vec![piece], files: vec![file] };
    let fallocate = |mode, offset, length| OpBody::Fallocate { ino, mode, offset, length };
    let keep = FallocateMode::Allocate { keep_size: true };
    let owner = LockOwner { family: LockFamily::Posix, owner: u64::MAX };
    let lock =
        |start, end, kind| OpBody::Lock { ino, lock: LockRequest { owner, kind, start, end, pid: u32::MAX } };
    let clone = |from_offset, to_offset, length| OpBody::CloneRange {
        from: ino,
        from_offset,
        to: ino,
        to_offset,
        length,
    };
    let bodies = vec![
        OpBody::SetAttr { ino, set: SetAttr { size: Some(FILE_SIZE_MAX), ..SetAttr::default() } },
        fallocate(keep, last, 4096),
        fallocate(keep, u64::MAX, 1),
        fallocate(FallocateMode::PunchHole, last, u64::MAX - last),
        fallocate(FallocateMode::InsertRange, 0, 1 << 62),
        fallocate(FallocateMode::CollapseRange, 0, 1 << 62),
        OpBody::Commit(commit(piece(last, 1), file(FILE_SIZE_MAX))),
        OpBody::Commit(commit(piece(u64::MAX, 1), file(u64::MAX))),
        OpBody::Commit(commit(piece(0, u64::MAX), file(0))),
        OpBody::Append {
            ino,
            length: u64::MAX,
            data: ExtentData::Reserved,
            block_length: 0,
            kill_suidgid: false,
        },
        clone(last, 0, 4096),
        clone(0, last, u64::MAX),
        lock(0, u64::MAX, LockType::Read),
        lock(1 << 62, 1 << 62, LockType::Unlock),
        OpBody::Touch { ino, atime: time },
        OpBody::SetAttr { ino, set: SetAttr { perm: Some(u16::MAX), size: Some(0), ..SetAttr::default() } },
    ];
    bodies.into_iter().map(|body| Op { time, caller: Caller::default(), body }).collect()
}

fn ops() {
    let all: Vec<Vec<u8>> = all_ops().iter().map(|op| [&[1][..], &chunk(encoded(op))].concat()).collect();
    write("ops", "all", [&[0][..], &all.concat()].concat());
    for (at, op) in all.iter().enumerate().skip(2) {
        write("ops", &format!("op-{at:02}"), [&[1][..], &all[0], &all[1], op].concat());
    }
    let extreme: Vec<Vec<u8>> =
        extreme_ops().iter().map(|op| [&[1][..], &chunk(encoded(op))].concat()).collect();
    write("ops", "extreme", [&[0][..], &all[0], &all[1], &extreme.concat()].concat());
    // A time that there is not: the next one would have wrapped around.
    let time = Timestamp { secs: i64::MAX, nanos: u32::MAX };
    let touch = Op {
        time,
        caller: Caller::default(),
        body: OpBody::SetAttr { ino: Ino(10), set: SetAttr { perm: Some(0o600), ..SetAttr::default() } },
    };
    let touch = [&[1][..], &chunk(encoded(&touch))].concat();
    write("ops", "found-nanoseconds", [&[0][..], &all[0], &touch, &touch].concat());
    let acl = b"\x01\0\x07\0\xff\xff\xff\xff\x02\0\x07\0\x05\0\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    for (kind, name) in [(0, "access"), (1, "default")] {
        write("acl", name, [&[kind, 1, 0xed, 0, 0o22][..], acl].concat());
    }
}

fn commands() {
    let session = SessionId(1);
    let client = ClientInfo::default();
    let from = BlockRef { sequence: 1, ..BLOCK };
    let relocation = Relocation { ino: Ino(10), offset: 4, length: 9, from, from_at: 7, to_at: 0 };
    for (name, command) in [
        ("start", Command::Start),
        ("open-session", Command::OpenSession { client: client.clone(), time: TIME }),
        ("open-session-from", Command::OpenSessionFrom { client, time: TIME, least: SessionId(300) }),
        ("batch", Command::Batch { session, first: Seq(1), ops: all_ops(), full: false }),
        ("reap", Command::Reap { inos: vec![Ino(9)] }),
        ("register", Command::RegisterNode { node: Some(NodeId(1)), identity: 5, address: "h:1".into() }),
        ("deleted", Command::Deleted { node: NodeId(1), blocks: vec![BLOCK] }),
        ("relocate", Command::Relocate { block: BLOCK, length: 64, pieces: vec![relocation] }),
    ] {
        write("command", name, command.encode().expect("seeds are small"));
    }
}

fn values_of_tables() {
    let put = |table: u8, name: &str, value: &[u8]| write("values", name, [&[table][..], value].concat());
    let mut out = Vec::new();
    let attr = Attr {
        ino: Ino(5),
        kind: FileKind::Symlink,
        perm: 0o777,
        uid: 1,
        gid: 2,
        nlink: 3,
        rdev: 0,
        size: 2,
        allocated: 0,
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
        btime: TIME,
        data_version: 1,
    };
    values::encode_inode(&Inode { attr, parent: Ino(1), entries: 0, target: "to".into() }, &mut out);
    put(0, "inode", &out);
    values::encode_dentry(
        &Dentry { cookie: 5, name: "n".into(), ino: Ino(6), kind: FileKind::Dir },
        &mut out,
    );
    put(1, "dentry", &out);
    for (name, data) in [
        ("block", ExtentData::Block { block: BLOCK, offset: 1 }),
        ("inline", ExtentData::Inline("abc".into())),
        ("reserved", ExtentData::Reserved),
    ] {
        values::encode_extent(&Extent { offset: 5, length: 3, data }, &mut out);
        put(2, &format!("extent-{name}"), &out);
    }
    values::encode_xattr(b"v", &mut out);
    put(3, "xattr", &out);
    let owner = LockOwner { family: LockFamily::Flock, owner: 2 };
    let lock = HeldLock { session: SessionId(1), owner, write: true, start: 3, end: 4, pid: 5 };
    values::encode_locks(&[lock, lock], &mut out);
    put(4, "locks", &out);
    put(5, "block", &values::encode_block(BlockUse { length: 1, live: 2 }));
    values::encode_node(&NodeRow { node: NodeId(5), identity: 6, address: "h:1".into() }, &mut out);
    put(6, "node", &out);
    put(7, "volume", &values::encode_volume(NodeId(3)));
    put(8, "state", &values::encode_state(&state()));
    let results: Vec<OpResult> = vec![Ok(OpReply::Done), Err(FsError::Exists), Ok(OpReply::Attr(attr))];
    let row = SessionRow { client: ClientInfo::default(), opened: TIME, applied: Seq(3), results };
    values::encode_session(&row, &mut out).expect("seeds are small");
    put(9, "session", &out);
}

fn state() -> State {
    State {
        cluster: ClusterId(1),
        epoch: Epoch(2),
        applied: LogIndex(3),
        next_ino: Ino(4),
        next_session: SessionId(5),
        next_node: NodeId(6),
        next_volume: VolumeId(7),
        totals: Totals::default(),
    }
}

fn disk() {
    let entries = [SummaryEntry { ino: Ino(3), offset: 4096, at: 0, length: 32 }; 2];
    let whole = summary::encode(&entries);
    write("summary", "two", &whole);
    write("summary", "without-checksum", &whole[..whole.len() - 4]);
    // Both without their checksum, which the target adds.
    write(
        "identity",
        "node",
        [&b"CAIRNNOD\0\0\0\x01"[..], &[3; 16], &[4; 16], &[0, 0, 0, 5, 0, 0, 0, 1]].concat(),
    );
    write(
        "life",
        "mount",
        [&b"CAIRNLIF\0\0\0\x01"[..], &[3; 16], &[4; 8], &[5; 16], &chunk("m:/ at /mnt")].concat(),
    );
    log();
    volume();
    sums();
}

fn sums() {
    let mut sums = Sums::unknown(200);
    sums.set_header(5, 6);
    (1..200).for_each(|unit| sums.set(unit, 0x0101_0101));
    let stored: Vec<u8> = sums.take_dirty().into_iter().flat_map(|run| run.bytes).collect();
    write("sums", "two-sectors", [&200_u16.to_be_bytes()[..], &stored].concat());
    let set = [1, 0, 5, 9, 9, 9, 9];
    let changes = [&[0, 1, 44][..], &set, &[2, 1, 2, 3, 4, 3, 0, 0, 3, 3, 0, 1, 44], &set].concat();
    write("sums", "grown-and-cut", [&[0, 9][..], &changes].concat());
}

fn log() {
    let record = |payload: &str| [&[0][..], &chunk(payload)].concat();
    let two = [&[1][..], &record("first"), &record("second entry")].concat();
    write("log", "whole", [&[0, 1][..], &two, &two, &[0]].concat());
    write("log", "behind-a-checkpoint", [&[3, 1][..], &two, &two, &[0]].concat());
    write("log", "marked", [&[0, 0x82][..], &two, &two, &[0]].concat());
    write("log", "torn", [&[0, 0][..], &two, &[1, 0, 0, 0, 110]].concat());
    write("log", "damaged", [&[0, 0][..], &two, &[1, 0, 2, 0, 100], &chunk("zz")].concat());
}

fn volume() {
    let record = |kind: RecordKind, sequence: u32, long: u8| {
        let code = match kind {
            RecordKind::Block => 0,
            RecordKind::Stop => 2,
            RecordKind::Seal => 3,
            RecordKind::Mark => 4,
        };
        let payload =
            if kind == RecordKind::Block { [&[long][..], &chunk("payload")].concat() } else { Vec::new() };
        // Only a block has a summary.
        let summary = u8::from(kind == RecordKind::Block);
        [&[code][..], &payload, &sequence.to_be_bytes(), &[9; 4], &[0; 8], &[0, summary], &[1]].concat()
    };
    let (first, second) = (record(RecordKind::Block, 1, 1), record(RecordKind::Block, 2, 0));
    let [stop, seal, mark] =
        [RecordKind::Stop, RecordKind::Seal, RecordKind::Mark].map(|kind| record(kind, 2, 0));
    write("volume", "open", [&[2][..], &first, &second, &[0, 0]].concat());
    write("volume", "stopped", [&[3][..], &first, &second, &stop, &[0, 0]].concat());
    write("volume", "marked", [&[3][..], &first, &second, &mark, &[0, 0]].concat());
    write("volume", "sealed", [&[3][..], &first, &second, &seal, &[0, 0]].concat());
    let deletes = [&[0; 4][..], &[1, 0, 0, 0, 2, 9, 9, 9, 9, 0], &chunk("")].concat();
    write("volume", "deleted", [&[2][..], &first, &second, &[1], &deletes, &[0]].concat());
    let entry =
        [&[0, 0, 0, 1, 9, 9, 9, 9][..], &[0; 8], &[0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]].concat();
    let body = [&entry[..], &[1, 2, 3, 4]].concat();
    let index = [&(3 * 4096_u64).to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 1], &chunk(body)].concat();
    write("volume", "indexed", [&[2][..], &first, &second, &[2], &index, &[0]].concat());
    write("volume", "damaged", [&[2][..], &first, &second, &[0, 1, 1, 0, 0, 0x10, 0], &chunk("zz")].concat());
}

fn text() {
    for text in ["64MiB", "100ms", "host:9420", "[::1]:77,b", "5min", "0", "a,b:1"] {
        write("config", &format!("value-{}", text.replace(['[', ']', ':', ','], "_")), text);
    }
    write(
        "config",
        "meta.toml",
        "data-dir = \"/a\"\nlisten = \"h:1\"\ngrace = \"3s\"\nsession-timeout = 20\ncache = \"1G\"\n",
    );
    write(
        "config",
        "data.toml",
        "data-dir = \"/d\"\nlisten = \"h\"\nmeta = \"m1,m2:7\"\nvolume-size = \"64MiB\"\nreserve = 5\naccept-loss = true\n",
    );
    for (name, text) in [
        ("source", "m:1,[::1]:/a//b/"),
        ("flags", "ro,nosuid,nodev,noexec,noatime,sync,dirsync,allow_other,soft,_netdev,x-a=b"),
        ("values", "timeo=5s,watchdog=off,cache=64M,dirty=1G,logfile=/l,fsname=f,watchdog=10min"),
    ] {
        write("options", name, text);
    }
    let golden = include_str!("../../../fsd/src/meta/dump/golden.dump");
    let lines: Vec<&str> = golden.lines().collect();
    write("dump", "golden", golden);
    let rows = lines[2..lines.len() - 1].iter();
    for (at, row) in rows.enumerate() {
        write("dump", &format!("row-{at:02}"), format!("{}\n{}\n{row}\n", lines[0], lines[1]));
    }
}
