//! The rules of the tree: what each operation checks and changes, as pure code over a small
//! transaction trait. The metadata daemon runs them over redb; a mount that holds leases will run
//! the same code over its cache, so the two cannot disagree.
//!
//! Each operation checks everything first and changes afterwards: any error but a failing store
//! (`Io`) leaves nothing changed. Three conventions hold everywhere:
//!
//! - An inode that is gone is `Stale` when it is the target of an operation: the kernel then looks its
//!   name up again, so that a reader of a file that is replaced by rename never sees "not found".
//!   A directory that is gone, or removed but still held, is `NotFound` for any name in it.
//! - A change moves `ctime` strictly forward and gives `mtime` the same value where it changes too. So
//!   each change shows, and a write after `utimensat` into the future has the time of the write.
//! - Permissions are the kernel's (`default_permissions`), sticky directories included. Between two mounts
//!   they are checked against what the mount knew when it asked.

mod acl;
pub mod check;
mod clone;
mod commit;
mod create;
mod dentry;
mod dispatch;
mod extents;
mod fallocate;
mod inode;
mod ledger;
mod link;
mod locks;
pub mod op;
mod read;
mod reap;
mod relocate;
mod rename;
mod setattr;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod twin;
mod unlink;
pub mod users;
mod xattr;

pub use create::init_root;
pub use dentry::{COOKIES, name_hash};
pub use dispatch::apply;
pub use locks::{end_session_locks, lock_in_the_way, locks_after};
pub use read::{extents, getattr, getxattr, listxattr, lookup, readdir, readlink, test_lock};
pub use reap::reap;
pub use relocate::{live_pieces, relocate};
pub use xattr::is_listed;
