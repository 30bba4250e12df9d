//! The checksums of the metadata tables' pages: what is read of them, and what is kept of them over changes.
#![no_main]

use cairn_common::wire::checksum::crc32c;
use cairn_fsd::meta::tables::sums::{SECTOR, Sums};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;

/// More units than the longest input has sums for.
const UNITS_MAX: u16 = 4000;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let units = usize::from(input.u16() % UNITS_MAX);
    read(input.0, units);
    let whole = put_right(input.0);
    assert_eq!(read(&whole, units), whole.len() >= sectors(units) * SECTOR);
    kept(input);
});

/// Sectors of so many units; the header's two sums come before theirs.
fn sectors(units: usize) -> usize {
    (units.max(1) + 1).div_ceil(124)
}

/// As many sectors as there are whole ones, each with its magic, number and checksum.
fn put_right(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes[..bytes.len() / SECTOR * SECTOR].to_vec();
    for (number, sector) in whole.chunks_exact_mut(SECTOR).enumerate() {
        sector[..4].copy_from_slice(b"CSU\x01");
        sector[4..12].copy_from_slice(&(number as u64).to_be_bytes());
        let check = crc32c(&sector[..SECTOR - 4]).to_be_bytes();
        sector[SECTOR - 4..].copy_from_slice(&check);
    }
    whole
}

/// Whether it can be read. Then it is written and read as the same.
fn read(bytes: &[u8], units: usize) -> bool {
    let Some(mut sums) = within(MIB, || Sums::decode(bytes, units)) else { return false };
    sums.mark_all();
    let mut file = Vec::new();
    store(&mut sums, &mut file);
    assert_eq!(file.len(), sectors(units) * SECTOR);
    let again = Sums::decode(&file, units).expect("it was just written");
    assert!((1..units).all(|unit| again.get(unit) == sums.get(unit)));
    let header = u32::from_be_bytes(bytes[12..16].try_into().expect("four bytes"));
    assert!(sums.header_fits(header) && again.header_fits(header));
    true
}

fn store(sums: &mut Sums, file: &mut Vec<u8>) {
    for run in sums.take_dirty() {
        let at = usize::try_from(run.offset).expect("as long as its sums");
        file.resize(file.len().max(at + run.bytes.len()), 0);
        file[at..at + run.bytes.len()].copy_from_slice(&run.bytes);
    }
}

/// Sums that are set, a file that grows and shrinks, and what was stored meanwhile: read again, it is what a list says.
fn kept(mut input: Input<'_>) {
    let (mut sums, mut model, mut file) = (Sums::unknown(1), vec![0_u32], Vec::new());
    while !input.is_empty() {
        match input.u8() % 4 {
            0 => {
                let units = usize::from(input.u16() % UNITS_MAX).max(1);
                assert_eq!(sums.resize(units), units > model.len());
                model.resize(units, 0);
            }
            1 => {
                let (unit, sum) = (usize::from(input.u16() % UNITS_MAX).max(1), input.u32());
                sums.set(unit, sum);
                if let Some(known) = model.get_mut(unit) {
                    *known = sum;
                }
            }
            2 => {
                model[0] = input.u32();
                sums.set_header(model[0], model[0]);
            }
            _ => store(&mut sums, &mut file),
        }
    }
    store(&mut sums, &mut file);
    let read = Sums::decode(&file, model.len()).expect("all of it is stored");
    assert!((1..model.len()).all(|unit| read.get(unit) == model[unit]));
    assert!(read.header_fits(model[0]));
}
