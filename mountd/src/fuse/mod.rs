//! The kernel's side of the mount: FUSE behind a trait of ours.
//!
//! Data flows one way: kernel → `adapter` → [`ops::FuseOps`], which `vfs` implements. No decisions are
//! made here: requests are translated, results become replies, errors become errno.

mod adapter;
pub mod control;
mod convert;
mod dispatch;
mod flags;
pub mod gate;
pub mod interrupt;
pub mod mount;
mod near;
pub mod notify;
pub mod ops;
mod reply;
mod task;
