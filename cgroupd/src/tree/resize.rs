//! Other limits for what runs (RZ5, RZ6).

use std::os::fd::AsFd as _;

use rustix::io::Errno;

use super::dir::read_file;
use super::{Tree, TreeError, Unenforced};
use crate::convert::Limit;
use crate::files::{Controller, File, Setting, Value};
use crate::plan::{self, CgroupPath, Change, ContainerCgroup, PodCgroup};

/// What the processes below a cgroup use, in bytes.
const USAGE: &str = "memory.current";

/// A running container with the limits that it shall have.
#[derive(Debug, Clone)]
pub struct Resized {
    pub leaf: ContainerCgroup,
    /// For messages.
    pub name: String,
    pub settings: Vec<Setting>,
}

impl Tree {
    /// Changes a pod and some of its containers in the order of RZ5. Without `lower` the pod's own limits only rise:
    /// containers that are about to end still have what they were promised.
    ///
    /// # Errors
    /// A memory limit would fall below what is used (RZ6); nothing was written then. Otherwise as [`Tree::apply`].
    pub fn resize(
        &self,
        pod: &PodCgroup,
        settings: &[Setting],
        containers: &[Resized],
        lower: bool,
    ) -> Result<Vec<Unenforced>, TreeError> {
        let mut whole = self.change(pod.path(), settings)?;
        if !lower {
            let from = whole.from.clone();
            whole.to.retain(|to| !from.iter().any(|old| old.file == to.file && old.value.decreases_to(to.value)));
        }
        let mut own = Vec::new();
        for container in containers {
            own.push(self.change(container.leaf.path(), &container.settings)?);
        }
        self.must_fit("pod", &whole)?;
        for (container, change) in containers.iter().zip(&own) {
            self.must_fit(&format!("container {:?}", container.name), change)?;
        }
        self.execute(&plan::update(&whole, &own))
    }

    /// What the files hold now; those that this host does not have are left out.
    fn change(&self, dir: CgroupPath, settings: &[Setting]) -> Result<Change, TreeError> {
        let to: Vec<Setting> = settings.iter().filter(|own| is_resizable(own.file)).copied().collect();
        let mut from = Vec::new();
        for setting in &to {
            if let Some(value) = self.value(&dir, setting.file)? {
                from.push(Setting { value, ..*setting });
            }
        }
        Ok(Change { dir, from, to })
    }

    fn value(&self, dir: &CgroupPath, file: File) -> Result<Option<Value>, TreeError> {
        let text = self.read_if_there(dir, &file.to_string())?;
        Ok(text.and_then(|text| file.initial().read(&text)))
    }

    fn read_if_there(&self, dir: &CgroupPath, name: &str) -> Result<Option<String>, TreeError> {
        let opened = self.open_dir(dir)?;
        match read_file(opened.as_fd(), &self.show(dir), name) {
            Ok(text) => Ok(Some(text)),
            Err(TreeError::Open { source: Errno::NOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// RZ6: only a limit that falls is looked at.
    fn must_fit(&self, what: &str, change: &Change) -> Result<(), TreeError> {
        let find = |settings: &[Setting]| settings.iter().find(|own| own.file == File::MemoryMax).map(|own| own.value);
        let (Some(old), Some(Value::Limit(Limit::Value(limit)))) = (find(&change.from), find(&change.to)) else {
            return Ok(());
        };
        let usage = self.read_if_there(&change.dir, USAGE)?.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if old.decreases_to(Value::Limit(Limit::Value(limit))) && usage >= limit {
            return Err(TreeError::BelowUsage { what: what.to_owned(), limit, usage });
        }
        Ok(())
    }
}

/// RZ1: cpu and memory.
fn is_resizable(file: File) -> bool {
    match file.controller() {
        Controller::Cpu | Controller::Memory => true,
        Controller::Cpuset | Controller::Pids | Controller::Hugetlb => false,
    }
}
