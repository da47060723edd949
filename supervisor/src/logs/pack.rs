//! Compressing rotated logs (rule LF3): all but the newest of each log, which somebody may still read to its end.
//!
//! The packed file has no name until it is whole, so that whoever is killed meanwhile leaves nothing. Only then the plain
//! file goes; one whose packed file is there already just goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// What a packed file's name ends with.
const ENDING: &str = ".gz";
/// As the plain file: root's, and whoever collects logs in its group.
const MODE: Mode = Mode::from_raw_mode(0o640);

/// The log that `name` was rotated from: `<n>.log.<YYYYMMDD-HHMMSS>`, the packed ones left out.
fn log_of(name: &str) -> Option<&str> {
    let (log, stamp) = name.rsplit_once('.')?;
    let (day, time) = stamp.split_once('-')?;
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    (log.ends_with(".log") && digits(day, 8) && digits(time, 6)).then_some(log)
}

/// Every plain rotated file but the newest of its log.
fn older(names: &BTreeSet<String>) -> Vec<&str> {
    let mut newest: BTreeMap<&str, &str> = BTreeMap::new();
    // Their times make them sort by age.
    let rotated: Vec<(&str, &str)> = names.iter().filter_map(|name| Some((log_of(name)?, name.as_str()))).collect();
    newest.extend(rotated.iter().copied());
    rotated.into_iter().filter(|(log, name)| newest.get(log) != Some(name)).map(|(_, name)| name).collect()
}

/// Packs what is to be packed in a container's directory of logs. Another process removes the oldest meanwhile.
///
/// # Errors
/// The first that failed; the others are packed.
pub fn pack(dir: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(dir, flags, Mode::empty()) {
        // It went with its pod.
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let entries = Dir::read_from(&directory)?.flatten();
    let names: BTreeSet<String> =
        entries.filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned())).collect();
    let mut first = Ok(());
    for name in older(&names) {
        let packed = format!("{name}{ENDING}");
        let done = if names.contains(&packed) { Ok(()) } else { pack_one(dir, &directory, name, &packed) };
        let done = done.and_then(|()| Ok(rustix::fs::unlinkat(&directory, name, AtFlags::empty())?));
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => first = first.and(Err(error)),
            _ => {}
        }
    }
    first
}

fn pack_one(dir: &Path, directory: &impl std::os::fd::AsFd, name: &str, packed: &str) -> io::Result<()> {
    let mut plain = super::follow::open(&dir.join(name))?;
    let nameless = rustix::fs::openat(directory, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, MODE)?;
    let mut gzip = flate2::write::GzEncoder::new(File::from(nameless), flate2::Compression::default());
    io::copy(&mut plain, &mut gzip)?;
    let file = gzip.finish()?;
    // The plain one goes next: after a power cut one of them is whole.
    file.sync_data()?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file.as_fd()));
    Ok(rustix::fs::linkat(CWD, path, directory, packed, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().flatten();
        let mut all: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    /// LF3
    #[test]
    fn all_but_the_newest_of_each_log_are_packed() {
        let dir = tempfile::tempdir().unwrap();
        let plain = ["0.log.20261121-044718", "1.log", "1.log.20261121-044719", "1.log.20261121-044720", "1.log.other"];
        for name in plain {
            std::fs::write(dir.path().join(name), name.repeat(1000)).unwrap();
        }
        std::fs::write(dir.path().join("1.log.20261121-044717"), "3").unwrap();
        pack(dir.path()).unwrap();
        pack(dir.path()).unwrap();
        let expected = [
            "0.log.20261121-044718",
            "1.log",
            "1.log.20261121-044717.gz",
            "1.log.20261121-044719.gz",
            "1.log.20261121-044720",
            "1.log.other",
        ];
        assert_eq!(names(dir.path()), expected);
        let packed = File::open(dir.path().join("1.log.20261121-044719.gz")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&packed.metadata().unwrap()) & 0o777, 0o640);
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "1.log.20261121-044719".repeat(1000));
    }

    #[test]
    fn a_file_that_was_packed_before_a_kill_only_goes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log.20261121-044718", "0.log.20261121-044718.gz", "0.log.20261121-044719"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        pack(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["0.log.20261121-044718.gz", "0.log.20261121-044719"]);
        pack(&dir.path().join("none")).unwrap();
    }
}
