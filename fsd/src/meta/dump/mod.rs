//! The whole metadata as text: one line for each row, in the order of the tables and their keys.
//!
//! ```text
//! {"cairn_dump":{"version":1}}
//! {"state":{...}}
//! {"inode":{...}}              rows, table after table
//! ...
//! {"end":{"rows":...,"crc64":"..."}}
//! ```
//!
//! Described in `docs/formats/dump.md`. [`write()`] and [`load()`] keep one line in memory, and some rows on their way into
//! the tables.

mod line;
mod load;
mod rows;
mod text;
mod valid;
mod write;

#[cfg(test)]
mod legal_tests;
#[cfg(test)]
mod tests;

pub use load::{LoadError, load, load_dir};
pub use write::{DumpError, write};

/// Version of the format.
const VERSION: u32 = 1;
/// No line is longer, in bytes: the longest row is a session with the replies of a whole batch.
const LINE_MAX: usize = 64 << 20;
