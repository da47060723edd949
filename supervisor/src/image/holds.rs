//! Who uses which image: a file for each user, so that no process has to be asked and a dead one holds nothing.
//!
//! ```text
//! ROOT/holds/USER     what is used, and a path that exists as long as the user does
//! ROOT/used/HEX       its time is when the image with this manifest was used last
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::gc::apart;
use super::store::{At as _, StoreError, list, make_directory, read_bounded, write_passing_file};

const HOLDS: &str = "holds";
const USED: &str = "used";
/// A hold is written before what shows that its user lives; so young a one counts without.
const GRACE: Duration = Duration::from_secs(60);
/// Bytes of a hold.
const MAX_HOLD_BYTES: u64 = 16 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Hold {
    manifest: Digest,
    /// The user's own record.
    while_exists: PathBuf,
}

/// The holds of a store.
#[derive(Debug)]
pub(super) struct Holds<'a> {
    pub(super) root: &'a Path,
}

impl Holds<'_> {
    /// From now on the image stays, until `release`, or until `while_exists` is gone. `user` is a file name.
    pub(super) fn take(&self, user: &str, manifest: &Digest, while_exists: &Path) -> Result<(), StoreError> {
        let hold = Hold { manifest: manifest.clone(), while_exists: while_exists.to_owned() };
        let path = self.path(user)?;
        let bytes = serde_json::to_vec(&hold).map_err(io::Error::other).at("write", &path)?;
        // After a power cut nobody uses an image; who starts then takes a new hold.
        write_passing_file(&path, &bytes)?;
        self.touch(manifest)
    }

    pub(super) fn release(&self, user: &str) -> Result<(), StoreError> {
        let path = self.path(user)?;
        if let Some(hold) = read(&path) {
            self.touch(&hold.manifest)?;
        }
        remove(&path)
    }

    fn path(&self, user: &str) -> Result<PathBuf, StoreError> {
        let directory = self.root.join(HOLDS);
        make_directory(&directory)?;
        let safe = !user.is_empty() && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let path = directory.join(user);
        if safe { Ok(path) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)).at("hold", path) }
    }

    /// Manifests that somebody uses.
    pub(super) fn in_use(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let all = list_if_there(&self.root.join(HOLDS))?;
        Ok(all.iter().filter(|path| is_alive(path)).filter_map(|path| read(path)).map(|hold| hold.manifest).collect())
    }

    /// Removes what the dead hold, and the times of images that are gone.
    pub(super) fn sweep(&self, live: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        for path in list_if_there(&self.root.join(HOLDS))? {
            // One that somebody is writing is read when it has its name.
            let is_unfinished = path.extension().is_some();
            let is_damaged = !is_unfinished && path.exists() && read(&path).is_none();
            if is_damaged {
                tracing::error!("{} is damaged: its user does not keep its image any more", path.display());
            }
            if is_damaged || !is_alive(&path) {
                remove(&path)?;
            }
        }
        for path in list_if_there(&self.root.join(USED))? {
            if !live(&path.file_name().unwrap_or_default().to_string_lossy()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Now is when the image was used last.
    pub(super) fn touch(&self, manifest: &Digest) -> Result<(), StoreError> {
        let directory = self.root.join(USED);
        make_directory(&directory)?;
        let path = directory.join(manifest.hex());
        let file = File::options().write(true).create(true).truncate(false).open(&path).at("open", &path)?;
        file.set_modified(SystemTime::now()).at("futimens", &path)
    }

    /// When the image was used last; what was never used is as old as can be.
    pub(super) fn last_used(&self, manifest: &Digest) -> SystemTime {
        let modified = fs::metadata(self.root.join(USED).join(manifest.hex())).and_then(|meta| meta.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

fn read(path: &Path) -> Option<Hold> {
    serde_json::from_slice(&read_bounded(path, MAX_HOLD_BYTES).ok()?).ok()
}

/// Whether the user lives, or is about to.
fn is_alive(path: &Path) -> bool {
    let written = fs::metadata(path).and_then(|meta| meta.modified());
    let young = written.is_ok_and(|at| apart(at, SystemTime::now()) < GRACE);
    young || read(path).is_some_and(|hold| hold.while_exists.exists())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("unlink", path),
    }
}

fn list_if_there(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if path.exists() { list(path) } else { Ok(Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process may be between the write and the rename.
    #[test]
    fn a_hold_that_is_being_written_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let holds = Holds { root: root.path() };
        let unfinished = holds.path("user").unwrap().with_extension("7.new");
        fs::write(&unfinished, "{").unwrap();
        holds.sweep(|_| true).unwrap();
        assert!(unfinished.exists());
        let old = SystemTime::now() - 2 * GRACE;
        File::options().write(true).open(&unfinished).unwrap().set_modified(old).unwrap();
        holds.sweep(|_| true).unwrap();
        assert!(!unfinished.exists());
    }

    #[test]
    fn a_hold_lasts_as_long_as_its_user() {
        let dir = tempfile::tempdir().unwrap();
        let holds = Holds { root: dir.path() };
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let (alive, dead) = (dir.path().join("alive"), dir.path().join("dead"));
        fs::write(&alive, "").unwrap();
        holds.take("c1", &a, &alive).unwrap();
        holds.take("c2", &b, &dead).unwrap();
        // So young, both count.
        assert_eq!(holds.in_use().unwrap().len(), 2);
        // Long ago, and written before the clock was set back.
        for old in [SystemTime::now() + 2 * GRACE, SystemTime::now() - 2 * GRACE] {
            for user in ["c1", "c2"] {
                File::options().write(true).open(dir.path().join(HOLDS).join(user)).unwrap().set_modified(old).unwrap();
            }
            assert_eq!(holds.in_use().unwrap(), BTreeSet::from([a.clone()]));
        }
        holds.sweep(|_| true).unwrap();
        assert_eq!(fs::read_dir(dir.path().join(HOLDS)).unwrap().count(), 1);
        holds.release("c1").unwrap();
        assert!(holds.in_use().unwrap().is_empty());
        assert!(holds.last_used(&a) > SystemTime::UNIX_EPOCH);
        holds.release("c1").unwrap();
        assert!(holds.take("../x", &a, &alive).is_err());
    }
}
