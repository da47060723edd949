//! The one writer of cgroups: executes plans below one delegated directory.
//!
//! Every file is opened relative to a directory descriptor, and every name in a path was checked. All calls may be
//! repeated: making what exists and removing what is gone succeed. Nothing here sleeps: the kernel reports an emptied or
//! frozen cgroup by a poll event on `cgroup.events`.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

mod dir;
mod resize;
mod run;

use self::dir::{DEPTH_MAX, DIRECTORY, FILE_BYTES_MAX, mkdir, read_file, signal_tree, subdirectories, wait_for};
pub use self::resize::Resized;
use self::run::Run;
use crate::files::{self, Controller, Controllers, Setting};
use crate::parse::ParseError;
use crate::plan::{self, CgroupPath, ContainerCgroup, PodCgroup, PodUid, Step};

/// `f_type` of cgroup2 (statfs(2)).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// Rounds of kill, wait and rmdir before processes that appear again and again count as an error.
const REMOVE_PASSES_MAX: usize = 8;
/// Rounds of signals on kernels without `cgroup.kill` (before 5.14).
const SIGNAL_PASSES_MAX: usize = 8;
/// How long removal waits for killed processes. Only one in uninterruptible sleep needs more than milliseconds.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);
/// How long freezing may take.
const FROZEN_WITHIN: Duration = Duration::from_secs(2);

/// Where the daemon itself sits, beside `kubepods`.
pub const DAEMON_LEAF: &str = "daemon";

/// A failed operation with its object.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("open({path})")]
    Open { path: String, source: Errno },
    #[error("{path} is not on a cgroup2 filesystem")]
    NotCgroup2 { path: String },
    #[error("mkdir({path})")]
    Mkdir { path: String, source: Errno },
    #[error("write({path}, {value:?})")]
    Write { path: String, value: String, source: Errno },
    #[error("read({path})")]
    Read { path: String, source: Errno },
    #[error("{path}: larger than {FILE_BYTES_MAX} bytes or not text")]
    Content { path: String },
    #[error("{dir}")]
    Parse { dir: String, source: ParseError },
    #[error("poll({path}/cgroup.events)")]
    Poll { path: String, source: Errno },
    #[error("rmdir({path})")]
    Rmdir { path: String, source: Errno },
    #[error("{path}: still has live processes {} ms after SIGKILL", EMPTY_WITHIN.as_millis())]
    StillPopulated { path: String },
    #[error("{path}: not frozen after {} ms", FROZEN_WITHIN.as_millis())]
    NotFrozen { path: String },
    #[error("attempting to set {what} memory limit ({limit}) below current usage ({usage})")]
    BelowUsage { what: String, limit: u64, usage: u64 },
    #[error("{path}: cgroups nested deeper than {DEPTH_MAX}")]
    TooDeep { path: String },
}

/// Why a value does not hold on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// cgroup2 does not have the controller here: version 1 keeps it, or it was not delegated.
    ControllerMissing(Controller),
    /// The kernel refused it in `cgroup.subtree_control`.
    NotEnabled(Controller, Errno),
    /// The controller is there, but not this file, such as `memory.swap.max` without swap accounting.
    FileMissing,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControllerMissing(controller) => {
                write!(f, "cgroup2 has no {controller} controller here")
            }
            Self::NotEnabled(controller, errno) => {
                write!(f, "the {controller} controller could not be enabled: {errno}")
            }
            Self::FileMissing => f.write_str("this kernel does not have the file"),
        }
    }
}

/// A value that was wanted and does not hold. Whether that is a warning or an error, the caller decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unenforced {
    pub dir: CgroupPath,
    pub setting: Setting,
    pub why: Why,
}

impl fmt::Display for Unenforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} is not enforced: {}", self.setting.file, self.setting.value, self.why)
    }
}

/// A leaf that is ready for a process.
#[derive(Debug)]
pub struct Created {
    /// The directory, for `CLONE_INTO_CGROUP`.
    pub dir: OwnedFd,
    pub unenforced: Vec<Unenforced>,
}

/// What [`Tree::sweep`] did.
#[derive(Debug, Default)]
pub struct Swept {
    pub removed: Vec<PodCgroup>,
    pub errors: Vec<TreeError>,
}

/// The cgroups below one directory.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// For messages only.
    label: PathBuf,
    usable: Controllers,
    lookalike: bool,
}

impl Tree {
    /// Takes `parent`, a directory of cgroup2 in which nobody else makes `kubepods`.
    ///
    /// # Errors
    /// When it cannot be opened or is on another filesystem.
    pub fn open(parent: &Path) -> Result<Self, TreeError> {
        let open = |source| TreeError::Open { path: parent.display().to_string(), source };
        let root = rustix::fs::open(parent, DIRECTORY, Mode::empty()).map_err(open)?;
        Self::from_dir(root, parent)
    }

    /// [`Tree::open`] for a directory that is open; `label` appears in messages.
    ///
    /// # Errors
    /// When it is not on cgroup2.
    pub fn from_dir(root: OwnedFd, label: &Path) -> Result<Self, TreeError> {
        let path = label.display().to_string();
        let statfs = rustix::fs::fstatfs(&root).map_err(|source| TreeError::Open { path: path.clone(), source })?;
        if u64::try_from(statfs.f_type) != Ok(CGROUP2_SUPER_MAGIC) {
            return Err(TreeError::NotCgroup2 { path });
        }
        let usable = Controller::parse_list(&read_file(root.as_fd(), &path, "cgroup.controllers")?);
        Ok(Self { root, label: label.to_owned(), usable, lookalike: false })
    }

    /// A tree of ordinary directories and files with the same names, for tests of what would be written.
    ///
    /// # Errors
    /// When `parent` cannot be opened.
    pub fn open_lookalike(parent: &Path, usable: Controllers) -> Result<Self, TreeError> {
        let open = |source| TreeError::Open { path: parent.display().to_string(), source };
        let root = rustix::fs::open(parent, DIRECTORY, Mode::empty()).map_err(open)?;
        Ok(Self { root, label: parent.to_owned(), usable, lookalike: true })
    }

    /// The controllers that can be enforced below this tree.
    #[must_use]
    pub fn usable(&self) -> &Controllers {
        &self.usable
    }

    /// Moves the calling process into [`DAEMON_LEAF`] of the root, since cgroup v2 enables controllers only below
    /// directories without processes.
    ///
    /// # Errors
    /// When the leaf cannot be made or entered.
    pub fn enter_daemon_leaf(&self) -> Result<(), TreeError> {
        let path = self.label.join(DAEMON_LEAF).display().to_string();
        mkdir(self.root.as_fd(), DAEMON_LEAF, &path)?;
        let dir = rustix::fs::openat(&self.root, DAEMON_LEAF, DIRECTORY, Mode::empty());
        let dir = dir.map_err(|source| TreeError::Open { path: path.clone(), source })?;
        self.write_file(dir.as_fd(), &path, "cgroup.procs", "0")
    }

    /// Makes `kubepods` or a QoS level below it, or brings the settings of one that exists up to date (CG11, CG12).
    ///
    /// # Errors
    /// As [`Tree::create_pod`].
    pub fn create_level(&self, level: &CgroupPath, settings: &[Setting]) -> Result<Vec<Unenforced>, TreeError> {
        self.execute(&plan::create_level(level, settings))
    }

    /// Makes a pod's cgroup, or brings the settings of one that exists up to date.
    ///
    /// # Errors
    /// When the kernel refuses a directory or a value; directories made until then are removed again.
    pub fn create_pod(&self, pod: &PodCgroup, settings: &[Setting]) -> Result<Vec<Unenforced>, TreeError> {
        self.execute(&plan::create_pod(pod, settings))
    }

    /// Makes a leaf of a pod that exists.
    ///
    /// # Errors
    /// As [`Tree::create_pod`].
    pub fn create_container(&self, leaf: &ContainerCgroup, settings: &[Setting]) -> Result<Created, TreeError> {
        let unenforced = self.execute(&plan::create_container(leaf, settings))?;
        Ok(Created { dir: self.open_dir(&leaf.path())?, unenforced })
    }

    /// Makes the leaf of a pod's sandbox (CG17).
    ///
    /// # Errors
    /// As [`Tree::create_pod`].
    pub fn create_sandbox(&self, leaf: &ContainerCgroup) -> Result<Created, TreeError> {
        self.create_container(leaf, &files::sandbox())
    }

    /// Writes settings into a directory that exists, such as a QoS level.
    ///
    /// # Errors
    /// When it does not exist or the kernel refuses a value.
    pub fn apply(&self, dir: &CgroupPath, settings: &[Setting]) -> Result<Vec<Unenforced>, TreeError> {
        self.execute(&plan::writes(dir, settings))
    }

    /// Executes a plan; what could not be enforced comes back.
    ///
    /// # Errors
    /// The first step that failed. Directories that this plan made are removed, in reverse, as far as they are empty.
    pub fn execute(&self, steps: &[Step]) -> Result<Vec<Unenforced>, TreeError> {
        let mut run = Run { tree: self, refused: BTreeMap::new(), made: Vec::new(), unenforced: Vec::new() };
        match steps.iter().try_for_each(|step| run.step(step)) {
            Ok(()) => Ok(run.unenforced),
            Err(error) => {
                run.undo();
                Err(error)
            }
        }
    }

    /// SIGKILL to every process in it and below. A cgroup that is gone has none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self, path: &CgroupPath) -> Result<(), TreeError> {
        let Some(dir) = self.open_if_there(path)? else {
            return Ok(());
        };
        match self.write_file(dir.as_fd(), &self.show(path), "cgroup.kill", "1") {
            Err(TreeError::Write { source: Errno::NOENT, .. }) => self.kill_by_signals(dir.as_fd(), &self.show(path)),
            // Removed between the open and the write.
            Err(TreeError::Write { source: Errno::NODEV, .. }) => Ok(()),
            result => result,
        }
    }

    /// Stops all processes in it and below until [`Tree::thaw`]; returns once they stand.
    ///
    /// # Errors
    /// When it does not exist, or does not stand within 2 s.
    pub fn freeze(&self, path: &CgroupPath) -> Result<(), TreeError> {
        let (dir, label) = (self.open_dir(path)?, self.show(path));
        self.write_file(dir.as_fd(), &label, "cgroup.freeze", "1")?;
        let frozen = wait_for(dir.as_fd(), &label, FROZEN_WITHIN, |events| events.frozen)?;
        if frozen { Ok(()) } else { Err(TreeError::NotFrozen { path: label }) }
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// When it does not exist or the kernel refuses.
    pub fn thaw(&self, path: &CgroupPath) -> Result<(), TreeError> {
        self.write_file(self.open_dir(path)?.as_fd(), &self.show(path), "cgroup.freeze", "0")
    }

    /// Kills what lives in it and removes it with everything below.
    ///
    /// # Errors
    /// When a process survives SIGKILL for 5 s, new ones keep appearing, or the kernel refuses.
    pub fn remove(&self, path: &CgroupPath) -> Result<(), TreeError> {
        let mut result = Ok(());
        for _ in 0..REMOVE_PASSES_MAX {
            result = self.execute(&plan::remove(path)).map(drop);
            // A process or directory that came between the wait and the rmdir.
            if !matches!(result, Err(TreeError::Rmdir { source: Errno::BUSY | Errno::NOTEMPTY, .. })) {
                break;
            }
        }
        result
    }

    /// The pods and leaves that exist, pods before their leaves. Directories of others are left out.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn list(&self) -> Result<Vec<CgroupPath>, TreeError> {
        let mut found = Vec::new();
        let mut open = vec![CgroupPath::kubepods()];
        while let Some(path) = open.pop() {
            let Some(dir) = self.open_if_there(&path)? else {
                continue;
            };
            if path.owner().is_some() {
                found.push(path.clone());
            }
            if !matches!(path.owner(), Some((_, Some(_)))) {
                let names = subdirectories(dir.as_fd(), &self.show(&path))?;
                open.extend(names.iter().filter_map(|name| path.child(name).ok()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes the pods that `keep` does not want. Never stops at an error.
    pub fn sweep(&self, keep: impl Fn(&PodUid) -> bool) -> Swept {
        let mut swept = Swept::default();
        let paths = self.list().unwrap_or_else(|error| {
            swept.errors.push(error);
            Vec::new()
        });
        for (pod, leaf) in paths.iter().filter_map(CgroupPath::owner) {
            if leaf.is_none() && !keep(&pod.uid) {
                match self.remove(&pod.path()) {
                    Ok(()) => swept.removed.push(pod),
                    Err(error) => swept.errors.push(error),
                }
            }
        }
        swept
    }

    /// The directory itself, for a watch, an adoption or a new process.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_dir(&self, path: &CgroupPath) -> Result<OwnedFd, TreeError> {
        let dir = rustix::fs::openat(&self.root, path.to_string(), DIRECTORY, Mode::empty());
        dir.map_err(|source| TreeError::Open { path: self.show(path), source })
    }

    /// Content of one of the kernel's files, for [`crate::parse`].
    ///
    /// # Errors
    /// When the directory or the file cannot be read.
    pub fn read(&self, path: &CgroupPath, name: &str) -> Result<String, TreeError> {
        read_file(self.open_dir(path)?.as_fd(), &self.show(path), name)
    }

    fn open_if_there(&self, path: &CgroupPath) -> Result<Option<OwnedFd>, TreeError> {
        match self.open_dir(path) {
            Ok(dir) => Ok(Some(dir)),
            Err(TreeError::Open { source: Errno::NOENT | Errno::NODEV, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn show(&self, path: &CgroupPath) -> String {
        self.label.join(path.to_string()).display().to_string()
    }

    fn write_file(&self, dir: BorrowedFd<'_>, label: &str, name: &str, value: &str) -> Result<(), TreeError> {
        let create = if self.lookalike { OFlags::CREATE | OFlags::TRUNC } else { OFlags::empty() };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | create;
        rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|file| rustix::io::write(&file, value.as_bytes()))
            .map(drop)
            .map_err(|source| TreeError::Write { path: format!("{label}/{name}"), value: value.to_owned(), source })
    }

    /// For kernels without `cgroup.kill`. Frozen first, so that no fork gets away; SIGKILL reaches frozen processes.
    fn kill_by_signals(&self, dir: BorrowedFd<'_>, label: &str) -> Result<(), TreeError> {
        self.write_file(dir, label, "cgroup.freeze", "1")?;
        for _ in 0..SIGNAL_PASSES_MAX {
            if signal_tree(dir, label, DEPTH_MAX)? == 0 {
                break;
            }
        }
        self.write_file(dir, label, "cgroup.freeze", "0")
    }
}

#[cfg(test)]
mod tests;
