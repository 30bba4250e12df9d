//! Lines that strangers cause, without end if they like, and that must not fill the log.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Lines that are written in one window.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// Lets some lines pass in each window, and counts the others.
#[derive(Debug, Default)]
pub struct Hush {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Hush {
    /// Whether a line may be written at `now`; if so, how many were left out before it.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.begun.is_none_or(|begun| now.duration_since(begun) >= WINDOW) {
            state.begun = Some(now);
            state.written = 0;
        }
        if state.written == LINES {
            state.left_out += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_lines_of_each_window_pass_and_the_next_tells_of_the_others() {
        let (hush, begin) = (Hush::default(), Instant::now());
        let admitted = |seconds| hush.admit(begin + Duration::from_secs(seconds));
        for second in 0..5 {
            assert_eq!(admitted(second), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(admitted(59), None);
        }
        assert_eq!(admitted(60), Some(1000));
        assert_eq!(admitted(61), Some(0));
    }
}
