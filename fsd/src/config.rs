//! Settings of each role: what a file says, what flags say, and what comes of both.

use crate::data;
use crate::meta::machine::MachineConfig;
use crate::meta::session::SessionTimes;
use cairn_common::config::{
    Address, AddressList, ByteSize, ConfigError, HumanDuration, META_PORT, load_toml,
};
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Shortest session time-out: mounts need some calls to fit into it.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there are no usable settings. One line each.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0} is missing: give --{0}, or --config with a file that has it")]
    Missing(&'static str),
    #[error("{0}")]
    Refused(&'static str),
}

/// The directory that the settings name.
fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, SettingsError> {
    let dir = given.ok_or(SettingsError::Missing("data-dir"))?;
    if dir.as_os_str().is_empty() { Err(SettingsError::Refused("data-dir is empty")) } else { Ok(dir) }
}

/// The metadata role.
#[derive(Clone, Debug)]
pub struct MetaConfig {
    pub data_dir: PathBuf,
    pub listen: Address,
    pub sessions: SessionTimes,
    pub machine: MachineConfig,
}

impl MetaConfig {
    /// Defaults for a directory.
    #[must_use]
    pub fn new(data_dir: PathBuf, listen: Address) -> MetaConfig {
        let (sessions, machine) = (SessionTimes::default(), MachineConfig::default());
        MetaConfig { data_dir, listen, sessions, machine }
    }
}

/// The data role.
#[derive(Clone, Debug)]
pub struct DataConfig {
    pub store: data::DataConfig,
    pub listen: Address,
    /// Metadata daemons.
    pub meta: Vec<Address>,
    /// The address by which mounts reach this daemon, if it is not that of `listen`.
    pub advertise: Option<Address>,
}

impl DataConfig {
    /// Defaults for a directory.
    #[must_use]
    pub fn new(data_dir: PathBuf, listen: Address, meta: Vec<Address>) -> DataConfig {
        DataConfig { store: data::DataConfig::new(data_dir), listen, meta, advertise: None }
    }
}

/// Settings of the metadata role as people write them: each is a flag and a key of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MetaSettings {
    /// Directory of the log and the state; made if it is missing
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    data_dir: Option<PathBuf>,
    /// Where to listen: a host, and a port if not the usual one (0: any free one)
    #[arg(long, value_name = "ADDR")]
    listen: Option<Address>,
    /// Evict mounts that gave no sign of life for so long [default: 30s]
    #[arg(long, value_name = "TIME")]
    session_timeout: Option<HumanDuration>,
    /// Evict mounts that show life but did not give back in so long what another needs [default: 5m]
    #[arg(long, value_name = "TIME")]
    recall_timeout: Option<HumanDuration>,
    /// After a start, wait at most so long for the mounts known before [default: 10s]
    #[arg(long, value_name = "TIME")]
    grace: Option<HumanDuration>,
    /// Memory for cached metadata [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    cache: Option<ByteSize>,
}

impl MetaSettings {
    /// These settings, and for what they leave open those of `file`.
    pub fn over_file(self, file: Option<&Path>) -> Result<MetaSettings, SettingsError> {
        let Some(file) = file else { return Ok(self) };
        let base: MetaSettings = load_toml(file)?;
        Ok(MetaSettings {
            data_dir: self.data_dir.or(base.data_dir),
            listen: self.listen.or(base.listen),
            session_timeout: self.session_timeout.or(base.session_timeout),
            recall_timeout: self.recall_timeout.or(base.recall_timeout),
            grace: self.grace.or(base.grace),
            cache: self.cache.or(base.cache),
        })
    }

    /// Fills in the defaults and checks.
    pub fn resolve(self) -> Result<MetaConfig, SettingsError> {
        let data_dir = data_dir(self.data_dir)?;
        let listen = self.listen.ok_or(SettingsError::Missing("listen"))?;
        let mut config = MetaConfig::new(data_dir, listen);
        if let Some(HumanDuration(timeout)) = self.session_timeout {
            config.sessions.timeout = timeout;
        }
        if let Some(HumanDuration(recall)) = self.recall_timeout {
            config.sessions.recall = recall;
        }
        if let Some(HumanDuration(grace)) = self.grace {
            config.sessions.grace = grace;
        }
        if let Some(cache) = self.cache {
            config.machine.cache_bytes = cache.as_usize();
        }
        if config.sessions.timeout < SHORTEST_TIMEOUT {
            return Err(SettingsError::Refused("session-timeout must be at least 1s"));
        }
        if config.sessions.recall < SHORTEST_TIMEOUT {
            return Err(SettingsError::Refused("recall-timeout must be at least 1s"));
        }
        Ok(config)
    }
}

/// Settings of the data role as people write them: each is a flag and a key of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataSettings {
    /// Directory of the volumes; made if it is missing
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    data_dir: Option<PathBuf>,
    /// Where to listen: a host, and a port if not the usual one (0: any free one)
    #[arg(long, value_name = "ADDR")]
    listen: Option<Address>,
    /// Metadata daemons, each a host and perhaps a port
    #[arg(long, value_name = "HOST[:PORT],...")]
    meta: Option<AddressList>,
    /// Address by which mounts reach this daemon, if it is not that of --listen
    #[arg(long, value_name = "ADDR")]
    advertise: Option<Address>,
    /// Size at which a volume is sealed [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    volume_size: Option<ByteSize>,
    /// Room on the disk that is left free [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    reserve: Option<ByteSize>,
    /// Serve although the directory ends before blocks that files use, as an old copy does: they are lost
    #[arg(long)]
    #[serde(default)]
    accept_loss: bool,
}

impl DataSettings {
    /// These settings, and for what they leave open those of `file`.
    pub fn over_file(self, file: Option<&Path>) -> Result<DataSettings, SettingsError> {
        let Some(file) = file else { return Ok(self) };
        let base: DataSettings = load_toml(file)?;
        Ok(DataSettings {
            data_dir: self.data_dir.or(base.data_dir),
            listen: self.listen.or(base.listen),
            meta: self.meta.or(base.meta),
            advertise: self.advertise.or(base.advertise),
            volume_size: self.volume_size.or(base.volume_size),
            reserve: self.reserve.or(base.reserve),
            accept_loss: self.accept_loss || base.accept_loss,
        })
    }

    /// Fills in the defaults and checks.
    pub fn resolve(self) -> Result<DataConfig, SettingsError> {
        let data_dir = data_dir(self.data_dir)?;
        let listen = self.listen.ok_or(SettingsError::Missing("listen"))?;
        let AddressList(meta) = self.meta.ok_or(SettingsError::Missing("meta"))?;
        let mut config = DataConfig::new(data_dir, listen, meta);
        config.advertise = self.advertise;
        if let Some(size) = self.volume_size {
            config.store.volume_size = size;
        }
        if let Some(reserve) = self.reserve {
            config.store.reserve = reserve;
        }
        config.store.accept_loss = self.accept_loss;
        Ok(config)
    }
}

/// The first metadata daemon's host and port, for finding out by which address it is reached.
pub(crate) fn meta_target(meta: &[Address]) -> Option<(&str, u16)> {
    meta.first().map(|address| address.with_default_port(META_PORT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let (_dir, path) =
            file("data-dir = \"/a\"\nlisten = \"h:1\"\ngrace = \"3s\"\nsession-timeout = \"20s\"");
        let flags = MetaSettings { listen: Some("h:2".parse().unwrap()), ..MetaSettings::default() };
        let config = flags.over_file(Some(&path)).unwrap().resolve().unwrap();
        assert_eq!((config.data_dir, config.listen), (PathBuf::from("/a"), Address::new("h", 2)));
        assert_eq!(config.sessions.grace, Duration::from_secs(3));
        assert_eq!(config.sessions.timeout, Duration::from_secs(20));
        assert_eq!(config.machine.cache_bytes, MachineConfig::default().cache_bytes);
    }

    #[test]
    fn unknown_keys_and_missing_values_are_named() {
        let (_dir, path) = file("data-dir = \"/a\"\nlistn = \"h:1\"\n");
        let error = MetaSettings::default().over_file(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("c.toml:2: unknown field `listn`") && !error.contains('\n'), "{error}");
        let (_dir, path) = file("data-dir = \"/a\"\nlisten = \"h:1\"");
        let error = DataSettings::default().over_file(Some(&path)).unwrap().resolve().unwrap_err();
        assert!(error.to_string().starts_with("meta is missing"), "{error}");
    }

    #[test]
    fn on_a_shared_disk_blocks_stop_before_the_metadata_does() {
        let data = DataConfig::new("/d".into(), Address::new("h", 1), Vec::new()).store.reserve.0;
        let machine = MachineConfig::default();
        assert!(data >= machine.reserve_bytes + machine.segment_bytes, "a whole segment still fits");
    }

    #[test]
    fn sizes_of_the_data_role_reach_the_store() {
        let (_dir, path) =
            file("data-dir = \"/d\"\nlisten = \"h\"\nmeta = \"m1,m2:7\"\nvolume-size = \"64MiB\"");
        let config = DataSettings::default().over_file(Some(&path)).unwrap().resolve().unwrap();
        assert_eq!(config.store.volume_size, ByteSize(64 << 20));
        assert_eq!(config.meta.len(), 2);
        assert_eq!(meta_target(&config.meta), Some(("m1", META_PORT)));
    }
}
