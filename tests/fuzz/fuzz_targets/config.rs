//! What people write: sizes, times, addresses, and the configuration files of both roles.
#![no_main]

use cairn_common::config::{Address, AddressList, ByteSize, HumanDuration};
use cairn_fsd::config::{DataSettings, MetaSettings};
use cairn_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;
use std::fmt::{Debug, Display};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    within(8 * MIB, || {
        value::<ByteSize>(text);
        value::<HumanDuration>(text);
        value::<Address>(text);
        value::<AddressList>(text);
        file(text);
    });
});

/// What is printed is read as the same.
fn value<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let printed = value.to_string();
    assert_eq!(printed.parse().ok(), Some(value), "printed as {printed}");
}

fn file(text: &str) {
    let mut file = tempfile::NamedTempFile::new().expect("there is room for a small file");
    file.write_all(text.as_bytes()).expect("as above");
    one_line(MetaSettings::default().over_file(Some(file.path())).and_then(MetaSettings::resolve));
    one_line(DataSettings::default().over_file(Some(file.path())).and_then(DataSettings::resolve));
    one_line(MetaSettings::default().over_file(Some(Path::new("/nowhere"))));
}

fn one_line<T, E: Display>(result: Result<T, E>) {
    if let Err(error) = result {
        let error = error.to_string();
        assert!(!error.contains('\n'), "more than one line: {error:?}");
    }
}
