//! The mount daemon: FUSE, caches, write-back, and the session with the servers.

pub mod background;
pub mod cache;
pub mod cli;
pub mod client;
pub mod fuse;
pub mod life;
pub mod mount;
pub mod options;
pub mod source;
pub mod vfs;
pub mod writeback;
