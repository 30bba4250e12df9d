//! The first exchange of a connection: who are you, what do you speak, which cluster is yours.
//!
//! Written by hand and not by the codec: two versions that have nothing else in common must still
//! understand this much, to say clearly why they part. New fields go to the end; what a receiver
//! does not know it ignores.

use crate::ids::ClusterId;
use crate::proto::version;
use parking_lot::Mutex;
use std::sync::Arc;

/// Longest encoded hello that is accepted.
pub const HELLO_MAX: usize = 1024;
/// Longest role text.
const ROLE_MAX: usize = 200;

/// What a server offers, and what a client wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    Meta,
    Data,
}

impl std::fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ServiceKind::Meta => "metadata",
            ServiceKind::Data => "data",
        })
    }
}

/// What each side says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest protocol version spoken.
    pub oldest: u16,
    pub newest: u16,
    /// 0 while unknown.
    pub cluster: ClusterId,
    pub service: ServiceKind,
    /// Free text for logs and status: "mount host:/mnt".
    pub role: String,
}

/// Why two sides can't work together. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error(
        "peer speaks protocol versions {theirs_oldest} to {theirs_newest}, we speak {ours_oldest} to {ours_newest}: \
         install the same Cairn release on both"
    )]
    Version { theirs_oldest: u16, theirs_newest: u16, ours_oldest: u16, ours_newest: u16 },
    #[error("peer offers the {theirs} service, we want {ours}: check the address and port")]
    Service { theirs: ServiceKind, ours: ServiceKind },
    #[error(
        "peer belongs to cluster {theirs}, we belong to {ours}: check the address, or the data directory"
    )]
    Cluster { theirs: ClusterId, ours: ClusterId },
    #[error("peer {0}: check the address and port")]
    NotCairn(Foreign),
}

/// What somebody speaks who does not speak Cairn's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Http,
    Tls,
    Ssh,
    Unknown,
}

impl Foreign {
    /// By the first bytes that came.
    #[must_use]
    pub fn of(first: &[u8]) -> Foreign {
        match first {
            b"GET " | b"HEAD" | b"POST" | b"PUT " | b"OPTI" | b"CONN" | b"PRI " | b"HTTP" => Foreign::Http,
            [0x16, 3, ..] => Foreign::Tls,
            b"SSH-" => Foreign::Ssh,
            _ => Foreign::Unknown,
        }
    }
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Foreign::Http => "speaks HTTP, not Cairn's protocol",
            Foreign::Tls => "speaks TLS, not Cairn's protocol",
            Foreign::Ssh => "speaks SSH, not Cairn's protocol",
            Foreign::Unknown => "does not speak Cairn's protocol",
        })
    }
}

impl Hello {
    /// What this build says.
    #[must_use]
    pub fn new(service: ServiceKind, cluster: ClusterId, role: &str) -> Hello {
        let mut end = role.len().min(ROLE_MAX);
        while !role.is_char_boundary(end) {
            end -= 1;
        }
        let role = role[..end].to_owned();
        Hello { oldest: version::OLDEST, newest: version::NEWEST, cluster, service, role }
    }

    /// The header of a hello frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(22 + self.role.len());
        out.extend(self.oldest.to_be_bytes());
        out.extend(self.newest.to_be_bytes());
        out.extend(self.cluster.0.to_be_bytes());
        out.push(match self.service {
            ServiceKind::Meta => 1,
            ServiceKind::Data => 2,
        });
        let role = &self.role.as_bytes()[..self.role.len().min(ROLE_MAX)];
        out.push(u8::try_from(role.len()).expect("ROLE_MAX fits"));
        out.extend(role);
        out
    }

    /// Reads the header of a hello frame.
    pub fn decode(bytes: &[u8]) -> Result<Hello, Mismatch> {
        Self::decode_fields(bytes).ok_or(Mismatch::NotCairn(Foreign::Unknown))
    }

    fn decode_fields(bytes: &[u8]) -> Option<Hello> {
        let (oldest, rest) = bytes.split_first_chunk()?;
        let (newest, rest) = rest.split_first_chunk()?;
        let (cluster, rest) = rest.split_first_chunk()?;
        let (&[service, role_len], rest) = rest.split_first_chunk()?;
        let role = rest.get(..usize::from(role_len))?;
        Some(Hello {
            oldest: u16::from_be_bytes(*oldest),
            newest: u16::from_be_bytes(*newest),
            cluster: ClusterId(u128::from_be_bytes(*cluster)),
            service: match service {
                1 => ServiceKind::Meta,
                2 => ServiceKind::Data,
                _ => return None,
            },
            role: printable(role),
        })
    }
}

/// Text of a peer as it may stand in a log line.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Decides whether two sides can work together; the protocol version to speak. Both sides decide
/// by the same rule, so they agree on the answer.
pub fn agree(ours: &Hello, theirs: &Hello) -> Result<u16, Mismatch> {
    if theirs.service != ours.service {
        return Err(Mismatch::Service { theirs: theirs.service, ours: ours.service });
    }
    let version = ours.newest.min(theirs.newest);
    if version < ours.oldest.max(theirs.oldest) {
        return Err(Mismatch::Version {
            theirs_oldest: theirs.oldest,
            theirs_newest: theirs.newest,
            ours_oldest: ours.oldest,
            ours_newest: ours.newest,
        });
    }
    let unknown = ClusterId(0);
    if theirs.cluster != ours.cluster && theirs.cluster != unknown && ours.cluster != unknown {
        return Err(Mismatch::Cluster { theirs: theirs.cluster, ours: ours.cluster });
    }
    Ok(version)
}

/// What a process says in each hello of one service. Shared, because the cluster may be learnt
/// after the first connection: from then on another cluster is refused.
#[derive(Clone, Debug)]
pub struct Identity {
    hello: Arc<Mutex<Hello>>,
}

impl Identity {
    #[must_use]
    pub fn new(service: ServiceKind, cluster: ClusterId, role: &str) -> Identity {
        Identity::saying(Hello::new(service, cluster, role))
    }

    /// One that says this, as of a build that speaks other versions.
    #[must_use]
    pub fn saying(hello: Hello) -> Identity {
        Identity { hello: Arc::new(Mutex::new(hello)) }
    }

    /// What to say now.
    #[must_use]
    pub fn hello(&self) -> Hello {
        self.hello.lock().clone()
    }

    /// Sets the cluster, once it is known. A known one stays as it is.
    pub fn learn_cluster(&self, cluster: ClusterId) {
        let mut hello = self.hello.lock();
        if hello.cluster == ClusterId(0) {
            hello.cluster = cluster;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use proptest::prelude::*;

    fn hello(service: ServiceKind, cluster: u128, oldest: u16, newest: u16) -> Hello {
        Hello { oldest, newest, ..Hello::new(service, ClusterId(cluster), "test") }
    }

    #[test]
    fn golden_bytes() {
        let bytes = hello(ServiceKind::Data, 0x0102, 1, 3).encode();
        let expected = [&[0, 1, 0, 3][..], &[0; 14], &[1, 2], &[2], &[4], b"test"].concat();
        assert_eq!(bytes, expected);
        let longer = [&bytes[..], b"a later version's field"].concat();
        assert_eq!(Hello::decode(&longer).unwrap(), hello(ServiceKind::Data, 0x0102, 1, 3));
    }

    #[test]
    fn the_highest_common_version_wins() {
        let ours = hello(ServiceKind::Meta, 7, 2, 5);
        assert_eq!(agree(&ours, &hello(ServiceKind::Meta, 7, 4, 9)), Ok(5));
        assert_eq!(agree(&ours, &hello(ServiceKind::Meta, 0, 1, 2)), Ok(2));
        let error = agree(&ours, &hello(ServiceKind::Meta, 7, 6, 9)).unwrap_err();
        assert!(error.to_string().contains("6 to 9"), "{error}");
    }

    #[test]
    fn another_cluster_or_service_is_refused_by_both_sides() {
        let meta = hello(ServiceKind::Meta, 7, 1, 1);
        for other in [hello(ServiceKind::Data, 7, 1, 1), hello(ServiceKind::Meta, 8, 1, 1)] {
            assert!(agree(&meta, &other).is_err());
            assert!(agree(&other, &meta).is_err());
        }
    }

    #[test]
    fn what_others_speak_is_said() {
        for (first, text) in [
            (
                &b"GET / HTTP/1.1\r\n"[..],
                "peer speaks HTTP, not Cairn's protocol: check the address and port",
            ),
            (b"\x16\x03\x01\x00", "peer speaks TLS, not Cairn's protocol: check the address and port"),
            (b"SSH-", "peer speaks SSH, not Cairn's protocol: check the address and port"),
            (b"\0\0\0\0", "peer does not speak Cairn's protocol: check the address and port"),
        ] {
            assert_eq!(Mismatch::NotCairn(Foreign::of(&first[..4])).to_string(), text);
        }
    }

    #[test]
    fn a_cluster_is_learnt_once() {
        let identity = Identity::new(ServiceKind::Meta, ClusterId(0), "mount");
        identity.learn_cluster(ClusterId(5));
        identity.learn_cluster(ClusterId(6));
        assert_eq!(identity.hello().cluster, ClusterId(5));
    }

    #[test]
    fn long_roles_are_cut_at_a_character() {
        let role = "ü".repeat(150);
        let hello = Hello::new(ServiceKind::Meta, ClusterId(0), &role);
        assert_eq!(Hello::decode(&hello.encode()).unwrap().role, "ü".repeat(100));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Hello::decode(&bytes);
        }
    }
}
