//! Where things lie on the node.

use std::path::{Path, PathBuf};

use super::id::{ContainerId, SandboxId};
use super::record::{self, SandboxRecord};

/// The directories of a node. Everything below them is ours, mode 0700, but for the logs (D30).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Survives a reboot: owner records, exit records, container roots, images.
    pub data: PathBuf,
    /// Does not: sockets, address leases.
    pub run: PathBuf,
    /// `<ns>_<name>_<uid>/<container>/<n>.log` (rule LF1).
    pub log: PathBuf,
}

impl Default for Dirs {
    fn default() -> Self {
        Self { data: "/var/lib/monopod".into(), run: "/run/monopod".into(), log: "/var/log/pods".into() }
    }
}

impl Dirs {
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub fn leases(&self) -> PathBuf {
        self.run.join("network")
    }

    pub fn sandboxes(&self) -> PathBuf {
        self.data.join("sandboxes")
    }

    pub fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    /// The owner records of all sandboxes; what can't be read is left out.
    pub fn sandbox_records(&self) -> Vec<SandboxRecord> {
        let entries = std::fs::read_dir(self.sandboxes()).into_iter().flatten().flatten();
        entries.filter_map(|entry| record::load(&entry.path().join(super::sandbox::RECORD))).collect()
    }

    pub fn container(&self, sandbox: &SandboxId, id: &ContainerId) -> PathBuf {
        self.containers(sandbox).join(id.as_str())
    }

    pub fn containers(&self, sandbox: &SandboxId) -> PathBuf {
        self.sandbox(sandbox).join("containers")
    }

    /// Upper and work directory of a container's root.
    pub fn scratch(&self, id: &ContainerId) -> PathBuf {
        self.data.join("scratch").join(id.as_str())
    }

    /// What pods have on disk: a directory for each, named by its uid.
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// Where directories wait to be deleted: renaming is quick, deleting a large tree is not.
    pub fn trash(&self) -> PathBuf {
        self.data.join("trash")
    }

    /// Where a sandbox's monitor listens; it goes with the sandbox.
    pub fn monitor(&self, id: &SandboxId) -> PathBuf {
        self.run.join("sandboxes").join(id.as_str())
    }

    /// Where links lead to the containers' logs (rule LF1): beside `/var/log/pods`, else within the logs' own directory.
    pub fn log_links(&self) -> PathBuf {
        const NAME: &str = "containers";
        if self.log.ends_with("pods") { self.log.with_file_name(NAME) } else { self.log.join(NAME) }
    }

    /// Makes the directories that must exist before anything else.
    pub fn create(&self) -> std::io::Result<()> {
        for dir in
            [self.sandboxes(), self.data.join("scratch"), self.trash(), self.run.join("sandboxes"), self.leases()]
        {
            create_private(&dir)?;
        }
        std::fs::create_dir_all(&self.log)?;
        std::fs::create_dir_all(self.log_links())
    }
}

/// A directory for root alone, with its parents.
pub fn create_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LF1
    #[test]
    fn links_to_logs_lie_where_collectors_look_or_with_the_logs() {
        let links = |log: &str| Dirs { log: log.into(), ..Dirs::default() }.log_links();
        assert_eq!(Dirs::default().log_links(), Path::new("/var/log/containers"));
        assert_eq!(links("/mnt/logs"), Path::new("/mnt/logs/containers"));
    }
}
