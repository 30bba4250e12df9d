//! Queues and evictions, without a server around them.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::*;
use cairn_common::ids::Ino;
use cairn_common::proto::meta::{CloseItem, EventBody};

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const FILE: Ino = Ino(10);

/// Two sessions that are back after a restart; A has FILE open.
fn two(timeout: Duration) -> Arc<Sessions> {
    let times = SessionTimes { timeout, recall: timeout, grace: timeout };
    let (reaper, _work) = mpsc::unbounded_channel();
    let known = vec![(A, ClientInfo::default()), (B, ClientInfo::default())];
    let sessions = Sessions::new(0, known, times, reaper);
    let open = OpenState { ino: FILE, opens: 1, writers: 0 };
    sessions.attach_again(A, ClientInfo::default(), &[open]).unwrap();
    sessions.attach_again(B, ClientInfo::default(), &[]).unwrap();
    sessions
}

async fn events(sessions: &Sessions, received: u64) -> Vec<Event> {
    sessions.events(A, received, Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn events_come_again_until_they_have_arrived() {
    let sessions = two(Duration::from_secs(60));
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
    first.done().await;
    second.done().await;
}

#[tokio::test]
async fn who_lets_events_pile_up_is_evicted() {
    let sessions = two(Duration::from_secs(60));
    for _ in 0..=QUEUE_MAX {
        drop(sessions.tell_wait(|leases| leases.after_change(B, &[FILE])));
    }
    assert_eq!(sessions.expired().0, [(A, Overdue::Behind)]);
    let last = sessions.tell_wait(|leases| leases.after_change(B, &[FILE])).unwrap();
    assert!(sessions.refuse(A));
    assert_eq!(sessions.events(A, 0, Duration::ZERO).await, Err(FsError::Evicted));
    sessions.end(A);
    last.done().await;
    assert_eq!(sessions.expired().0, []);
}

#[tokio::test]
async fn silence_while_the_server_itself_stood_still_does_not_count() {
    let sessions = two(Duration::from_millis(400));
    drop(sessions.tell_wait(|leases| leases.after_change(B, &[FILE])));
    std::thread::sleep(Duration::from_millis(450));
    assert_eq!(sessions.expired().0, [], "nobody looked for longer than the time-out");
    // Looking often enough, both are silent too long.
    let end = Instant::now() + Duration::from_secs(10);
    let mut gone = Vec::new();
    while gone.is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
        gone = sessions.expired().0;
    }
    assert_eq!(gone.len(), 2);
}

#[tokio::test]
async fn a_silent_session_goes_when_its_time_is_over() {
    let timeout = Duration::from_millis(1200);
    let sessions = two(timeout);
    let silent_since = Instant::now();
    loop {
        let (gone, next) = sessions.expired();
        if !gone.is_empty() {
            break;
        }
        let next = next.unwrap();
        assert!(next <= silent_since + timeout, "looks again too late");
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    // Their end could not be logged: not tried again and again.
    assert!(sessions.expired().1.unwrap() > Instant::now() + timeout / 8);
}

#[tokio::test]
async fn a_close_reaches_the_table_and_a_wait_dropped_is_forgotten() {
    let sessions = two(Duration::from_secs(60));
    let wait = sessions.tell_wait(|leases| leases.after_change(B, &[FILE])).unwrap();
    assert_eq!(sessions.state.lock().waiting.len(), 1);
    drop(wait);
    assert!(sessions.state.lock().waiting.is_empty());
    let item = CloseItem { ino: FILE, opens: 1, writers: 0 };
    sessions.enter(A, |leases| leases.close(A, item)).unwrap();
    assert_eq!(sessions.contacts()[0].open_files, 0);
    assert_eq!(sessions.enter(SessionId(3), |_| ()), Err(FsError::Evicted));
}
