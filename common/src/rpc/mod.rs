//! tarpc over our own transport: connections, deadlines, reconnecting.
//!
//! `message` is the form of tarpc's messages on the wire, `transport` moves them over a socket,
//! `handshake` is the first exchange. `serve` is the server's side, with `refusals` for what its log says of strangers; `connect` the client's, with `stub` for its calls,
//! `pool` for several connections to one server, and `outage` for what the log is told of it. `deadline` and `fault` are what every call needs:
//! a context with a deadline, and one table from tarpc's errors to ours.

pub mod connect;
pub mod deadline;
pub mod fault;
pub mod gate;
pub mod handshake;
mod hush;
pub mod message;
pub mod outage;
pub mod pool;
mod refusals;
pub mod serve;
pub mod socket;
pub mod stub;
pub mod transport;

pub use connect::{ConnectOptions, LinkState, Live, Reconnecting};
pub use deadline::{DEFAULT_DEADLINE, context_within};
pub use fault::fs_error;
pub use handshake::Peer;
pub use pool::Pool;
pub use serve::{ServeOptions, detached, serve};
pub use stub::WireStub;
pub use transport::{ClientTransport, ServerTransport};
