//! The summary at the end of a block.
#![no_main]

use cairn_common::summary::{decode, encode, encoded_len};
use cairn_common::wire::checksum::crc32c;
use cairn_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;

/// Bytes 6 and 7 are reserved.
const RESERVED: std::ops::Range<usize> = 6..8;

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[data, &crc32c(data).to_be_bytes()].concat());
});

fn check(bytes: &[u8]) {
    let Ok(entries) = within(MIB, || decode(bytes)) else { return };
    assert_eq!(bytes.len(), encoded_len(entries.len()));
    let again = encode(&entries);
    assert_eq!(decode(&again).as_ref(), Ok(&entries));
    if bytes[RESERVED] == [0, 0] {
        assert_eq!(again, bytes);
    }
}
