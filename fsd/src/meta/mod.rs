//! Role `meta`: the tree of names, who has it mounted, and where the data is.

pub mod apply;
pub mod cluster;
pub mod dump;
mod gc;
pub mod lease;
mod lock_wait;
pub mod log;
pub mod losses;
pub mod machine;
pub mod reaper;
pub mod recall;
pub mod service;
pub mod session;
pub mod tables;
