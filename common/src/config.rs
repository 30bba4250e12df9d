//! What people write in configuration files and on command lines: sizes, times, addresses. Each
//! parses with a one-line error, prints as it is written, and works with serde.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// Port of a metadata daemon where none is named.
pub const META_PORT: u16 = 9420;
/// Port of a data daemon where none is named.
pub const DATA_PORT: u16 = 9421;

/// Why a value or file is refused. One line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("\"{0}\" is no size; write a number with K, M, G or T, as in 64MiB or 4G")]
    Size(String),
    #[error("\"{0}\" is no time; write a number with ms, s, min or h, as in 100ms or 30s")]
    Duration(String),
    #[error("\"{0}\" is no address; write host, host:port or [ipv6]:port")]
    Address(String),
    #[error("\"{0}\" is a port without a host; write 0.0.0.0:{0} for all addresses of this machine")]
    PortOnly(String),
    #[error("read {path}: {error}")]
    Read { path: String, error: String },
    #[error("{path}: {error}")]
    Content { path: String, error: String },
}

/// A number of bytes: "64MiB", "4G", "512". Units are powers of 1024, with or without "iB" or "B".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u32); 5] = [("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40)];

impl FromStr for ByteSize {
    type Err = ConfigError;
    fn from_str(text: &str) -> Result<ByteSize, ConfigError> {
        let error = || ConfigError::Size(text.to_owned());
        let (number, unit) = split_number(text).ok_or_else(error)?;
        let unit = unit.to_ascii_uppercase();
        let unit = unit
            .strip_suffix("IB")
            .filter(|rest| !rest.is_empty())
            .or(unit.strip_suffix('B'))
            .unwrap_or(&unit);
        let (_, shift) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        number.checked_mul(1 << shift).map(ByteSize).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |&&(_, shift): &&(&str, u32)| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match SIZE_UNITS[1..].iter().rev().find(exact) {
            Some((unit, shift)) => write!(f, "{}{unit}iB", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl ByteSize {
    /// As a size in memory; what does not fit the machine is the largest there is.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A time span: "30s", "100ms", "5min". A number alone is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

/// Units in microseconds, smallest first.
const TIME_UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

impl FromStr for HumanDuration {
    type Err = ConfigError;
    fn from_str(text: &str) -> Result<HumanDuration, ConfigError> {
        let error = || ConfigError::Duration(text.to_owned());
        let (number, unit) = split_number(text).ok_or_else(error)?;
        let unit = match unit {
            "" => "s",
            "m" => "min",
            other => other,
        };
        let (_, micros) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        let micros = number.checked_mul(*micros).ok_or_else(error)?;
        Ok(HumanDuration(Duration::from_micros(micros)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let exact = |&&(_, unit): &&(&str, u64)| micros != 0 && micros.is_multiple_of(u128::from(unit));
        match TIME_UNITS.iter().rev().find(exact) {
            Some((name, unit)) => write!(f, "{}{name}", micros / u128::from(*unit)),
            None => write!(f, "{micros}us"),
        }
    }
}

/// A number and what follows it, spaces between them ignored.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// A host, by name or number, and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: String,
    /// `None`: the service's usual port.
    pub port: Option<u16>,
}

impl Address {
    /// An address with a port.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Address {
        Address { host: host.into(), port: Some(port) }
    }

    /// Host and port as `bind` and `connect` take them.
    #[must_use]
    pub fn with_default_port(&self, default: u16) -> (&str, u16) {
        (&self.host, self.port.unwrap_or(default))
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Address {
        Address::new(address.ip().to_string(), address.port())
    }
}

impl FromStr for Address {
    type Err = ConfigError;
    fn from_str(text: &str) -> Result<Address, ConfigError> {
        let error = || ConfigError::Address(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(error)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(error)?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/,@[]".contains(c);
        if host.is_empty() || host.contains(strange) {
            return Err(error());
        }
        if port.is_none() && host.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ConfigError::PortOnly(host.to_owned()));
        }
        let port = port.map(|port| port.parse().map_err(|_| error())).transpose()?;
        Ok(Address { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (true, None) => write!(f, "[{}]", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (false, None) => f.write_str(&self.host),
        }
    }
}

/// One or more addresses: `host[:port][,host[:port]...]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressList(pub Vec<Address>);

impl FromStr for AddressList {
    type Err = ConfigError;
    fn from_str(text: &str) -> Result<AddressList, ConfigError> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(AddressList)
    }
}

impl fmt::Display for AddressList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// Reads a configuration file. `T` should refuse unknown keys (`#[serde(deny_unknown_fields)]`); the
/// error is one line with file, line and reason.
pub fn load_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Read { path: name.clone(), error: error.to_string() })?;
    parse_toml(&name, &text)
}

fn parse_toml<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let path = line.map_or(name.to_owned(), |line| format!("{name}:{line}"));
        ConfigError::Content { path, error: error.message().replace('\n', " ") }
    })
}

/// serde as text; sizes and times may also be plain numbers.
macro_rules! serde_as_text {
    ($name:ident, $expected:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}

serde_as_text!(ByteSize, "a size such as \"64MiB\"");
serde_as_text!(HumanDuration, "a time such as \"30s\"");
serde_as_text!(Address, "an address such as \"host:9420\"");
serde_as_text!(AddressList, "addresses such as \"host1,host2:9420\"");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> Option<u64> {
        text.parse().ok().map(|ByteSize(bytes)| bytes)
    }

    fn micros(text: &str) -> Option<u128> {
        text.parse().ok().map(|HumanDuration(time)| time.as_micros())
    }

    #[test]
    fn sizes() {
        let good = [
            ("0", 0),
            ("512", 512),
            ("7B", 7),
            ("4k", 4096),
            ("64MiB", 64 << 20),
            ("4 GB", 4 << 30),
            ("1t", 1 << 40),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "4X", "iB", "4iB", "99999999999T"] {
            assert_eq!(size(text), None, "{text}");
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000");
    }

    #[test]
    fn times() {
        for (text, expected) in
            [("30s", 30_000_000), ("100ms", 100_000), ("2", 2_000_000), ("1m", 60_000_000), ("0s", 0)]
        {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
        for text in ["", "s", "5 weeks", "-3s", "99999999999999999d"] {
            assert_eq!(micros(text), None, "{text}");
        }
        assert_eq!(HumanDuration(Duration::from_millis(1500)).to_string(), "1500ms");
    }

    #[test]
    fn addresses() {
        let list: AddressList = "meta1, 10.0.0.2:99,[::1]:7,[fe80::1]".parse().unwrap();
        let ports: Vec<_> = list.0.iter().map(|a| a.with_default_port(META_PORT)).collect();
        assert_eq!(ports, [("meta1", META_PORT), ("10.0.0.2", 99), ("::1", 7), ("fe80::1", META_PORT)]);
        assert_eq!(list.to_string(), "meta1,10.0.0.2:99,[::1]:7,[fe80::1]");
        for text in
            ["", "a,,b", "a:port", "a:99999", ":9420", "[::1", "[x]:1", "::1", "a b", "host/x", "9420"]
        {
            assert!(text.parse::<AddressList>().is_err(), "{text}");
        }
    }

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        cache: ByteSize,
        wait: HumanDuration,
        meta: AddressList,
    }

    #[test]
    fn a_file_round_trips_and_unknown_keys_are_named() {
        let text = "cache = \"64MiB\"\nwait = 3\nmeta = \"a,b:1\"\n";
        let sample: Sample = parse_toml("f", text).unwrap();
        assert_eq!(sample.wait, HumanDuration(Duration::from_secs(3)));
        assert_eq!(parse_toml::<Sample>("f", &toml::to_string(&sample).unwrap()).unwrap(), sample);
        let error = parse_toml::<Sample>("c.toml", &format!("{text}cash = 1\n")).unwrap_err().to_string();
        assert!(error.starts_with("c.toml:4: unknown field `cash`"), "{error}");
        let error = parse_toml::<Sample>("c.toml", "cache = \"lots\"").unwrap_err().to_string();
        assert!(error.starts_with("c.toml:1: \"lots\" is no size") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_port_alone_is_no_address() {
        for text in ["meta = 9420\ncache = 1\nwait = 1", "meta = \"9420\"\ncache = 1\nwait = 1"] {
            let error = parse_toml::<Sample>("c.toml", text).unwrap_err().to_string();
            assert!(error.starts_with("c.toml:1: \"9420\" is a port without a host"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load_toml::<Sample>(Path::new("/nonexistent/c.toml")).unwrap_err().to_string();
        assert!(error.starts_with("read /nonexistent/c.toml: No such file"), "{error}");
    }

    proptest! {
        #[test]
        fn printed_values_parse_back(bytes: u64, time in 0..u64::MAX / 2) {
            prop_assert_eq!(size(&ByteSize(bytes).to_string()), Some(bytes));
            let text = HumanDuration(Duration::from_micros(time)).to_string();
            prop_assert_eq!(micros(&text), Some(u128::from(time)));
        }

        #[test]
        fn any_text_gives_a_value_or_an_error(text: String) {
            let _ = (size(&text), micros(&text), text.parse::<AddressList>());
        }
    }
}
