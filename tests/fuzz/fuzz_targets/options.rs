//! What a mount is told: its source and its options.
#![no_main]

use cairn_fuzz::{MIB, within};
use cairn_mountd::options::MountOptions;
use cairn_mountd::source::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    within(MIB, || {
        source(text);
        options(text);
    });
});

fn source(text: &str) {
    let Ok(source) = text.parse::<Source>() else { return };
    let printed = source.to_string();
    assert_eq!(printed.parse(), Ok(source), "printed as {printed}");
}

/// Words one by one mean what they mean together, and said twice they mean the same.
fn options(text: &str) {
    let mut together = MountOptions::default();
    if together.parse(text).is_err() {
        return;
    }
    let mut one_by_one = MountOptions::default();
    for word in text.split(',') {
        one_by_one.parse(word).expect("it is fine with the others");
    }
    assert_eq!(one_by_one, together);
    let mut twice = together.clone();
    twice.parse(text).expect("it was fine before");
    assert_eq!(twice, together);
}
