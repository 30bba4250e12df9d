//! The one place that decides how long the kernel may go without asking.
//!
//! While this mount is the only one (`sole`), nobody else changes names and attributes, and the kernel
//! sees its own changes. As soon as a second mount attaches, everything is asked for each time.
//! Taking back needs the epoch notification (Linux 6.16): it also catches answers that are still on
//! their way. On older kernels nothing is given out in the first place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// As good as for ever; what ends it is the notification.
const LONG: Duration = Duration::from_secs(3600);

/// How long the kernel may cache.
#[derive(Debug, Default)]
pub struct CachePolicy {
    sole: AtomicBool,
    generation: AtomicU64,
    /// The kernel can take everything back at once.
    epoch_works: AtomicBool,
}

impl CachePolicy {
    /// Told at the start, when the kernel has been asked.
    pub fn set_epoch_works(&self, works: bool) {
        self.epoch_works.store(works, Ordering::SeqCst);
    }

    /// This mount is (not) the only one, as of `generation`. False if something newer is known.
    pub fn set_sole(&self, sole: bool, generation: u64) -> bool {
        if self.generation.fetch_max(generation, Ordering::SeqCst) > generation {
            return false;
        }
        self.sole.store(sole, Ordering::SeqCst);
        true
    }

    /// Whether nobody else can change names and attributes.
    #[must_use]
    pub fn is_sole(&self) -> bool {
        self.sole.load(Ordering::SeqCst)
    }

    /// The session was ended: the next one may be with a server that counts from a lower number.
    pub fn start_anew(&self) {
        self.sole.store(false, Ordering::SeqCst);
        self.generation.store(0, Ordering::SeqCst);
    }

    /// For names, negative ones included.
    #[must_use]
    pub fn entry_ttl(&self) -> Duration {
        if self.is_sole() && self.epoch_works.load(Ordering::SeqCst) { LONG } else { Duration::ZERO }
    }

    /// For attributes.
    #[must_use]
    pub fn attr_ttl(&self) -> Duration {
        self.entry_ttl()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sole_mount_on_a_kernel_with_epochs_lets_the_kernel_cache() {
        let policy = CachePolicy::default();
        policy.set_sole(true, 1);
        assert_eq!(policy.entry_ttl(), Duration::ZERO);
        policy.set_epoch_works(true);
        assert_eq!(policy.entry_ttl(), LONG);
        policy.set_sole(false, 2);
        assert_eq!(policy.attr_ttl(), Duration::ZERO);
    }

    #[test]
    fn a_server_with_an_older_history_is_heard() {
        let policy = CachePolicy::default();
        policy.set_epoch_works(true);
        assert!(policy.set_sole(true, 5 << 40));
        policy.start_anew();
        assert_eq!(policy.entry_ttl(), Duration::ZERO);
        assert!(policy.set_sole(false, 3 << 40));
        assert!(policy.set_sole(true, (3 << 40) + 1) && policy.is_sole());
    }

    #[test]
    fn an_older_word_does_not_count() {
        let policy = CachePolicy::default();
        policy.set_epoch_works(true);
        assert!(policy.set_sole(false, 5));
        assert!(!policy.set_sole(true, 4));
        assert!(!policy.is_sole());
    }
}
