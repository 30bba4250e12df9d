//! The metadata goes back to an old dump under mounts that live on: sessions of two histories have the same number, or the
//! same epoch, and none is taken for the other.

use cairn_common::attr::Timestamp;
use cairn_common::ids::{ClusterId, SessionId};
use cairn_common::proto::meta::ClientInfo;
use cairn_fsd::meta::apply::{Command, Reply};
use cairn_fsd::meta::dump;
use cairn_fsd::meta::machine::bare::BareDir;
use cairn_fsd::meta::machine::{Machine, MachineConfig};
use cairn_mountd::client::session::Session;
use cairn_mountd::life::{BootId, LifeFiles};
use cairn_tests::harness::{Cluster, LIMIT, Mount, Options, eventually, meta_link, within};
use std::path::Path;
use std::time::Duration;

/// Nothing here has data; who is known and does not come back holds a start up for a moment only.
fn options() -> Options {
    Options { data_daemons: 0, ..Options::default() }.grace(Duration::from_secs(1))
}

fn client(mount_point: &str) -> ClientInfo {
    ClientInfo { mount_point: mount_point.into(), ..ClientInfo::default() }
}

/// What `cairn meta dump` writes of the directory of a stopped daemon.
fn dumped(dir: &Path) -> Vec<u8> {
    let bare = BareDir::open(dir).unwrap().load().unwrap();
    let mut text = Vec::new();
    dump::write(&bare, &mut text).unwrap();
    text
}

/// What `cairn meta load` makes of it, in the place of what is there.
fn restore(text: &[u8], dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
    dump::load_dir(&mut &text[..], dir).unwrap();
}

/// Opens sessions without a daemon, with numbers from `least` on: as a daemon that counts on from the old ones gives them.
async fn give(dir: &Path, least: SessionId, clients: &[ClientInfo], time: Timestamp) -> Vec<SessionId> {
    let machine = Machine::open(dir, MachineConfig::default()).unwrap();
    let mut given = Vec::new();
    for client in clients {
        let command = Command::OpenSessionFrom { client: client.clone(), time, least };
        match machine.submit(command).await.unwrap().reply {
            Reply::Session(session) => given.push(session),
            other => panic!("{other:?}"),
        }
    }
    machine.shutdown().await.unwrap();
    given
}

async fn sessions(cluster: &Cluster) -> Vec<SessionId> {
    cluster.status().await.sessions.into_iter().map(|status| status.session).collect()
}

async fn new_session(mount: &Mount, old: SessionId) {
    eventually("the mount has a new session", LIMIT, || async {
        if mount.session() == old { Err("the old one".into()) } else { Ok(()) }
    })
    .await;
}

/// A mount that comes, and first ends the session of one that died beside it.
async fn come_after_a_death(cluster: &Cluster, of: ClusterId, dead: SessionId, opened: Timestamp) {
    let dir = tempfile::tempdir().unwrap();
    let files = LifeFiles::at(dir.path().to_owned(), BootId(1), String::new());
    drop(files.hold(of, dead, Some(opened)));
    let link = meta_link(cluster.meta.address());
    let open = Session::open(link, client("next"), None, LIMIT, files.clone());
    let session = within("a session", open).await.unwrap();
    assert_eq!(files.dead(of).len(), 0, "the dead one is dealt with");
    within("its end", session.end(LIMIT)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_number_of_a_lost_session_is_left_alone() {
    let mut cluster = Cluster::start(options()).await;
    cluster.meta.stop().await;
    let old = dumped(cluster.meta.dir());
    cluster.meta.start().await;
    let a = cluster.mount("a").await;
    let (lost, of) = (a.session(), cluster.status().await.cluster);
    let file = a.create("f").await.unwrap();

    cluster.meta.stop().await;
    restore(&old, cluster.meta.dir());
    // The worst there can be: the same number, and a client that looks the same. With another one nobody is alone.
    let opened = Timestamp { secs: 2_000_000_000, nanos: 1 };
    let given = give(cluster.meta.dir(), lost, &[client("a"), client("b")], opened).await;
    assert_eq!(given[0], lost);
    cluster.meta.start().await;

    new_session(&a, lost).await;
    assert!(file.write_at(0, b"lost").await.is_err(), "it was open in the lost session");
    let _told_already = file.close().await;
    a.mkdir("d").await.unwrap();
    let mut all = [given, vec![a.session()]].concat();
    assert_eq!(sessions(&cluster).await, all, "each has its own");

    come_after_a_death(&cluster, of, lost, opened.next()).await;
    assert_eq!(sessions(&cluster).await, all, "it is another that died");
    come_after_a_death(&cluster, of, lost, opened).await;
    all.remove(0);
    assert_eq!(sessions(&cluster).await, all);
    a.leave().await;
}

/// The mount has changed nothing since, so all that it knows fits; where the daemon counts on from is chance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_does_not_go_on_in_another_history_of_its_epoch() {
    for _ in 0..4 {
        let mut cluster = Cluster::start(options()).await;
        let a = cluster.mount("a").await;
        let file = a.create("f").await.unwrap();
        file.fsync().await.unwrap();
        cluster.meta.stop().await;
        let old = dumped(cluster.meta.dir());
        cluster.meta.start().await;
        let (session, epoch) = (a.session(), cluster.status().await.epoch);
        // Nobody but the server knows them: after this, the mount has met this start.
        a.xattrs("f").await.unwrap();
        assert_eq!(a.session(), session, "an ordinary restart");

        cluster.meta.stop().await;
        restore(&old, cluster.meta.dir());
        cluster.meta.start().await;
        assert_eq!(cluster.status().await.epoch, epoch);
        new_session(&a, session).await;
        assert!(file.write_at(0, b"lost").await.is_err(), "it was open in the lost session");
        let _told_already = file.close().await;
        a.mkdir("d").await.unwrap();
        assert_eq!(sessions(&cluster).await, [a.session()], "the old one is ended");
        a.leave().await;
    }
}
