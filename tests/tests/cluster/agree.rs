//! Random changes on two mounts, one after the other, against one model: whatever one did, the other
//! sees at once.

use crate::model::{Body, Id, Model, Outcome, pattern};
use cairn_common::attr::{Attr, FileKind, SetAttr};
use cairn_common::error::FsResult;
use cairn_common::ids::Ino;
use cairn_common::namespace::op::FallocateMode;
use cairn_tests::harness::{Cluster, File, Mount, random, seed};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, HashMap};

const STEPS: u32 = 500;
/// All is compared after so many steps; after each, only what it touched.
const FULL: u32 = 100;
const DIRS_MAX: usize = 8;
const OPEN_MAX: usize = 6;
const OFFSET_MAX: usize = 100_000;

struct Run {
    rng: StdRng,
    mounts: [Mount; 2],
    model: Model,
    open: Vec<(File, Id)>,
    inos: HashMap<Id, Ino>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mounts_show_the_same_tree() {
    let seed = seed("two_mounts_show_the_same_tree");
    let cluster = Cluster::new().await;
    let mounts = [cluster.mount("a").await, cluster.mount("b").await];
    let mut run = Run { rng: random(seed), mounts, model: Model::new(), open: vec![], inos: HashMap::new() };
    for step in 0..STEPS {
        let touched = run.step().await;
        for path in &touched {
            run.check(path).await;
        }
        if step % FULL == FULL - 1 {
            run.check_all().await;
        }
    }
    let Run { open, mounts, model, .. } = run;
    for (file, id) in open {
        assert_eq!(file.stat().await.unwrap().nlink, model.nodes[id].names);
        file.close().await.unwrap();
    }
    // What is left behind is what a third mount finds.
    for mount in mounts {
        mount.leave().await;
    }
    let mount = cluster.mount("c").await;
    for (path, id) in model.paths() {
        if let Body::File(content) = &model.nodes[id].body {
            assert!(mount.read_file(&path).await.unwrap() == *content, "{path} on a third mount");
        }
    }
}

/// The same answer, success or not.
fn same<T>(what: &str, real: &FsResult<T>, model: &Outcome) {
    assert_eq!(real.as_ref().err(), model.as_ref().err(), "{what}");
}

impl Run {
    fn mount(&mut self) -> Mount {
        let which = self.rng.random_range(0..2);
        self.mounts[which].clone()
    }

    /// A name in a directory that exists.
    fn path(&mut self) -> String {
        let dirs: Vec<String> = self
            .model
            .paths()
            .into_iter()
            .filter(|(_, id)| self.model.nodes[*id].is_dir())
            .map(|(path, _)| path)
            .collect();
        let dir = &dirs[self.rng.random_range(0..dirs.len())];
        let name = format!("n{}", self.rng.random_range(0..6));
        if dir.is_empty() { name } else { format!("{dir}/{name}") }
    }

    /// A path that exists and is a regular file.
    fn file(&mut self) -> Option<(String, Id)> {
        let is_file = |id: Id| matches!(self.model.nodes[id].body, Body::File(_));
        let files: Vec<_> = self.model.paths().into_iter().filter(|(_, id)| is_file(*id)).collect();
        (!files.is_empty()).then(|| files[self.rng.random_range(0..files.len())].clone())
    }

    fn data(&mut self) -> Vec<u8> {
        let length = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..150_000),
            1..4 => self.rng.random_range(0..10_000),
            _ => self.rng.random_range(1..200),
        };
        pattern(self.rng.random(), length)
    }

    /// One change on one mount; the paths that it touched.
    async fn step(&mut self) -> Vec<String> {
        match self.rng.random_range(0..100) {
            0..30 => self.change_names().await,
            30..55 => self.change_file().await.into_iter().collect(),
            _ => self.use_handle().await.into_iter().collect(),
        }
    }

    async fn change_names(&mut self) -> Vec<String> {
        let (mount, path) = (self.mount(), self.path());
        let what = format!("on {}: {path}", mount.name());
        let dirs = self.model.paths().iter().filter(|(_, id)| self.model.nodes[*id].is_dir()).count();
        match self.rng.random_range(0..12) {
            0..2 if dirs < DIRS_MAX => {
                let expected = self.model.make(&path, Body::Dir(BTreeMap::new()), 0o755);
                same(&format!("mkdir {what}"), &mount.mkdir(&path).await, &expected);
            }
            2 => {
                let target = format!("target{}", self.rng.random_range(0..1_000));
                let expected = self.model.make(&path, Body::Symlink(target.clone()), 0o777);
                same(&format!("symlink {what}"), &mount.symlink(&target, &path).await, &expected);
            }
            3..5 => {
                let Some((from, _)) = self.file() else { return vec![] };
                let expected = self.model.link(&from, &path);
                same(&format!("link {from} {what}"), &mount.link(&from, &path).await, &expected);
                return vec![from, path];
            }
            5..7 => {
                let expected = self.model.unlink(&path);
                same(&format!("unlink {what}"), &mount.unlink(&path).await, &expected);
            }
            7 => {
                let expected = self.model.rmdir(&path);
                same(&format!("rmdir {what}"), &mount.rmdir(&path).await, &expected);
            }
            _ => {
                let to = self.path();
                let expected = self.model.rename(&path, &to);
                let real = mount.rename(&path, &to).await;
                assert_eq!(real.is_ok(), expected.is_ok(), "rename to {to} {what}: {real:?}, {expected:?}");
                return vec![path, to];
            }
        }
        vec![path]
    }

    async fn change_file(&mut self) -> Option<String> {
        let mount = self.mount();
        let choice = self.rng.random_range(0..10);
        if choice < 4 {
            let (path, data) = (self.path(), self.data());
            if self.model.find(&path).is_some_and(|id| !matches!(self.model.nodes[id].body, Body::File(_))) {
                return None;
            }
            // An error: it is there, and gets new content.
            let _ = self.model.make(&path, Body::File(vec![]), 0o644);
            let id = self.model.find(&path).unwrap();
            self.model.nodes[id].content().clone_from(&data);
            mount.write_file(&path, &data).await.unwrap();
            return Some(path);
        }
        let (path, id) = self.file()?;
        let node = &mut self.model.nodes[id];
        match choice {
            4..6 => {
                let size = self.rng.random_range(0..=OFFSET_MAX);
                node.content().resize(size, 0);
                mount.truncate(&path, size as u64).await.unwrap();
            }
            6..8 => {
                node.perm = self.rng.random_range(0..0o1000);
                let set = SetAttr { perm: Some(node.perm), ..SetAttr::default() };
                mount.set(&path, set).await.unwrap();
            }
            8 => {
                let name = format!("user.x{}", self.rng.random_range(0..3));
                let value = pattern(self.rng.random(), self.rng.random_range(0..300));
                mount.set_xattr(&path, &name, &value).await.unwrap();
                node.xattrs.insert(name, value);
            }
            _ => {
                let name = node.xattrs.keys().next()?.clone();
                mount.remove_xattr(&path, &name).await.unwrap();
                node.xattrs.remove(&name);
            }
        }
        Some(path)
    }

    async fn use_handle(&mut self) -> Option<String> {
        if self.open.is_empty() || (self.open.len() < OPEN_MAX && self.rng.random_ratio(1, 6)) {
            let (path, id) = self.file()?;
            let file = self.mount().open(&path, libc::O_RDWR).await.unwrap();
            self.open.push((file, id));
            return Some(path);
        }
        let which = self.rng.random_range(0..self.open.len());
        let (data, offset) = (self.data(), self.rng.random_range(0..OFFSET_MAX));
        let choice = self.rng.random_range(0..20);
        let (file, id) = &self.open[which];
        let node = &mut self.model.nodes[*id];
        match choice {
            0..9 => {
                file.write_at(offset as u64, &data).await.unwrap();
                if !data.is_empty() {
                    node.write(offset, &data);
                }
            }
            9..13 => {
                let real = file.read_at(offset as u64, data.len()).await.unwrap();
                let content = node.content();
                let end = content.len().min(offset + data.len());
                assert!(real == content[offset.min(end)..end], "read on {}", file.mount().name());
            }
            13 => {
                file.truncate(offset as u64).await.unwrap();
                node.content().resize(offset, 0);
            }
            14 => {
                let length = data.len().max(1);
                file.fallocate(FallocateMode::PunchHole, offset as u64, length as u64).await.unwrap();
                let end = node.content().len().min(offset + length);
                node.content()[offset.min(end)..end].fill(0);
            }
            15 => file.fsync().await.unwrap(),
            16 => {
                let attr = file.stat().await.unwrap();
                assert_eq!((attr.nlink, attr.size), (node.names, node.content().len() as u64));
                assert!(file.read_all().await.unwrap() == *node.content(), "all of an open file");
            }
            _ => {
                let (file, _) = self.open.swap_remove(which);
                file.close().await.unwrap();
                return None;
            }
        }
        let id = *id;
        self.model.paths().into_iter().find(|(_, at)| *at == id).map(|(path, _)| path)
    }

    async fn check_all(&mut self) {
        for (path, _) in self.model.paths() {
            self.check(&path).await;
        }
    }

    /// Both mounts show at `path` what the model has there, and in the directory around it.
    async fn check(&mut self, path: &str) {
        let first = self.rng.random_range(0..2);
        let (one, two) = (self.mounts[first].clone(), self.mounts[1 - first].clone());
        let mut attrs = vec![];
        for mount in [&one, &two] {
            attrs.push(self.check_attr(mount, path).await);
        }
        assert_eq!(attrs[0], attrs[1], "{path}: {} and {} differ", one.name(), two.name());
        for mount in [&two, &one] {
            self.check_content(mount, path).await;
            self.check_list(mount, path.rsplit_once('/').map_or("", |(parent, _)| parent)).await;
        }
    }

    async fn check_attr(&mut self, mount: &Mount, path: &str) -> Option<Attr> {
        let what = format!("{path} on {}", mount.name());
        let Some(id) = self.model.find(path) else {
            assert!(mount.stat(path).await.is_err(), "{what} should not be there");
            return None;
        };
        let attr = mount.stat(path).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let ino = *self.inos.entry(id).or_insert(attr.ino);
        assert_eq!(attr.ino, ino, "{what}: another inode");
        let node = &self.model.nodes[id];
        assert_eq!(attr.perm, node.perm, "permissions of {what}");
        let (kind, size) = match &node.body {
            Body::File(content) => (FileKind::File, Some(content.len())),
            Body::Symlink(target) => (FileKind::Symlink, Some(target.len())),
            Body::Dir(_) => (FileKind::Dir, None),
        };
        assert_eq!(attr.kind, kind, "{what}");
        assert!(
            size.is_none_or(|size| attr.size == size as u64),
            "{what}: {} instead of {size:?}",
            attr.size
        );
        if kind != FileKind::Dir {
            assert_eq!(attr.nlink, node.names, "names of {what}");
        }
        let comparable = |attr: Attr| Attr { atime: attr.mtime, data_version: 0, ..attr };
        if !path.is_empty() {
            let looked_up = mount.looked_up(path).await.unwrap();
            assert_eq!(comparable(looked_up), comparable(attr), "lookup and stat of {what}");
        }
        Some(comparable(attr))
    }

    async fn check_content(&self, mount: &Mount, path: &str) {
        let Some(id) = self.model.find(path) else { return };
        let (node, what) = (&self.model.nodes[id], format!("{path} on {}", mount.name()));
        match &node.body {
            Body::File(content) => {
                let real = mount.read_file(path).await.unwrap();
                let differ = real.iter().zip(content).position(|(real, model)| real != model);
                assert!(real == *content, "{what}: {} bytes, differ from {differ:?} on", real.len());
            }
            Body::Symlink(target) => assert_eq!(mount.readlink(path).await.unwrap(), target.as_bytes()),
            Body::Dir(_) => self.check_list(mount, path).await,
        }
        if !node.is_dir() {
            let mut names = mount.xattrs(path).await.unwrap();
            names.sort();
            let expected: Vec<&[u8]> = node.xattrs.keys().map(String::as_bytes).collect();
            assert_eq!(names, expected, "attributes of {what}");
            for (name, value) in &node.xattrs {
                assert_eq!(mount.xattr(path, name).await.unwrap(), value, "{name} of {what}");
            }
        }
    }

    async fn check_list(&self, mount: &Mount, path: &str) {
        let Some(Body::Dir(entries)) = self.model.find(path).map(|id| &self.model.nodes[id].body) else {
            return;
        };
        let mut listed: Vec<String> = vec![];
        for entry in mount.list(path).await.unwrap() {
            let name = String::from_utf8(entry.name.to_vec()).unwrap();
            let known = entries.get(&name).and_then(|id| self.inos.get(id));
            assert!(known.is_none_or(|ino| *ino == entry.ino), "{name} in {path}: another inode");
            listed.push(name);
        }
        listed.sort();
        let expected: Vec<&String> = entries.keys().collect();
        assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "'{path}' listed on {}", mount.name());
    }
}
