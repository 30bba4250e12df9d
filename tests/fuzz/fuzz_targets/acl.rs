//! ACLs as the kernel passes them: set, read back, moved along with the permission bits, inherited.
#![no_main]

use bytes::Bytes;
use cairn_common::attr::{Caller, FileKind, SetAttr, Timestamp};
use cairn_common::ids::{Ino, SessionId};
use cairn_common::namespace::op::{Create, Op, OpBody, OpResult, XattrMode};
use cairn_common::namespace::twin::Twin;
use cairn_common::namespace::{apply, check, getxattr, init_root};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const TIME: Timestamp = Timestamp { secs: 1, nanos: 0 };
const CHILD: Ino = Ino(2);

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let name = if input.u8().is_multiple_of(2) { ACCESS } else { DEFAULT };
    let (perm, umask) = (input.u16(), input.u16());
    let value = version_2(input.0);
    within(MIB, || {
        let mut tree = Twin::new();
        init_root(&mut tree, TIME, &Caller::default(), 0o755).expect("it is empty");
        set(&mut tree, name, &value);
        assert_sound(&tree);
        let _ = run(&mut tree, OpBody::Create(create(perm, umask)));
        assert_sound(&tree);
        for ino in [Ino::ROOT, CHILD] {
            let set = SetAttr { perm: Some(perm & 0o7777), ..SetAttr::default() };
            let _ = run(&mut tree, OpBody::SetAttr { ino, set });
            assert_sound(&tree);
        }
    });
});

/// With the version before it, which is not worth a search.
fn version_2(entries: &[u8]) -> Bytes {
    [&[2, 0, 0, 0], entries].concat().into()
}

fn set(tree: &mut Twin, name: &'static [u8], value: &Bytes) {
    let (name, mode) = (Bytes::from_static(name), XattrMode::Set);
    let body = OpBody::SetXattr { ino: Ino::ROOT, name: name.clone(), value: value.clone(), mode };
    // An access ACL that says no more than the permission bits is not kept.
    if run(tree, body).is_ok()
        && let Ok(kept) = getxattr(tree, Ino::ROOT, &name)
    {
        assert_eq!(kept, *value);
    }
}

fn create(perm: u16, umask: u16) -> Create {
    let name = Bytes::from_static(b"child");
    Create {
        parent: Ino::ROOT,
        name,
        ino: CHILD,
        kind: if perm.is_multiple_of(2) { FileKind::Dir } else { FileKind::File },
        perm: perm & 0o7777,
        umask: umask & 0o777,
        rdev: 0,
        exclusive: true,
        open: false,
    }
}

fn run(tree: &mut Twin, body: OpBody) -> OpResult {
    apply(tree, SessionId(1), &Op { time: TIME, caller: Caller::default(), body })
}

fn assert_sound(tree: &Twin) {
    let problems = check::check(tree).expect("a tree in memory can be read");
    assert!(problems.is_empty(), "{problems:?}");
}
