//! What ends with a session, and what the next one must not inherit.

use super::{Mount, small};
use cairn_common::attr::Caller;
use cairn_common::error::FsError;
use cairn_common::namespace;
use cairn_mountd::client::EventSink;
use cairn_mountd::fuse::ops::FuseOps;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Mount {
    /// The server has ended the session, and the mount goes on with another, whose operations are numbered
    /// from 1 again.
    pub fn next_session(&self) {
        self.vfs.evicted();
        self.meta.log.lock().clear();
        self.meta.session.fetch_add(1, Ordering::SeqCst);
        self.vfs.sole(self.meta.session.load(Ordering::SeqCst));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_session_sees_its_own_writes() {
    let mount = Mount::quick();
    mount.vfs.sole(1);
    let made = mount.create("f").await;
    let (ino, old) = (made.entry.attr.ino, made.opened.fh);
    for _ in 0..20 {
        mount.write(ino, old, 0, b"12345678").await.unwrap();
        mount.fsync(ino, old).await.unwrap();
    }
    mount.next_session();
    let opened = Arc::clone(&mount.vfs).open(ino, libc::O_RDWR).await.unwrap();
    mount.write(ino, opened.fh, 8, b"90").await.unwrap();
    mount.fsync(ino, opened.fh).await.unwrap();
    assert_eq!(mount.stat(ino).await.size, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_end_with_their_session() {
    let mount = Mount::quick();
    let made = mount.create("f").await;
    let (ino, old) = (made.entry.attr.ino, made.opened.fh);
    mount.next_session();
    let opened = Arc::clone(&mount.vfs).open(ino, libc::O_RDWR).await.unwrap();
    assert_eq!(mount.write(ino, old, 0, b"x").await, Err(FsError::Evicted));
    assert_eq!(mount.read(ino, old, 0, 1).await, Err(FsError::Evicted));
    assert_eq!(mount.fsync(ino, old).await, Err(FsError::Evicted));
    mount.write(ino, opened.fh, 0, b"y").await.unwrap();
    mount.vfs.shutdown().await.unwrap();
    assert_eq!(mount.stored(ino), b"y");
}

/// The server lost the creation with its power, and it could not be repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_fsync_of_a_file_that_the_server_does_not_have_is_an_error() {
    let mount = Mount::new(1, false, small());
    let made = mount.create("f").await;
    let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
    {
        let mut maps = mount.meta.maps.lock();
        let unlink = namespace::op::OpBody::Unlink { parent: cairn_common::ids::Ino::ROOT, name: "f".into() };
        let op = namespace::op::Op { time: Default::default(), caller: Caller::default(), body: unlink };
        namespace::apply(&mut *maps, cairn_common::ids::SessionId(1), &op).unwrap();
        while !namespace::reap(&mut *maps, ino, 100).unwrap() {}
    }
    mount.write(ino, fh, 0, b"lost").await.unwrap();
    assert_eq!(mount.fsync(ino, fh).await, Err(FsError::Stale));
}
