#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
//! The machine from end to end: what is answered is there after a restart, once.

mod bare;
mod crash;
mod damage;
mod dead_blocks;
mod decided_later;
mod faults;
mod full;
mod losses;
pub mod random;
mod renew;
mod slow_checkpoint;
mod twin;

use super::*;
use cairn_common::attr::{Caller, FileKind, SetAttr};
use cairn_common::ids::{Ino, NodeId, VolumeId};
use cairn_common::namespace::op::{Create, Op, OpBody, OpReply, OpResult};
use cairn_common::namespace::tables::Read;

fn time(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 5 }
}

fn chmod(perm: u16) -> Op {
    let set = SetAttr { perm: Some(perm), ..SetAttr::default() };
    Op {
        time: time(i64::from(perm)),
        caller: Caller::default(),
        body: OpBody::SetAttr { ino: Ino::ROOT, set },
    }
}

fn make(name: &str, ino: Ino) -> Op {
    let create = Create {
        parent: Ino::ROOT,
        name: name.to_owned().into(),
        ino,
        kind: FileKind::File,
        perm: 0o644,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
    };
    Op { body: OpBody::Create(create), ..chmod(1) }
}

async fn open_session(machine: &Machine) -> SessionId {
    let command = Command::OpenSession { client: ClientInfo::default(), time: time(1) };
    match machine.submit(command).await.unwrap().reply {
        Reply::Session(session) => session,
        other => panic!("{other:?}"),
    }
}

async fn batch(machine: &Machine, session: SessionId, first: u64, ops: Vec<Op>) -> FsResult<Vec<OpResult>> {
    let command = Command::Batch { session, first: Seq(first), ops, full: false };
    match machine.submit(command).await?.reply {
        Reply::Results(results) => Ok(results),
        other => panic!("{other:?}"),
    }
}

fn perm(machine: &Machine) -> u16 {
    machine.read(|snapshot| Ok(snapshot.inode(Ino::ROOT)?.unwrap().attr.perm)).unwrap()
}

fn small() -> MachineConfig {
    MachineConfig {
        segment_bytes: 64 << 10,
        reserve_bytes: 0,
        cache_bytes: 8 << 20,
        ..MachineConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_machine_replays_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), small()).unwrap();
    assert_eq!(machine.epoch(), Epoch(1));
    let session = open_session(&machine).await;
    let first = batch(&machine, session, 1, vec![chmod(0o700), chmod(0o711)]).await.unwrap();
    assert!(matches!(first[1], Ok(OpReply::Attr(attr)) if attr.perm == 0o711));
    assert_eq!(perm(&machine), 0o711);
    let cluster = machine.cluster();
    drop(machine);

    let machine = Machine::open(dir.path(), small()).unwrap();
    assert_eq!((machine.cluster(), machine.epoch()), (cluster, Epoch(2)));
    assert_eq!(perm(&machine), 0o711);
    assert_eq!(machine.session(session).unwrap().applied, Seq(2));
    let again = batch(&machine, session, 1, vec![chmod(0o700), chmod(0o711)]).await.unwrap();
    assert_eq!(again, first, "the replies survive too");
    assert_eq!(batch(&machine, session, 4, vec![chmod(0)]).await, Err(FsError::OutOfOrder));
    machine.shutdown().await.unwrap();
    assert_eq!(machine.submit(Command::Start).await.unwrap_err(), FsError::Unavailable);

    let machine = Machine::open(dir.path(), small()).unwrap();
    assert_eq!(perm(&machine), 0o711);
    let again = batch(&machine, session, 2, vec![chmod(0o711), chmod(0o722)]).await.unwrap();
    assert_eq!(again[0], first[1]);
    assert_eq!(perm(&machine), 0o722);
}

/// What a session stored that tables from an old copy do not know of must not count as of nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_sessions_that_were_given_can_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), small()).unwrap();
    let session = open_session(&machine).await;
    let never_given = SessionId(session.0 + 1);
    assert!(!machine.has_ended(session) && !machine.has_ended(never_given));
    machine.submit(Command::EndSession { session }).await.unwrap();
    assert!(machine.has_ended(session) && !machine.has_ended(never_given));
    assert!(!machine.has_ended(SessionId::NOBODY), "who cleans has not committed yet, perhaps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), small()).unwrap();
    let line = Machine::open(dir.path(), small()).map(|_| ()).unwrap_err().to_string();
    assert!(line.contains("in use by another daemon"), "{line}");
    machine.shutdown().await.unwrap();
    Machine::open(dir.path(), small()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_given_once() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), small()).unwrap();
    let session = open_session(&machine).await;
    let register = |node, address: &str| Command::RegisterNode { node, identity: 9, address: address.into() };
    let first = machine.submit(Command::AllocateInos { session }).await.unwrap().reply;
    let node = machine.submit(register(None, "a:1")).await.unwrap();
    assert_eq!(node.reply, Reply::Node(NodeId(1)));
    assert!(machine.progress().durable >= node.index);
    assert_eq!(machine.submit(register(None, "a:2")).await.unwrap().reply, Reply::Node(NodeId(1)));
    assert_eq!(machine.submit(register(Some(NodeId(2)), "a:2")).await, Err(FsError::WrongPeer));
    let create = Command::CreateVolume { node: NodeId(1) };
    assert_eq!(machine.submit(create.clone()).await.unwrap().reply, Reply::Volume(VolumeId(1)));
    drop(machine);

    let machine = Machine::open(dir.path(), small()).unwrap();
    assert_ne!(machine.submit(Command::AllocateInos { session }).await.unwrap().reply, first);
    assert_eq!(machine.submit(create).await.unwrap().reply, Reply::Volume(VolumeId(2)));
    let unknown = Command::CreateVolume { node: NodeId(7) };
    assert_eq!(machine.submit(unknown).await, Err(FsError::NotFound));
    let (nodes, volumes) = machine.read(|s| Ok((s.nodes()?, s.volumes()?))).unwrap();
    assert_eq!(nodes.iter().map(|row| row.address.as_str()).collect::<Vec<_>>(), ["a:2"]);
    assert_eq!(volumes, [(VolumeId(1), NodeId(1)), (VolumeId(2), NodeId(1))]);
    assert_ne!(open_session(&machine).await, session);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_session_changes_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), small()).unwrap();
    let session = open_session(&machine).await;
    batch(&machine, session, 1, vec![chmod(0o700)]).await.unwrap();
    machine.submit(Command::EndSession { session }).await.unwrap();
    assert_eq!(machine.session(session), None);
    assert_eq!(batch(&machine, session, 2, vec![chmod(0o777)]).await, Err(FsError::Evicted));
    assert_eq!(machine.sync_session(session, Seq(1), Duration::ZERO).await, Err(FsError::Evicted));
    machine.checkpoint();
    drop(machine);
    let machine = Machine::open(dir.path(), small()).unwrap();
    assert_eq!(batch(&machine, session, 2, vec![chmod(0o777)]).await, Err(FsError::Evicted));
    assert_eq!(perm(&machine), 0o700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_sessions_begin_where_they_are_told_and_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::open(dir.path(), small()).unwrap();
    for (least, given) in [(100, 100), (50, 101), (103, 103), (0, 104)] {
        let command = Command::OpenSessionFrom {
            client: ClientInfo::default(),
            time: time(1),
            least: SessionId(least),
        };
        assert_eq!(machine.submit(command).await.unwrap().reply, Reply::Session(SessionId(given)));
        drop(machine);
        machine = Machine::open(dir.path(), small()).unwrap();
    }
    assert_eq!(open_session(&machine).await, SessionId(105), "as logs of before say it");
    assert!(!machine.has_ended(SessionId(103)) && machine.has_ended(SessionId(102)), "skipped for good");
    let last =
        Command::OpenSessionFrom { client: ClientInfo::default(), time: time(1), least: SessionId(u64::MAX) };
    assert_eq!(machine.submit(last).await.unwrap_err(), FsError::NoSpace);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_was_never_given_out_makes_no_inode() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), small()).unwrap();
    let session = open_session(&machine).await;
    let results = batch(&machine, session, 1, vec![make("f", Ino(1 << 40))]).await.unwrap();
    assert_eq!(results, [Err(FsError::Invalid)]);
}

/// Many at once, with checkpoints meanwhile: everyone is answered once, in order, and it is all there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_waits_for_the_batch_that_it_speaks_of() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), small()).unwrap();
    let session = open_session(&machine).await;
    let early = machine.sync_session(session, Seq(1), Duration::ZERO).await;
    assert_eq!(early, Err(FsError::OutOfOrder), "it has not come");
    let waiting = tokio::spawn({
        let machine = machine.clone();
        async move { machine.sync_session(session, Seq(1), Duration::from_secs(60)).await }
    });
    batch(&machine, session, 1, vec![chmod(0o700)]).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(Seq(1)));
    assert_eq!(machine.durable_seq(session), Some(Seq(1)));
}

/// A checkpoint by now, or within a while: nobody waits for one.
async fn has_checkpoint(machine: &Machine) -> bool {
    let made = async {
        while machine.progress().checkpoint == LogIndex(0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), made).await.is_ok()
}

/// A daemon that is killed again and again replays no more each time: what one life left counts in the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lives_make_a_checkpoint_too() {
    const DUE: u64 = 16 << 10;
    let dir = tempfile::tempdir().unwrap();
    let config = || MachineConfig { checkpoint_bytes: DUE, ..small() };
    // Always the same row, so that only the log grows.
    let ops = || (0..600).map(|n| chmod(n % 0o777)).collect::<Vec<_>>();
    let logged = Command::Batch { session: SessionId(1), first: Seq(1), ops: ops(), full: false };
    let logged = logged.encode().unwrap().len() as u64;
    assert!(
        logged < DUE * 3 / 4 && logged * 2 > DUE,
        "{logged}: more than half of what makes a checkpoint due"
    );

    let machine = Machine::open(dir.path(), config()).unwrap();
    let session = open_session(&machine).await;
    batch(&machine, session, 1, ops()).await.unwrap();
    assert_eq!(machine.progress().checkpoint, LogIndex(0));
    drop(machine);

    let machine = Machine::open(dir.path(), config()).unwrap();
    assert_eq!(machine.progress().checkpoint, LogIndex(0));
    batch(&machine, session, 601, ops()).await.unwrap();
    assert!(has_checkpoint(&machine).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_sessions_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::open(dir.path(), MachineConfig { checkpoint_bytes: 4 << 10, ..small() }).unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let machine = machine.clone();
            tokio::spawn(async move {
                let session = open_session(&machine).await;
                for n in 1..=100 {
                    let results = batch(&machine, session, n, vec![chmod(0o700)]).await.unwrap();
                    assert!(matches!(results[..], [Ok(OpReply::Attr(_))]));
                }
                machine.sync_session(session, Seq(100), Duration::ZERO).await.unwrap();
                session
            })
        })
        .collect();
    let mut sessions = Vec::new();
    for task in tasks {
        sessions.push(task.await.unwrap());
    }
    assert!(has_checkpoint(&machine).await);
    drop(machine);
    let machine = Machine::open(dir.path(), small()).unwrap();
    for session in sessions {
        assert_eq!(machine.session(session).unwrap().applied, Seq(100));
    }
}
