//! The data role: where it listens, by which address mounts reach it, and when it is ready.

use super::{NodeError, listen};
use crate::config::{DataConfig, meta_target};
use crate::data::identity::Identity as DirIdentity;
use crate::data::link::{MetaLink, Registered};
use crate::data::role::{self, Endpoint};
use crate::data::{DataDir, DataError};
use cairn_common::config::{Address, DATA_PORT, META_PORT};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, ClusterId, NodeId, SessionId, VolumeId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::DataStat;
use cairn_common::proto::meta::{BlockFate, FileRange, LivePieces, MetaStub, RelocateRequest};
use cairn_common::rpc::{ConnectOptions, Reconnecting};
use cairn_common::wire::hello::{Identity, ServiceKind};
use futures::future::{BoxFuture, FutureExt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a directory that was registered before waits for the metadata daemon to know of it again,
/// before it counts as ready without.
const FIRST_REPORT: Duration = Duration::from_secs(3);

/// A data daemon that serves.
pub struct RunningData {
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), DataError>>,
    ended: watch::Receiver<Option<String>>,
}

/// Opens the directory, registers, and serves.
///
/// # Errors
/// If the directory is in use, damaged or another cluster's, or the address can't be listened on.
pub fn start_data(config: DataConfig) -> BoxFuture<'static, Result<RunningData, NodeError>> {
    // Boxed here, so that the role is compiled into this crate and not into each program that polls it.
    start(config).boxed()
}

async fn start(config: DataConfig) -> Result<RunningData, NodeError> {
    let (listener, address) = listen(&config.listen, DATA_PORT).await?;
    // Looked at before the role locks it: in the first exchange its cluster is named.
    let known = DataDir::peek(&config.store)?;
    let (reported, first_report) = watch::channel(false);
    let meta = Arc::new(Watched { link: connect(&config.meta, known), reported });
    let advertised = advertised(&config, address).await;
    let endpoint = Endpoint { listener, address: advertised, meta };
    let (stop, (end, ended)) = (CancellationToken::new(), watch::channel(None));
    let role = role::run(config.store, endpoint, stop.clone());
    let running = tokio::spawn(async move {
        let result = role.await;
        let line = result.as_ref().err().map_or("the data role has ended".to_owned(), DataError::to_string);
        end.send_replace(Some(line));
        result
    });
    let node = RunningData { address, stop, running, ended };
    node.ready(first_report, known.is_some_and(|identity| identity.owner.is_some())).await?;
    Ok(node)
}

impl RunningData {
    /// Waits until the metadata daemon has heard of us, so that a mount made now finds room; a known
    /// directory waits for a while only.
    async fn ready(&self, mut reported: watch::Receiver<bool>, known: bool) -> Result<(), NodeError> {
        let limit = if known { FIRST_REPORT } else { Duration::MAX };
        tokio::select! {
            // An error: the role has ended, which the other branch tells better.
            Ok(_) = reported.wait_for(|reported| *reported) => Ok(()),
            () = tokio::time::sleep(limit) => Ok(()),
            line = self.failed() => Err(NodeError::Ended(line)),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it can't go on; answers why.
    pub async fn failed(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(line) => line.clone().unwrap_or_default(),
            // A panic, which was reported.
            Err(_) => "the data role is gone".into(),
        }
    }

    /// Takes no more connections, lets running requests end within a bound, closes the volumes.
    ///
    /// # Errors
    /// If a volume could not be closed in order; recovery will do it.
    pub async fn shutdown(self) -> Result<(), NodeError> {
        self.stop.cancel();
        match self.running.await {
            Ok(result) => Ok(result?),
            Err(panic) => Err(NodeError::Ended(panic.to_string())),
        }
    }
}

fn connect(meta: &[Address], known: Option<DirIdentity>) -> Reconnecting<MetaStub> {
    let (cluster, role) = match known.and_then(|identity| identity.owner) {
        Some(owner) => (owner.cluster, format!("data daemon {}", owner.node)),
        None => (ClusterId::default(), "new data daemon".to_owned()),
    };
    let identity = Identity::new(ServiceKind::Meta, cluster, &role);
    let options = ConnectOptions::new(meta.to_vec(), META_PORT, identity);
    Reconnecting::new(options, MetaStub::from)
}

/// The address to tell mounts. Listening on all addresses, it is the one that the way to the metadata
/// daemon begins at.
async fn advertised(config: &DataConfig, bound: SocketAddr) -> String {
    if let Some(address) = &config.advertise {
        let (host, port) = address.with_default_port(bound.port());
        return Address::new(host, port).to_string();
    }
    if !bound.ip().is_unspecified() {
        return Address::from(bound).to_string();
    }
    let ip = match local_ip(config).await {
        Ok(ip) => {
            if ip.is_loopback() {
                tracing::warn!(
                    target: "cairn",
                    "mounts are told the address {ip}, which other machines cannot reach: set --advertise HOST, or name --meta as others do"
                );
            }
            ip
        }
        Err(error) => {
            tracing::warn!(target: "cairn", "cannot tell by which address this machine is reached ({error}): set --advertise HOST");
            std::net::Ipv4Addr::LOCALHOST.into()
        }
    };
    Address::from(SocketAddr::new(ip, bound.port())).to_string()
}

async fn local_ip(config: &DataConfig) -> std::io::Result<std::net::IpAddr> {
    let target = meta_target(&config.meta).ok_or(std::io::ErrorKind::InvalidInput)?;
    let target = tokio::net::lookup_host(target).await?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    // Connecting a datagram socket sends nothing; it only chooses the way.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip())
}

/// The way to the metadata daemon, watched for the first report.
struct Watched {
    link: Reconnecting<MetaStub>,
    reported: watch::Sender<bool>,
}

impl MetaLink for Watched {
    fn register(&self, identity: DirIdentity, address: String) -> BoxFuture<'_, FsResult<Registered>> {
        async move {
            // Only a wrong cluster is for good; a full disk there, say, may be gone later.
            let patient = |error| if error == FsError::WrongPeer { error } else { FsError::Unavailable };
            self.link.register(identity, address).await.map_err(patient)
        }
        .boxed()
    }

    fn create_volume(&self, node: NodeId) -> BoxFuture<'_, FsResult<VolumeId>> {
        MetaLink::create_volume(&self.link, node)
    }

    fn last_blocks(&self, node: NodeId, after: VolumeId) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        MetaLink::last_blocks(&self.link, node, after)
    }

    fn report(&self, stat: DataStat, deleted: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockRef>>> {
        async move {
            let dead = self.link.report(stat, deleted).await?;
            self.reported.send_replace(true);
            Ok(dead)
        }
        .boxed()
    }
    fn ended(&self, sessions: Vec<SessionId>) -> BoxFuture<'_, FsResult<Vec<SessionId>>> {
        self.link.ended(sessions)
    }

    fn fates(&self, blocks: Vec<BlockRef>) -> BoxFuture<'_, FsResult<Vec<BlockFate>>> {
        self.link.fates(blocks)
    }

    fn blocks(&self, after: BlockRef) -> BoxFuture<'_, FsResult<Vec<(BlockRef, BlockUse)>>> {
        MetaLink::blocks(&self.link, after)
    }

    fn live_pieces(&self, block: BlockRef, ranges: Vec<FileRange>) -> BoxFuture<'_, FsResult<LivePieces>> {
        self.link.live_pieces(block, ranges)
    }

    fn relocate(&self, request: RelocateRequest) -> BoxFuture<'_, FsResult<()>> {
        self.link.relocate(request)
    }
}
