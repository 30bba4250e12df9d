//! What all Cairn daemons speak: ids, attributes, errors and their errno, limits, the namespace
//! rules, the protocol and its wire form. No I/O of its own but the wire.

pub mod attr;
pub mod budget;
pub mod config;
pub mod env;
pub mod errno;
pub mod error;
pub mod ids;
pub mod limits;
pub mod namespace;
pub mod pool;
pub mod proto;
pub mod rpc;
pub mod summary;
pub mod syslog;
pub mod telemetry;
pub mod told;
pub mod wire;
