//! Queues and evictions, without a server around them.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::*;
use cairn_common::env::ManualClock;
use cairn_common::ids::Ino;
use cairn_common::proto::meta::{CloseItem, EventBody};

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const FILE: Ino = Ino(10);

/// Two sessions that are back after a restart; A has FILE open.
fn two(timeout: Duration) -> (Arc<Sessions>, Arc<ManualClock>) {
    let times = SessionTimes { timeout, recall: timeout, grace: timeout };
    let (reaper, _work) = mpsc::unbounded_channel();
    let known = vec![(A, ClientInfo::default()), (B, ClientInfo::default())];
    let clock = Arc::new(ManualClock::new());
    let sessions = Sessions::new(0, known, times, reaper, clock.clone());
    let open = OpenState { ino: FILE, opens: 1, writers: 0 };
    sessions.attach_again(A, 1, ClientInfo::default(), &[open]).unwrap();
    sessions.attach_again(B, 2, ClientInfo::default(), &[]).unwrap();
    (sessions, clock)
}

async fn events(sessions: &Sessions, received: u64) -> Vec<Event> {
    sessions.events(A, received, Duration::ZERO).await.unwrap()
}

#[test]
fn what_comes_late_over_an_older_connection_does_not_count() {
    let (sessions, _clock) = two(Duration::from_secs(60));
    let open = OpenState { ino: FILE, opens: 1, writers: 0 };
    sessions.attach_again(A, 5, ClientInfo::default(), &[open]).unwrap();
    assert_eq!(sessions.attach_again(A, 4, ClientInfo::default(), &[]), Err(FsError::Stale));
    let close = |leases: &mut Leases| leases.close(A, CloseItem { ino: FILE, opens: 1, writers: 0 });
    assert_eq!(sessions.enter_over(A, 4, close), Err(FsError::Stale));
    let open_files = || sessions.tell(|leases| leases.open_files(A));
    assert_eq!(open_files(), 1);
    sessions.enter_over(A, 5, close).unwrap();
    assert_eq!(open_files(), 0);
}

#[tokio::test]
async fn events_come_again_until_they_have_arrived() {
    let (sessions, _clock) = two(Duration::from_secs(60));
    let change =
        || sessions.enter_wait(B, |leases| ((), leases.after_change(B, &[FILE]))).unwrap().1.unwrap();
    let (first, second) = (change(), change());
    let both = events(&sessions, 0).await;
    assert_eq!(both.len(), 2);
    assert!(both.iter().all(|event| event.body == EventBody::Invalidate { ino: FILE }));
    assert_eq!(events(&sessions, 0).await, both, "the answer may have been lost");
    assert_eq!(events(&sessions, both[0].id).await, both[1..]);
    assert_eq!(events(&sessions, both[1].id).await, []);
    sessions.acknowledge(A, both[1].id).unwrap();
    sessions.acknowledge(A, both[0].id).unwrap();
    first.done().await.unwrap();
    second.done().await.unwrap();
}

#[tokio::test]
async fn who_lets_events_pile_up_is_evicted() {
    let (sessions, _clock) = two(Duration::from_secs(60));
    for _ in 0..=QUEUE_MAX {
        drop(sessions.tell_wait(|leases| leases.after_change(B, &[FILE])));
    }
    assert_eq!(sessions.expired().0, [(A, Overdue::Behind)]);
    let last = sessions.tell_wait(|leases| leases.after_change(B, &[FILE])).unwrap();
    assert!(sessions.refuse(A));
    assert_eq!(sessions.events(A, 0, Duration::ZERO).await, Err(FsError::Evicted));
    sessions.end(A);
    last.done().await.unwrap();
    assert_eq!(sessions.expired().0, []);
}

#[test]
fn silence_while_the_server_itself_stood_still_does_not_count() {
    let (sessions, clock) = two(Duration::from_millis(400));
    drop(sessions.tell_wait(|leases| leases.after_change(B, &[FILE])));
    clock.advance(Duration::from_millis(450));
    assert_eq!(sessions.expired().0, [], "nobody looked for longer than the time-out");
    // Looking often enough, both are silent too long.
    let mut looks = 0;
    let gone = loop {
        clock.advance(Duration::from_millis(1));
        looks += 1;
        let (gone, _next) = sessions.expired();
        if !gone.is_empty() {
            break gone;
        }
    };
    assert_eq!((gone.len(), looks), (2, 400));
}

#[test]
fn a_silent_session_goes_when_its_time_is_over() {
    let timeout = Duration::from_millis(1200);
    let (sessions, clock) = two(timeout);
    loop {
        let (gone, next) = sessions.expired();
        if !gone.is_empty() {
            break;
        }
        clock.advance(next.unwrap());
        assert!(clock.monotonic() <= timeout, "looks again too late");
    }
    // Their end could not be logged: not tried again and again.
    assert!(sessions.expired().1.unwrap() > timeout / 8);
}

#[tokio::test]
async fn a_close_reaches_the_table_and_a_wait_dropped_is_forgotten() {
    let (sessions, _clock) = two(Duration::from_secs(60));
    let wait = sessions.tell_wait(|leases| leases.after_change(B, &[FILE])).unwrap();
    assert_eq!(sessions.state.lock().waiting.len(), 1);
    drop(wait);
    assert!(sessions.state.lock().waiting.is_empty());
    let item = CloseItem { ino: FILE, opens: 1, writers: 0 };
    sessions.enter(A, |leases| leases.close(A, item)).unwrap();
    assert_eq!(sessions.contacts()[0].open_files, 0);
    assert_eq!(sessions.enter(SessionId(3), |_| ()), Err(FsError::Evicted));
}
