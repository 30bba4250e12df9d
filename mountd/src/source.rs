//! What is mounted: `host[:port][,host[:port]...]:/path`.

use cairn_common::config::{Address, AddressList, ConfigError};
use std::fmt;
use std::str::FromStr;

/// Metadata daemons, and the directory of the tree that is shown as the root of the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub servers: Vec<Address>,
    /// Names from the root of the tree on; empty mounts the whole tree.
    pub path: Vec<String>,
}

/// Why a source can't be used: one line for the user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("source '{0}' has no ':/': give it as host[:port][,host...]:/path, for example meta1:/")]
    NoPath(String),
    #[error("source '{0}' names no host before ':/'")]
    NoHost(String),
    #[error("source '{0}': {1}")]
    BadHost(String, ConfigError),
    #[error("the path '{0}' in the source contains '..' or '.': name the directory itself")]
    DotPath(String),
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Source, SourceError> {
        let (hosts, path) = text.split_once(":/").ok_or_else(|| SourceError::NoPath(text.to_owned()))?;
        if hosts.is_empty() {
            return Err(SourceError::NoHost(text.to_owned()));
        }
        let servers: AddressList = hosts.parse().map_err(|e| SourceError::BadHost(text.to_owned(), e))?;
        let path: Vec<String> = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if path.iter().any(|name| name == ".." || name == ".") {
            return Err(SourceError::DotPath(format!("/{}", path.join("/"))));
        }
        Ok(Source { servers: servers.0, path })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/{}", AddressList(self.servers.clone()), self.path.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Result<String, SourceError> {
        text.parse::<Source>().map(|s| s.to_string())
    }

    #[test]
    fn hosts_ports_and_paths() {
        assert_eq!(shown("m:/").as_deref(), Ok("m:/"));
        assert_eq!(shown("m:1,n:/a//b/").as_deref(), Ok("m:1,n:/a/b"));
        assert_eq!(shown("127.0.0.1:9000:/x").as_deref(), Ok("127.0.0.1:9000:/x"));
        assert_eq!(shown("[::1]:77:/x").as_deref(), Ok("[::1]:77:/x"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(matches!(shown("host"), Err(SourceError::NoPath(_))));
        assert!(matches!(shown(":/"), Err(SourceError::NoHost(_))));
        assert!(matches!(shown("a,:/"), Err(SourceError::BadHost(..))));
        assert!(matches!(shown("a:b:/"), Err(SourceError::BadHost(..))));
        assert!(matches!(shown("a:70000:/"), Err(SourceError::BadHost(..))));
        assert!(matches!(shown("a:/x/../y"), Err(SourceError::DotPath(_))));
    }

    proptest! {
        #[test]
        fn what_is_read_is_printed_and_read_again(text in "[a-z0-9:,/.\\[\\]]{0,30}|.{0,20}") {
            if let Ok(source) = text.parse::<Source>() {
                prop_assert_eq!(source.to_string().parse(), Ok(source));
            }
        }
    }
}
