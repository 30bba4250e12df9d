//! What programs get while the metadata daemon is away: those that may give up (`soft`) an error in time, and
//! whoever looks at the mount as a whole (`df`, `umount`, a shell that lists `/mnt`) what was last known of it.

use super::Vfs;
use crate::client::{DataClient, MetaClient};
use cairn_common::attr::Attr;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::proto::meta::FsStat;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Waits inside of a call end this much before the call itself is given up: they leave nothing half done.
const CALL_LATER: Duration = Duration::from_millis(100);
/// How long the server has to answer for the mount as a whole. `df` asks three times, and is to end in 2 s.
const FIRST_WAIT: Duration = Duration::from_millis(1200);
/// The same while it is known that it does not answer.
const NEXT_WAIT: Duration = Duration::from_millis(100);
/// How long that is taken for granted.
const KNOWN_AWAY: Duration = Duration::from_secs(5);
/// Servers that store nothing for so long are away, or their disks are as good as dead.
const NO_PROGRESS: Duration = Duration::from_secs(10);

/// The last answers about the mount as a whole.
#[derive(Debug)]
pub struct LastKnown {
    root: Mutex<Option<Attr>>,
    space: Mutex<Option<FsStat>>,
    /// When the server last was given up.
    away: Mutex<Option<Instant>>,
    first_wait: Duration,
}

impl Default for LastKnown {
    fn default() -> LastKnown {
        let (root, space, away) = (Mutex::default(), Mutex::default(), Mutex::default());
        LastKnown { root, space, away, first_wait: FIRST_WAIT }
    }
}

impl LastKnown {
    fn wait(&self, now: Instant) -> Duration {
        let known_away = self.away.lock().is_some_and(|at| now.duration_since(at) < KNOWN_AWAY);
        if known_away { self.first_wait.min(NEXT_WAIT) } else { self.first_wait }
    }

    /// What `ask` answers, or the last answer if there is none in time.
    async fn or_last<T: Copy>(
        &self,
        last: &Mutex<Option<T>>,
        ask: impl Future<Output = FsResult<T>>,
    ) -> FsResult<T> {
        let answer = tokio::time::timeout(self.wait(Instant::now()), ask).await;
        match answer.unwrap_or(Err(FsError::TimedOut)) {
            Ok(answer) => {
                *last.lock() = Some(answer);
                *self.away.lock() = None;
                Ok(answer)
            }
            Err(error) if error.is_transient() => {
                *self.away.lock() = Some(Instant::now());
                last.lock().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// `work`, or `TimedOut` when the server has kept answers back for as long as programs wait (`soft`). For
    /// waits before a change is submitted: it is not, then.
    pub(super) async fn while_answered<T>(&self, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        tokio::select! {
            biased;
            result = work => result,
            () = self.meta.given_up() => Err(FsError::TimedOut),
        }
    }

    /// `work`, or `Unavailable` when the servers have done nothing for it for a while: for who only asks whether
    /// something can be done now.
    pub(super) async fn while_progress<T>(&self, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                news = tokio::time::timeout(NO_PROGRESS, self.news()) => news.map_err(|_| FsError::Unavailable)?,
            }
        }
    }

    /// Ready when a server has stored or answered something.
    async fn news(&self) {
        let mut progress = self.progress.subscribe();
        let done = progress.borrow_and_update().done;
        tokio::select! {
            _ = progress.wait_for(|now| now.done != done) => {}
            () = self.meta.news() => {}
        }
    }

    pub(super) async fn call_given_up(&self) {
        self.meta.given_up().await;
        tokio::time::sleep(CALL_LATER).await;
    }

    /// Attributes of the root. All that comes to this mount by a path looks at them first, also what only
    /// wants to know of the mount or to end it.
    pub(super) async fn root_attr(&self) -> FsResult<Attr> {
        self.last.or_last(&self.last.root, self.attr_now(self.config.root)).await
    }

    pub(super) async fn space(&self) -> FsResult<FsStat> {
        self.last.or_last(&self.last.space, self.meta.statfs()).await
    }

    /// Asks once, so that there is something to tell whenever the server goes away.
    pub fn learn_last_known(self: &Arc<Self>) {
        let vfs = Arc::clone(self);
        super::flush::spawn(self, async move {
            let (_space, _root) = (vfs.space().await, vfs.root_attr().await);
        });
    }

    pub(super) fn is_root(&self, ino: Ino) -> bool {
        ino == self.config.root
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn what_was_last_known_is_told_in_time() {
        let known = LastKnown { first_wait: Duration::from_millis(1), ..LastKnown::default() };
        let last = Mutex::new(None);
        assert_eq!(known.or_last(&last, pending()).await, Err(FsError::TimedOut), "nothing is known yet");
        assert_eq!(known.or_last(&last, ready(Ok(7))).await, Ok(7));
        assert_eq!(known.or_last(&last, pending()).await, Ok(7));
        assert_eq!(known.or_last(&last, pending()).await, Ok(7));
    }

    #[tokio::test]
    async fn an_answer_is_an_answer() {
        let (known, last) = (LastKnown::default(), Mutex::new(Some(1)));
        assert_eq!(known.or_last(&last, ready(Err(FsError::Evicted))).await, Err(FsError::Evicted));
        assert_eq!(known.or_last(&last, ready(Err(FsError::Unavailable))).await, Ok(1));
        assert_eq!(known.wait(Instant::now()), NEXT_WAIT);
        assert_eq!(known.wait(Instant::now() + KNOWN_AWAY), FIRST_WAIT);
        assert_eq!(known.or_last(&last, ready(Ok(2))).await, Ok(2));
        assert_eq!(known.wait(Instant::now()), FIRST_WAIT);
    }
}
