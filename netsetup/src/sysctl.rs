//! Settings below `/proc/sys/net`: the file that is opened belongs to the network namespace of the calling thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::NetworkError;
use crate::lease::failed;

/// In the namespace of the calling thread.
pub(crate) fn host_has_ipv6() -> bool {
    read("net/ipv6/conf/all/disable_ipv6").is_ok_and(|value| value == "0")
}

fn path_of(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

pub(crate) fn read(name: &str) -> Result<String, NetworkError> {
    let path = path_of(name);
    fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(failed("read", &path))
}

pub(crate) fn write(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = path_of(name);
    fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(failed("write", &path))
}

/// Writes only what is different: several of these settings take the kernel's global lock.
pub(crate) fn set(name: &str, value: &str) -> Result<bool, NetworkError> {
    let different = read(name)? != value;
    if different {
        write(name, value)?;
    }
    Ok(different)
}

/// A link that is gone has no settings to restore.
pub(crate) fn restore(name: &str, previous: &str) -> Result<(), NetworkError> {
    match set(name, previous) {
        Err(NetworkError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map(|_| ()),
    }
}
