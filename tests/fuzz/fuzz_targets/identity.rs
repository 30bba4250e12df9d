//! The file `NODE` of a data directory.
#![no_main]

use cairn_common::wire::checksum::crc32c;
use cairn_fsd::data::Identity;
use cairn_fsd::disk::sim::SimDisk;
use cairn_fsd::disk::{Disk, read_whole, write_all_at};
use cairn_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[data, &crc32c(data).to_be_bytes()].concat());
});

fn check(bytes: &[u8]) {
    let disk = SimDisk::new();
    let file = disk.create("NODE").expect("the disk is empty");
    write_all_at(&*file, &[bytes], 0).expect("there is room");
    let Ok(Some(identity)) = within(MIB, || Identity::load(&disk)) else { return };
    identity.store(&disk).expect("there is room");
    assert_eq!(Identity::load(&disk).ok(), Some(Some(identity)));
    assert_eq!(read_whole(&disk, "NODE").expect("it was stored").len(), bytes.len());
}
