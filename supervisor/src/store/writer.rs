//! Brings a batch to the disk.
//!
//! The order is what makes it outlive a power cut: all new contents are written beside the old ones and synced, then the names
//! are changed, then the directories are synced, and only then anybody hears of it. A change that needs no disk never
//! touches a file that is on the disk for certain: its state stands in a late file beside it, and the newer one counts at the
//! start. A rename could otherwise reach the disk before the content, and cost an object that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::disk::{Disk, WrittenFile};
use super::file::{self, Place};
use super::state::{Batch, Files, Outcome, Trust, Write, Written, again};
use super::{Durability, Key, StoreError, Version};

/// The acting part of the store.
#[derive(Debug)]
pub(super) struct Writer {
    disk: Box<dyn Disk>,
    /// Directories that are there; whether their own name is on the disk.
    directories: BTreeMap<PathBuf, bool>,
}

/// One object on its way.
#[derive(Debug)]
struct Step<'a> {
    write: &'a Write,
    /// Where the new content goes.
    place: Place,
    content: Option<Box<dyn WrittenFile>>,
    files: Files,
    /// Names were changed.
    changed: bool,
    error: Option<StoreError>,
}

impl<'a> Step<'a> {
    fn new(write: &'a Write) -> Self {
        let place = match write.durability {
            Durability::Disk => Place::Main,
            Durability::Kernel => write.files.free_late(),
        };
        Self { write, place, content: None, files: write.files, changed: false, error: None }
    }

    /// What comes after a failure is left out.
    fn then(&mut self, action: impl FnOnce(&mut Self) -> Result<(), StoreError>) {
        if self.error.is_none() {
            self.error = action(self).err();
        }
    }

    fn path(&self) -> PathBuf {
        file::path(&self.write.key, self.place)
    }

    fn is_durable(&self) -> bool {
        self.write.durability == Durability::Disk
    }
}

impl Writer {
    pub(super) fn new(disk: Box<dyn Disk>, directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { disk, directories: directories.into_iter().map(|path| (path, true)).collect() }
    }

    pub(super) fn write(&mut self, batch: &Batch) -> Written {
        let mut reserved = None;
        if let Some(reserve) = batch.reserve {
            match self.reserve(reserve.version) {
                Ok(()) => reserved = Some(reserve.version),
                Err(error) if reserve.needed => {
                    let failed = |write: &Write| Outcome {
                        error: Some(again(&error)),
                        files: write.files,
                        trust: Trust::AsBefore,
                    };
                    return Written { reserved, outcomes: batch.writes.iter().map(failed).collect() };
                }
                // There are some left; the next change tries again.
                Err(_) => {}
            }
        }
        let steps = self.steps(&batch.writes);
        Written { reserved, outcomes: steps.into_iter().map(|step| self.close(step)).collect() }
    }

    /// Versions up to this one may be given.
    pub(super) fn reserve(&mut self, version: Version) -> Result<(), StoreError> {
        let path = Path::new(file::VERSION);
        let temporary = file::temporary(path);
        let made = self.disk.write(&temporary, &file::encode_version(version)).and_then(|content| content.sync());
        made.and_then(|()| self.disk.rename(&temporary, path)).inspect_err(|_| {
            self.disk.remove(&temporary).unwrap_or_default();
        })?;
        self.disk.sync_directory(Path::new(""))
    }

    fn steps<'a>(&mut self, writes: &'a [Write]) -> Vec<Step<'a>> {
        let mut steps: Vec<_> = writes.iter().map(Step::new).collect();
        for step in &mut steps {
            step.then(|step| self.prepare(step));
        }
        sync_contents(&mut steps);
        for step in &mut steps {
            step.then(|step| self.rename(step));
        }
        self.sync_names(&mut steps);
        steps
    }

    /// Writes the new content beside the old one.
    fn prepare(&mut self, step: &mut Step<'_>) -> Result<(), StoreError> {
        let Some(target) = &step.write.target else { return Ok(()) };
        self.make_directories(&step.write.key)?;
        let temporary = file::temporary(&step.path());
        let over_main = step.place != Place::Main && step.files.has(Place::Main);
        step.content = Some(self.disk.write(&temporary, &file::encode_object(target, over_main))?);
        Ok(())
    }

    fn make_directories(&mut self, key: &Key) -> Result<(), StoreError> {
        let directory = file::directory(key);
        if self.directories.contains_key(&directory) {
            return Ok(());
        }
        for path in directory.parent().into_iter().chain([directory.as_path()]) {
            if !self.directories.contains_key(path) {
                self.disk.make_directory(path)?;
                self.directories.insert(path.to_path_buf(), false);
            }
        }
        Ok(())
    }

    fn rename(&self, step: &mut Step<'_>) -> Result<(), StoreError> {
        if step.content.take().is_none() {
            return self.remove(step);
        }
        let path = step.path();
        self.disk.rename(&file::temporary(&path), &path)?;
        step.changed = true;
        step.files.set(step.place, true);
        for old in step.files.present().filter(|place| *place != step.place) {
            let stays = old == Place::Main && !step.is_durable();
            // An older file that stays does no harm: the newer one counts, and the next change tries again.
            if !stays && self.disk.remove(&file::path(&step.write.key, old)).is_ok() {
                step.files.set(old, false);
            }
        }
        Ok(())
    }

    fn remove(&self, step: &mut Step<'_>) -> Result<(), StoreError> {
        for place in step.files.present() {
            self.disk.remove(&file::path(&step.write.key, place))?;
            step.changed = true;
            step.files.set(place, false);
        }
        Ok(())
    }

    /// One sync for each directory with a change for good, and for those that were made for it. Also where no name was changed:
    /// an object that was made and deleted at once may have had a file before, whose removal needed no disk then.
    fn sync_names(&mut self, steps: &mut [Step<'_>]) {
        let wanted = |step: &Step<'_>| step.error.is_none() && step.is_durable();
        let directories: BTreeSet<_> =
            steps.iter().filter(|step| wanted(step)).map(|step| file::directory(&step.write.key)).collect();
        for directory in directories {
            if !self.directories.contains_key(&directory) {
                continue;
            }
            let Err(error) = self.sync_with_parents(&directory) else { continue };
            for step in steps.iter_mut().filter(|step| wanted(step) && file::directory(&step.write.key) == directory) {
                step.error = Some(again(&error));
            }
        }
    }

    fn sync_with_parents(&mut self, directory: &Path) -> Result<(), StoreError> {
        self.disk.sync_directory(directory)?;
        for path in [Some(directory), directory.parent()].into_iter().flatten() {
            if let (Some(false), Some(parent)) = (self.directories.get(path), path.parent()) {
                self.disk.sync_directory(parent)?;
                self.directories.insert(path.to_path_buf(), true);
            }
        }
        Ok(())
    }

    /// Cleans up after what failed, and puts back what counted before.
    fn close(&mut self, step: Step<'_>) -> Outcome {
        if step.error.is_none() {
            return Outcome { error: None, files: step.files, trust: Trust::Good };
        }
        if step.write.target.is_some() {
            // If it can't be removed it stays a leftover, which the next content of this file replaces.
            self.disk.remove(&file::temporary(&step.path())).unwrap_or_default();
        }
        if !step.changed {
            return Outcome { error: step.error, files: step.files, trust: Trust::AsBefore };
        }
        let target = step.write.committed.clone();
        let back = Write { target, durability: Durability::Disk, files: step.files, ..step.write.clone() };
        let undone = self.steps(std::slice::from_ref(&back)).pop();
        match undone {
            Some(Step { files, error: None, .. }) => Outcome { error: step.error, files, trust: Trust::Good },
            Some(Step { files, .. }) => Outcome { error: step.error, files, trust: Trust::None },
            None => Outcome { error: step.error, files: step.files, trust: Trust::None },
        }
    }
}

fn sync_contents(steps: &mut [Step<'_>]) {
    let durable: Vec<_> = steps.iter_mut().filter(|step| step.is_durable() && step.content.is_some()).collect();
    if durable.len() > 1 {
        durable.iter().filter_map(|step| step.content.as_ref()).for_each(|content| content.start());
    }
    for step in durable {
        step.then(|step| step.content.as_ref().map_or(Ok(()), |content| content.sync()));
    }
}
