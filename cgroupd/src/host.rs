//! Where this host keeps cgroup v2 and what it can enforce there.

use std::path::PathBuf;

use crate::files::{Controller, Controllers};
use crate::resources::PageSize;

/// How the host mounts cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// cgroup2 alone: every limit can hold.
    Unified,
    /// cgroup2 beside version 1, which keeps the named controllers: grouping, freezing and killing work, and the limits
    /// of the controllers that are left over.
    Hybrid,
    /// No cgroup2 at all: Monopod cannot work.
    Legacy,
}

/// What `/proc/self/mountinfo` says about cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub mode: Mode,
    /// Mount point of cgroup2; None exactly for [`Mode::Legacy`].
    pub mount_point: Option<PathBuf>,
}

impl Host {
    /// Reads the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)). Lines that are not understood are left out.
    #[must_use]
    pub fn from_mountinfo(text: &str) -> Self {
        let mut v1_controllers = false;
        let mut mount_point = None;
        for mount in text.lines().filter_map(Mount::parse) {
            match mount.filesystem {
                "cgroup2" if mount_point.is_none() => mount_point = Some(unescape(mount.point)),
                "cgroup" => v1_controllers |= mount.super_options.split(',').any(is_v1_controller),
                _ => {}
            }
        }
        let mode = match (&mount_point, v1_controllers) {
            (None, _) => Mode::Legacy,
            (Some(_), true) => Mode::Hybrid,
            (Some(_), false) => Mode::Unified,
        };
        Self { mode, mount_point }
    }

    /// Reads `/proc/self/mountinfo` itself.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn detect() -> Result<Self, HostError> {
        read(MOUNTINFO).map(|text| Self::from_mountinfo(&text))
    }
}

const MOUNTINFO: &str = "/proc/self/mountinfo";
const SELF_CGROUP: &str = "/proc/self/cgroup";
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";

/// A file about the host that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read({path})")]
pub struct HostError {
    path: &'static str,
    source: std::io::Error,
}

fn read(path: &'static str) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError { path, source })
}

struct Mount<'a> {
    point: &'a str,
    filesystem: &'a str,
    super_options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let filesystem = after.next()?;
        Some(Self { point: before.split(' ').nth(4)?, filesystem, super_options: after.nth(1)? })
    }
}

fn is_v1_controller(option: &str) -> bool {
    let ours = Controller::ALL.iter().any(|controller| controller.name() == option);
    ours || ["cpuacct", "blkio", "devices", "freezer"].contains(&option)
}

/// Blanks and the like stand as a backslash and three octal digits in mountinfo.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;

    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// This process's cgroup2 path, relative to the mount's root, from the text of `/proc/self/cgroup`.
#[must_use]
pub fn own_cgroup(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(|path| path.trim_start_matches('/'))
}

/// The directory of this process's own cgroup below the cgroup2 mount.
///
/// # Errors
/// When `/proc/self/mountinfo` or `/proc/self/cgroup` cannot be read.
pub fn own_cgroup_dir() -> Result<Option<PathBuf>, HostError> {
    let host = Host::detect()?;
    let text = read(SELF_CGROUP)?;
    Ok(host.mount_point.zip(own_cgroup(&text)).map(|(mount, path)| mount.join(path)))
}

/// The huge page sizes of this host, smallest first; none when the kernel was built without.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn page_sizes() -> Result<Vec<PageSize>, HostError> {
    let failed = |source| HostError { path: HUGEPAGES, source };
    let entries = match std::fs::read_dir(HUGEPAGES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut sizes = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        sizes.extend(name.to_str().and_then(PageSize::from_sysfs_name));
    }
    sizes.sort_unstable();
    Ok(sizes)
}

/// The controllers that a directory whose `cgroup.controllers` reads so can use; the rest cannot be enforced there.
#[must_use]
pub fn missing_controllers(usable: &Controllers) -> Controllers {
    Controller::ALL.into_iter().filter(|controller| !usable.contains(controller)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V2_BESIDE: &str = "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";
    const V1_CPU: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
    const V1_SYSTEMD: &str = "37 31 0:34 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";

    #[test]
    fn the_mounts_tell_the_mode() {
        for (mounts, mode, point) in [
            (V2.to_owned(), Mode::Unified, Some("/sys/fs/cgroup")),
            (format!("{V1_CPU}{V1_SYSTEMD}{V2_BESIDE}"), Mode::Hybrid, Some("/sys/fs/cgroup/uni fied")),
            (format!("{V1_SYSTEMD}{V2}"), Mode::Unified, Some("/sys/fs/cgroup")),
            (V1_CPU.to_owned(), Mode::Legacy, None),
            ("damaged\n\n - cgroup2\n".to_owned(), Mode::Legacy, None),
        ] {
            let expected = Host { mode, mount_point: point.map(PathBuf::from) };
            assert_eq!(Host::from_mountinfo(&mounts), expected, "{mounts}");
        }
    }

    #[test]
    fn the_own_cgroup_is_the_line_of_hierarchy_0() {
        assert_eq!(own_cgroup("8:pids:/x\n0::/system.slice/monopod.service\n"), Some("system.slice/monopod.service"));
        assert_eq!(own_cgroup("0::/\n"), Some(""));
        assert_eq!(own_cgroup("8:pids:/x\n"), None);
    }
}
