//! What the mount keeps of what servers told it: extents ([`extent`]), verified pieces of blocks
//! ([`data`]), and how long the kernel may keep what we tell it ([`policy`]).

pub mod data;
pub mod extent;
pub mod policy;
