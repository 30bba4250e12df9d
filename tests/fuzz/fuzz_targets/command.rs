//! Entries of the metadata log.
#![no_main]

use cairn_fsd::meta::apply::Command;
use cairn_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The codec believes no length above 64 MiB.
    let Ok(command) = within(66 * MIB, || Command::decode(data)) else { return };
    let entry = command.encode().expect("not longer than it came");
    assert!(entry.len() <= data.len());
    assert_eq!(Command::decode(&entry).as_ref(), Ok(&command));
});
