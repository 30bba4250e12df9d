//! What `/proc/PID/status` says of a thread.

/// SIGKILL (9) as a bit of the kernel's signal sets.
const SIGKILL_BIT: u64 = 1 << 8;

/// The text for thread `pid`, as long as it exists.
#[must_use]
pub fn read(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

/// Whether it is being killed: a fatal signal of any kind puts SIGKILL in the pending set of each thread.
#[must_use]
pub fn has_sigkill_pending(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .filter_map(|set| u64::from_str_radix(set.trim(), 16).ok())
        .any(|set| set & SIGKILL_BIT != 0)
}

/// What it does, as one letter: see proc(5).
#[must_use]
pub fn state(status: &str) -> Option<char> {
    status.lines().find_map(|line| line.strip_prefix("State:"))?.trim_start().chars().next()
}

/// Whether it is on its way out, whatever the reason: its files are being closed.
#[must_use]
pub fn is_exiting(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| has_exit_flag(&stat))
}

/// PF_EXITING of the kernel, in the seventh field after the name, which may have any characters.
fn has_exit_flag(stat: &str) -> bool {
    const EXITING: u32 = 4;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let flags = fields.and_then(|fields| fields.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    #[test]
    fn sigkill_is_found_in_either_set() {
        assert!(!has_sigkill_pending("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n"));
        assert!(has_sigkill_pending("SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(has_sigkill_pending("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000102\n"));
    }

    #[test]
    fn who_is_on_the_way_out_is_known() {
        assert!(has_exit_flag("12 (a) b) S 1 12 12 0 -1 4194564 0 0\n"));
        assert!(!has_exit_flag("12 (a 4 4 4 4) S 1 12 12 0 -1 4194560 0 0\n"));
        assert!(!has_exit_flag("") && !is_exiting(std::process::id()));
    }

    /// One that has ended, and that nobody has asked for its exit code.
    #[test]
    fn another_process_is_seen() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert_eq!(read(child.id()).as_deref().and_then(state), Some('Z'));
        assert!(is_exiting(child.id()));
        assert!(child.wait().unwrap().success());
        assert!(read(child.id()).is_none() && !is_exiting(child.id()), "it is gone");
    }

    #[test]
    fn the_state_is_a_letter() {
        assert_eq!(state("Name:\tcairn\nState:\tZ (zombie)\n"), Some('Z'));
        assert_eq!(state("Name:\tcairn\n"), None);
        assert_eq!(
            read(std::process::id()).as_deref().and_then(state).map(|state| "RSD".contains(state)),
            Some(true)
        );
    }
}
