//! Write-back: what programs write is appended to a log in memory ([`buffer`]), whatever file it belongs to;
//! full or old parts of the log become blocks, and one commit makes the pieces of a block visible (`vfs::flush`).

pub mod buffer;
pub mod dirty;
