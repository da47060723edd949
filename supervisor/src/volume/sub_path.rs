//! `subPath`: a place inside a volume, reached without ever leaving it (rules VO40-VO42, D6, P10).
//!
//! The kernel resolves the path with `RESOLVE_BENEATH`, so a container that swaps directories and links meanwhile can at
//! most make it fail. Missing directories are made one by one, each by descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::VolumeError;

/// `openat2` answers EAGAIN while the tree below is being renamed; an attacker could keep that up for ever.
const ATTEMPTS: u32 = 128;

/// Opens `path` below `root`; what is missing becomes a directory with the mode of `root`.
pub fn open(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, VolumeError> {
    match beneath(root, path, OFlags::PATH) {
        Err(VolumeError::System { source: Errno::NOENT, .. }) => create(root, path),
        opened => opened,
    }
}

fn create(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, VolumeError> {
    let stat = rustix::fs::fstat(root).map_err(VolumeError::system("stat", path))?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let mut at = beneath(root, ".", OFlags::PATH | OFlags::DIRECTORY)?;
    let mut walked = String::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        walked.push_str(if walked.is_empty() { "" } else { "/" });
        walked.push_str(part);
        match rustix::fs::mkdirat(&at, part, mode) {
            Ok(()) => {
                let made = beneath(at.as_fd(), part, OFlags::DIRECTORY)?;
                rustix::fs::fchmod(&made, mode).map_err(VolumeError::system("chmod", path))?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(VolumeError::system("mkdir", path)(error)),
        }
        // From the root again: a link on the way may lead elsewhere inside the volume.
        at = beneath(root, &walked, OFlags::PATH)?;
    }
    Ok(at)
}

/// Opens `path` without leaving `root`; links may lead from one place in it to another.
pub(super) fn beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, VolumeError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN) => {}
            Err(Errno::XDEV | Errno::LOOP) => return Err(VolumeError::Escapes { path: path.to_owned() }),
            Err(error) => return Err(VolumeError::system("openat2", path)(error)),
        }
    }
    Err(VolumeError::system("openat2", path)(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    fn directory(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// VO41
    #[test]
    fn a_missing_path_becomes_directories_with_the_root_s_mode() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::chmod(dir.path(), Mode::from_raw_mode(0o2770)).unwrap();
        open(directory(dir.path()).as_fd(), "a/b").unwrap();
        for made in ["a", "a/b"] {
            assert_eq!(dir.path().join(made).metadata().unwrap().mode() & 0o7777, 0o2770, "{made}");
        }
    }

    /// VO42, P10
    #[test]
    fn links_may_lead_inside_the_volume_only() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("inside")).unwrap();
        symlink(outside.path(), dir.path().join("absolute")).unwrap();
        symlink("../..", dir.path().join("up")).unwrap();
        symlink("/proc/self/root", dir.path().join("magic")).unwrap();
        let root = directory(dir.path());
        let inside = open(root.as_fd(), "inside").unwrap();
        assert_eq!(rustix::fs::fstat(inside).unwrap().st_ino, dir.path().join("real").metadata().unwrap().ino());
        for path in ["absolute", "up", "up/etc", "magic/etc", "..", "absolute/new", "inside/../.."] {
            let error = open(root.as_fd(), path).unwrap_err();
            assert!(matches!(error, VolumeError::Escapes { .. }), "{path}: {error}");
        }
        assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    }

    /// P10: a container exchanges a directory on the way with a link to the outside.
    #[test]
    fn an_exchange_meanwhile_never_leads_outside() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use std::sync::atomic::{AtomicBool, Ordering};
        const ROUNDS: usize = 1_000;
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::create_dir(outside.path().join("b")).unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let (real, link) = (dir.path().join("a"), dir.path().join("link"));
        let root = directory(dir.path());
        let inside = std::fs::metadata(real.join("b")).unwrap().ino();
        let done = AtomicBool::new(false);
        let opened = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let (mut opened, mut refused, mut round) = (0, 0, 0);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            // On a busy machine one of both may sleep through many rounds.
            while (round < ROUNDS || opened == 0 || refused == 0) && std::time::Instant::now() < deadline {
                round += 1;
                if let Ok(found) = open(root.as_fd(), "a/b") {
                    assert_eq!(rustix::fs::fstat(found).unwrap().st_ino, inside, "round {round}");
                    opened += 1;
                } else {
                    refused += 1;
                }
                // What is missing is made, inside or not at all.
                let _made_or_refused = open(root.as_fd(), &format!("a/new/{round}"));
            }
            done.store(true, Ordering::Relaxed);
            opened.min(refused)
        });
        assert!(opened > 0, "one side won every time: nothing was tested");
        let names: Vec<_> = outside.path().read_dir().unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["b"], "something was made outside");
    }
}
