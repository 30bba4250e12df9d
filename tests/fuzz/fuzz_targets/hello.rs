//! The first exchange of a connection.
#![no_main]

use cairn_common::wire::hello::{Hello, agree};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (ours, theirs) = (input.chunk(), input.0);
    let (Ok(ours), Ok(theirs)) = within(MIB, || (Hello::decode(ours), Hello::decode(theirs))) else { return };
    for hello in [&ours, &theirs] {
        assert!(!hello.role.contains(char::is_control), "unfit for a log: {:?}", hello.role);
        let again = Hello::decode(&hello.encode()).expect("what was encoded is decoded");
        // The text is cut to its limit.
        assert_eq!(Hello { role: hello.role.clone(), ..again }, *hello);
    }
    assert_eq!(agree(&ours, &theirs).ok(), agree(&theirs, &ours).ok(), "both decide the same");
});
