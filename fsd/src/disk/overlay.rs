//! A disk whose changes stay in memory: the one below is only read.
//!
//! A daemon that opens its directory recovers it: it cuts torn tails, removes what is half made, and redb marks its
//! file as open. Who only looks does the same, with the daemon's own code, and leaves everything as it was. Takes
//! memory for each page that is changed.

use super::{Disk, DiskFile, Mapping, Space, read_exact_at};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Unit of copying, in bytes.
const PAGE: usize = 4096;

/// See the module.
pub struct Overlay {
    below: Arc<dyn Disk>,
    /// Names that were opened or changed; `None`: removed. The disk below has the others.
    names: Mutex<BTreeMap<String, Option<Arc<OverlayFile>>>>,
}

impl Overlay {
    pub fn new(below: Arc<dyn Disk>) -> Overlay {
        Overlay { below, names: Mutex::default() }
    }

    /// The file of this name; who opens it twice sees his own changes.
    fn find(&self, name: &str) -> io::Result<Arc<OverlayFile>> {
        let mut names = self.names.lock();
        if let Some(known) = names.get(name) {
            return known.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(OverlayFile::over(self.below.open(name)?)?);
        names.insert(name.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn set(&self, name: &str, file: Option<Arc<OverlayFile>>) {
        self.names.lock().insert(name.to_owned(), file);
    }
}

impl Disk for Overlay {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.find(name) {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = Arc::new(OverlayFile::default());
        self.set(name, Some(file.clone()));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.find(name)?)
    }

    /// Read, not mapped: a part that can't be read is an error.
    fn map(&self, name: &str) -> io::Result<Mapping> {
        Ok(Box::new(super::read_whole(self, name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        self.set(from, None);
        self.set(to, Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.set(name, None);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut all: BTreeSet<String> = self.below.list()?.into_iter().collect();
        for (name, file) in &*self.names.lock() {
            if file.is_some() {
                all.insert(name.clone());
            } else {
                all.remove(name);
            }
        }
        Ok(all.into_iter().collect())
    }

    fn space(&self) -> io::Result<Space> {
        self.below.space()
    }
}

/// A file with its changes.
#[derive(Default)]
struct OverlayFile {
    /// `None`: it was made here.
    below: Option<Arc<dyn DiskFile>>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    length: u64,
    /// So many bytes of the file below still show where no page lies over them; never more than `length`.
    below_length: u64,
    /// Pages that were changed, by number; zeros behind `length`.
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl OverlayFile {
    fn over(below: Arc<dyn DiskFile>) -> io::Result<OverlayFile> {
        let length = below.len()?;
        let content = Content { length, below_length: length, pages: BTreeMap::new() };
        Ok(OverlayFile { below: Some(below), content: Mutex::new(content) })
    }

    /// What the file below shows, zeros behind it.
    fn read_below(&self, content: &Content, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let shown = content.below_length.saturating_sub(offset).min(buf.len() as u64);
        let (shown, rest) = buf.split_at_mut(to_usize(shown));
        rest.fill(0);
        match &self.below {
            Some(below) => read_exact_at(&**below, shown, offset),
            None => Ok(()),
        }
    }

    fn write(&self, content: &mut Content, data: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (number, within) = (at / PAGE as u64, to_usize(at % PAGE as u64));
            let count = (PAGE - within).min(data.len() - done);
            if !content.pages.contains_key(&number) {
                let mut page = Box::new([0; PAGE]);
                self.read_below(content, &mut *page, number * PAGE as u64)?;
                content.pages.insert(number, page);
            }
            if let Some(page) = content.pages.get_mut(&number) {
                page[within..within + count].copy_from_slice(&data[done..done + count]);
            }
            done += count;
        }
        content.length = content.length.max(offset + data.len() as u64);
        Ok(())
    }
}

impl DiskFile for OverlayFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock();
        let count = to_usize(content.length.saturating_sub(offset).min(buf.len() as u64));
        let buf = &mut buf[..count];
        self.read_below(&content, buf, offset)?;
        let (first, end) = (offset / PAGE as u64, (offset + count as u64).div_ceil(PAGE as u64));
        for (number, page) in content.pages.range(first..end) {
            let start = number * PAGE as u64;
            let from = to_usize(offset.saturating_sub(start));
            let to = to_usize((offset + count as u64 - start).min(PAGE as u64));
            let at = to_usize(start.saturating_sub(offset));
            buf[at..at + to - from].copy_from_slice(&page[from..to]);
        }
        Ok(count)
    }

    fn read_cached(&self, _buf: &mut [u8], _offset: u64) -> Option<usize> {
        None
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut content = self.content.lock();
        let mut written = 0;
        for buf in bufs {
            self.write(&mut content, buf, offset + written as u64)?;
            written += buf.len();
        }
        Ok(written)
    }

    /// Of what others wrote before: nothing of ours ever gets there.
    fn sync_data(&self) -> io::Result<()> {
        self.below.as_ref().map_or(Ok(()), |below| below.sync_data())
    }

    fn forget_cache(&self) -> io::Result<()> {
        self.below.as_ref().map_or(Ok(()), |below| below.forget_cache())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        content.length = content.length.max(offset + len);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        let (mut at, end) = (offset, (offset + len).min(content.length));
        while at < end {
            let count = to_usize((end - at).min(PAGE as u64));
            self.write(&mut content, &[0; PAGE][..count], at)?;
            at += count as u64;
        }
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        content.length = len;
        content.below_length = content.below_length.min(len);
        content.pages.split_off(&len.div_ceil(PAGE as u64));
        if let Some(last) = content.pages.get_mut(&(len / PAGE as u64)) {
            last[to_usize(len % PAGE as u64)..].fill(0);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().length)
    }

    /// On the disk below; changes take memory.
    fn allocated(&self) -> io::Result<u64> {
        self.below.as_ref().map_or(Ok(0), |below| below.allocated())
    }
}

/// Of numbers that are not above the length of something in memory.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("not above the length of a buffer")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::disk::{read_whole, write_all_at};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn contents(disk: &dyn Disk) -> BTreeMap<String, Vec<u8>> {
        let names = disk.list().unwrap();
        names.into_iter().map(|name| (name.clone(), read_whole(disk, &name).unwrap())).collect()
    }

    fn same<T>(one: io::Result<T>, two: io::Result<T>) -> Option<(T, T)> {
        match (one, two) {
            (Ok(one), Ok(two)) => Some((one, two)),
            (one, two) => {
                assert_eq!(one.err().map(|e| e.kind()), two.err().map(|e| e.kind()));
                None
            }
        }
    }

    /// One random change of both; they answer the same.
    fn change(rng: &mut StdRng, one: &dyn Disk, two: &dyn Disk) {
        let names = ["a", "b", "c", "d"];
        let (name, other) = (names[rng.random_range(0..4)], names[rng.random_range(0..4)]);
        match rng.random_range(0..10) {
            0 => drop(same(one.create(name), two.create(name))),
            1 if name != other => drop(same(one.rename(name, other), two.rename(name, other))),
            2 => drop(same(one.remove(name), two.remove(name))),
            _ => {
                let Some((one, two)) = same(one.open(name), two.open(name)) else { return };
                let (offset, length) = (rng.random_range(0..20_000), rng.random_range(0..10_000));
                match rng.random_range(0..5) {
                    0 => [one.truncate(offset), two.truncate(offset)].map(Result::unwrap),
                    1 => [one.allocate(offset, length), two.allocate(offset, length)].map(Result::unwrap),
                    2 => [one.punch(offset, length), two.punch(offset, length)].map(Result::unwrap),
                    _ => {
                        let bytes = vec![rng.random::<u8>(); to_usize(length)];
                        let parts = [&bytes[..bytes.len() / 3], &bytes[bytes.len() / 3..]];
                        [&one, &two].map(|file| write_all_at(&**file, &parts, offset).unwrap())
                    }
                };
                let (mut first, mut second) = (vec![1; 9000], vec![2; 9000]);
                let count = one.read_at(&mut first, offset / 2).unwrap();
                assert_eq!(count, two.read_at(&mut second, offset / 2).unwrap());
                assert_eq!(first[..count], second[..count]);
            }
        }
    }

    #[test]
    fn shows_what_the_disk_would_and_leaves_it_as_it_was() {
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (below, real) = (SimDisk::new(), SimDisk::new());
            for _ in 0..30 {
                change(&mut rng, &below, &real);
            }
            let before = contents(&below);
            let overlay = Overlay::new(Arc::new(below.clone()));
            for _ in 0..200 {
                change(&mut rng, &overlay, &real);
            }
            assert_eq!(contents(&overlay), contents(&real), "seed {seed}");
            assert_eq!(contents(&below), before, "seed {seed}");
        }
    }
}
