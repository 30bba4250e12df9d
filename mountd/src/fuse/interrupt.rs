//! Signals for processes that wait for us.
//!
//! When a process gets a signal while it waits for an answer, the kernel sends FUSE_INTERRUPT once, with
//! the number of the request, whatever the signal is. Answering EINTR is right for a lock that is
//! waited for; for all else it would be wrong, as nobody expects EINTR from `stat` or `open` (a git with
//! a progress timer gets SIGALRM all the time). So two things can be waited for: a signal, and a signal
//! that kills the process. The second is found in `/proc`: a fatal signal of any kind puts
//! SIGKILL in the pending set of each thread.
//!
//! The interrupt may be read by another FUSE thread before the request that it is about has been
//! registered here. Such early interrupts are remembered. (The kernel offers to queue them again, but
//! then we would read the same one over and over, and with a device per thread it finds the request
//! only on the device where that was read.) Request numbers are not reused by the kernel, so
//! an interrupt that came too late can't hit another request; it is dropped after a while.

use crate::proc_status;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Most early interrupts that are remembered.
const EARLY_MAX: usize = 1024;
/// How long one is remembered: far longer than a thread takes from reading a request to registering it.
const EARLY_FOR: Duration = Duration::from_secs(5);
/// How long a process that ends waits for what it gives back: who waits for its end may count on that.
const EXIT_CHECK: Duration = Duration::from_secs(1);
/// How often a process that got a signal and still waits is looked at: is it dying?
const DYING_CHECK: Duration = Duration::from_millis(200);

/// What to tell the kernel about an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The request was told, or will be when it registers.
    Done,
    /// There is no room to remember it: the kernel is to send it again.
    TryAgain,
}

/// The requests under way that can be interrupted.
#[derive(Debug, Default)]
pub struct Interrupts {
    // Held for a few instructions only; taken by FUSE threads and by tasks that end.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, CancellationToken>,
    early: VecDeque<(u64, Instant)>,
}

/// One request's view: becomes ready when its process gets a signal. Registered until dropped.
#[derive(Debug)]
pub struct Interrupt {
    table: Arc<Interrupts>,
    unique: u64,
    pid: u32,
    token: CancellationToken,
}

impl Interrupts {
    /// Registers request `unique` of thread `pid`.
    pub fn register(self: &Arc<Self>, unique: u64, pid: u32) -> Interrupt {
        let token = CancellationToken::new();
        let mut state = self.state.lock();
        if let Some(at) = state.early.iter().position(|(early, _)| *early == unique) {
            state.early.remove(at);
            token.cancel();
        }
        state.waiting.insert(unique, token.clone());
        drop(state);
        Interrupt { table: Arc::clone(self), unique, pid, token }
    }

    /// A process that waits for request `unique` got a signal.
    pub fn deliver(&self, unique: u64) -> Delivery {
        self.deliver_at(unique, Instant::now())
    }

    fn deliver_at(&self, unique: u64, now: Instant) -> Delivery {
        let mut state = self.state.lock();
        if let Some(token) = state.waiting.get(&unique) {
            token.cancel();
            return Delivery::Done;
        }
        while state.early.front().is_some_and(|(_, since)| now.duration_since(*since) > EARLY_FOR) {
            state.early.pop_front();
        }
        if state.early.len() >= EARLY_MAX {
            return Delivery::TryAgain;
        }
        state.early.push_back((unique, now));
        Delivery::Done
    }
}

impl Interrupt {
    /// Ready once the process got a signal, of any kind.
    pub async fn signalled(&self) {
        self.token.cancelled().await;
    }

    /// Whether the process got a signal.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ready once the process is being killed: nobody will look at the answer.
    pub async fn killed(&self) {
        self.token.cancelled().await;
        // The kernel tells of the first signal only; a fatal one may follow.
        while !is_dying(self.pid) {
            tokio::time::sleep(DYING_CHECK).await;
        }
    }

    /// Ready once the process is gone but for what it gives back, and has waited a while for that. Nobody may have
    /// sent it a signal that is still pending.
    pub async fn left(&self) {
        loop {
            tokio::time::sleep(EXIT_CHECK).await;
            if proc_status::is_exiting(self.pid) {
                return;
            }
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.table.state.lock().waiting.remove(&self.unique);
    }
}

/// Whether thread `pid` has SIGKILL pending, or is gone. A thread of a PID namespace that we can't see
/// (0) counts as dying: a wait that nothing ends would be worse than an EINTR that is not expected.
fn is_dying(pid: u32) -> bool {
    if pid == 0 {
        return true;
    }
    proc_status::read(pid).is_none_or(|status| proc_status::has_sigkill_pending(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_reaches_its_request_only() {
        let table = Arc::new(Interrupts::default());
        let (one, two) = (table.register(2, 1), table.register(4, 1));
        assert_eq!(table.deliver(2), Delivery::Done);
        assert!(one.is_signalled());
        assert!(!two.is_signalled());
    }

    #[test]
    fn an_interrupt_may_come_before_its_request() {
        let table = Arc::new(Interrupts::default());
        assert_eq!(table.deliver(2), Delivery::Done);
        assert!(!table.register(4, 1).is_signalled());
        assert!(table.register(2, 1).is_signalled());
        // It is used up.
        assert!(!table.register(2, 1).is_signalled());
    }

    #[test]
    fn late_interrupts_do_not_pile_up() {
        let table = Arc::new(Interrupts::default());
        let start = Instant::now();
        for unique in 0..EARLY_MAX as u64 {
            assert_eq!(table.deliver_at(unique, start), Delivery::Done);
        }
        assert_eq!(table.deliver_at(9999, start), Delivery::TryAgain);
        assert_eq!(table.deliver_at(9999, start + EARLY_FOR * 2), Delivery::Done);
        assert_eq!(table.state.lock().early.len(), 1);
    }

    #[test]
    fn a_finished_request_is_forgotten() {
        let table = Arc::new(Interrupts::default());
        drop(table.register(2, 1));
        assert!(table.state.lock().waiting.is_empty());
    }

    #[test]
    fn a_thread_that_cannot_be_seen_counts_as_dying() {
        assert!(!is_dying(std::process::id()));
        assert!(is_dying(0));
    }
}
