//! The execution of a plan.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::dir::{self, DEPTH_MAX};
use super::{EMPTY_WITHIN, Tree, TreeError, Unenforced, Why};
use crate::files::{Controller, Controllers, Setting};
use crate::plan::{CgroupPath, Step};

const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// One execution of a plan.
pub(super) struct Run<'a> {
    pub(super) tree: &'a Tree,
    pub(super) refused: BTreeMap<Controller, Errno>,
    pub(super) made: Vec<CgroupPath>,
    pub(super) unenforced: Vec<Unenforced>,
}

impl Run<'_> {
    pub(super) fn step(&mut self, step: &Step) -> Result<(), TreeError> {
        match step {
            Step::Mkdir(dir) => self.mkdir(dir),
            Step::Enable { dir, controllers } => self.control(dir.as_ref(), '+', controllers),
            Step::Disable { dir, controllers } => self.control(dir.as_ref(), '-', controllers),
            Step::Write { dir, setting } => self.write(dir, setting),
            Step::Kill(dir) => self.tree.kill(dir),
            Step::Rmdir(dir) => self.rmdir(dir),
        }
    }

    fn mkdir(&mut self, path: &CgroupPath) -> Result<(), TreeError> {
        if dir::mkdir(self.tree.root.as_fd(), &path.to_string(), &self.tree.show(path))? {
            self.made.push(path.clone());
        }
        Ok(())
    }

    /// All at once, and one by one if the kernel refuses that: one controller that cannot be had must not cost the others.
    fn control(&mut self, path: Option<&CgroupPath>, sign: char, wanted: &Controllers) -> Result<(), TreeError> {
        if self.tree.lookalike {
            return Ok(());
        }
        let label = path.map_or_else(|| self.tree.label.display().to_string(), |path| self.tree.show(path));
        let opened = path.map(|path| self.tree.open_dir(path)).transpose()?;
        let dir = opened.as_ref().map_or_else(|| self.tree.root.as_fd(), AsFd::as_fd);
        let listed = |name| dir::read_file(dir, &label, name).map(|text| Controller::parse_list(&text));
        let (offered, enabled) = (listed("cgroup.controllers")?, listed(SUBTREE_CONTROL)?);
        let differs = |c: &&Controller| offered.contains(*c) && enabled.contains(*c) != (sign == '+');
        let words: Vec<_> = wanted.iter().filter(differs).map(|c| (*c, format!("{sign}{c}"))).collect();
        let all = words.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>().join(" ");
        if all.is_empty() || self.tree.write_file(dir, &label, SUBTREE_CONTROL, &all).is_ok() {
            return Ok(());
        }
        for (controller, word) in words {
            match self.tree.write_file(dir, &label, SUBTREE_CONTROL, &word) {
                Err(TreeError::Write { source, .. }) => {
                    self.refused.insert(controller, source);
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn write(&mut self, path: &CgroupPath, setting: &Setting) -> Result<(), TreeError> {
        let controller = setting.file.controller();
        let dir = self.tree.open_dir(path)?;
        let why = if self.tree.usable.contains(&controller) {
            let value = setting.value.to_string();
            match self.tree.write_file(dir.as_fd(), &self.tree.show(path), &setting.file.to_string(), &value) {
                Err(TreeError::Write { source: Errno::NOENT, .. }) => match self.refused.get(&controller) {
                    Some(errno) => Why::NotEnabled(controller, *errno),
                    None => Why::FileMissing,
                },
                result => return result,
            }
        } else {
            Why::ControllerMissing(controller)
        };
        if setting.value != setting.file.initial() {
            self.unenforced.push(Unenforced { dir: path.clone(), setting: *setting, why });
        }
        Ok(())
    }

    fn rmdir(&self, path: &CgroupPath) -> Result<(), TreeError> {
        let Some(dir) = self.tree.open_if_there(path)? else {
            return Ok(());
        };
        let label = self.tree.show(path);
        if !dir::wait_for(dir.as_fd(), &label, EMPTY_WITHIN, |events| !events.populated)? {
            return Err(TreeError::StillPopulated { path: label });
        }
        dir::remove_children(dir.as_fd(), &label, DEPTH_MAX)?;
        dir::rmdir(self.tree.root.as_fd(), &path.to_string(), &label)
    }

    /// Only what is empty goes: another pod may have moved into a level that was made here.
    pub(super) fn undo(&self) {
        for path in self.made.iter().rev() {
            if dir::rmdir(self.tree.root.as_fd(), &path.to_string(), "").is_err() {
                return;
            }
        }
    }
}
