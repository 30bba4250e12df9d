//! The mount daemon: FUSE, caches, write-back, and the session with the servers.

pub mod background;
pub mod cache;
pub mod cli;
pub mod client;
pub mod fuse;
pub mod life;
pub mod log_place;
pub mod mount;
pub mod mount_point;
pub mod options;
pub mod proc_status;
pub mod remount;
pub mod source;
pub mod store_all;
pub mod table;
pub mod umount;
pub mod vfs;
pub mod watchdog;
pub mod writeback;
