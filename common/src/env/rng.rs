//! Chance: cookies of blocks, cluster ids, jitter.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::fmt::Debug;

/// A source of random numbers.
pub trait Rng: Debug + Send + Sync {
    fn u64(&self) -> u64;

    fn u32(&self) -> u32 {
        let [a, b, c, d, ..] = self.u64().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn u128(&self) -> u128 {
        u128::from(self.u64()) << 64 | u128::from(self.u64())
    }
}

/// Unpredictable numbers, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn u64(&self) -> u64 {
        rand::random()
    }
}

/// The same numbers for the same seed.
#[derive(Debug)]
pub struct SeededRng {
    state: Mutex<StdRng>,
}

impl SeededRng {
    #[must_use]
    pub fn new(seed: u64) -> SeededRng {
        SeededRng { state: Mutex::new(StdRng::seed_from_u64(seed)) }
    }
}

impl Rng for SeededRng {
    fn u64(&self) -> u64 {
        self.state.lock().next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_seeds_differ() {
        let draw = |seed| {
            let rng = SeededRng::new(seed);
            (rng.u32(), rng.u64(), rng.u128())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
