//! `hostPath` (section 7.2).

use std::os::fd::OwnedFd;
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::VolumeError;

/// Rule VO15: symlinks in the path are followed on the host (rule VO17); a container has no say in it.
pub(super) fn open(source: &HostPathVolumeSource) -> Result<OwnedFd, VolumeError> {
    let path = Path::new(&source.path);
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => make_directory(path)?,
        "FileOrCreate" => make_file(path)?,
        // The runtime creates what is missing when nothing is said about the type.
        "" if rustix::fs::stat(path).is_err() => make_directory(path)?,
        _ => {}
    }
    let root = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let root = match (root, expected(source)) {
        (Ok(root), _) => root,
        (Err(Errno::NOENT), Some((_, expected))) => return Err(wrong_type(source, expected)),
        (Err(error), _) => return Err(VolumeError::system("open", path)(error)),
    };
    let stat = rustix::fs::fstat(&root).map_err(VolumeError::system("stat", path))?;
    match expected(source) {
        Some((file_type, expected)) if FileType::from_raw_mode(stat.st_mode) != file_type => {
            Err(wrong_type(source, expected))
        }
        _ => Ok(root),
    }
}

/// The type that the manifest asks for, and how a failure names it.
fn expected(source: &HostPathVolumeSource) -> Option<(FileType, &'static str)> {
    match source.type_.as_deref()? {
        "Directory" | "DirectoryOrCreate" => Some((FileType::Directory, "a directory")),
        "File" | "FileOrCreate" => Some((FileType::RegularFile, "a file")),
        "Socket" => Some((FileType::Socket, "a socket file")),
        "CharDevice" => Some((FileType::CharacterDevice, "a character device")),
        "BlockDevice" => Some((FileType::BlockDevice, "a block device")),
        _ => None,
    }
}

fn wrong_type(source: &HostPathVolumeSource, expected: &'static str) -> VolumeError {
    VolumeError::HostPathType { path: source.path.clone(), expected }
}

fn make_directory(path: &Path) -> Result<(), VolumeError> {
    let error = match std::fs::create_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) => Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    // Something else lies there: the type check names it.
    if error == Errno::EXIST || error == Errno::NOTDIR {
        Ok(())
    } else {
        Err(VolumeError::system("mkdir", path)(error))
    }
}

fn make_file(path: &Path) -> Result<(), VolumeError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(VolumeError::system("create", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &Path, type_: &str) -> HostPathVolumeSource {
        HostPathVolumeSource { path: path.display().to_string(), type_: Some(type_.to_owned()) }
    }

    /// VO15
    #[test]
    fn each_type_accepts_what_it_names_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (file, sub, none) = (dir.path().join("file"), dir.path().join("sub"), dir.path().join("none"));
        std::fs::write(&file, "x").unwrap();
        std::fs::create_dir(&sub).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let socket = dir.path().join("socket");
        let null = Path::new("/dev/null");
        for (path, type_, fails_as) in [
            (file.as_path(), "File", None),
            (&file, "Directory", Some("a directory")),
            (&file, "DirectoryOrCreate", Some("a directory")),
            (&sub, "Directory", None),
            (&sub, "File", Some("a file")),
            (&sub, "FileOrCreate", Some("a file")),
            (&none, "File", Some("a file")),
            (&none, "Directory", Some("a directory")),
            (&none, "Socket", Some("a socket file")),
            (&socket, "Socket", None),
            (&socket, "CharDevice", Some("a character device")),
            (null, "CharDevice", None),
            (null, "BlockDevice", Some("a block device")),
        ] {
            let got = open(&source(path, type_)).err().map(|error| error.to_string());
            let expected = fails_as.map(|what| format!("hostPath type check failed: {} is not {what}", path.display()));
            assert_eq!(got, expected, "{} as {type_}", path.display());
        }
        assert!(!none.exists());
    }

    #[test]
    fn what_is_missing_is_created_where_the_type_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for (name, type_) in [("a/b", "DirectoryOrCreate"), ("c", "")] {
            open(&source(&dir.path().join(name), type_)).unwrap();
            assert!(dir.path().join(name).is_dir(), "{type_}");
        }
        open(&source(&dir.path().join("f"), "FileOrCreate")).unwrap();
        assert!(dir.path().join("f").is_file());
        let error = open(&source(&dir.path().join("no/f"), "FileOrCreate")).unwrap_err();
        assert!(error.to_string().starts_with("create("), "{error}");
    }
}
