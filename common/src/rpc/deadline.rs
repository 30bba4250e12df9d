//! Every request has a deadline: no call waits for ever.

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tarpc::context::Context;

/// For calls that have no better idea.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// Longest deadline a peer may ask for; more is cut (timers can't hold everything).
pub const LONGEST_DEADLINE: Duration = Duration::from_secs(3600);

/// A context whose deadline is `timeout` from now, at most [`LONGEST_DEADLINE`].
#[must_use]
pub fn context_within(timeout: Duration) -> Context {
    // tarpc's own constructor asks the tracing machinery each time; we don't use its traces.
    static TEMPLATE: LazyLock<Context> = LazyLock::new(tarpc::context::current);
    let mut context = *TEMPLATE;
    context.deadline = Instant::now() + timeout.min(LONGEST_DEADLINE);
    context
}

/// Time left until the deadline of `context`.
#[must_use]
pub fn remaining(context: &Context) -> Duration {
    context.deadline.saturating_duration_since(Instant::now())
}
