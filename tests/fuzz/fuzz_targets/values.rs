//! Values of the metadata tables.
#![no_main]

use cairn_common::ids::{Ino, NodeId};
use cairn_fsd::meta::tables::values::{self, SessionRow};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (table, value) = (input.u8(), input.0);
    if table % 10 == 9 {
        return session(value);
    }
    // There is one spelling for all that is read.
    if let Some(again) = within(MIB, || rewritten(table, value)) {
        assert_eq!(again, value, "table {}", table % 10);
    }
});

/// The value decoded and encoded again; `None` if it is refused.
fn rewritten(table: u8, value: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![7];
    match table % 10 {
        0 => values::encode_inode(&values::decode_inode(Ino(5), value).ok()?, &mut out),
        1 => values::encode_dentry(&values::decode_dentry(5, value).ok()?, &mut out),
        2 => values::encode_extent(&values::decode_extent(5, value).ok()?, &mut out),
        3 => values::encode_xattr(&values::decode_xattr(value).ok()?, &mut out),
        4 => values::encode_locks(&values::decode_locks(value).ok()?, &mut out),
        5 => out = values::encode_block(values::decode_block(value).ok()?).to_vec(),
        6 => values::encode_node(&values::decode_node(NodeId(5), value).ok()?, &mut out),
        7 => out = values::encode_volume(values::decode_volume(value).ok()?).to_vec(),
        _ => out = values::encode_state(&values::decode_state(value).ok()?),
    }
    Some(out)
}

/// Its replies are the wire's, whose numbers may be spelled longer than needed.
fn session(value: &[u8]) {
    let decode = |value: &[u8]| -> Option<SessionRow> { values::decode_session(value).ok() };
    // The codec believes no length above 64 MiB.
    let Some(row) = within(66 * MIB, || decode(value)) else { return };
    let mut again = Vec::new();
    values::encode_session(&row, &mut again).expect("not longer than it came");
    assert!(again.len() <= value.len());
    assert_eq!(decode(&again), Some(row));
}
