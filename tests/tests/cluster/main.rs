//! Daemons and mounts together, without a kernel: what two mounts must agree on, and what must be
//! true when connections break and daemons stop.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests panic on purpose, and their numbers are small"
)]

mod agree;
mod basic;
mod data;
mod exactly_once;
mod locks;
mod model;
mod old_copy;
mod packing;
mod race;
mod restart;
mod sharing;
mod space;
mod unlinked;
