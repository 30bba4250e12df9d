//! The comma-separated words of `-o`, as `mount(8)`, `/etc/fstab` and people write them.

use cairn_common::config::{ByteSize, ConfigError, HumanDuration};
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be said with `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub atime: AtimeMode,
    pub sync: bool,
    pub dirsync: bool,
    /// Other users than the one who mounts may use it. `None`: yes for root, no for others.
    pub allow_other: Option<bool>,
    /// `None`: wait for servers for ever (`hard`); else fail with EIO after this long (`soft`).
    pub timeout: Option<Duration>,
    /// A mount that answers nothing for so long is ended; `None`: never.
    pub watchdog: Option<Duration>,
    /// Bytes of file content kept in memory.
    pub cache_bytes: u64,
    /// Bytes of written content that may wait for being stored.
    pub dirty_bytes: u64,
    /// Where the log goes when in the background.
    pub log_file: Option<PathBuf>,
    /// Shown as the device in `/proc/mounts` instead of the source.
    pub fsname: Option<String>,
    /// Not a new mount: change one that is there.
    pub remount: bool,
}

/// When reading a file changes its access time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtimeMode {
    /// If it is older than the last change, or than a day.
    Relatime,
    Noatime,
    Strictatime,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            read_only: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            atime: AtimeMode::Relatime,
            sync: false,
            dirsync: false,
            allow_other: None,
            timeout: None,
            watchdog: Some(WATCHDOG),
            cache_bytes: 256 << 20,
            dirty_bytes: 256 << 20,
            log_file: None,
            fsname: None,
            remount: false,
        }
    }
}

/// Why options can't be used: one line for the user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("unknown mount option '{0}'; 'cairn-mountd --help' lists those there are")]
    Unknown(String),
    #[error("mount option '{0}' needs a value, as in {0}={1}")]
    NeedsValue(&'static str, &'static str),
    #[error("mount option '{0}' takes no value")]
    TakesNoValue(String),
    #[error("mount option '{0}={1}': {2}")]
    BadValue(&'static str, String, String),
}

/// Smallest caches that still let one block be written and read at a time.
const SMALLEST_CACHE: u64 = 16 << 20;
/// A mount that answers nothing for so long will not do so later.
const WATCHDOG: Duration = Duration::from_secs(300);
/// Shortest such time: a mount whose servers are away answers within 2 s, on a machine that is not overloaded.
const WATCHDOG_MIN: Duration = Duration::from_secs(5);
/// `timeo=` where `soft` is given without it, as long as NFS waits in all by default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl MountOptions {
    /// Takes in the words of one `-o`; later words win over earlier ones.
    pub fn parse(&mut self, words: &str) -> Result<(), OptionError> {
        words.split(',').filter(|word| !word.is_empty()).try_for_each(|word| self.word(word))
    }

    /// What only the mount daemon knows of, not the kernel.
    #[must_use]
    pub fn for_the_daemon(&self) -> impl PartialEq + use<> {
        (
            self.timeout,
            self.watchdog,
            self.cache_bytes,
            self.dirty_bytes,
            self.log_file.clone(),
            self.fsname.clone(),
        )
    }

    fn word(&mut self, word: &str) -> Result<(), OptionError> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        if value.is_some() && FLAGS.contains(&key) {
            return Err(OptionError::TakesNoValue(key.to_owned()));
        }
        match key {
            // As everywhere: it names the defaults, and undoes nothing that was said before it.
            "defaults" => {}
            "remount" => self.remount = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "nosuid" => self.nosuid = true,
            "suid" => self.nosuid = false,
            "nodev" => self.nodev = true,
            "dev" => self.nodev = false,
            "noexec" => self.noexec = true,
            "exec" => self.noexec = false,
            "noatime" | "nodiratime" => self.atime = AtimeMode::Noatime,
            "relatime" | "atime" | "diratime" => self.atime = AtimeMode::Relatime,
            "strictatime" => self.atime = AtimeMode::Strictatime,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dirsync = true,
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "hard" => self.timeout = None,
            "soft" => self.timeout = self.timeout.or(Some(DEFAULT_TIMEOUT)),
            "timeo" => self.timeout = Some(duration("timeo", value)?),
            "watchdog" => self.watchdog = watchdog(value)?,
            "cache" => self.cache_bytes = size("cache", value)?,
            "dirty" => self.dirty_bytes = size("dirty", value)?,
            "logfile" => self.log_file = Some(text("logfile", value, "/var/log/cairn.log")?.into()),
            "fsname" => self.fsname = Some(text("fsname", value, "meta1:/")?.to_owned()),
            _ if is_for_others(key) => {}
            _ => return Err(OptionError::Unknown(word.to_owned())),
        }
        Ok(())
    }
}

/// Words that are on or off.
const FLAGS: [&str; 28] = [
    "defaults",
    "remount",
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "nodiratime",
    "relatime",
    "atime",
    "diratime",
    "strictatime",
    "sync",
    "async",
    "dirsync",
    "allow_other",
    "noallow_other",
    "hard",
    "soft",
    "_netdev",
    "auto",
    "noauto",
    "nofail",
    "default_permissions",
];

/// Words that `mount(8)`, systemd and other tools put into fstab lines for themselves, and those
/// that only name what Cairn does anyway.
fn is_for_others(key: &str) -> bool {
    const WORDS: [&str; 25] = [
        // What /proc/mounts shows, and mount(8) repeats for a remount.
        "user_id",
        "group_id",
        "max_read",
        "blksize",
        "_netdev",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "default_permissions",
        "subtype",
        "comment",
        "lazytime",
        "nolazytime",
        "iversion",
        "noiversion",
        "silent",
        "loud",
        "mand",
        "nomand",
        "norelatime",
    ];
    WORDS.contains(&key) || key.starts_with("x-") || key.starts_with("X-")
}

fn text<'a>(
    key: &'static str,
    value: Option<&'a str>,
    example: &'static str,
) -> Result<&'a str, OptionError> {
    value.filter(|v| !v.is_empty()).ok_or(OptionError::NeedsValue(key, example))
}

fn size(key: &'static str, value: Option<&str>) -> Result<u64, OptionError> {
    let text = text(key, value, "256M")?;
    let bad = |why: String| OptionError::BadValue(key, text.to_owned(), why);
    let ByteSize(bytes) = text.parse().map_err(|e: ConfigError| bad(e.to_string()))?;
    if bytes < SMALLEST_CACHE { Err(bad("at least 16M is needed".to_owned())) } else { Ok(bytes) }
}

fn duration(key: &'static str, value: Option<&str>) -> Result<Duration, OptionError> {
    let text = text(key, value, "30s")?;
    let bad = |why: String| OptionError::BadValue(key, text.to_owned(), why);
    let HumanDuration(time) = text.parse().map_err(|e: ConfigError| bad(e.to_string()))?;
    if time.is_zero() { Err(bad("a wait must not be 0".to_owned())) } else { Ok(time) }
}

fn watchdog(value: Option<&str>) -> Result<Option<Duration>, OptionError> {
    if value == Some("off") {
        return Ok(None);
    }
    let time = duration("watchdog", value)?;
    if time < WATCHDOG_MIN {
        let text = value.unwrap_or_default().to_owned();
        return Err(OptionError::BadValue("watchdog", text, "at least 5s is needed, or 'off'".to_owned()));
    }
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        options.parse(words).map(|()| options)
    }

    #[test]
    fn the_usual_words() {
        let options =
            parse("ro,nosuid,nodev,noexec,noatime,allow_other,default_permissions,_netdev").expect("known");
        assert!(options.read_only && options.nosuid && options.nodev && options.noexec);
        assert_eq!(options.atime, AtimeMode::Noatime);
        assert_eq!(options.allow_other, Some(true));
    }

    #[test]
    fn later_words_win() {
        assert!(!parse("ro,rw").expect("known").read_only);
        assert_eq!(parse("soft,timeo=5s").expect("known").timeout, Some(Duration::from_secs(5)));
        assert_eq!(parse("timeo=500ms,hard").expect("known").timeout, None);
        assert_eq!(parse("timeo=7,soft").expect("known").timeout, Some(Duration::from_secs(7)));
    }

    #[test]
    fn defaults_undo_nothing() {
        assert!(parse("ro,defaults").expect("known").read_only);
        assert!(parse("defaults,ro").expect("known").read_only);
        assert!(parse("nosuid,defaults").expect("known").nosuid);
    }

    #[test]
    fn a_word_that_is_on_or_off_takes_no_value() {
        for word in ["ro=1", "hard=1", "soft=", "defaults=x", "dev=sda", "remount=1", "auto=1"] {
            assert!(matches!(parse(word), Err(OptionError::TakesNoValue(_))), "{word}");
        }
        assert_eq!(parse("user=me,comment=x,x-a=b"), parse(""));
    }

    #[test]
    fn words_for_other_tools_are_passed_over() {
        assert_eq!(parse("x-systemd.automount,nofail,comment=backup,user"), parse(""));
    }

    #[test]
    fn the_watchdog_has_patience_or_is_off() {
        assert_eq!(parse("").expect("nothing").watchdog, Some(WATCHDOG));
        assert_eq!(parse("watchdog=1min").expect("known").watchdog, Some(Duration::from_secs(60)));
        assert_eq!(parse("watchdog=off").expect("known").watchdog, None);
        assert!(matches!(parse("watchdog=1s"), Err(OptionError::BadValue("watchdog", ..))));
        assert!(matches!(parse("watchdog"), Err(OptionError::NeedsValue("watchdog", _))));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse("cache=1G").expect("known").cache_bytes, 1 << 30);
        assert_eq!(parse("dirty=64MiB").expect("known").dirty_bytes, 64 << 20);
        assert!(matches!(parse("cache=1"), Err(OptionError::BadValue("cache", ..))));
        assert!(matches!(parse("cache=xG"), Err(OptionError::BadValue("cache", ..))));
        assert!(matches!(parse("cache=99999999999G"), Err(OptionError::BadValue("cache", ..))));
        assert!(matches!(parse("cache"), Err(OptionError::NeedsValue("cache", _))));
    }

    #[test]
    fn unknown_words_are_named() {
        assert_eq!(parse("ro,fast"), Err(OptionError::Unknown("fast".into())));
        assert!(matches!(parse("timeo=0"), Err(OptionError::BadValue("timeo", ..))));
    }
}
