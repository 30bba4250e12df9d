//! Time and chance behind small traits, so that what decides by them can be tested without waiting
//! and repeated from a seed.

pub mod clock;
pub mod rng;

pub use clock::{Clock, ManualClock, SystemClock};
pub use rng::{Rng, SeededRng, SystemRng};
