//! A cluster and its mounts inside a test.
//!
//! Each daemon has a loopback address of its own (127.x.y.z), so that a stopped one can start again
//! at the same address and port: nobody else is given that pair meanwhile.

pub mod cluster;
pub mod kernel;
pub mod mount;
pub mod posix;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod wait;

pub use cluster::{Cluster, Daemon, Options, meta_link};
pub use kernel::Kernel;
pub use mount::{Mount, MountSettings};
pub use posix::{File, Owner};
pub use proxy::{Proxy, Silence};
pub use raw::RawSession;
pub use wait::{LIMIT, eventually, random, seed, within};
