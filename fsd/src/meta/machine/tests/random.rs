//! Random operations on a small tree: most make sense, some can only be refused.

use bytes::Bytes;
use cairn_common::attr::{Caller, FileKind, SetAttr, SetTime, Timestamp};
use cairn_common::ids::{BlockRef, Ino, VolumeId};
use cairn_common::namespace::op::{
    Commit, Create, Extent, ExtentData, FallocateMode, FileCommit, LockFamily, LockOwner, LockRequest,
    LockType, Op, OpBody, Piece, Rename, XattrMode,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Draws operations; inode numbers come from `first_ino` on.
pub struct Random {
    rng: StdRng,
    next_ino: u64,
    first_ino: u64,
    blocks: u32,
    time: i64,
}

impl Random {
    pub fn new(seed: u64, first_ino: Ino) -> Random {
        let rng = StdRng::seed_from_u64(seed);
        Random { rng, next_ino: first_ino.0, first_ino: first_ino.0, blocks: 0, time: 1000 }
    }

    pub fn ops(&mut self, count: usize) -> Vec<Op> {
        (0..count).map(|_| self.op()).collect()
    }

    pub fn op(&mut self) -> Op {
        // The clock goes back at times.
        self.time += self.rng.random_range(-2..5);
        let body = self.body();
        Op { time: Timestamp { secs: self.time, nanos: 7 }, caller: Caller { uid: 5, gid: 6, pid: 7 }, body }
    }

    /// Some inode: the root, one made lately, or a number never used.
    fn any(&mut self) -> Ino {
        match self.rng.random_range(0..10) {
            0..4 => Ino::ROOT,
            _ => Ino(self
                .rng
                .random_range(self.first_ino.max(self.next_ino.saturating_sub(40))..=self.next_ino)),
        }
    }

    fn name(&mut self) -> Bytes {
        Bytes::from(["a", "b", "c", "d", "e"][self.rng.random_range(0..5)])
    }

    fn fresh(&mut self) -> Ino {
        self.next_ino += 1;
        Ino(self.next_ino - 1)
    }

    fn extent(&mut self) -> Extent {
        let offset = self.rng.random_range(0..64) * 512;
        let length = self.rng.random_range(1..16) * 512;
        let data = match self.rng.random_range(0..4) {
            0 => ExtentData::Inline(Bytes::from(vec![3; usize::try_from(length).unwrap_or(0)])),
            _ => ExtentData::Block { block: self.block(), offset: 1024 },
        };
        Extent { offset, length, data }
    }

    fn block(&mut self) -> BlockRef {
        BlockRef { volume: VolumeId(1), sequence: self.blocks, cookie: self.blocks ^ 0xabcd }
    }

    fn commit(&mut self) -> OpBody {
        self.blocks += 1;
        let pieces: Vec<Piece> = (0..self.rng.random_range(1..4))
            .map(|_| Piece { ino: self.any(), extent: self.extent() })
            .collect();
        let mut files: Vec<FileCommit> = Vec::new();
        for piece in &pieces {
            if files.iter().all(|file| file.ino != piece.ino) {
                files.push(FileCommit {
                    ino: piece.ino,
                    size_at_least: piece.extent.offset + piece.extent.length,
                    mtime: self.commit_time(),
                    kill_suidgid: false,
                });
            }
        }
        OpBody::Commit(Commit { blocks: vec![(self.block(), 16 << 10)], pieces, files })
    }

    fn body(&mut self) -> OpBody {
        match self.rng.random_range(0..20) {
            0..5 => self.create(),
            5 => OpBody::Symlink {
                parent: self.any(),
                name: self.name(),
                ino: self.fresh(),
                target: Bytes::from("to/here"),
            },
            6 => OpBody::Tmpfile { parent: self.any(), ino: self.fresh(), perm: 0o600, umask: 0 },
            7 => OpBody::Link { ino: self.any(), parent: self.any(), name: self.name() },
            8 | 9 => OpBody::Unlink { parent: self.any(), name: self.name() },
            10 => OpBody::Rmdir { parent: self.any(), name: self.name() },
            11 => self.rename(),
            12 => self.set_attr(),
            13 => OpBody::SetXattr {
                ino: self.any(),
                name: Bytes::from_static(b"user.x"),
                value: self.name(),
                mode: XattrMode::Set,
            },
            14 => OpBody::RemoveXattr { ino: self.any(), name: Bytes::from_static(b"user.x") },
            15 | 16 => self.commit(),
            17 => self.fallocate(),
            18 => OpBody::CloneRange {
                from: self.any(),
                from_offset: 512,
                to: self.any(),
                to_offset: 4096,
                length: 8192,
            },
            _ => self.lock(),
        }
    }

    fn create(&mut self) -> OpBody {
        let kind = if self.rng.random_bool(0.3) { FileKind::Dir } else { FileKind::File };
        OpBody::Create(Create {
            parent: self.any(),
            name: self.name(),
            ino: self.fresh(),
            kind,
            perm: 0o755,
            umask: 0o22,
            rdev: 0,
            exclusive: self.rng.random_bool(0.5),
            open: false,
        })
    }

    fn rename(&mut self) -> OpBody {
        let flags = [0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT]
            [self.rng.random_range(0..4)];
        let whiteout = if flags == libc::RENAME_WHITEOUT { self.fresh() } else { Ino(0) };
        OpBody::Rename(Rename {
            parent: self.any(),
            name: self.name(),
            new_parent: self.any(),
            new_name: self.name(),
            flags,
            whiteout,
        })
    }

    fn set_attr(&mut self) -> OpBody {
        let set = SetAttr {
            perm: self.rng.random_bool(0.5).then_some(0o640),
            size: self.rng.random_bool(0.5).then(|| self.rng.random_range(0..40_000)),
            mtime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        OpBody::SetAttr { ino: self.any(), set }
    }

    fn fallocate(&mut self) -> OpBody {
        let keep_size = self.rng.random_bool(0.5);
        let mode = match self.rng.random_range(0..4) {
            0 => FallocateMode::Allocate { keep_size },
            1 => FallocateMode::ZeroRange { keep_size },
            _ => FallocateMode::PunchHole,
        };
        let (offset, length) = (self.rng.random_range(0..30_000), self.rng.random_range(1..20_000));
        OpBody::Fallocate { ino: self.any(), mode, offset, length }
    }

    fn lock(&mut self) -> OpBody {
        let family = if self.rng.random_bool(0.3) { LockFamily::Flock } else { LockFamily::Posix };
        let kind = [LockType::Read, LockType::Write, LockType::Unlock][self.rng.random_range(0..3)];
        let (start, end) = match family {
            LockFamily::Flock => (0, u64::MAX >> 1),
            LockFamily::Posix => {
                let start = self.rng.random_range(0..100);
                (start, start + self.rng.random_range(0..50))
            }
        };
        let owner = LockOwner { family, owner: self.rng.random_range(0..3) };
        OpBody::Lock { ino: self.any(), lock: LockRequest { owner, kind, start, end, pid: 9 } }
    }

    fn commit_time(&mut self) -> Option<Timestamp> {
        self.rng.random_bool(0.8).then_some(Timestamp { secs: self.time, nanos: 3 })
    }
}
