//! What tests of several parts together need: clusters, mounts without a kernel, a network that fails
//! on purpose, and a model of a file system. The tests are in `tests/`.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test harness panics on purpose, and its numbers are small"
)]

pub mod harness;
