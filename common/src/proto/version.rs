//! Versions of the protocol. A change of any message that crosses the wire is a new version.

/// What changed with each version, newest first.
pub const VERSIONS: &[(u16, &str)] = &[
    (5, "sessions are named by number and opening; mounts keep what they cannot store"),
    (4, "data daemons clean blocks that are partly dead"),
    (3, "data daemons ask which blocks they must have"),
    (2, "questions for cairn fsck; commits that move inline bytes only if they are still the same"),
    (1, "the first: sessions with operation logs, blocks in volumes"),
];

/// The newest version this build speaks.
pub const NEWEST: u16 = VERSIONS[0].0;
/// The oldest version this build still speaks.
pub const OLDEST: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_listed_newest_first_without_gaps() {
        assert!(VERSIONS.windows(2).all(|pair| pair[0].0 == pair[1].0 + 1));
        assert!(VERSIONS.iter().any(|(version, _)| *version == OLDEST));
    }
}
