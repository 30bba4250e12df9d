//! Work that must not stop half-way, without the price of a task of its own.
//!
//! A handler is dropped when its caller goes away. Work in [`ToTheEnd`] runs inside the handler, usually
//! to its end at the first poll; only if it is dropped before, the rest moves to a task.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// See the module.
pub struct ToTheEnd<F: Future<Output: Send> + Send + 'static> {
    /// `None` once it has ended, and while it runs: a panic in it ends it.
    work: Option<Pin<Box<F>>>,
}

/// Runs `work` to its end even if the returned future is dropped.
pub fn to_the_end<F: Future<Output: Send> + Send + 'static>(work: F) -> ToTheEnd<F> {
    ToTheEnd { work: Some(Box::pin(work)) }
}

impl<F: Future<Output: Send> + Send + 'static> Future for ToTheEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut work = self.work.take().expect("not polled after its end");
        let poll = work.as_mut().poll(context);
        if poll.is_pending() {
            self.work = Some(work);
        }
        poll
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        // Without a runtime the process ends: the same as a crash here.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use futures::FutureExt;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[test]
    fn what_needs_no_wait_needs_no_runtime() {
        assert_eq!(to_the_end(async { 7 }).now_or_never(), Some(7));
    }

    #[tokio::test]
    async fn dropped_work_goes_on() {
        let (go, wait) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let mut work = Box::pin(to_the_end(async move {
            wait.await.unwrap();
            done.send(()).unwrap();
        }));
        assert!(work.as_mut().now_or_never().is_none());
        drop(work);
        go.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap();
    }
}
