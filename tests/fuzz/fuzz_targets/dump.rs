//! Metadata as text: what is loaded can be opened, checked, and written as the same text again and again.
#![no_main]

use cairn_common::namespace::check::check;
use cairn_common::wire::checksum::crc64;
use cairn_fsd::disk::sim::SimDisk;
use cairn_fsd::meta::dump::{load, write};
use cairn_fsd::meta::machine::bare::{Bare, BareDir};
use cairn_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// The daemon's cache for the tables is within.
const HELD_MAX: usize = 32 * MIB;

fuzz_target!(|data: &[u8]| {
    within(HELD_MAX, || {
        let _ = loaded(data);
        let Some(first) = loaded(&with_end(data)) else { return };
        let second = loaded(&first).expect("what was written is loaded");
        assert_eq!(String::from_utf8_lossy(&second), String::from_utf8_lossy(&first));
    });
});

/// What is written of what a text says; `None` if it is refused.
fn loaded(text: &[u8]) -> Option<Vec<u8>> {
    let disk = SimDisk::new();
    load(&mut &*text, &disk).ok()?;
    let bare: Bare = BareDir::on(Arc::new(disk)).load().expect("what was loaded can be opened");
    // What is wrong with the tree is said, whatever it is.
    bare.read(check).expect("each row is one that can be read");
    let mut out = Vec::new();
    write(&bare, &mut out).expect("each row is one that is written");
    Some(out)
}

/// With the last line that fits: its checksum is not worth a search.
fn with_end(lines: &[u8]) -> Vec<u8> {
    let mut text = lines.to_vec();
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    let rows = text.iter().filter(|byte| **byte == b'\n').count().saturating_sub(2);
    let end = format!("{{\"end\":{{\"rows\":{rows},\"crc64\":\"{:016x}\"}}}}\n", crc64(&text));
    text.extend(end.bytes());
    text
}
