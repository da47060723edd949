//! A disk that fails on request and forgets what was not synced when its power is cut.
//!
//! What a power cut leaves, for everything done before it: content that was not synced is old, empty, torn, or there; a change of
//! names whose directory was not synced has happened or not, each for itself, except that of changes of the same name
//! an earlier one is never missing when a later one is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::super::StoreError;
use super::super::disk::{Disk, Entry, WrittenFile, io_error};

/// SplitMix64: enough to choose, and the same everywhere.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Something that was done to the disk.
#[derive(Debug, Clone)]
pub(super) enum Op {
    MakeDirectory(PathBuf),
    Create(PathBuf, usize),
    Content(usize, Vec<u8>),
    SyncContent(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    RemoveDirectory(PathBuf),
    SyncDirectory(PathBuf),
}

impl Op {
    /// Names that it changes; none for contents and syncs.
    fn names(&self) -> Vec<&Path> {
        match self {
            Self::MakeDirectory(path) | Self::Create(path, _) | Self::Remove(path) | Self::RemoveDirectory(path) => {
                vec![path]
            }
            Self::Rename(from, to) => vec![from, to],
            Self::Content(..) | Self::SyncContent(_) | Self::SyncDirectory(_) => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

/// Names and contents.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    tree: BTreeMap<PathBuf, Node>,
    contents: HashMap<usize, Vec<u8>>,
}

impl Image {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::MakeDirectory(path) => drop(self.tree.insert(path.clone(), Node::Directory)),
            Op::Create(path, file) => drop(self.tree.insert(path.clone(), Node::File(*file))),
            Op::Content(file, bytes) => drop(self.contents.insert(*file, bytes.clone())),
            Op::Rename(from, to) => {
                let node = self.tree.remove(from).expect("renamed what is there");
                self.tree.insert(to.clone(), node);
            }
            Op::Remove(path) | Op::RemoveDirectory(path) => drop(self.tree.remove(path)),
            Op::SyncContent(_) | Op::SyncDirectory(_) => {}
        }
    }

    fn has_parent(&self, path: &Path) -> bool {
        let parent = path.parent().unwrap();
        parent.as_os_str().is_empty() || self.tree.get(parent) == Some(&Node::Directory)
    }

    fn children(&self, directory: &Path) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.tree.iter().filter(move |(path, _)| path.parent() == Some(directory))
    }

    #[expect(dead_code, reason = "for whoever looks into a failure")]
    pub(super) fn names(&self) -> Vec<&PathBuf> {
        self.tree.keys().collect()
    }
}

/// What happens to the operation with a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) errno: Errno,
}

#[derive(Debug, Default)]
struct Inner {
    /// What was durable when this disk began.
    base: Image,
    live: Image,
    ops: Vec<Op>,
    next_file: usize,
    calls: usize,
    fault: Option<Fault>,
    rule: Option<Rule>,
}

/// What an operation on a path fails with.
pub(super) type Rule = fn(&str, &Path) -> Option<Errno>;

/// A full disk: names can be changed and removed, and nothing new be made.
pub(super) const FULL: Rule = |operation, _| matches!(operation, "write" | "mkdir").then_some(Errno::NOSPC);

#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk(Arc<Mutex<Inner>>);

impl SimDisk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// How much was done so far: a point for a cut.
    pub(super) fn position(&self) -> usize {
        self.inner().ops.len()
    }

    pub(super) fn calls(&self) -> usize {
        self.inner().calls
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        self.inner().fault = fault;
    }

    pub(super) fn set_rule(&self, rule: Option<Rule>) {
        self.inner().rule = rule;
    }

    /// The disk when the process was killed after so much was done: nothing is lost, but nothing is safer than before.
    pub(super) fn killed_at(&self, position: usize) -> Self {
        let inner = self.inner();
        let ops = inner.ops[..position].to_vec();
        let mut live = inner.base.clone();
        ops.iter().for_each(|op| live.apply(op));
        Self(Arc::new(Mutex::new(Inner {
            base: inner.base.clone(),
            live,
            ops,
            next_file: inner.next_file,
            ..Inner::default()
        })))
    }

    /// The disk when the power was cut after so much was done.
    pub(super) fn cut_at(&self, position: usize, random: &mut Random) -> Self {
        let inner = self.inner();
        let image = survivors(&inner.base, &inner.ops[..position], random);
        Self(Arc::new(Mutex::new(Inner {
            base: image.clone(),
            live: image,
            next_file: inner.next_file,
            ..Inner::default()
        })))
    }

    /// The disk with everything as it is, for looking at it.
    pub(super) fn copy(&self) -> Self {
        self.killed_at(self.position())
    }

    fn call(&self, operation: &'static str, path: &Path) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let mut inner = self.inner();
        let number = inner.calls;
        inner.calls += 1;
        let fault = inner.fault.filter(|fault| (fault.first..=fault.last).contains(&number)).map(|fault| fault.errno);
        match fault.or_else(|| inner.rule.and_then(|rule| rule(operation, path))) {
            Some(errno) => Err(io_error(operation, path, errno)),
            None => Ok(inner),
        }
    }
}

impl Inner {
    fn act(&mut self, op: Op) {
        self.live.apply(&op);
        self.ops.push(op);
    }

    fn put(&mut self, path: &Path, bytes: &[u8]) -> usize {
        let file = match self.live.tree.get(path) {
            Some(Node::File(file)) => *file,
            Some(Node::Directory) => panic!("{} is a directory", path.display()),
            None => {
                self.next_file += 1;
                self.act(Op::Create(path.to_path_buf(), self.next_file));
                self.next_file
            }
        };
        self.act(Op::Content(file, bytes.to_vec()));
        file
    }
}

fn survivors(base: &Image, ops: &[Op], random: &mut Random) -> Image {
    let percent = [0, 20, 50, 80, 100][random.below(5)];
    let mut image = base.clone();
    let mut missing: BTreeSet<&Path> = BTreeSet::new();
    let mut syncs: BTreeMap<Option<&Path>, usize> = BTreeMap::new();
    for (index, op) in ops.iter().enumerate() {
        if let Op::SyncDirectory(path) = op {
            syncs.insert(Some(path), index);
        }
    }
    for (index, op) in ops.iter().enumerate() {
        let names = op.names();
        if names.is_empty() {
            continue;
        }
        let synced = names.iter().any(|name| syncs.get(&name.parent()).is_some_and(|last| *last > index));
        let possible = names.iter().all(|name| image.has_parent(name) && !missing.contains(name))
            && !matches!(op, Op::RemoveDirectory(path) if image.children(path).next().is_some());
        if possible && (synced || random.chance(percent)) {
            image.apply(op);
        } else {
            missing.extend(names);
        }
    }
    settle_contents(&mut image, base, ops, random);
    image
}

fn settle_contents(image: &mut Image, base: &Image, ops: &[Op], random: &mut Random) {
    let mut safe = base.contents.clone();
    let mut newest = safe.clone();
    for op in ops {
        match op {
            Op::Content(file, bytes) => drop(newest.insert(*file, bytes.clone())),
            Op::SyncContent(file) => drop(safe.insert(*file, newest[file].clone())),
            Op::MakeDirectory(_) | Op::Create(..) | Op::Rename(..) => {}
            Op::Remove(_) | Op::RemoveDirectory(_) | Op::SyncDirectory(_) => {}
        }
    }
    let files: Vec<_> = image.tree.values().copied().collect();
    for node in files {
        let Node::File(file) = node else { continue };
        let (safe, newest) = (safe.remove(&file), newest.remove(&file));
        let content = if safe == newest { safe.unwrap_or_default() } else { torn(safe, newest.unwrap(), random) };
        image.contents.insert(file, content);
    }
}

fn torn(old: Option<Vec<u8>>, new: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let length = random.below(new.len() + 1);
    match random.below(5) {
        0 => Vec::new(),
        1 => old.unwrap_or_default(),
        2 => new[..length].to_vec(),
        3 => {
            let mut zeroed = new;
            zeroed[length..].fill(0);
            zeroed
        }
        _ => new,
    }
}

impl Disk for SimDisk {
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, StoreError> {
        let inner = self.inner();
        let entry = |(path, node): (&PathBuf, &Node)| Entry {
            name: path.file_name().unwrap().into(),
            is_directory: *node == Node::Directory,
        };
        Ok(inner.live.children(directory).map(entry).collect())
    }

    fn read(&self, path: &Path, _limit: u64) -> Result<Vec<u8>, StoreError> {
        let inner = self.inner();
        match inner.live.tree.get(path) {
            Some(Node::File(file)) => Ok(inner.live.contents.get(file).cloned().unwrap_or_default()),
            other => Err(io_error("read", path, io::Error::other(format!("{other:?}")))),
        }
    }

    fn make_directory(&self, path: &Path) -> Result<bool, StoreError> {
        if self.inner().live.tree.contains_key(path) {
            return Ok(false);
        }
        let mut inner = self.call("mkdir", path)?;
        assert!(inner.live.has_parent(path), "{}", path.display());
        inner.act(Op::MakeDirectory(path.to_path_buf()));
        Ok(true)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<Box<dyn WrittenFile>, StoreError> {
        let failed = self.call("write", path).err();
        let mut inner = self.inner();
        assert!(inner.live.has_parent(path), "{}", path.display());
        if let Some(error) = failed {
            inner.put(path, &bytes[..bytes.len() / 2]);
            return Err(error);
        }
        let file = inner.put(path, bytes);
        Ok(Box::new(SimFile { disk: self.clone(), file, path: path.to_path_buf() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let mut inner = self.call("rename", to)?;
        assert!(inner.live.has_parent(to), "{}", to.display());
        inner.act(Op::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let mut inner = self.call("unlink", path)?;
        if inner.live.tree.contains_key(path) {
            inner.act(Op::Remove(path.to_path_buf()));
        }
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> Result<(), StoreError> {
        let mut inner = self.call("rmdir", path)?;
        assert!(inner.live.children(path).next().is_none(), "{}", path.display());
        inner.act(Op::RemoveDirectory(path.to_path_buf()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> Result<(), StoreError> {
        let mut inner = self.call("fsync", path)?;
        inner.act(Op::SyncDirectory(path.to_path_buf()));
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    path: PathBuf,
}

impl WrittenFile for SimFile {
    fn start(&self) {}

    fn sync(&self) -> Result<(), StoreError> {
        let mut inner = self.disk.call("fsync", &self.path)?;
        inner.act(Op::SyncContent(self.file));
        Ok(())
    }
}
