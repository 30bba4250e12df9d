//! A log that decides entries some time after they were proposed, as one on a majority of machines does:
//! nothing above may notice but the time it takes.

use super::*;
use crate::disk::sim::SimDisk;
use crate::meta::log::{FileLog, Log, LogError, Turn};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

struct DecidedLater {
    inner: FileLog,
    control: Arc<Control>,
}

#[derive(Default)]
struct Control {
    committed: AtomicU64,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Control {
    fn decide(&self, index: u64) {
        self.committed.store(index, Ordering::SeqCst);
        (self.wake.get().unwrap())();
    }
}

impl Log for DecidedLater {
    fn propose(&self, entries: &[&[u8]]) -> Result<LogIndex, LogError> {
        self.inner.propose(entries)
    }

    fn committed(&self) -> LogIndex {
        LogIndex(self.control.committed.load(Ordering::SeqCst))
    }

    fn on_committed(&self, wake: Box<dyn Fn() + Send + Sync>) {
        assert!(self.control.wake.set(wake).is_ok());
    }

    fn durable(&self) -> watch::Receiver<LogIndex> {
        self.inner.durable()
    }

    fn request_sync(&self, through: LogIndex) {
        self.inner.request_sync(through);
    }

    fn mark_end(&self) {
        self.inner.mark_end();
    }

    fn begin_sync(&self) -> Option<Turn> {
        None
    }

    fn room(&self) -> u64 {
        self.inner.room()
    }

    fn forget(&self, index: LogIndex) -> Result<(), LogError> {
        self.inner.forget(index)
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.inner.failure()
    }

    fn close(&self) {
        self.inner.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_wait_until_the_log_has_decided() {
    let control = Arc::new(Control::default());
    // The first entry of each start, and the session's.
    control.committed.store(2, Ordering::SeqCst);
    let birth = Birth { cluster: ClusterId(1), time: time(1) };
    let wrapped = control.clone();
    let machine = Machine::open_with(Arc::new(SimDisk::new()), None, small(), &birth, |inner| {
        Box::new(DecidedLater { inner, control: wrapped })
    })
    .unwrap();
    let session = open_session(&machine).await;
    let waiting: Vec<_> = (1..=3)
        .map(|n| {
            let machine = machine.clone();
            async move { batch(&machine, session, n, vec![chmod(0o700 + u16::try_from(n).unwrap())]).await }
        })
        .map(Box::pin)
        .collect();
    let mut waiting = futures::future::join_all(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!((perm(&machine), machine.session(session).unwrap().applied), (0o755, Seq(0)));
    control.decide(4);
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!((perm(&machine), machine.session(session).unwrap().applied), (0o702, Seq(2)));
    control.decide(5);
    let results = waiting.await;
    assert!(results.iter().all(|result| matches!(result.as_deref(), Ok([Ok(OpReply::Attr(_))]))));
    assert_eq!(perm(&machine), 0o703);

    // What is not decided at the end is given up: nobody waits for ever.
    let last = batch(&machine, session, 4, vec![chmod(0o777)]);
    let mut last = Box::pin(last);
    assert!(futures::poll!(&mut last).is_pending());
    machine.shutdown().await.unwrap();
    assert_eq!(last.await, Err(FsError::Unavailable));
}
