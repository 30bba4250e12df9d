//! Waits with an end, and random numbers that can be had again.

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// Longest wait for anything. Nothing in a healthy cluster takes nearly as long.
pub const LIMIT: Duration = Duration::from_secs(90);
/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// What `future` answers; panics if that takes too long.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not done within {} s", LIMIT.as_secs()),
    }
}

/// Waits until `condition` holds; panics with what it last said if it does not within `limit`.
pub async fn eventually<F: Future<Output = Result<(), String>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) {
    let end = Instant::now() + limit;
    loop {
        let Err(why) = within(what, condition()).await else { return };
        assert!(Instant::now() < end, "{what}: not within {} s: {why}", limit.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

/// The seed of a test: `CAIRN_SEED`, or a new one. Printed, so that a failed run can be repeated.
#[must_use]
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("CAIRN_SEED").ok().map(|text| text.parse().expect("CAIRN_SEED is a number"));
    let seed = given.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("{test}: CAIRN_SEED={seed}");
    seed
}

/// Random numbers from [`seed`].
#[must_use]
pub fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
