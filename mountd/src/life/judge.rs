//! What a file in the run directory means, decided without touching one.

use super::record::{BootId, LifeRecord};
use cairn_common::attr::Timestamp;
use cairn_common::ids::{ClusterId, SessionId};

/// How names of life files begin.
const PREFIX: &str = "mount-";
/// Ending of a life file that is being made.
pub const TEMPORARY: &str = ".tmp";

/// The name of a session's life file. No two sessions have the same, so no file ever replaces another.
#[must_use]
pub fn name(cluster: ClusterId, session: SessionId) -> String {
    format!("{PREFIX}{cluster}-{:016x}", session.0)
}

/// What a name alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A session of this cluster.
    Ours(SessionId),
    /// A file that is being made, or that its maker left behind half made.
    Unfinished,
    /// A session of another cluster: only a mount of that one can end it.
    OtherCluster,
    Foreign,
}

/// Looks at a name on behalf of a mount of `cluster`.
#[must_use]
pub fn named(text: &str, cluster: ClusterId) -> Named {
    let whole = text.strip_suffix(TEMPORARY);
    match parse(whole.unwrap_or(text)) {
        None => Named::Foreign,
        Some((of, _)) if of != cluster => Named::OtherCluster,
        Some(_) if whole.is_some() => Named::Unfinished,
        Some((_, session)) => Named::Ours(session),
    }
}

fn parse(text: &str) -> Option<(ClusterId, SessionId)> {
    let (cluster, session) = text.strip_prefix(PREFIX)?.split_once('-')?;
    let cluster = ClusterId(u128::from_str_radix(cluster, 16).ok()?);
    let session = SessionId(u64::from_str_radix(session, 16).ok()?);
    (name(cluster, session) == text).then_some((cluster, session))
}

/// What is to be done about a life file that nobody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its mount is dead: end the session, then remove the file.
    Dead { opened: Option<Timestamp>, about: String },
    /// It is of an earlier run of this kernel, or of another machine: no proof of anything any more.
    Stale,
    /// Left alone; says why.
    Damaged(String),
}

/// Judges the content of the unlocked file that is named after `session` of `cluster`.
#[must_use]
pub fn judge(bytes: &[u8], cluster: ClusterId, session: SessionId, boot: BootId) -> Verdict {
    match LifeRecord::decode(bytes) {
        Err(why) => Verdict::Damaged(why),
        Ok(record) if (record.cluster, record.session) != (cluster, session) => {
            Verdict::Damaged("does not fit its name".into())
        }
        // An unlocked file proves a death only to the kernel that had it locked: the directory may have outlived
        // a restart, or be shared with another machine.
        Ok(record) if record.boot != boot => Verdict::Stale,
        Ok(record) => Verdict::Dead { opened: record.opened, about: record.about },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(0xabc);
    const SESSION: SessionId = SessionId(0x1f);
    const BOOT: BootId = BootId(77);
    const OPENED: Option<Timestamp> = Some(Timestamp { secs: 3, nanos: 4 });

    fn bytes(cluster: ClusterId, session: SessionId, boot: BootId) -> Vec<u8> {
        LifeRecord { cluster, session, opened: OPENED, boot, about: "m:/ at /mnt".into() }.encode()
    }

    #[test]
    fn names_tell_cluster_and_session() {
        let own = name(CLUSTER, SESSION);
        assert_eq!(own, "mount-00000000000000000000000000000abc-000000000000001f");
        assert_eq!(named(&own, CLUSTER), Named::Ours(SESSION));
        assert_eq!(named(&format!("{own}.tmp"), CLUSTER), Named::Unfinished);
        assert_eq!(named(&own, ClusterId(1)), Named::OtherCluster);
        assert_eq!(named(&format!("{own}.tmp"), ClusterId(1)), Named::OtherCluster);
    }

    #[test]
    fn other_names_are_foreign() {
        for text in ["", "mount-", "pid", "mount-abc-1f", ".tmp", &name(CLUSTER, SESSION).to_uppercase()] {
            assert_eq!(named(text, CLUSTER), Named::Foreign, "{text}");
        }
        assert_eq!(named(&format!("{}0", name(CLUSTER, SESSION)), CLUSTER), Named::Foreign);
    }

    #[test]
    fn a_whole_file_of_this_boot_proves_the_death() {
        let verdict = judge(&bytes(CLUSTER, SESSION, BOOT), CLUSTER, SESSION, BOOT);
        assert_eq!(verdict, Verdict::Dead { opened: OPENED, about: "m:/ at /mnt".into() });
    }

    #[test]
    fn a_file_of_another_boot_proves_nothing() {
        assert_eq!(judge(&bytes(CLUSTER, SESSION, BootId(78)), CLUSTER, SESSION, BOOT), Verdict::Stale);
    }

    #[test]
    fn a_file_that_does_not_fit_its_name_is_left_alone() {
        for other in [bytes(ClusterId(1), SESSION, BOOT), bytes(CLUSTER, SessionId(2), BOOT)] {
            assert!(matches!(judge(&other, CLUSTER, SESSION, BOOT), Verdict::Damaged(_)));
        }
        assert!(matches!(judge(b"", CLUSTER, SESSION, BOOT), Verdict::Damaged(_)));
    }
}
