//! Opening: every file is read, and what is not as it should be is put aside and named.
//!
//! Damage costs the object that it hit and no more; the start goes on. What is found is brought to the disk before anyone
//! sees it: the process before may have been killed between a rename and the sync of its directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Entry};
use super::file::{self, Name, OBJECTS, Place, QUARANTINE, VERSION};
use super::limits::{MAX_FILE_BYTES, MAX_QUARANTINED, VERSION_LEAP};
use super::state::{Files, Stored};
use super::{Damaged, Key, Object, StoreError, Version};

/// What a store's directory holds.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) stored: Vec<Stored>,
    /// At least every version that was ever given.
    pub(super) version: Version,
    /// Nothing was ever stored here.
    pub(super) fresh: bool,
    pub(super) directories: Vec<PathBuf>,
    pub(super) damaged: Vec<Damaged>,
    /// Objects whose main file is lost, so that they are no longer on the disk for certain.
    pub(super) weak: Vec<Key>,
}

/// A file that is as it should be.
struct Found {
    place: Place,
    object: Object,
    over_main: bool,
}

struct Loader<'a> {
    disk: &'a dyn Disk,
    /// Of the store, for messages.
    root: &'a Path,
    found: BTreeMap<Key, Vec<Found>>,
    weak: Vec<Key>,
    directories: Vec<PathBuf>,
    damaged: Vec<Damaged>,
    next_quarantined: u64,
    files_seen: bool,
}

pub(super) fn load(disk: &dyn Disk, root: &Path) -> Result<Loaded, StoreError> {
    for path in [OBJECTS, QUARANTINE] {
        disk.make_directory(Path::new(path))?;
    }
    let next_quarantined = next_number(&disk.list(Path::new(QUARANTINE))?);
    let mut loader = Loader {
        disk,
        root,
        found: BTreeMap::new(),
        weak: Vec::new(),
        directories: Vec::new(),
        damaged: Vec::new(),
        next_quarantined,
        files_seen: false,
    };
    loader.scan(Path::new(OBJECTS), 0)?;
    let recorded = loader.recorded_version()?;
    loader.finish(recorded)
}

/// Directories below `objects`: of resources, of namespaces, and then come files.
const DEPTH: u32 = 2;

impl Loader<'_> {
    /// Reads what is below a directory.
    fn scan(&mut self, directory: &Path, depth: u32) -> Result<(), StoreError> {
        let entries = match self.disk.list(directory) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => return self.put_aside(directory, None, cause_of(&error)),
        };
        for entry in entries {
            let path = directory.join(&entry.name);
            match (entry.is_directory, depth == DEPTH) {
                (true, false) => self.scan(&path, depth + 1)?,
                (false, true) => self.file(&path)?,
                (true, true) | (false, false) => self.put_aside(&path, None, file::BadFile::Foreign.to_string())?,
            }
        }
        // A namespace that is empty now may have been a short-lived one.
        if depth > 0 && self.disk.list(directory).is_ok_and(|left| left.is_empty()) && self.removed(directory) {
            return Ok(());
        }
        self.directories.push(directory.to_path_buf());
        Ok(())
    }

    /// That it is empty has to be on the disk first: what was removed from it must not come back with it.
    fn removed(&self, directory: &Path) -> bool {
        self.disk.sync_directory(directory).and_then(|()| self.disk.remove_directory(directory)).is_ok()
    }

    fn file(&mut self, path: &Path) -> Result<(), StoreError> {
        self.files_seen = true;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match file::classify(&name) {
            Name::Foreign => self.put_aside(path, None, file::BadFile::Foreign.to_string()),
            Name::Temporary(_) if self.next_quarantined > MAX_QUARANTINED => self.disk.remove(path),
            Name::Temporary(_) => {
                let cause = "left by a change that was not finished, and that nobody was told of";
                self.put_aside(path, file::key_of(path), cause.to_owned())
            }
            Name::Object { place, .. } => self.object(path, place),
        }
    }

    fn object(&mut self, path: &Path, place: Place) -> Result<(), StoreError> {
        let bytes = self.disk.read(path, MAX_FILE_BYTES).map_err(|error| cause_of(&error));
        let object = bytes.and_then(|bytes| file::decode_object(path, &bytes).map_err(|cause| cause.to_string()));
        match object {
            Ok((object, over_main)) => {
                let found = Found { place, object, over_main };
                self.found.entry(found.object.key.clone()).or_default().push(found);
                Ok(())
            }
            Err(cause) => self.put_aside(path, file::key_of(path), cause),
        }
    }

    /// Moves a file out of the way, under a name that nothing had before.
    fn put_aside(&mut self, path: &Path, key: Option<Key>, cause: String) -> Result<(), StoreError> {
        let number = self.next_quarantined;
        self.next_quarantined += 1;
        let name: String = path.file_name().unwrap_or_default().to_string_lossy().chars().take(50).collect();
        let name = if name.starts_with('.') { name.trim_start_matches('.').to_owned() } else { name };
        let kept = Path::new(QUARANTINE).join(format!("{number}-{name}"));
        self.disk.rename(path, &kept)?;
        let damaged = Damaged { path: self.root.join(path), cause, key, kept: self.root.join(kept), remains: None };
        // A help for whoever looks: where there is no space for it the message must do.
        let note = Path::new(QUARANTINE).join(format!("{number}.cause"));
        let text = format!("{} {}: {}\n", jiff::Timestamp::now(), damaged.path.display(), damaged.cause);
        self.disk.write(&note, text.as_bytes()).map_or_else(drop, drop);
        self.damaged.push(damaged);
        Ok(())
    }

    /// What the version file says; none if there is no such file, or it is damaged.
    fn recorded_version(&mut self) -> Result<Recorded, StoreError> {
        let path = Path::new(VERSION);
        self.disk.remove(&file::temporary(path))?;
        let is_version = |entry: &Entry| entry.name == path;
        if !self.disk.list(Path::new(""))?.iter().any(is_version) {
            return Ok(Recorded::Missing);
        }
        let bytes = self.disk.read(path, MAX_FILE_BYTES).map_err(|error| cause_of(&error));
        match bytes.and_then(|bytes| file::decode_version(&bytes).map_err(|cause| cause.to_string())) {
            Ok(version) => Ok(Recorded::Version(version)),
            Err(cause) => {
                self.put_aside(path, None, cause)?;
                Ok(Recorded::Lost)
            }
        }
    }

    fn finish(mut self, recorded: Recorded) -> Result<Loaded, StoreError> {
        let found = std::mem::take(&mut self.found);
        let newest = found.values().flatten().map(|found| found.object.version).max().unwrap_or(Version(0));
        let fresh = matches!(recorded, Recorded::Missing) && !self.files_seen;
        let version = match recorded {
            Recorded::Version(version) => version.max(newest),
            Recorded::Missing if fresh => Version(1),
            Recorded::Missing | Recorded::Lost => Version(newest.0.saturating_add(VERSION_LEAP)),
        };
        let stored: Vec<_> = found.into_values().filter_map(|files| self.settle(files)).collect();
        self.note_remains(&stored);
        for directory in self.directories.iter().map(PathBuf::as_path).chain([Path::new(QUARANTINE), Path::new("")]) {
            self.disk.sync_directory(directory)?;
        }
        let Self { directories, damaged, weak, .. } = self;
        Ok(Loaded { stored, version, fresh, directories, damaged, weak })
    }

    /// The newest state counts. Late files that are older have done their service.
    fn settle(&mut self, found: Vec<Found>) -> Option<Stored> {
        let mut files = Files::default();
        found.iter().for_each(|found| files.set(found.place, true));
        let newest = found.into_iter().max_by_key(|found| (found.object.version, found.place == Place::Main))?;
        let Found { place: winner, object, over_main } = newest;
        for place in files.present().filter(|place| *place != winner && *place != Place::Main) {
            if self.disk.remove(&file::path(&object.key, place)).is_ok() {
                files.set(place, false);
            }
        }
        if over_main && !files.has(Place::Main) {
            self.weak.push(object.key.clone());
        }
        Some(Stored { object, files })
    }

    /// Says for each damaged file what is left of its object.
    fn note_remains(&mut self, stored: &[Stored]) {
        let versions: BTreeMap<_, _> =
            stored.iter().map(|stored| (&stored.object.key, stored.object.version)).collect();
        for damaged in &mut self.damaged {
            damaged.remains = damaged.key.as_ref().and_then(|key| versions.get(key).copied());
        }
    }
}

/// What the version file said.
enum Recorded {
    Version(Version),
    Missing,
    Lost,
}

fn next_number(quarantined: &[Entry]) -> u64 {
    let number = |entry: &Entry| {
        let name = entry.name.to_string_lossy();
        let digits = name.split(|char: char| !char.is_ascii_digit()).next().unwrap_or_default();
        digits.parse::<u64>().ok()
    };
    quarantined.iter().filter_map(number).max().map_or(1, |last| last.saturating_add(1))
}

/// The path is named beside it.
fn cause_of(error: &StoreError) -> String {
    if let StoreError::Io { operation, cause, .. } = error {
        format!("{operation}: {cause}")
    } else {
        error.to_string()
    }
}
