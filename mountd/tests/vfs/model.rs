//! Random calls against a vector of bytes, with slow servers and small buffers.

use super::{Mount, small};
use cairn_common::attr::{Caller, SetAttr, SetTime, Timestamp};
use cairn_common::error::FsError;
use cairn_common::ids::Ino;
use cairn_common::namespace::op::FallocateMode;
use cairn_mountd::client::EventSink;
use cairn_mountd::fuse::ops::{CopyRange, Fh, FuseOps, Seek};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

const SIZE_MAX: u64 = 400_000;

struct File {
    ino: Ino,
    fh: Fh,
    bytes: Vec<u8>,
}

struct Run {
    mount: Mount,
    rng: StdRng,
    files: Vec<File>,
    trace: Vec<String>,
}

impl Run {
    async fn new(seed: u64, sole: bool) -> Run {
        let mount = Mount::new(seed, true, small());
        if sole {
            mount.vfs.sole(1);
        }
        let mut files = Vec::new();
        for index in 0..3 {
            let made = mount.create(&format!("f{index}")).await;
            files.push(File { ino: made.entry.attr.ino, fh: made.opened.fh, bytes: Vec::new() });
        }
        Run { mount, rng: StdRng::seed_from_u64(seed), files, trace: Vec::new() }
    }

    fn range(&mut self) -> (u64, u64) {
        let offset = self.rng.random_range(0..SIZE_MAX);
        let longest = if self.rng.random_bool(0.3) { 100_000 } else { 3000 };
        (offset, self.rng.random_range(1..longest).min(SIZE_MAX - offset))
    }

    async fn step(&mut self) {
        let index = self.rng.random_range(0..self.files.len());
        let kind = self.rng.random_range(0..100);
        self.trace.push(format!("{kind} on {index}"));
        match kind {
            0..35 => self.write(index).await,
            35..60 => self.read(index).await,
            60..66 => self.truncate(index).await,
            66..76 => self.allocate(index).await,
            76..82 => self.fsync(index).await,
            82..87 => self.reopen(index).await,
            87..92 => self.stat(index).await,
            92..95 => self.copy(index).await,
            95..97 => self.seek(index).await,
            97..99 => self.set_times(index).await,
            _ => self.recall(index).await,
        }
        self.mount.data.delete(&mut self.mount.meta.maps.lock());
    }

    async fn write(&mut self, index: usize) {
        let (mut offset, length) = self.range();
        if self.rng.random_bool(0.3) {
            offset = (self.files[index].bytes.len() as u64).min(SIZE_MAX - length);
        }
        let byte: u8 = self.rng.random_range(1..=255);
        let data: Vec<u8> = (0..length).map(|at| byte.wrapping_add(at as u8)).collect();
        self.trace.push(format!("  write {offset}+{length}"));
        let file = &mut self.files[index];
        let written = self.mount.write(file.ino, file.fh, offset, &data).await.unwrap();
        assert_eq!(u64::from(written), length);
        let (start, end) = (offset as usize, (offset + length) as usize);
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[start..end].copy_from_slice(&data);
    }

    async fn read(&mut self, index: usize) {
        let (offset, length) = self.range();
        self.trace.push(format!("  read {offset}+{length}"));
        let file = &self.files[index];
        let got = self.mount.read(file.ino, file.fh, offset, length as u32).await.unwrap();
        let start = (offset as usize).min(file.bytes.len());
        let end = ((offset + length) as usize).min(file.bytes.len());
        same(&got, &file.bytes[start..end], offset, &self.trace);
    }

    async fn truncate(&mut self, index: usize) {
        let (size, _) = self.range();
        self.trace.push(format!("  truncate {size}"));
        let file = &mut self.files[index];
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        let vfs = Arc::clone(&self.mount.vfs);
        let reply = vfs.setattr(Caller::default(), file.ino, None, set).await.unwrap();
        assert_eq!(reply.attr.size, size);
        file.bytes.resize(size as usize, 0);
    }

    async fn allocate(&mut self, index: usize) {
        let (mut offset, mut length) = self.range();
        let keep_size = self.rng.random();
        let mode = match self.rng.random_range(0..5) {
            0 => FallocateMode::Allocate { keep_size },
            1 => FallocateMode::PunchHole,
            2 => FallocateMode::ZeroRange { keep_size },
            3 => FallocateMode::CollapseRange,
            _ => FallocateMode::InsertRange,
        };
        let moves = matches!(mode, FallocateMode::CollapseRange | FallocateMode::InsertRange);
        if moves {
            offset = offset / 4096 * 4096;
            length = length.next_multiple_of(4096);
        }
        self.trace.push(format!("  {mode:?} {offset}+{length}"));
        let file = &mut self.files[index];
        let vfs = Arc::clone(&self.mount.vfs);
        let result = vfs.fallocate(Caller::default(), file.ino, file.fh, mode, offset, length).await;
        let (start, end, size) = (offset as usize, (offset + length) as usize, file.bytes.len());
        match mode {
            FallocateMode::CollapseRange if end >= size => return assert!(result.is_err()),
            FallocateMode::InsertRange if start >= size => return assert!(result.is_err()),
            FallocateMode::CollapseRange => drop(file.bytes.drain(start..end)),
            FallocateMode::InsertRange => {
                file.bytes.splice(start..start, std::iter::repeat_n(0, end - start));
            }
            FallocateMode::PunchHole => zero(&mut file.bytes, start, end),
            FallocateMode::Allocate { keep_size } | FallocateMode::ZeroRange { keep_size } => {
                if matches!(mode, FallocateMode::ZeroRange { .. }) {
                    zero(&mut file.bytes, start, end);
                }
                if !keep_size && size < end {
                    file.bytes.resize(end, 0);
                }
            }
        }
        result.unwrap();
    }

    async fn fsync(&mut self, index: usize) {
        let file = &self.files[index];
        self.mount.fsync(file.ino, file.fh).await.unwrap();
        same(&self.mount.stored(file.ino), &file.bytes, 0, &self.trace);
    }

    async fn reopen(&mut self, index: usize) {
        let file = &mut self.files[index];
        let vfs = Arc::clone(&self.mount.vfs);
        self.mount.flush(file.ino, file.fh).await.unwrap();
        vfs.try_release(file.ino, file.fh, 0, None).unwrap().unwrap();
        let opened = match vfs.try_open(file.ino, libc::O_RDWR) {
            Some(opened) => opened.unwrap(),
            None => Arc::clone(&vfs).open(file.ino, libc::O_RDWR).await.unwrap(),
        };
        file.fh = opened.fh;
    }

    /// What `stat` shows before the data is committed is what it shows afterwards.
    async fn stat(&mut self, index: usize) {
        let file = &self.files[index];
        let before = self.mount.stat(file.ino).await;
        assert_eq!(before.size, file.bytes.len() as u64, "{:#?}", self.trace);
        self.mount.fsync(file.ino, file.fh).await.unwrap();
        let after = self.mount.meta.attr(file.ino);
        let view = |attr: cairn_common::attr::Attr| (attr.size, attr.allocated, attr.mtime, attr.ctime);
        assert_eq!(view(before), view(after), "{:#?}", self.trace);
    }

    async fn copy(&mut self, index: usize) {
        let other = self.rng.random_range(0..self.files.len());
        let ((from_offset, length), (to_offset, _)) = (self.range(), self.range());
        let length = length.min(SIZE_MAX - to_offset);
        let (from, to) = (&self.files[other], &self.files[index]);
        self.trace.push(format!("  copy {other} {from_offset}+{length} to {to_offset}"));
        let copy = CopyRange {
            from: from.ino,
            from_fh: from.fh,
            from_offset,
            to: to.ino,
            to_fh: to.fh,
            to_offset,
            length,
        };
        let result = Arc::clone(&self.mount.vfs).copy_range(Caller::default(), copy).await;
        let start = (from_offset as usize).min(from.bytes.len());
        let end = ((from_offset + length) as usize).min(from.bytes.len());
        let bytes = from.bytes[start..end].to_vec();
        let target = to_offset as usize;
        if other == index && start < target + bytes.len() && target < end && !bytes.is_empty() {
            return assert_eq!(result, Err(FsError::Invalid));
        }
        assert_eq!(result, Ok(bytes.len() as u64));
        let to = &mut self.files[index].bytes;
        if !bytes.is_empty() {
            to.resize(to.len().max(target + bytes.len()), 0);
            to[target..target + bytes.len()].copy_from_slice(&bytes);
        }
    }

    async fn seek(&mut self, index: usize) {
        let (offset, _) = self.range();
        let file = &self.files[index];
        let vfs = Arc::clone(&self.mount.vfs);
        let found = vfs.seek(file.ino, file.fh, offset, Seek::Data).await;
        let start = (offset as usize).min(file.bytes.len());
        let end = found.map_or(file.bytes.len(), |at| at as usize);
        assert!(file.bytes[start..end].iter().all(|byte| *byte == 0), "{:#?}", self.trace);
    }

    async fn set_times(&mut self, index: usize) {
        let file = &self.files[index];
        let mtime = Timestamp { secs: self.rng.random_range(0..4_000_000_000), nanos: 5 };
        let set = SetAttr { mtime: Some(SetTime::At(mtime)), ..SetAttr::default() };
        let vfs = Arc::clone(&self.mount.vfs);
        let reply = vfs.setattr(Caller::default(), file.ino, None, set).await.unwrap();
        assert_eq!(reply.attr.mtime, mtime);
        self.stat(index).await;
        assert_eq!(self.mount.meta.attr(self.files[index].ino).mtime, mtime, "{:#?}", self.trace);
    }

    /// Another mount opens the file, and leaves again.
    async fn recall(&mut self, index: usize) {
        let ino = self.files[index].ino;
        self.mount.vfs.uncache(ino, 0).await.unwrap();
        same(&self.mount.stored(ino), &self.files[index].bytes, 0, &self.trace);
        self.write(index).await;
        same(&self.mount.stored(ino), &self.files[index].bytes, 0, &self.trace);
        self.read(index).await;
        self.reopen(index).await;
    }
}

fn zero(bytes: &mut [u8], start: usize, end: usize) {
    let end = end.min(bytes.len());
    if start < end {
        bytes[start..end].fill(0);
    }
}

fn same(got: &[u8], expected: &[u8], offset: u64, trace: &[String]) {
    if got == expected {
        return;
    }
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    let tail = &trace[trace.len().saturating_sub(60)..];
    let (have, want) = (got.len(), expected.len());
    panic!("{have} bytes for {want}, first difference at {at:?} from {offset}\n{tail:#?}");
}

async fn run(seed: u64, sole: bool, steps: u32) {
    println!("seed {seed}, sole {sole}");
    let mut run = Run::new(seed, sole).await;
    for _ in 0..steps {
        run.step().await;
    }
    for index in 0..run.files.len() {
        run.fsync(index).await;
    }
    run.mount.vfs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_what_was_written_to_it() {
    for seed in 0..6 {
        run(seed, seed % 2 == 0, 1500).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_what_was_written_to_it_random_seed() {
    run(rand::random(), rand::random(), 1500).await;
}
