//! The daemon's roles from outside: stores over disks that lie, sessions over real connections, the program itself. One
//! binary: the roles' generic code is compiled once, and the tests run beside each other.

#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

mod daemon;
mod data_common;
mod data_crash;
mod data_damage;
mod data_faults;
mod data_flips;
mod data_leaks;
mod data_model;
mod data_role;
mod data_store;
mod meta_cluster;
mod meta_common;
mod meta_sessions;

/// A loopback address for one daemon alone: the port of one that is down for a moment is given to nobody else there.
fn own_loopback() -> String {
    static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
    format!("127.0.1.{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}
