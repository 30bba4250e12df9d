//! From an operation to the file that has its rules.

use super::op::{Op, OpBody, OpReply, OpResult};
use super::tables::Tables;
use super::{clone, commit, create, fallocate, link, locks, rename, setattr, unlink, xattr};
use crate::error::FsError;
use crate::ids::SessionId;

/// Applies one operation of a session. An error changed nothing, unless it is `Io`: then the
/// transaction has to be given up.
pub fn apply<T: Tables + ?Sized>(tables: &mut T, session: SessionId, op: &Op) -> OpResult {
    let now = op.time;
    match &op.body {
        OpBody::Create(body) => create::create(tables, now, &op.caller, body),
        OpBody::Symlink { parent, name, ino, target } => {
            create::symlink(tables, now, &op.caller, *parent, name, *ino, target)
        }
        OpBody::Tmpfile { parent, ino, perm, umask } => {
            create::tmpfile(tables, now, &op.caller, *parent, *ino, *perm, *umask)
        }
        OpBody::Link { ino, parent, name } => link::link(tables, now, *ino, *parent, name),
        OpBody::Unlink { parent, name } => unlink::unlink(tables, now, *parent, name),
        OpBody::Rmdir { parent, name } => unlink::rmdir(tables, now, *parent, name),
        OpBody::Rename(body) => rename::rename(tables, now, &op.caller, body),
        OpBody::SetAttr { ino, set } => setattr::setattr(tables, now, *ino, set),
        OpBody::SetXattr { ino, name, value, mode } => {
            xattr::set(tables, now, &op.caller, *ino, name, value, *mode)
        }
        OpBody::RemoveXattr { ino, name } => xattr::remove(tables, now, *ino, name),
        OpBody::Commit(body) => {
            commit::commit(tables, body, &[]).map(|done| OpReply::Committed { files: done.files })
        }
        OpBody::CommitAndMove { commit, moves } => commit::commit(tables, commit, moves)
            .map(|done| OpReply::Moved { files: done.files, kept: done.kept }),
        OpBody::Append { ino, length, data, block_length, kill_suidgid } => {
            let kill = *kill_suidgid;
            commit::append(tables, now, *ino, *length, data, *block_length, kill)
        }
        OpBody::Fallocate { ino, mode, offset, length } => {
            fallocate::fallocate(tables, now, &op.caller, *ino, *mode, (*offset, *length))
        }
        OpBody::CloneRange { from, from_offset, to, to_offset, length } => {
            clone::clone_range(tables, now, &op.caller, (*from, *from_offset), (*to, *to_offset), *length)
        }
        OpBody::Relocate => Err(FsError::NotSupported),
        OpBody::Lock { ino, lock } => locks::lock(tables, session, *ino, lock),
        OpBody::Touch { ino, atime } => setattr::touch(tables, *ino, *atime),
        OpBody::ReleaseLocks { ino, owner } => locks::release(tables, session, *ino, *owner),
    }
}
