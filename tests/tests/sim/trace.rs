//! What happened, line by line: a sum over all of it, and the last lines for who has to find out.

use crate::world::{MILLI, Micros};
use std::collections::VecDeque;
use std::fmt::{Arguments, Write};

/// Lines kept for a failure.
const KEPT: usize = 120;

/// See the module.
#[derive(Default)]
pub struct Trace {
    /// FNV-1a over all lines.
    sum: u64,
    lines: VecDeque<String>,
    /// Each line goes to the standard error at once.
    loud: bool,
}

impl Trace {
    pub fn new(loud: bool) -> Trace {
        Trace { sum: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), loud }
    }

    pub fn say(&mut self, now: Micros, text: Arguments<'_>) {
        let mut line =
            if self.lines.len() == KEPT { self.lines.pop_front() } else { None }.unwrap_or_default();
        line.clear();
        write!(line, "{:>9}.{:03} {text}", now / MILLI, now % MILLI).expect("a string takes it");
        for byte in line.bytes() {
            self.sum = (self.sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.loud {
            eprintln!("{line}");
        }
        self.lines.push_back(line);
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn last_lines(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
