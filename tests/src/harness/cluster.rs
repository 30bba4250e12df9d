//! Daemons in temporary directories: inside the test's process, or as processes of their own.

use super::mount::{Mount, MountSettings};
use super::process::Process;
use super::wait::within;
use cairn_common::config::{Address, DATA_PORT, META_PORT};
use cairn_common::ids::ClusterId;
use cairn_common::namespace::tables::Totals;
use cairn_common::proto::data::{DataStat, DataStub};
use cairn_common::proto::meta::{MetaStatus, MetaStub};
use cairn_common::rpc::{ConnectOptions, Reconnecting, context_within};
use cairn_common::wire::hello::{Identity, ServiceKind};
use cairn_fsd::config::{DataConfig, MetaConfig};
use cairn_fsd::meta::session::SessionTimes;
use cairn_fsd::node::{RunningData, RunningMeta, start_data, start_meta};
use rand::Rng;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Deadline of calls that the harness makes itself.
const CALL: Duration = Duration::from_secs(20);

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub data_daemons: usize,
    pub times: SessionTimes,
    /// Each daemon is a process of its own, so that it can be killed.
    pub processes: bool,
}

impl Default for Options {
    /// One data daemon, and session times that no test waits for.
    fn default() -> Options {
        let long = Duration::from_secs(60);
        Options {
            data_daemons: 1,
            times: SessionTimes { timeout: long, recall: long, grace: long },
            processes: false,
        }
    }
}

impl Options {
    /// Sessions end after this long without a sign of life, or with something owed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Options {
        (self.times.timeout, self.times.recall) = (timeout, timeout);
        self
    }

    /// The longest wait for known sessions after a restart.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Options {
        self.times.grace = grace;
        self
    }

    /// See the field.
    #[must_use]
    pub fn processes(mut self) -> Options {
        self.processes = true;
        self
    }
}

enum Running {
    Meta(RunningMeta),
    Data(RunningData),
    Process(Process),
}

enum Role {
    Meta(SessionTimes),
    Data { meta: Address },
}

/// A daemon that can be stopped, killed and started again at the same address and directory.
pub struct Daemon {
    role: Role,
    dir: PathBuf,
    listen: Address,
    as_process: bool,
    running: Option<Running>,
}

impl Daemon {
    fn new(role: Role, dir: PathBuf, as_process: bool) -> Daemon {
        Daemon { role, dir, listen: own_address(), as_process, running: None }
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        self.listen.clone()
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self) {
        assert!(self.running.is_none(), "the daemon runs already");
        let running = if self.as_process { self.start_process().await } else { self.start_here().await };
        self.listen = match &running {
            Running::Meta(meta) => meta.address().into(),
            Running::Data(data) => data.address().into(),
            Running::Process(process) => process.address.clone(),
        };
        self.running = Some(running);
    }

    async fn start_here(&self) -> Running {
        match &self.role {
            Role::Meta(times) => {
                let mut config = MetaConfig::new(self.dir.clone(), self.listen.clone());
                config.sessions = *times;
                Running::Meta(within("start the metadata daemon", start_meta(config)).await.unwrap())
            }
            Role::Data { meta } => {
                let config = DataConfig::new(self.dir.clone(), self.listen.clone(), vec![meta.clone()]);
                Running::Data(within("start a data daemon", start_data(config)).await.unwrap())
            }
        }
    }

    async fn start_process(&self) -> Running {
        let option = |name: &str, value: String| [format!("--{name}"), value];
        let mut arguments = vec![match self.role {
            Role::Meta(_) => "meta".to_owned(),
            Role::Data { .. } => "data".to_owned(),
        }];
        arguments.extend(option("data-dir", self.dir.display().to_string()));
        arguments.extend(option("listen", self.listen.to_string()));
        match &self.role {
            Role::Meta(times) => {
                arguments.extend(option("session-timeout", format!("{}ms", times.timeout.as_millis())));
                arguments.extend(option("recall-timeout", format!("{}ms", times.recall.as_millis())));
                arguments.extend(option("grace", format!("{}ms", times.grace.as_millis())));
            }
            Role::Data { meta } => arguments.extend(option("meta", meta.to_string())),
        }
        Running::Process(Process::start(&arguments, &self.dir.with_extension("log")).await)
    }

    /// Stops it in order.
    pub async fn stop(&mut self) {
        match self.running.take().expect("the daemon runs") {
            Running::Meta(meta) => within("stop the metadata daemon", meta.shutdown()).await.unwrap(),
            Running::Data(data) => within("stop a data daemon", data.shutdown()).await.unwrap(),
            Running::Process(process) => {
                let status = process.terminate().await;
                assert!(status.success(), "SIGTERM ends a daemon with {status}");
            }
        }
    }

    /// `kill -9`. Needs [`Options::processes`].
    pub fn kill(&mut self) {
        match self.running.take() {
            Some(Running::Process(process)) => process.kill(),
            _ => panic!("only a process can be killed"),
        }
    }
}

/// One metadata daemon, some data daemons, and their directories.
pub struct Cluster {
    pub meta: Daemon,
    pub data: Vec<Daemon>,
    // Last: the daemons go before their directories.
    _dir: TempDir,
}

impl Cluster {
    /// A new cluster with usual settings.
    pub async fn new() -> Cluster {
        Cluster::start(Options::default()).await
    }

    /// A new cluster.
    pub async fn start(options: Options) -> Cluster {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut meta = Daemon::new(Role::Meta(options.times), at("meta"), options.processes);
        meta.start().await;
        let mut data = Vec::new();
        for index in 0..options.data_daemons {
            let role = Role::Data { meta: meta.address() };
            let mut daemon = Daemon::new(role, at(&format!("data{index}")), options.processes);
            daemon.start().await;
            data.push(daemon);
        }
        Cluster { meta, data, _dir: dir }
    }

    /// A mount with usual settings.
    pub async fn mount(&self, name: &str) -> Mount {
        self.mount_with(name, MountSettings::default()).await
    }

    /// A mount.
    pub async fn mount_with(&self, name: &str, settings: MountSettings) -> Mount {
        Mount::attach(name, self.meta.address(), settings).await
    }

    /// What `cairn status` would show.
    pub async fn status(&self) -> MetaStatus {
        let link = meta_link(self.meta.address());
        let ask = |client: MetaStub, _| async move { client.status(context_within(CALL)).await };
        within("status", link.call(CALL, ask)).await.unwrap()
    }

    /// What `statfs` is made from.
    pub async fn totals(&self) -> Totals {
        self.status().await.stat.totals
    }

    /// State and counters of a data daemon.
    pub async fn data_stat(&self, index: usize) -> DataStat {
        let identity = Identity::new(ServiceKind::Data, ClusterId::default(), "test");
        let options = ConnectOptions::new(vec![self.data[index].address()], DATA_PORT, identity);
        let link = Reconnecting::new(options, DataStub::from);
        let ask = |client: DataStub, _| async move { client.stat(context_within(CALL)).await };
        within("stat of a data daemon", link.call(CALL, ask)).await.unwrap()
    }

    /// Bytes of blocks that are stored and not deleted, on all data daemons.
    pub async fn stored_bytes(&self) -> u64 {
        let mut sum = 0;
        for index in 0..self.data.len() {
            sum += self.data_stat(index).await.volumes.iter().map(|volume| volume.live_bytes).sum::<u64>();
        }
        sum
    }
}

/// A connection to the metadata daemon, without a session.
pub fn meta_link(address: Address) -> Reconnecting<MetaStub> {
    let identity = Identity::new(ServiceKind::Meta, ClusterId::default(), "test");
    let options = ConnectOptions::new(vec![address], META_PORT, identity);
    Reconnecting::new(options, MetaStub::from)
}

/// A loopback address that nobody else uses, and any port.
pub(super) fn own_address() -> Address {
    let mut rng = rand::rng();
    let mut part = || rng.random_range(1..=254_u8);
    Address::new(format!("127.{}.{}.{}", part().max(2), part(), part()), 0)
}
