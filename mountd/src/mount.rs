//! A mount from the first connection to the last flush: the only file that sees all parts.
//!
//! Order of the start: session, tree, kernel, events. Order of the end: the kernel lets go, what is
//! dirty is stored, the session ends.

use crate::client::MetaClient;
use crate::client::data::BlockClient;
use crate::client::session::Session;
use crate::fuse::mount::{MountOptions as KernelOptions, Session as FuseSession, serve};
use crate::fuse::notify::NotifyThreads;
use crate::life::LifeFiles;
use crate::options::{AtimeMode, MountOptions};
use crate::source::Source;
use crate::vfs::{Vfs, VfsConfig};
use anyhow::{Context, Result, anyhow};
use cairn_common::attr::FileKind;
use cairn_common::config::{ByteSize, META_PORT};
use cairn_common::error::FsError;
use cairn_common::ids::{ClusterId, Ino};
use cairn_common::proto::meta::{ClientInfo, MetaStub};
use cairn_common::rpc::{ConnectOptions, Reconnecting};
use cairn_common::wire::hello::{Identity, ServiceKind};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How long the session of a mount that failed may take to end.
const FAILED_END: Duration = Duration::from_secs(5);
/// Longest wait for the first answer of a metadata daemon.
const FIRST_ANSWER: Duration = Duration::from_secs(20);
/// Longest wait at unmount for what is dirty to be stored, and for the session to end.
const LAST_FLUSH: Duration = Duration::from_secs(60);
/// How long programs that still use a mount have to end, once it is to go.
const USERS_LEAVE: Duration = Duration::from_secs(5);
/// Files that are named in the log, should very many be lost.
const NAMED_MAX: usize = 1000;
/// How this daemon introduces itself.
const ROLE: &str = "mount";

/// A mounted tree.
pub struct Mounted {
    fuse: Option<FuseSession>,
    vfs: Arc<Vfs<Session, BlockClient>>,
    session: Arc<Session>,
    mount_point: PathBuf,
    hurry: CancellationToken,
}

impl Mounted {
    /// Mounts `source` at `mount_point`; everything works when this returns. Needs a tokio runtime.
    ///
    /// # Errors
    /// One line: no server, a path that does not exist there, or what the kernel says.
    pub fn start<'a>(
        source: &'a Source,
        mount_point: &'a Path,
        options: &'a MountOptions,
    ) -> BoxFuture<'a, Result<Mounted>> {
        // Boxed here, so that the whole mount is compiled into this crate and not into each program
        // that polls it.
        Mounted::set_up(source, mount_point, options).boxed()
    }

    async fn set_up(source: &Source, mount_point: &Path, options: &MountOptions) -> Result<Mounted> {
        let session = open_session(source, mount_point, options).await?;
        let mounted = Mounted::on(Arc::clone(&session), source, mount_point, options).await;
        if mounted.is_err() {
            // Left open, it would hold up the next mount until the server has given it up.
            let _ended = session.end(FAILED_END).await;
        }
        mounted
    }

    async fn on(
        session: Arc<Session>,
        source: &Source,
        mount_point: &Path,
        options: &MountOptions,
    ) -> Result<Mounted> {
        let root = find_root(&session, source).await?;
        let data = Identity::new(ServiceKind::Data, ClusterId::default(), ROLE);
        let data = Arc::new(BlockClient::new(Arc::clone(&session), data, options.timeout));
        let vfs = Vfs::new(Arc::clone(&session), data, vfs_config(root, options), Handle::current());
        let kernel = kernel_options(source, options);
        let (ops, at, runtime) = (Arc::clone(&vfs), mount_point.to_owned(), Handle::current());
        // mount(2) looks at the new root before it returns, which our own runtime must answer.
        let fuse = tokio::task::spawn_blocking(move || serve(ops, &at, &kernel, runtime))
            .await
            .context("mount in a thread of its own")?
            .with_context(|| format!("mount at {}", mount_point.display()))?;
        let notify = NotifyThreads::start(Arc::new(fuse.notifier())).context("start notification threads")?;
        vfs.attach_kernel(notify).await;
        session.start(Arc::clone(&vfs));
        vfs.learn_last_known();
        let (mount_point, hurry) = (mount_point.to_owned(), CancellationToken::new());
        Ok(Mounted { fuse: Some(fuse), vfs, session, mount_point, hurry })
    }

    /// `major:minor`, the kernel's name for the mount.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.fuse.as_ref().and_then(FuseSession::device)
    }

    /// Cancelled by whoever cannot wait any longer for [`Mounted::stop`]: what is not stored by then is lost.
    #[must_use]
    pub fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Cancelled when somebody has unmounted the tree.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.fuse.as_ref().map(FuseSession::ended).unwrap_or_default()
    }

    /// Unmounts if that has not happened, stores what is dirty, ends the session.
    ///
    /// # Errors
    /// If dirty data could not be stored: it is lost.
    pub fn stop(self) -> BoxFuture<'static, Result<()>> {
        self.take_down().boxed()
    }

    async fn take_down(mut self) -> Result<()> {
        let left = match self.fuse.take() {
            Some(fuse) => leave_tree(fuse).await,
            None => Ok(()),
        };
        // However that went: what programs wrote is stored, and the session does not linger.
        let flushed = tokio::select! {
            flushed = tokio::time::timeout(LAST_FLUSH, self.vfs.shutdown()) => {
                flushed.unwrap_or(Err(FsError::TimedOut))
            }
            () = self.hurry.cancelled() => Err(FsError::Interrupted),
        };
        if flushed.is_err() {
            self.log_unstored();
        }
        // Servers that did not take the data are not waited for again.
        let ended = self.session.end(if flushed.is_ok() { LAST_FLUSH } else { FAILED_END }).await;
        flushed.map_err(|error| anyhow!("data that was not stored is lost: {error}"))?;
        left.with_context(|| format!("unmount {}", self.mount_point.display()))?;
        ended.map_err(|error| anyhow!("the session did not end cleanly: {error}"))
    }

    /// Says whose data is lost.
    fn log_unstored(&self) {
        let files = self.vfs.unstored();
        for file in files.iter().take(NAMED_MAX) {
            tracing::error!(target: "cairn", "written data is lost: {file}");
        }
        if files.len() > NAMED_MAX {
            tracing::error!(target: "cairn", "written data is lost: {} more files", files.len() - NAMED_MAX);
        }
    }
}

/// Unmounts; when this returns, no program gets an answer any more, so that the flush which follows is the
/// last. A tree in use leaves the name space at once, and its users have a moment to end.
async fn leave_tree(fuse: FuseSession) -> Result<()> {
    let (ended, fuse) = (fuse.ended(), Arc::new(fuse));
    let busy = !ended.is_cancelled() && blocking(&fuse, |fuse| fuse.unmount(false)).await.is_err();
    if busy {
        blocking(&fuse, |fuse| fuse.unmount(true)).await?;
        if tokio::time::timeout(USERS_LEAVE, ended.cancelled()).await.is_err() {
            tracing::warn!(target: "cairn", "programs still use the mount; they get errors from now on");
            if !blocking(&fuse, FuseSession::abort).await? {
                // Its threads go on refusing until this process ends.
                return Ok(());
            }
        }
    }
    let fuse = Arc::into_inner(fuse).context("the mount is still being worked on")?;
    tokio::task::spawn_blocking(move || fuse.join()).await?.context("end the session threads")
}

/// System calls about a mount may wait for answers that this runtime has to give.
async fn blocking<T: Send + 'static>(
    fuse: &Arc<FuseSession>,
    call: impl FnOnce(&FuseSession) -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let fuse = Arc::clone(fuse);
    Ok(tokio::task::spawn_blocking(move || call(&fuse)).await??)
}

async fn open_session(source: &Source, mount_point: &Path, options: &MountOptions) -> Result<Arc<Session>> {
    let identity = Identity::new(ServiceKind::Meta, ClusterId::default(), ROLE);
    let connect = ConnectOptions::new(source.servers.clone(), META_PORT, identity);
    let link = Reconnecting::new(connect, MetaStub::from);
    let client = ClientInfo {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        mount_point: mount_point.display().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    };
    let files = LifeFiles::open(format!("{source} at {}", mount_point.display()));
    Session::open(link, client, options.timeout, FIRST_ANSWER, files).await.map_err(|error| match error {
        FsError::Unavailable => {
            anyhow!("no metadata daemon answers at {source} within {} s", FIRST_ANSWER.as_secs())
        }
        error => anyhow!("open a session with {source}: {error}"),
    })
}

/// The inode that the mount shows as its root.
async fn find_root(session: &Session, source: &Source) -> Result<Ino> {
    let mut ino = Ino::ROOT;
    for name in &source.path {
        let attr = session
            .lookup(ino, name.clone().into())
            .await
            .map_err(|error| anyhow!("'{name}' in {source}: {error}"))?;
        if attr.kind != FileKind::Dir {
            return Err(anyhow!("'{name}' in {source} is not a directory"));
        }
        ino = attr.ino;
    }
    Ok(ino)
}

fn vfs_config(root: Ino, options: &MountOptions) -> VfsConfig {
    VfsConfig {
        root,
        cache_bytes: ByteSize(options.cache_bytes).as_usize(),
        dirty_bytes: ByteSize(options.dirty_bytes).as_usize(),
        // Reading a tree that is mounted read-only changes nothing in it.
        atime: if options.read_only { AtimeMode::Noatime } else { options.atime },
        ..VfsConfig::default()
    }
}

fn kernel_options(source: &Source, options: &MountOptions) -> KernelOptions {
    KernelOptions {
        source: options.fsname.clone().unwrap_or_else(|| source.to_string()),
        read_only: options.read_only,
        allow_other: options.allow_other.unwrap_or_else(|| rustix::process::geteuid().is_root()),
        nosuid: options.nosuid,
        nodev: options.nodev,
        noexec: options.noexec,
        noatime: options.atime == AtimeMode::Noatime,
        sync: options.sync,
        dirsync: options.dirsync,
        ..KernelOptions::default()
    }
}
