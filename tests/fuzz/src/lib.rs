//! What the fuzz targets share: choices out of the fuzzer's bytes, and a bound for memory.
//!
//! Run them with `tests/fuzz/run.sh`; how, is told in `docs/testing.md`.

mod input;
mod memory;

pub use input::Input;
pub use memory::within;

/// A mebibyte.
pub const MIB: usize = 1 << 20;
