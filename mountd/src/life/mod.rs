//! A mount leaves a proof of its death on its machine.
//!
//! The problem: when a mount goes silent, the metadata daemon can't know whether it is dead or only cut off, and
//! has to give it the session time-out before anyone else may go on. The machine it ran on knows at once.
//!
//! So a mount that lives holds a lock (`flock`) on a *life file* that names its session. The kernel gives the lock
//! up when the process is gone, however it ended, and never before. Whoever gets the lock of somebody else's file
//! knows that no process can send anything for that session any more, ends it as an unmount does, and removes the
//! file. Who looks: each mount before it opens its own session, and each living mount when the kernel says that such
//! a file was closed.
//!
//! ```text
//! place (which directory) ─▶ files (hold, find the dead) ─▶ judge (what a file means) ─▶ record (bytes)
//!                            own (the session's own file), watch (a file was closed)
//! ```
//!
//! It is a short cut and nothing rests on it: without a file, or a directory for it, the time-out ends the session.

mod files;
mod judge;
mod own;
mod place;
mod record;
mod watch;

pub use files::{Dead, Held, LifeFiles};
pub use own::OwnLife;
pub use place::VARIABLE;
pub use record::{BootId, LifeRecord};
pub use watch::Watch;
