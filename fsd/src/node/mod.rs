//! Roles as running things: the only place that sees both. `cairn-fsd` runs one of them, `cairn demo`
//! both in one process.

mod data;
mod meta;

pub use data::{RunningData, start_data};
pub use meta::{RunningMeta, start_meta};

use crate::data::DataError;
use crate::meta::machine::OpenError;
use cairn_common::config::Address;
use cairn_common::error::FsError;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Why a role could not start, or had to stop. One line each.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("listen on {address}: {source}")]
    Listen { address: Address, source: io::Error },
    #[error(transparent)]
    Meta(#[from] OpenError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{0}")]
    Ended(String),
    #[error("shut down: {0}")]
    Shutdown(FsError),
}

async fn listen(address: &Address, default_port: u16) -> Result<(TcpListener, SocketAddr), NodeError> {
    let failed = |source| NodeError::Listen { address: address.clone(), source };
    let listener = TcpListener::bind(address.with_default_port(default_port)).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
