//! A mount without a kernel: the session, the data client and the POSIX view of `cairn-mountd`, put
//! together as for a real mount, in a runtime of its own. Dropped, it is gone as if killed.

use super::cluster::meta_link;
use super::kernel::Kernel;
use super::wait::within;
use cairn_common::config::Address;
use cairn_common::error::FsResult;
use cairn_common::ids::{ClusterId, SessionId};
use cairn_common::proto::meta::ClientInfo;
use cairn_common::wire::hello::{Identity, ServiceKind};
use cairn_mountd::client::MetaClient;
use cairn_mountd::client::data::BlockClient;
use cairn_mountd::client::session::Session;
use cairn_mountd::fuse::notify::NotifyThreads;
use cairn_mountd::life::LifeFiles;
use cairn_mountd::vfs::{Vfs, VfsConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Longest wait for a session, and for its end.
const SESSION: Duration = Duration::from_secs(60);

/// The tree that a mount shows.
pub type Tree = Vfs<Session, BlockClient>;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountSettings {
    pub vfs: VfsConfig,
    /// `soft`: fail after this long without a server.
    pub timeout: Option<Duration>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Mount {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    tree: Arc<Tree>,
    session: Arc<Session>,
    kernel: Arc<Kernel>,
    owners: AtomicU64,
    // `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Mount {
    /// Mounts what the metadata daemon at `meta` serves.
    pub async fn attach(name: &str, meta: Address, settings: MountSettings) -> Mount {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let mount_point = name.to_owned();
        let parts = runtime.spawn(async move {
            let client = ClientInfo { mount_point, ..ClientInfo::default() };
            // Mounts of one process can't prove their deaths to each other: it lives on.
            let session =
                Session::open(meta_link(meta), client, settings.timeout, SESSION, LifeFiles::none());
            let session = session.await.unwrap();
            let identity = Identity::new(ServiceKind::Data, ClusterId::default(), "test");
            let data = Arc::new(BlockClient::new(Arc::clone(&session), identity, settings.timeout));
            let tree = Vfs::new(Arc::clone(&session), data, settings.vfs, handle);
            let kernel = Arc::new(Kernel::default());
            tree.attach_kernel(NotifyThreads::start(Arc::clone(&kernel) as _).unwrap()).await;
            session.start(Arc::clone(&tree));
            (tree, session, kernel)
        });
        let (tree, session, kernel) = within("mount", parts).await.unwrap();
        let (name, owners) = (name.to_owned(), AtomicU64::new(1));
        Mount { inner: Arc::new(Inner { name, tree, session, kernel, owners, runtime: Some(runtime) }) }
    }

    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The tree itself.
    #[must_use]
    pub fn tree(&self) -> Arc<Tree> {
        Arc::clone(&self.inner.tree)
    }

    /// What its kernel was told.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.inner.kernel
    }

    /// Its session with the metadata daemon.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.inner.session.session()
    }

    /// A number for an owner of locks that no other owner in this mount has.
    pub(super) fn new_owner(&self) -> u64 {
        self.inner.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs a request in the mount's runtime, as its FUSE adapter does.
    pub async fn run<T, F>(&self, what: &str, request: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let runtime = self.inner.runtime.as_ref().expect("the mount lives");
        let what = format!("{what} on mount {}", self.inner.name);
        match within(&what, runtime.spawn(request)).await {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Unmounts in order.
    pub async fn leave(self) {
        let (tree, session) = (self.tree(), Arc::clone(&self.inner.session));
        let end = async move {
            let stored: FsResult<()> = tree.shutdown().await;
            stored.and(session.end(SESSION).await)
        };
        self.run("unmount", end).await.unwrap();
    }

    /// As if its machine lost power. Open files of it must have been dropped.
    pub fn crash(self) {
        let inner = Arc::into_inner(self.inner);
        drop(inner.expect("no open files or copies of a mount that crashes"));
    }
}
