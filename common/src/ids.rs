//! Names of things: newtypes, so that an inode number can't be passed where a volume is meant.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Inode number. Never reused. 0 is not an inode; 1 is the root.
    Ino(u64)
);
id!(
    /// A data daemon, as registered with the metadata daemon.
    NodeId(u32)
);
id!(
    /// A volume: an append-only file of blocks. Assigned by the metadata daemon, never reused.
    VolumeId(u32)
);
id!(
    /// A mount's session with the metadata daemon. Assigned by the server, never reused in one history of its tables.
    SessionId(u64)
);
impl SessionId {
    /// No mount's: what data daemons store themselves when they clean. It never ends.
    pub const NOBODY: SessionId = SessionId(0);
}
id!(
    /// Position of an operation in its session's operation log. The first operation is 1.
    Seq(u64)
);
id!(
    /// Position of an entry in the metadata log. The first entry is 1.
    LogIndex(u64)
);
id!(
    /// Counts the incarnations of a server: it grows with each start.
    Epoch(u64)
);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

impl Seq {
    /// The sequence number after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

/// Identity of a cluster: random, chosen when the metadata daemon's directory is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Name of an immutable block: where it is, and the cookie without which no data daemon gives it out.
///
/// The cookie is random and chosen at the put; the pair of name and cookie is a capability
/// (Haystack, OSDI'10, uses the same trick against guessed names).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockRef {
    /// The volume that holds the block.
    pub volume: VolumeId,
    /// The block's number in its volume, counted from 1.
    pub sequence: u32,
    /// Random capability.
    pub cookie: u32,
}

impl fmt::Display for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{:08x}", self.volume, self.sequence, self.cookie)
    }
}
