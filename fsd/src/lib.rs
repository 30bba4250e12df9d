//! The file system daemon: roles `meta` and `data`.

pub mod cli;
pub mod config;
pub mod data;
pub mod disk;
pub mod durable;
pub mod meta;
pub mod node;
