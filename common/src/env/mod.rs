//! Time and chance behind small traits, so that what decides by them can be tested without waiting
//! and repeated from a seed; and what the system lets this process have.

pub mod clock;
pub mod files;
pub mod rng;

pub use clock::{Clock, ManualClock, SystemClock};
pub use rng::{Rng, SeededRng, SystemRng};
