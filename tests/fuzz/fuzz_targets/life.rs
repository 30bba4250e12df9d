//! Life files of mounts.
#![no_main]

use cairn_common::wire::checksum::crc32c;
use cairn_fuzz::{MIB, within};
use cairn_mountd::life::LifeRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[data, &crc32c(data).to_be_bytes()].concat());
});

fn check(bytes: &[u8]) {
    let Ok(record) = within(MIB, || LifeRecord::decode(bytes)) else { return };
    assert_eq!(record.encode(), bytes);
}
