//! The tree against a model that is slow and obvious: directories as maps, everything else counted anew.

use super::super::op::{OpBody, OpReply};
use super::super::twin::Twin;
use super::super::{lookup, readdir, reap};
use super::{ROOT, World, name};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Ino;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Only names: directories with their entries, and the kinds of all inodes ever made.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub dirs: BTreeMap<Ino, BTreeMap<String, Ino>>,
    pub kinds: BTreeMap<Ino, FileKind>,
    /// Files that never had a name.
    nameless: BTreeSet<Ino>,
}

type Outcome = Result<(), FsError>;

impl Model {
    pub fn new() -> Model {
        let mut model = Model::default();
        model.add(ROOT, FileKind::Dir);
        model
    }

    pub fn add(&mut self, ino: Ino, kind: FileKind) {
        self.kinds.insert(ino, kind);
        if kind == FileKind::Dir {
            self.dirs.insert(ino, BTreeMap::new());
        }
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.kinds.get(&ino) == Some(&FileKind::Dir)
    }

    pub fn names(&self, ino: Ino) -> u32 {
        let all = self.dirs.values().flat_map(|entries| entries.values());
        u32::try_from(all.filter(|&&named| named == ino).count()).unwrap()
    }

    /// The entries of a directory that names can be put in.
    fn live(&self, dir: Ino) -> Result<&BTreeMap<String, Ino>, FsError> {
        let entries = match self.kinds.get(&dir) {
            None => return Err(FsError::NotFound),
            Some(FileKind::Dir) => &self.dirs[&dir],
            Some(_) => return Err(FsError::NotDir),
        };
        if dir == ROOT || self.names(dir) == 1 { Ok(entries) } else { Err(FsError::NotFound) }
    }

    pub fn create(&mut self, dir: Ino, text: &str, ino: Ino, kind: FileKind) -> Outcome {
        if self.live(dir)?.contains_key(text) {
            return Err(FsError::Exists);
        }
        self.add(ino, kind);
        self.dirs.get_mut(&dir).unwrap().insert(text.into(), ino);
        Ok(())
    }

    fn tmpfile(&mut self, dir: Ino, ino: Ino) -> Outcome {
        self.live(dir)?;
        self.add(ino, FileKind::File);
        self.nameless.insert(ino);
        Ok(())
    }

    pub fn link(&mut self, ino: Ino, dir: Ino, text: &str) -> Outcome {
        match self.kinds.get(&ino) {
            None => return Err(FsError::Stale),
            Some(FileKind::Dir) => return Err(FsError::NotPermitted),
            Some(_) if self.names(ino) == 0 && !self.nameless.contains(&ino) => {
                return Err(FsError::NotFound);
            }
            Some(_) => {}
        }
        if self.live(dir)?.contains_key(text) {
            return Err(FsError::Exists);
        }
        self.nameless.remove(&ino);
        self.dirs.get_mut(&dir).unwrap().insert(text.into(), ino);
        Ok(())
    }

    fn remove(&mut self, dir: Ino, text: &str, directory: bool) -> Outcome {
        let ino = *self.live(dir)?.get(text).ok_or(FsError::NotFound)?;
        match (directory, self.is_dir(ino)) {
            (true, false) => return Err(FsError::NotDir),
            (false, true) => return Err(FsError::IsDir),
            (true, true) if !self.dirs[&ino].is_empty() => return Err(FsError::NotEmpty),
            _ => {}
        }
        self.dirs.get_mut(&dir).unwrap().remove(text);
        Ok(())
    }

    /// `ino` and all directories below.
    fn below(&self, ino: Ino) -> BTreeSet<Ino> {
        let mut all = BTreeSet::from([ino]);
        for child in self.dirs.get(&ino).into_iter().flat_map(|entries| entries.values()) {
            all.extend(self.below(*child));
        }
        all
    }

    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), flags: u32, whiteout: Ino) -> Outcome {
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        if flags > 7 || (exchange && flags != libc::RENAME_EXCHANGE) {
            return Err(FsError::Invalid);
        }
        self.live(from.0)?;
        self.live(to.0)?;
        let source = *self.dirs[&from.0].get(from.1).ok_or(FsError::NotFound)?;
        let target = self.dirs[&to.0].get(to.1).copied();
        if target.is_some() && flags & libc::RENAME_NOREPLACE != 0 {
            return Err(FsError::Exists);
        }
        if target == Some(source) {
            return Ok(());
        }
        if exchange && target.is_none() {
            return Err(FsError::NotFound);
        }
        if self.below(source).contains(&to.0) {
            return Err(FsError::Invalid);
        }
        if let Some(target) = target {
            if exchange {
                if self.below(target).contains(&from.0) {
                    return Err(FsError::Invalid);
                }
                self.dirs.get_mut(&from.0).unwrap().insert(from.1.into(), target);
                self.dirs.get_mut(&to.0).unwrap().insert(to.1.into(), source);
                return Ok(());
            }
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(FsError::NotDir),
                (false, true) => return Err(FsError::IsDir),
                (true, true) if !self.dirs[&target].is_empty() => return Err(FsError::NotEmpty),
                _ => {}
            }
        }
        self.dirs.get_mut(&from.0).unwrap().remove(from.1);
        if flags & libc::RENAME_WHITEOUT != 0 {
            self.add(whiteout, FileKind::CharDevice);
            self.dirs.get_mut(&from.0).unwrap().insert(from.1.into(), whiteout);
        }
        self.dirs.get_mut(&to.0).unwrap().insert(to.1.into(), source);
        Ok(())
    }

    fn reap(&mut self, ino: Ino) {
        if ino != ROOT && self.names(ino) == 0 {
            self.kinds.remove(&ino);
            self.dirs.remove(&ino);
            self.nameless.remove(&ino);
        }
    }

    /// The world has exactly these names; links are counted by the invariants.
    pub fn compare(&self, world: &World) {
        for (dir, entries) in &self.dirs {
            let page = readdir(&world.twin, *dir, 0, 1 << 20, true).unwrap();
            assert!(page.end);
            let listed: BTreeMap<String, Ino> = page
                .entries
                .iter()
                .map(|entry| (String::from_utf8(entry.name.to_vec()).unwrap(), entry.ino))
                .collect();
            assert_eq!(&listed, entries, "directory {dir}");
            assert_eq!(listed.len(), page.entries.len());
            for (text, ino) in entries {
                let attr = lookup(&world.twin, *dir, text.as_bytes()).unwrap();
                assert_eq!((attr.ino, attr.kind), (*ino, self.kinds[ino]));
                if attr.kind != FileKind::Dir {
                    assert_eq!(attr.nlink, self.names(*ino));
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(usize, u8, FileKind),
    Symlink(usize, u8),
    Tmpfile(usize),
    Link(usize, usize, u8),
    Unlink(usize, u8),
    Rmdir(usize, u8),
    Rename(usize, u8, usize, u8, u32),
    Reap(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (ino, text) = (0..12usize, 0..6u8);
    let kind = prop_oneof![
        2 => Just(FileKind::File), 4 => Just(FileKind::Dir), 1 => Just(FileKind::Fifo)
    ];
    let flags = prop_oneof![6 => Just(0u32), 6 => 0..8u32, 1 => Just(8u32)];
    let step = prop_oneof![
        6 => (ino.clone(), text.clone(), kind).prop_map(|(a, b, c)| Step::Create(a, b, c)),
        1 => (ino.clone(), text.clone()).prop_map(|(a, b)| Step::Symlink(a, b)),
        1 => ino.clone().prop_map(Step::Tmpfile),
        2 => (ino.clone(), ino.clone(), text.clone()).prop_map(|(a, b, c)| Step::Link(a, b, c)),
        2 => (ino.clone(), text.clone()).prop_map(|(a, b)| Step::Unlink(a, b)),
        2 => (ino.clone(), text.clone()).prop_map(|(a, b)| Step::Rmdir(a, b)),
        8 => (ino.clone(), text.clone(), ino.clone(), text, flags)
            .prop_map(|(a, b, c, d, e)| Step::Rename(a, b, c, d, e)),
        1 => ino.prop_map(Step::Reap),
    ];
    prop::collection::vec(step, 1..60)
}

fn run(twin: Twin, steps: &[Step]) {
    let mut world = World::over(twin);
    let mut model = Model::new();
    let mut made = vec![ROOT];
    for step in steps {
        // The root comes up often, and of the others the latest.
        let pick = |at: usize| if at == 0 { ROOT } else { made[made.len().saturating_sub(at)] };
        let text = |at: u8| char::from(b'a' + at).to_string();
        let (expected, result) = match *step {
            Step::Create(dir, at, kind) => {
                let result = world.make(pick(dir), &text(at), kind);
                let ino = result.unwrap_or(Ino(0));
                (model.create(pick(dir), &text(at), ino, kind), result.map(|ino| made.push(ino)))
            }
            Step::Symlink(dir, at) => {
                let (ino, parent) = (world.next_ino(), pick(dir));
                let body = OpBody::Symlink { parent, name: name(&text(at)), ino, target: name("x") };
                let expected = model.create(parent, &text(at), ino, FileKind::Symlink);
                (expected, world.apply(body).map(|_| made.push(ino)))
            }
            Step::Tmpfile(dir) => {
                let (ino, parent) = (world.next_ino(), pick(dir));
                let body = OpBody::Tmpfile { parent, ino, perm: 0o600, umask: 0 };
                (model.tmpfile(parent, ino), world.apply(body).map(|_| made.push(ino)))
            }
            Step::Link(ino, dir, at) => {
                let expected = model.link(pick(ino), pick(dir), &text(at));
                (expected, world.link(pick(ino), pick(dir), &text(at)).map(drop))
            }
            Step::Unlink(dir, at) => {
                let expected = model.remove(pick(dir), &text(at), false);
                (expected, world.unlink(pick(dir), &text(at)).map(drop))
            }
            Step::Rmdir(dir, at) => {
                let expected = model.remove(pick(dir), &text(at), true);
                (expected, world.rmdir(pick(dir), &text(at)).map(drop))
            }
            Step::Rename(dir, at, new_dir, new_at, flags) => {
                let (from, to) = ((pick(dir), &text(at)[..]), (pick(new_dir), &text(new_at)[..]));
                let result = world.rename(from, to, flags);
                // The number of a whiteout is the last one given.
                let whiteout = Ino(world.last_ino);
                (model.rename(from, to, flags, whiteout), result.map(drop))
            }
            Step::Reap(ino) => {
                assert!(reap(&mut world.twin, pick(ino), 1).unwrap());
                world.check();
                model.reap(pick(ino));
                (Ok(()), Ok(()))
            }
        };
        assert_eq!(expected, result, "{step:?}");
        model.compare(&world);
    }
}

proptest! {
    #[test]
    fn random_operations_do_what_the_model_does(steps in steps()) {
        run(Twin::new(), &steps);
    }

    #[test]
    fn colliding_names_change_nothing(steps in steps(), cookies in 1..4u64) {
        run(Twin::colliding(cookies), &steps);
    }
}

#[test]
fn an_entry_names_its_inode_in_the_reply() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let Ok(OpReply::Entry { attr, created }) = world.link(file, ROOT, "b") else { panic!() };
    assert_eq!((attr.ino, attr.nlink, created), (file, 2, true));
}
