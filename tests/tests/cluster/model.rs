//! A file system as it should be: slow, obvious, in memory.

use cairn_common::error::FsError;
use std::collections::BTreeMap;

/// Bytes that tell where they come from.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An inode. Ids are never used again, and inodes never go away: who has one open may look at it.
pub type Id = usize;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<String, Id>),
    Symlink(String),
}

#[derive(Clone, Debug)]
pub struct Node {
    pub body: Body,
    pub perm: u16,
    /// Names, of anything but a directory.
    pub names: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Node {
    pub fn content(&mut self) -> &mut Vec<u8> {
        match &mut self.body {
            Body::File(content) => content,
            other => panic!("{other:?} has no content"),
        }
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    /// As `write(2)` does.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let content = self.content();
        content.resize(content.len().max(offset + data.len()), 0);
        content[offset..offset + data.len()].copy_from_slice(data);
    }
}

pub type Outcome = Result<(), FsError>;

pub struct Model {
    pub nodes: Vec<Node>,
}

impl Model {
    /// A root without entries.
    pub fn new() -> Model {
        let mut model = Model { nodes: vec![] };
        model.add(Body::Dir(BTreeMap::new()), 0o755);
        model
    }

    fn add(&mut self, body: Body, perm: u16) -> Id {
        self.nodes.push(Node { body, perm, names: 1, xattrs: BTreeMap::new() });
        self.nodes.len() - 1
    }

    fn entries(&mut self, dir: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.nodes[dir].body {
            Body::Dir(entries) => entries,
            other => panic!("{other:?} is not a directory"),
        }
    }

    pub fn find(&self, path: &str) -> Option<Id> {
        let mut at = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Body::Dir(entries) = &self.nodes[at].body else { return None };
            at = *entries.get(name)?;
        }
        Some(at)
    }

    fn place<'a>(&self, path: &'a str) -> (Id, &'a str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(parent).expect("the test takes parents that exist"), name)
    }

    /// All paths, the root ("") first.
    pub fn paths(&self) -> Vec<(String, Id)> {
        let mut paths = vec![(String::new(), 0)];
        let mut next = 0;
        while let Some((path, id)) = paths.get(next).cloned() {
            next += 1;
            if let Body::Dir(entries) = &self.nodes[id].body {
                let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
                paths.extend(entries.iter().map(|(name, id)| (format!("{prefix}{name}"), *id)));
            }
        }
        paths
    }

    pub fn make(&mut self, path: &str, body: Body, perm: u16) -> Outcome {
        let (parent, name) = self.place(path);
        if self.find(path).is_some() {
            return Err(FsError::Exists);
        }
        let id = self.add(body, perm);
        self.entries(parent).insert(name.to_owned(), id);
        Ok(())
    }

    pub fn link(&mut self, from: &str, to: &str) -> Outcome {
        let id = self.find(from).expect("the test links what exists");
        if self.nodes[id].is_dir() {
            return Err(FsError::NotPermitted);
        }
        let (parent, name) = self.place(to);
        if self.find(to).is_some() {
            return Err(FsError::Exists);
        }
        self.nodes[id].names += 1;
        self.entries(parent).insert(name.to_owned(), id);
        Ok(())
    }

    pub fn unlink(&mut self, path: &str) -> Outcome {
        let (parent, name) = self.place(path);
        let id = self.find(path).ok_or(FsError::NotFound)?;
        if self.nodes[id].is_dir() {
            return Err(FsError::IsDir);
        }
        self.nodes[id].names -= 1;
        self.entries(parent).remove(name);
        Ok(())
    }

    pub fn rmdir(&mut self, path: &str) -> Outcome {
        let (parent, name) = self.place(path);
        let id = self.find(path).ok_or(FsError::NotFound)?;
        match &self.nodes[id].body {
            Body::Dir(entries) if entries.is_empty() => {}
            Body::Dir(_) => return Err(FsError::NotEmpty),
            _ => return Err(FsError::NotDir),
        }
        self.entries(parent).remove(name);
        Ok(())
    }

    /// Which error a wrong rename gives depends on what is looked at first; here it is any.
    pub fn rename(&mut self, from: &str, to: &str) -> Outcome {
        let id = self.find(from).ok_or(FsError::NotFound)?;
        if self.find(to) == Some(id) {
            return Ok(());
        }
        if to.starts_with(&format!("{from}/")) {
            return Err(FsError::Invalid);
        }
        if let Some(old) = self.find(to) {
            match (self.nodes[id].is_dir(), &self.nodes[old].body) {
                (true, Body::Dir(entries)) if entries.is_empty() => {}
                (true, Body::Dir(_)) => return Err(FsError::NotEmpty),
                (true, _) => return Err(FsError::NotDir),
                (false, Body::Dir(_)) => return Err(FsError::IsDir),
                (false, _) => self.nodes[old].names -= 1,
            }
        }
        let ((parent, name), (new_parent, new_name)) = (self.place(from), self.place(to));
        self.entries(parent).remove(name);
        self.entries(new_parent).insert(new_name.to_owned(), id);
        Ok(())
    }
}
