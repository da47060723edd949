//! The durable record of a container's end (D41) and the kernel's word on memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};

use super::protocol::ExitRecord;

/// Largest `memory.events`; it has a handful of lines.
const MAX_EVENTS_BYTES: usize = 1024;

/// Temp, rename, fsync of file and directory (D40, D41). The record is new: a power cut before the end leaves none, or a
/// damaged one, which counts as none; and both syncs share one commit of the file system's journal.
pub fn write(directory: BorrowedFd<'_>, name: &str, record: &ExitRecord) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let text = serde_json::to_vec(record)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, temporary.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(count..).unwrap_or_default();
    }
    rustix::fs::renameat(directory, temporary.as_str(), directory, name)?;
    rustix::fs::fsync(&file)?;
    rustix::fs::fsync(directory)?;
    Ok(())
}

/// `oom_kill` of `memory.events`; 0 where the memory controller is not on cgroup v2.
pub fn oom_kills(cgroup: BorrowedFd<'_>) -> u64 {
    read_small(cgroup, "memory.events").as_deref().map_or(0, oom_kill_count)
}

/// Whether a process is left in the cgroup or below (`populated` of `cgroup.events`).
pub fn is_populated(cgroup: BorrowedFd<'_>) -> bool {
    read_small(cgroup, "cgroup.events").is_some_and(|text| text.lines().any(|line| line == "populated 1"))
}

/// `cgroup.kill`: SIGKILL to every process of the cgroup and below.
pub fn kill_all(cgroup: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(cgroup, "cgroup.kill", flags, Mode::empty())?;
    rustix::io::write(file.as_fd(), b"1").map(drop)
}

fn oom_kill_count(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn read_small(directory: BorrowedFd<'_>, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let mut text = [0; MAX_EVENTS_BYTES];
    let count = rustix::io::read(&file, &mut text[..]).ok()?;
    std::str::from_utf8(text.get(..count)?).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::Exit;

    #[test]
    fn the_count_of_oom_kills_is_found() {
        assert_eq!(oom_kill_count("low 0\noom 1\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kill_count("low 0\noom_group_kill 7\n"), 0);
        assert_eq!(oom_kill_count(""), 0);
    }

    #[test]
    fn a_record_is_whole_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(directory.path()).unwrap();
        let record = ExitRecord {
            version: 1,
            container: "c".to_owned(),
            exit: Exit::Signal(9),
            started_at: None,
            finished_at: "t".to_owned(),
            oom_killed: true,
            start_error: None,
            unterminated: true,
        };
        write(fd.as_fd(), "c.json", &record).unwrap();
        write(fd.as_fd(), "c.json", &record).unwrap();
        let names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["c.json"]);
        let text = std::fs::read(directory.path().join("c.json")).unwrap();
        assert_eq!(serde_json::from_slice::<ExitRecord>(&text).unwrap(), record);
    }

    #[test]
    fn a_record_of_an_older_monitor_is_read() {
        let text = r#"{"version":1,"container":"c","exit":{"code":1},"started_at":null,"finished_at":"t",
            "oom_killed":false,"start_error":null}"#;
        assert!(!serde_json::from_str::<ExitRecord>(text).unwrap().unterminated);
    }
}
