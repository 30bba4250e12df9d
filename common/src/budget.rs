//! How many bytes may be in use at once: counted where they are taken, waited for where more would come in.

use futures::task::{Context, Poll};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

/// See the module. Taking never waits: who lets others take asks first ([`Budget::poll_room`]).
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Somebody is in `queue`.
    waiting: AtomicBool,
    /// Who waits, and for how much, in the order in which they came. Some may have gone away since.
    queue: Mutex<VecDeque<(Waker, usize)>>,
}

/// Bytes that are in use until this is dropped.
#[derive(Debug)]
pub struct Spent {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    #[must_use]
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            limit,
            used: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            queue: Mutex::default(),
        })
    }

    /// Counts `bytes`, room or not.
    pub fn spend(self: &Arc<Budget>, bytes: usize) -> Spent {
        self.used.fetch_add(bytes, Ordering::SeqCst);
        Spent { budget: self.clone(), bytes }
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Whether so many bytes more would stay within the limit. As much as the limit itself has room when nothing is used.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        let used = self.used();
        used == 0 || used.saturating_add(bytes) <= self.limit
    }

    /// Whether somebody waits for room.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Waits for room. Who waits asks again when woken: others may have been faster.
    pub fn poll_room(&self, context: &Context<'_>, bytes: usize) -> Poll<()> {
        if self.has_room(bytes) {
            return Poll::Ready(());
        }
        let mut queue = self.queue.lock();
        if !queue.iter().any(|(waker, _)| waker.will_wake(context.waker())) {
            queue.push_back((context.waker().clone(), bytes));
        }
        self.waiting.store(true, Ordering::SeqCst);
        drop(queue);
        // Look again: what was in use may have been dropped before the waker was there.
        if self.has_room(bytes) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn give_back(&self, bytes: usize) {
        let used = self.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if self.waiting.load(Ordering::SeqCst) {
            self.next(used).into_iter().for_each(Waker::wake);
        }
    }

    /// Those who fit, in their order. All of them while little is used: for some of them nobody may be there any more, and
    /// nothing might be given back that would wake the others.
    fn next(&self, used: usize) -> Vec<Waker> {
        let mut queue = self.queue.lock();
        let mut room = if used <= self.limit / 2 { usize::MAX } else { self.limit.saturating_sub(used) };
        let mut woken = Vec::new();
        while let Some((waker, bytes)) = queue.pop_front_if(|(_, bytes)| *bytes <= room) {
            room -= bytes;
            woken.push(waker);
        }
        self.waiting.store(!queue.is_empty(), Ordering::SeqCst);
        woken
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    fn polls(budget: &Budget, bytes: usize) -> bool {
        budget.poll_room(&Context::from_waker(&noop_waker()), bytes).is_ready()
    }

    #[test]
    fn room_is_what_is_not_in_use() {
        let budget = Budget::new(100);
        assert!(polls(&budget, 1000), "who is alone gets what he needs");
        let first = budget.spend(60);
        assert!(polls(&budget, 40) && !polls(&budget, 41));
        let second = budget.spend(500);
        drop(first);
        assert!(!polls(&budget, 1));
        drop(second);
        assert!(budget.used() == 0 && polls(&budget, 100));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_waits_is_woken_however_many_there_are() {
        let budget = Budget::new(100);
        let tasks = (0..200).map(|_| {
            let budget = budget.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    std::future::poll_fn(|context| budget.poll_room(context, 40)).await;
                    let spent = budget.spend(40);
                    tokio::task::yield_now().await;
                    drop(spent);
                }
            })
        });
        let all = futures::future::join_all(tasks.collect::<Vec<_>>());
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), all).await;
        assert!(ended.is_ok_and(|tasks| tasks.iter().all(Result::is_ok)), "somebody waits for ever");
    }
}
