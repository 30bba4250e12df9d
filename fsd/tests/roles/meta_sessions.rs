//! Sessions over real connections: two mounts agree, silent ones go, restarts and cut connections
//! lose and repeat nothing.

use crate::data_common::copy_of;
use crate::meta_common::*;
use cairn_common::attr::{SetAttr, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Epoch, Ino, SessionId};
use cairn_common::namespace::op::{LockType, OpBody, OpReply};
use cairn_common::proto::meta::{
    AttachRequest, ClientInfo, DataLease, EventBody, OpenState, SessionKey, TakenUp,
};
use cairn_fsd::meta::session::SessionTimes;
use std::time::Duration;

/// Two mounts that know of each other.
async fn two(server: &Server) -> (Mount, Mount) {
    let mut a = Mount::new(server).await;
    assert!(a.attached.sole);
    let link = server.connect();
    let (reply, ()) = tokio::join!(attach(&link, None, Vec::new()), async {
        let event = a.event().await;
        assert!(matches!(event.body, EventBody::Shared { .. }));
        a.acknowledge(&event).await;
    });
    let b = Mount::go_on(link, reply.unwrap()).await;
    assert!(!b.attached.sole);
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_session_waits_until_the_first_knows() {
    let server = Server::start(patient()).await;
    let mut a = Mount::new(&server).await;
    let link = server.connect();
    let second = tokio::spawn(async move { (attach(&link, None, Vec::new()).await, link) });
    let event = a.event().await;
    tokio::time::sleep(SHORT).await;
    assert!(!second.is_finished(), "answered before the first session acknowledged");
    a.acknowledge(&event).await;
    let (reply, link) = within(second).await.unwrap();
    let b = Mount::go_on(link, reply.unwrap()).await;
    b.detach().await.unwrap();
    b.detach().await.unwrap();
    assert!(matches!(a.event().await.body, EventBody::Sole { .. }));
    assert_eq!(b.getattr(Ino::ROOT).await, Err(FsError::Evicted));
    assert_eq!(server.status().await.sessions.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_opens_and_looks_recall_the_writer() {
    let server = Server::start(patient()).await;
    let (mut a, mut b) = two(&server).await;
    let ino = a.create("f", true).await;

    // B looks at a file that A writes: A flushes first.
    let (seen, ()) = tokio::join!(b.lookup("f"), async {
        let event = a.event().await;
        assert_eq!(event.body, EventBody::Flush { inos: vec![ino] });
        a.op(commit(ino, block(1, 1), 500)).await.unwrap();
        a.acknowledge(&event).await;
    });
    assert_eq!(seen.unwrap().size, 500);

    // B opens it: A stops caching. From the moment it asks, B counts as having it open.
    let (link, session) = (b.link.clone(), b.session);
    let opening = ask(&link, |c| async move { c.open(context(), session, ino, false).await });
    let (opened, (), ()) = tokio::join!(opening, b.expect(EventBody::Invalidate { ino }), async {
        let event = a.event().await;
        assert!(matches!(event.body, EventBody::Uncache { ino: of, .. } if of == ino));
        a.op(commit(ino, block(1, 2), 700)).await.unwrap();
        a.acknowledge(&event).await;
    });
    let opened = opened.unwrap();
    assert_eq!((opened.lease, opened.attr.size), (DataLease::Shared, 700));
    assert_eq!(opened.extents.extents.len(), 1);

    // A writes while B has it open: B drops what it has before A's write is answered.
    let write = commit(ino, block(1, 3), 900);
    let (written, ()) = tokio::join!(a.op(write), async {
        b.expect(EventBody::Invalidate { ino }).await;
    });
    written.unwrap();
    assert_eq!(b.getattr(ino).await.unwrap().size, 900);
    a.no_event().await;

    // Without B, A may cache again.
    b.close(ino, 1, 0).await;
    assert_eq!(a.open(ino, true).await.unwrap().lease, DataLease::Cached);
    assert_eq!(server.status().await.sessions[0].open_files, 1);
}

/// The disk is full, say. The open that needs the data fails, and does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_cannot_store_keeps_what_it_has() {
    let server = Server::start(patient()).await;
    let (mut a, mut b) = two(&server).await;
    let ino = a.create("f", true).await;
    let (opened, event) = tokio::join!(b.open(ino, true), async {
        let event = a.event().await;
        assert!(matches!(event.body, EventBody::Uncache { ino: of, .. } if of == ino));
        a.refuse(&event, FsError::NoSpace).await.unwrap();
        event
    });
    assert_eq!(opened.unwrap_err(), FsError::NoSpace);
    assert_eq!(a.refuse(&event, FsError::NoSpace).await, Ok(()), "the answer was lost");
    assert_eq!(server.status().await.sessions[1].open_files, 0);

    // Whoever looks at it asks again; a data daemon that is away for a while is worth waiting for.
    let (seen, ()) = tokio::join!(b.getattr(ino), async {
        let event = a.event().await;
        assert_eq!(event.body, EventBody::Flush { inos: vec![ino] });
        a.refuse(&event, FsError::Unavailable).await.unwrap();
    });
    assert_eq!(seen.unwrap_err(), FsError::Unavailable);
    let set = OpBody::SetAttr { ino, set: SetAttr { size: Some(5), ..SetAttr::default() } };
    let batch = b.batch(vec![set]);
    let (cut, ()) = tokio::join!(b.send(batch.clone()), async {
        let event = a.event().await;
        a.refuse(&event, FsError::Unavailable).await.unwrap();
    });
    assert_eq!(cut.unwrap_err(), FsError::Unavailable);
    let (cut, ()) = tokio::join!(b.send(batch), async {
        a.expect(EventBody::Flush { inos: vec![ino] }).await;
        a.expect(EventBody::Invalidate { ino }).await;
    });
    cut.unwrap().results.remove(0).unwrap();
    let (opened, ()) = tokio::join!(b.open(ino, false), async {
        let event = a.event().await;
        assert!(matches!(event.body, EventBody::Uncache { .. }));
        a.acknowledge(&event).await;
    });
    assert_eq!(opened.unwrap().attr.size, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_directory_flushes_all_at_once() {
    let server = Server::start(patient()).await;
    let (mut a, b) = two(&server).await;
    let (one, two) = (a.create("one", true).await, a.create("two", true).await);
    let session = b.session;
    let list = b.ask(|c| async move { c.readdir(context(), session, Ino::ROOT, 0, 1 << 16, true).await });
    let (page, ()) = tokio::join!(list, async {
        let event = a.event().await;
        let EventBody::Flush { inos } = &event.body else { panic!("{event:?}") };
        assert!(inos.len() == 2 && inos.contains(&one) && inos.contains(&two));
        a.op(commit(two, block(1, 1), 33)).await.unwrap();
        a.acknowledge(&event).await;
    });
    let page = page.unwrap();
    let size = |ino| page.entries.iter().find(|entry| entry.ino == ino).unwrap().attr.unwrap().size;
    assert_eq!((size(one), size(two), page.end), (0, 33, true));
    // Names alone need nobody.
    let names = b.ask(|c| async move { c.readdir(context(), session, Ino::ROOT, 0, 1 << 16, false).await });
    assert_eq!(names.await.unwrap().entries.len(), 2);
    a.no_event().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_an_open_does_not_hold_it() {
    let server = Server::start(patient()).await;
    let (mut a, b) = two(&server).await;
    let ino = a.create("f", true).await;
    let (link, session) = (b.link.clone(), b.session);
    let opening = tokio::spawn(async move {
        ask(&link, |c| async move { c.open(context(), session, ino, true).await }).await
    });
    let event = a.event().await;
    opening.abort();
    // The server hears of it, and forgets the open.
    eventually("the open is forgotten", || async { server.status().await.sessions[1].open_files == 0 }).await;
    a.acknowledge(&event).await;
    assert_eq!(a.open(ino, true).await.unwrap().lease, DataLease::Cached);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_is_evicted() {
    let times =
        SessionTimes { timeout: Duration::from_millis(600), grace: Duration::from_millis(100), ..patient() };
    let server = Server::start(times).await;
    let link = server.connect();
    let silent = attach(&link, None, Vec::new()).await.unwrap();
    // It never acknowledges that it is not alone any more.
    let b = Mount::new(&server).await;
    assert!(b.attached.sole, "the other one is gone");
    let session = silent.session;
    let answer = ask(&link, |c| async move { c.getattr(context(), session, Ino::ROOT).await }).await;
    assert_eq!(answer, Err(FsError::Evicted));
    assert_eq!(attach(&link, Some(session), Vec::new()).await.unwrap_err(), FsError::Evicted);
    let sessions = server.status().await.sessions;
    assert_eq!(sessions.iter().map(|s| s.session).collect::<Vec<_>>(), [b.session]);
    // B polls: it stays.
    tokio::time::sleep(times.timeout * 2).await;
    b.getattr(Ino::ROOT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_owes_an_acknowledgement_is_evicted_though_it_polls() {
    let times = SessionTimes { recall: Duration::from_millis(600), ..patient() };
    let server = Server::start(times).await;
    let (mut a, b) = two(&server).await;
    let ino = a.create("f", true).await;
    assert_eq!(b.getattr(ino).await.unwrap().size, 0, "answered when A is gone");
    assert_eq!(a.getattr(ino).await, Err(FsError::Evicted));
}

/// Its data may be on the way to a disk that is slow, or full: as long as it lives it is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_mount_may_take_long_to_give_back() {
    let times = SessionTimes { timeout: Duration::from_millis(400), ..patient() };
    let server = Server::start(times).await;
    let (mut a, b) = two(&server).await;
    let ino = a.create("f", true).await;
    let (link, session) = (b.link.clone(), b.session);
    let looking =
        tokio::spawn(
            async move { ask(&link, |c| async move { c.getattr(context(), session, ino).await }).await },
        );
    let event = a.event().await;
    assert_eq!(event.body, EventBody::Flush { inos: vec![ino] });
    tokio::time::sleep(times.timeout * 4).await;
    assert!(!looking.is_finished(), "nobody has given anything back");
    a.acknowledge(&event).await;
    assert_eq!(within(looking).await.unwrap().unwrap().ino, ino);
    a.getattr(ino).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_requests_wait_for_all_known_sessions() {
    let mut server = Server::start(patient()).await;
    let (mut a, b) = two(&server).await;
    let ino = a.create("f", true).await;
    let before = (a.attached.epoch, a.attached.generation);
    server.restart().await;
    let state = OpenState { ino, opens: 1, writers: 1 };
    let back = attach(&a.link, Some(a.session), vec![state]).await.unwrap();
    assert!(back.epoch > before.0 && back.generation > before.1);
    assert_eq!(back.applied, back.durable, "a clean stop loses nothing");
    let (link, session) = (a.link.clone(), a.session);
    let waiting =
        tokio::spawn(
            async move { ask(&link, |c| async move { c.getattr(context(), session, ino).await }).await },
        );
    tokio::time::sleep(SHORT).await;
    assert!(!waiting.is_finished(), "answered before B is back");
    let again = attach(&b.link, Some(b.session), Vec::new()).await.unwrap();
    assert!(!again.sole);
    assert_eq!(within(waiting).await.unwrap().unwrap().ino, ino);
    // The table is back: B's look flushes A.
    let flush = EventBody::Flush { inos: vec![ino] };
    let (seen, ()) = tokio::join!(b.getattr(ino), a.expect(flush));
    seen.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_ends_without_those_who_stay_away() {
    let times = SessionTimes { grace: Duration::from_millis(300), ..patient() };
    let mut server = Server::start(times).await;
    let (a, b) = two(&server).await;
    drop(b);
    server.restart().await;
    attach(&a.link, Some(a.session), Vec::new()).await.unwrap();
    a.getattr(Ino::ROOT).await.unwrap();
    assert_eq!(attach(&a.link, Some(SessionId(999)), Vec::new()).await.unwrap_err(), FsError::Evicted);
}

/// Numbers are given again by tables that were restored from an old copy, and mounts of before still have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_taken_up_again_only_by_who_opened_it() {
    let mut server = Server::start(patient()).await;
    let a = Mount::new(&server).await;
    let other = ClientInfo { pid: 2, ..client_info() };
    for _ in 0..2 {
        let taken = attach_as(other.clone(), &a.link, Some(a.session), Vec::new()).await;
        assert_eq!(taken.unwrap_err(), FsError::Evicted);
        attach(&a.link, Some(a.session), Vec::new()).await.unwrap();
        server.restart().await;
    }
}

/// Names the session as it was opened, or the one of its number that was opened then.
async fn take_up(a: &Mount, opened: Timestamp) -> FsResult<TakenUp> {
    let request = AttachRequest { session: Some(a.session), client: client_info(), opens: Vec::new() };
    ask(&a.link, |c| async move { c.take_up(context(), request, Some(opened)).await }).await
}

/// The session of one that was opened by [`attach`], with all that names it.
async fn learn(a: &Mount) -> TakenUp {
    let request = AttachRequest { session: Some(a.session), client: client_info(), opens: Vec::new() };
    ask(&a.link, |c| async move { c.take_up(context(), request, None).await }).await.unwrap()
}

async fn end_keyed(server: &Server, session: SessionId, opened: Timestamp) {
    let key = SessionKey { session, opened };
    ask(&server.connect(), |c| async move { c.end(context(), key).await }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_the_same_number_is_another_if_it_was_opened_at_another_time() {
    let mut server = Server::start(patient()).await;
    let a = Mount::new(&server).await;
    let first = learn(&a).await;
    let other = first.opened.next();
    for _ in 0..2 {
        assert_eq!(take_up(&a, other).await.unwrap_err(), FsError::Evicted);
        end_keyed(&server, a.session, other).await;
        a.getattr(Ino::ROOT).await.unwrap();
        let again = take_up(&a, first.opened).await.unwrap();
        assert_eq!((again.opened, again.incarnation), (first.opened, first.incarnation));
        assert!(again.reply.generation > first.reply.generation);
    }
    server.restart().await;
    let later = take_up(&a, first.opened).await.unwrap();
    assert_eq!((later.reply.session, later.opened), (a.session, first.opened));
    assert_ne!(later.incarnation, first.incarnation, "another process");
    for _ in 0..2 {
        end_keyed(&server, a.session, first.opened).await;
        assert_eq!(a.getattr(Ino::ROOT).await, Err(FsError::Evicted));
        assert_eq!(server.status().await.sessions, []);
    }
}

/// By number alone would do for this: what the lost history gave is not given again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_start_gives_numbers_of_its_own() {
    let mut server = Server::start(patient()).await;
    server.stop().await;
    let old = copy_of(&server.meta_dir());
    let mut given = Vec::new();
    for _ in 0..4 {
        // Always the same start, by its epoch.
        std::fs::remove_dir_all(server.meta_dir()).unwrap();
        std::fs::rename(copy_of(old.path()).keep(), server.meta_dir()).unwrap();
        server.restart().await;
        assert_eq!(server.status().await.epoch, Epoch(2));
        for _ in 0..2 {
            let a = Mount::new(&server).await;
            given.push(a.session);
            a.detach().await.unwrap();
        }
        server.stop().await;
    }
    assert!(given.chunks(2).all(|pair| pair[1].0 == pair[0].0 + 1), "{given:?}");
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), 8, "{given:?}");
}

/// Ends a session over a connection that is not its own, as who knows that its mount has died.
async fn end_for(server: &Server, session: SessionId) {
    ask(&server.connect(), |c| async move { c.detach(context(), session).await }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_mount_had_on_its_way_is_refused() {
    let server = Server::start(patient()).await;
    let (mut a, mut b) = two(&server).await;
    let ino = b.create("f", true).await;
    let held = a.create("held", false).await;
    a.op(lock(held, LockType::Write, 1)).await.unwrap();
    // A's batch waits at the server until B has flushed the file. Then A dies.
    let (link, cut) = (a.link.clone(), a.batch(vec![commit(ino, block(1, 1), 4096), unlink("held")]));
    let late = cut.clone();
    let waiting =
        tokio::spawn(async move { ask(&link, |c| async move { c.apply(context(), cut).await }).await });
    let flush = b.event().await;
    assert_eq!(flush.body, EventBody::Flush { inos: vec![ino] });
    end_for(&server, a.session).await;
    b.acknowledge(&flush).await;
    assert_eq!(within(waiting).await.unwrap().unwrap_err(), FsError::Evicted);
    // What the network still brings, and an end that somebody else asks for too.
    assert_eq!(a.send(late).await.unwrap_err(), FsError::Evicted);
    assert_eq!(a.open(ino, true).await.unwrap_err(), FsError::Evicted);
    assert_eq!(attach(&a.link, Some(a.session), Vec::new()).await.unwrap_err(), FsError::Evicted);
    end_for(&server, a.session).await;
    assert_eq!(b.lookup("held").await.unwrap().ino, held);
    assert_eq!(b.getattr(ino).await.unwrap().size, 0);
    b.op(lock(held, LockType::Write, 1)).await.unwrap();
}

/// A restarted server waits for those it knew. Who is known to be dead it need not wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_dead_mount_ends_the_wait_after_a_restart() {
    let mut server = Server::start(patient()).await;
    let (a, b) = two(&server).await;
    server.restart().await;
    attach(&a.link, Some(a.session), Vec::new()).await.unwrap();
    let (link, session) = (a.link.clone(), a.session);
    let look =
        async move { ask(&link, |c| async move { c.getattr(context(), session, Ino::ROOT).await }).await };
    let waiting = tokio::spawn(look);
    tokio::time::sleep(SHORT).await;
    assert!(!waiting.is_finished(), "answered before B is back");
    end_for(&server, b.session).await;
    within(waiting).await.unwrap().unwrap();

    // The only one there was believed to be alone, and can't be told any more that it is not.
    server.restart().await;
    end_for(&server, a.session).await;
    assert!(Mount::new(&server).await.attached.sole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_counts_once_however_often_it_comes() {
    let mut server = Server::start(patient()).await;
    let mut a = Mount::new(&server).await;
    let ino = a.new_ino();
    let batch = a.batch(vec![create(ino, "f", true), create(Ino(ino.0 + 1), "f", true)]);
    // The connection breaks before the answer.
    let (link, lost) = (server.connect(), batch.clone());
    let live = within(link.get()).await.unwrap();
    let sending = tokio::spawn(async move { live.apply(context(), lost).await });
    tokio::task::yield_now().await;
    sending.abort();
    drop(link);
    let first = a.send(batch.clone()).await.unwrap();
    let second = a.send(batch.clone()).await.unwrap();
    assert_eq!(first.results, second.results);
    assert!(matches!(first.results[0], Ok(OpReply::Entry { created: true, .. })));
    assert!(matches!(first.results[1], Ok(OpReply::Entry { created: false, attr }) if attr.ino == ino));
    server.restart().await;
    let back = attach(&a.link, Some(a.session), Vec::new()).await.unwrap();
    assert_eq!(back.applied.0, 2);
    assert_eq!(a.send(batch.clone()).await.unwrap().results, first.results, "also over a restart");
    // It is open once.
    a.op(unlink("f")).await.unwrap();
    assert_eq!(server.status().await.orphans, 1);
    a.close(ino, 1, 1).await;
    eventually("f is reaped", || async { server.status().await.orphans == 0 }).await;
    let mut gap = a.batch(vec![unlink("x")]);
    gap.first.0 += 5;
    assert_eq!(a.send(gap).await.unwrap_err(), FsError::OutOfOrder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_lock_wakes_who_was_refused() {
    let server = Server::start(patient()).await;
    let (mut a, mut b) = two(&server).await;
    let ino = a.create("f", false).await;
    a.op(lock(ino, LockType::Write, 1)).await.unwrap();
    assert_eq!(b.op(lock(ino, LockType::Write, 1)).await, Err(FsError::WouldBlock));
    a.op(lock(ino, LockType::Unlock, 1)).await.unwrap();
    assert_eq!(b.event().await.body, EventBody::LockReleased { ino });
    b.op(lock(ino, LockType::Write, 1)).await.unwrap();
    assert_eq!(a.op(lock(ino, LockType::Read, 1)).await, Err(FsError::WouldBlock));
    // The end of a session releases its locks.
    b.detach().await.unwrap();
    assert_eq!(a.event().await.body, EventBody::LockReleased { ino });
    a.op(lock(ino, LockType::Read, 1)).await.unwrap();
    a.op(lock(ino, LockType::Unlock, 1)).await.unwrap();
    assert!(matches!(a.event().await.body, EventBody::Sole { .. }));
    a.no_event().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_names_live_as_long_as_anyone_has_them_open() {
    let mut server = Server::start(patient()).await;
    let (mut a, b) = two(&server).await;
    let ino = a.create("f", false).await;
    a.op(commit(ino, block(1, 1), 4096)).await.unwrap();
    b.open(ino, false).await.unwrap();
    let before = server.status().await.stat.totals;
    a.op(unlink("f")).await.unwrap();
    assert_eq!(b.getattr(ino).await.unwrap().nlink, 0);
    // Neither a restart ...
    server.restart().await;
    attach(&a.link, Some(a.session), Vec::new()).await.unwrap();
    attach(&b.link, Some(b.session), vec![OpenState { ino, opens: 1, writers: 0 }]).await.unwrap();
    assert_eq!(b.getattr(ino).await.unwrap().size, 4096);
    assert_eq!(server.status().await.orphans, 1);
    // ... nor anything but the last close ends it.
    b.close(ino, 1, 0).await;
    eventually("f is reaped", || async { server.status().await.orphans == 0 }).await;
    let status = server.status().await;
    assert_eq!(status.stat.totals.inodes, before.inodes - 1);
    assert_eq!((status.stat.totals.allocated, status.delete_queue), (before.allocated - 4096, 1));
    assert_eq!(b.getattr(ino).await, Err(FsError::Stale));

    // A temporary file goes with its session.
    let temporary = a.new_ino();
    a.op(OpBody::Tmpfile { parent: Ino::ROOT, ino: temporary, perm: 0o600, umask: 0 }).await.unwrap();
    assert_eq!(server.status().await.orphans, 1);
    a.detach().await.unwrap();
    eventually("the temporary file is reaped", || async { server.status().await.orphans == 0 }).await;
}

/// One that came over a connection that was lost, and that waited here while the mount went on over the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_batch_that_comes_late_closes_nothing() {
    let server = Server::start(patient()).await;
    let mut a = Mount::new(&server).await;
    let ino = a.new_ino();
    let first = a.batch(vec![create(ino, "f", true), unlink("f")]);
    a.send(first.clone()).await.unwrap();
    a.create("g", false).await;
    assert_eq!(a.send(first).await.unwrap_err(), FsError::OutOfOrder);
    let status = server.status().await;
    assert_eq!((status.sessions[0].open_files, status.orphans), (1, 1));
}

/// The copy speaks of a name that the file had for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_batch_keeps_no_file_that_is_gone() {
    let server = Server::start(patient()).await;
    let mut a = Mount::new(&server).await;
    let ino = a.new_ino();
    let link = OpBody::Link { ino, parent: Ino::ROOT, name: "g".into() };
    let batch = a.batch(vec![create(ino, "f", false), link, unlink("f"), unlink("g")]);
    let results = a.send(batch.clone()).await.unwrap().results;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(a.send(batch).await.unwrap().results, results);
    eventually("the file is reaped", || async { server.status().await.orphans == 0 }).await;
}
