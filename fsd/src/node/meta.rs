//! The metadata role.

use super::{NodeError, listen};
use crate::config::MetaConfig;
use crate::meta::machine::{Machine, OpenError};
use crate::meta::service::{Background, Service};
use cairn_common::config::META_PORT;
use cairn_common::proto::meta::MetaService;
use cairn_common::rpc::{ServeOptions, serve};
use cairn_common::wire::hello::{Identity, ServiceKind};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long running requests may take to end at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// A metadata daemon that serves.
pub struct RunningMeta {
    address: SocketAddr,
    machine: Machine,
    service: Service,
    background: Background,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Opens the directory, recovers, and serves.
///
/// # Errors
/// If the directory is in use or damaged, or the address can't be listened on.
pub fn start_meta(config: MetaConfig) -> BoxFuture<'static, Result<RunningMeta, NodeError>> {
    // Boxed here, so that the role is compiled into this crate and not into each program that polls it.
    start(config).boxed()
}

async fn start(config: MetaConfig) -> Result<RunningMeta, NodeError> {
    let (listener, address) = listen(&config.listen, META_PORT).await?;
    let runtime = tokio::runtime::Handle::current();
    let open = move || {
        let _inside = runtime.enter();
        Machine::open(&config.data_dir, config.machine)
    };
    let opened = tokio::task::spawn_blocking(open).await;
    let machine = opened.unwrap_or_else(|panic| Err(OpenError::Corrupt(format!("open: {panic}"))))?;
    let background = Background::default();
    let service = Service::start(machine.clone(), config.sessions, &background);
    let identity = Identity::new(ServiceKind::Meta, machine.cluster(), "metadata daemon");
    let options = ServeOptions { grace: SHUTDOWN_GRACE, ..ServeOptions::new(identity) };
    let stop = CancellationToken::new();
    let server = service.clone();
    let serving = tokio::spawn(serve(listener, options, stop.clone(), move |peer| {
        let server = server.for_connection(peer.connection);
        move |request| request.execute(server.clone().serve())
    }));
    tracing::info!(target: "cairn", "metadata daemon {} serves cluster {} at {address}", env!("CARGO_PKG_VERSION"), machine.cluster());
    Ok(RunningMeta { address, machine, service, background, stop, serving })
}

impl RunningMeta {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it can't go on; answers why.
    pub async fn failed(&self) -> String {
        self.machine.failed().await
    }

    /// Takes no more connections, lets running requests end within a bound, makes a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint could not be made; the log has everything all the same.
    pub async fn shutdown(self) -> Result<(), NodeError> {
        self.service.stop_waiting();
        self.stop.cancel();
        // It can only end by itself or by a panic that was reported.
        let _ = self.serving.await;
        self.background.stop().await;
        self.machine.shutdown().await.map_err(NodeError::Shutdown)
    }
}
