//! Bytes to messages and back. No I/O: `rpc` moves the bytes.

pub mod checksum;
pub mod codec;
pub mod frame;
pub mod hello;
pub mod payload;
pub mod receive;
pub mod send;

pub use payload::Payload;
