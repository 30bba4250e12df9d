//! The data role from start to stop: lock the directory, become known, serve, report, end in order.

use super::identity::Identity;
use super::link::{LinkedVolumes, MetaLink, Registered};
use super::{DataConfig, DataDir, DataError, DataServer, Owner, Store, cleaner, leaks};
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, NodeId, VolumeId};
use cairn_common::proto::data::DataService;
use cairn_common::rpc::{ServeOptions, serve};
use cairn_common::wire::hello;
use cairn_common::wire::hello::ServiceKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tarpc::server::InFlightRequest;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Pause after a question that the metadata daemon did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Reports are not sent more often than this, whatever the metadata daemon says.
const REPORT_PAUSE_MIN: Duration = Duration::from_millis(50);
/// So many bytes stored since a report are a reason for the next.
const CHURN: u64 = 8 << 20;
/// Most blocks that are deleted for one report (the protocol's limit).
const DELETES_MAX: usize = 4096;

/// Where the role serves, and with whom it works.
pub struct Endpoint {
    pub listener: TcpListener,
    /// `host:port` at which mounts reach the listener.
    pub address: String,
    pub meta: Arc<dyn MetaLink>,
}

/// Runs the data role until `shutdown`. Everything that was acknowledged is durable at any moment;
/// an end in order only makes the next start quicker.
pub async fn run(
    config: DataConfig,
    endpoint: Endpoint,
    shutdown: CancellationToken,
) -> Result<(), DataError> {
    let Endpoint { listener, address, meta } = endpoint;
    let opening = config.clone();
    let mut dir = tokio::task::spawn_blocking(move || DataDir::open(&opening))
        .await
        .map_err(std::io::Error::other)??;
    let registrar = Registrar { meta: meta.clone(), address: address.clone() };
    let Some(owner) = registrar.owner(&mut dir, &shutdown).await? else { return Ok(()) };
    let identity = dir.identity();
    let ids = Arc::new(LinkedVolumes { link: meta.clone(), node: owner.node });
    let store = dir.start(&config, ids).await?;
    // What is here can be read at once; blocks are taken when it is sure that no newer copy should have them.
    store.refuse_puts();
    info!(target: "cairn", "data daemon {} serves {} at {address}", owner.node, config.data_dir.display());

    // Ends with `shutdown`, or alone if this daemon is not wanted.
    let ending = shutdown.child_token();
    let serving = serve_store(listener, store.clone(), owner, ending.clone());
    let looking = leaks::run(store.clone(), meta.clone(), ending.clone());
    let cleaning = cleaner::run(store.clone(), meta, ending.clone());
    let accept_loss = config.accept_loss;
    let reporter = Reporter { registrar, identity, store: store.clone(), dir: config.data_dir, accept_loss };
    let ((), (), (), reported) = tokio::join!(serving, looking, cleaning, async {
        let result = reporter.run(&ending).await;
        ending.cancel();
        result
    });
    let stopped = store.stop().await;
    reported?;
    Ok(stopped?)
}

async fn serve_store(listener: TcpListener, store: Arc<Store>, owner: Owner, shutdown: CancellationToken) {
    let role = format!("data daemon {}", owner.node);
    let identity = hello::Identity::new(ServiceKind::Data, owner.cluster, &role);
    let options = ServeOptions::bulk(identity);
    serve(listener, options, shutdown, move |_peer| {
        let server = DataServer::new(store.clone());
        move |request: InFlightRequest<_, _>| request.execute(server.clone().serve())
    })
    .await;
}

struct Registrar {
    meta: Arc<dyn MetaLink>,
    address: String,
}

impl Registrar {
    /// Who the directory belongs to. One that was never registered waits for the metadata daemon; one
    /// that was can serve without. `None` if the shutdown came first.
    async fn owner(
        &self,
        dir: &mut DataDir,
        shutdown: &CancellationToken,
    ) -> Result<Option<Owner>, DataError> {
        if let Some(owner) = dir.identity().owner {
            return Ok(Some(owner));
        }
        let Some(registered) = self.register(dir.identity(), shutdown).await? else { return Ok(None) };
        dir.assign(registered.owner)?;
        Ok(Some(registered.owner))
    }

    /// Registers, as often as it takes. `None` if the shutdown came first.
    async fn register(
        &self,
        identity: Identity,
        shutdown: &CancellationToken,
    ) -> Result<Option<Registered>, DataError> {
        let mut told = false;
        loop {
            let asked = self.meta.register(identity, self.address.clone());
            match shutdown.run_until_cancelled(asked).await {
                None => return Ok(None),
                Some(Ok(registered)) => return Ok(Some(registered)),
                Some(Err(error)) if !error.is_transient() => return Err(error.into()),
                Some(Err(error)) => {
                    if !told {
                        warn!("the metadata daemon does not answer yet: {error}");
                        told = true;
                    }
                }
            }
            if shutdown.run_until_cancelled(sleep(RETRY_PAUSE)).await.is_none() {
                return Ok(None);
            }
        }
    }
}

struct Reporter {
    registrar: Registrar,
    identity: Identity,
    store: Arc<Store>,
    dir: PathBuf,
    accept_loss: bool,
}

impl Reporter {
    /// Registers and reports until the shutdown. An error means that this daemon is not wanted.
    async fn run(&self, shutdown: &CancellationToken) -> Result<(), DataError> {
        loop {
            let Some(registered) = self.registrar.register(self.identity, shutdown).await? else {
                return Ok(());
            };
            if let Some(have) = self.identity.owner.filter(|have| *have != registered.owner) {
                return Err(DataError::OtherOwner { have, told: registered.owner });
            }
            match self.missing(registered.owner.node).await {
                Ok(Some(missing)) if self.accept_loss => {
                    warn!(
                        "block {missing} and what came after it is lost, which is accepted: `cairn fsck` names the files"
                    );
                }
                Ok(Some(missing)) => return Err(DataError::OldCopy { dir: self.dir.clone(), missing }),
                Ok(None) => {}
                Err(error) => {
                    info!("ask the metadata daemon for the last blocks: {error}");
                    if shutdown.run_until_cancelled(sleep(RETRY_PAUSE)).await.is_none() {
                        return Ok(());
                    }
                    continue;
                }
            }
            self.store.take_puts();
            if self.report(registered.report_every.max(REPORT_PAUSE_MIN), shutdown).await.is_none() {
                return Ok(());
            }
            if shutdown.run_until_cancelled(sleep(RETRY_PAUSE)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// A block that files use and that must be here, and is not.
    async fn missing(&self, node: NodeId) -> FsResult<Option<BlockRef>> {
        let mut after = VolumeId(0);
        loop {
            let page = self.registrar.meta.last_blocks(node, after).await?;
            let Some(last) = page.last() else { return Ok(None) };
            after = last.volume;
            if let Some(missing) = self.store.beyond_end(page).await? {
                return Ok(Some(missing));
            }
        }
    }

    /// Reports until a report fails: then we may have to register again (`Some`), or until the
    /// shutdown (`None`).
    async fn report(&self, every: Duration, shutdown: &CancellationToken) -> Option<()> {
        let mut deleted = Vec::new();
        let mut pause = every;
        loop {
            let stored = self.store.put_bytes();
            let exchange = self.exchange(std::mem::take(&mut deleted), every);
            match shutdown.run_until_cancelled(exchange).await? {
                Ok(gone) => deleted = gone,
                Err(error) => {
                    info!("report to the metadata daemon: {error}");
                    return Some(());
                }
            }
            // What was deleted is confirmed at once: there may be more.
            if !deleted.is_empty() {
                pause = REPORT_PAUSE_MIN;
                continue;
            }
            shutdown.run_until_cancelled(self.rest(pause, stored)).await?;
            // Who overwrites makes dead blocks as fast as the disk writes: after some, the next are looked for soon.
            pause = (pause * 2).min(every);
        }
    }

    /// A pause, shorter if much is stored meanwhile: it replaces something, perhaps.
    async fn rest(&self, pause: Duration, stored: u64) {
        let (end, mut seen) = (Instant::now() + pause, stored);
        while Instant::now() < end && seen.saturating_sub(stored) < CHURN {
            let puts = self.store.put_bytes();
            if puts > seen {
                sleep_until(end.min(Instant::now() + REPORT_PAUSE_MIN)).await;
            } else if timeout_at(end, self.store.stores_beyond(seen)).await.is_err() {
                return;
            }
            seen = puts;
        }
    }

    /// One report; deletes what its answer says. Returns what is deleted now.
    async fn exchange(&self, deleted: Vec<BlockRef>, every: Duration) -> FsResult<Vec<BlockRef>> {
        let stat = self.store.stat().await?;
        let mut doomed = self.registrar.meta.report(stat, deleted).await?;
        doomed.truncate(DELETES_MAX);
        let count = doomed.len();
        let deleted = while_beating(self.store.delete(doomed), every, || self.beat()).await;
        if let Some(error) = deleted.failed {
            // They will be named again; a disk that can't delete should still report.
            warn!("cannot delete {} of {count} blocks: {error}", count - deleted.gone.len());
        }
        Ok(deleted.gone)
    }

    async fn beat(&self) {
        let report = async {
            let stat = self.store.stat().await?;
            self.registrar.meta.report(stat, Vec::new()).await
        };
        // What the answer names is being deleted; the next exchange tells of a failure.
        if let Err(error) = report.await {
            debug!("report while deleting: {error}");
        }
    }
}

/// Does the work, and a beat now and then meanwhile: a slow disk must not make us look dead.
async fn while_beating<T, B: Future<Output = ()>>(
    work: impl Future<Output = T>,
    every: Duration,
    beat: impl Fn() -> B,
) -> T {
    let beats = async {
        loop {
            sleep(every).await;
            beat().await;
        }
    };
    tokio::select! {
        done = work => done,
        never = beats => never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn reports_go_on_while_a_slow_disk_deletes() {
        let beats = AtomicU32::new(0);
        let beat = || async {
            beats.fetch_add(1, Ordering::Relaxed);
        };
        let every = Duration::from_millis(1);
        let slow = async {
            while beats.load(Ordering::Relaxed) < 3 {
                sleep(every).await;
            }
            7
        };
        let done = tokio::time::timeout(Duration::from_secs(10), while_beating(slow, every, beat)).await;
        assert_eq!(done, Ok(7));
    }
}
