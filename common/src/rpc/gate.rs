//! How many requests of one connection run at once, and when it takes no more.
//!
//! The transport asks the gate before it gives out another message. While the gate is full the
//! socket is not read, TCP pushes back on the sender, and replies still flow.

use futures::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Counts what runs. Shared by the connection's task and its requests.
#[derive(Debug)]
pub struct Gate {
    limit: usize,
    running: AtomicUsize,
    closed: AtomicBool,
    reader: AtomicWaker,
}

/// What the transport may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Open,
    /// Nothing more is taken: behave as if the peer had closed.
    Closed,
}

/// One running request; ends when dropped.
#[derive(Debug)]
pub struct Running(Arc<Gate>);

impl Gate {
    /// A gate that lets `limit` requests run at once.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Gate> {
        Arc::new(Gate {
            limit: limit.max(1),
            running: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        })
    }

    /// Counts a request from now until the result is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Gate>) -> Running {
        self.running.fetch_add(1, Ordering::AcqRel);
        Running(self.clone())
    }

    /// Takes no further requests.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Waits while the gate is full.
    pub fn poll_admission(&self, context: &mut Context<'_>) -> Poll<Admission> {
        if let Some(admission) = self.admission() {
            return Poll::Ready(admission);
        }
        self.reader.register(context.waker());
        // Look again: a request may have ended before the waker was there.
        self.admission().map_or(Poll::Pending, Poll::Ready)
    }

    fn admission(&self) -> Option<Admission> {
        if self.closed.load(Ordering::Acquire) {
            Some(Admission::Closed)
        } else if self.running.load(Ordering::Acquire) < self.limit {
            Some(Admission::Open)
        } else {
            None
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let before = self.0.running.fetch_sub(1, Ordering::AcqRel);
        if before >= self.0.limit {
            self.0.reader.wake();
        }
    }
}
