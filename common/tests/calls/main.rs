//! The RPC layer over real sockets, with peers that behave and peers that do not.

#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

mod hostile;
mod rpc;
mod support;
