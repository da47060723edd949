//! The environment of a process and the program that it becomes.

use std::ffi::CString;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::failure::{Result, refuse};
use super::launch::{LaunchError, Step};

/// `PATH` when neither image nor manifest has one (rule EN2).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `TERM` of a process with a terminal (rule EN2).
pub const DEFAULT_TERM: &str = "xterm";

/// What is added to the environment unless it is there already (rule EN2).
#[derive(Debug, Clone)]
pub(crate) struct Additions<'a> {
    pub home: &'a str,
    pub hostname: &'a str,
    pub terminal: bool,
}

/// The whole environment.
pub(crate) fn environment(given: &[String], additions: &Additions<'_>) -> Vec<String> {
    let term = additions.terminal.then_some(("TERM", DEFAULT_TERM));
    let more = [("PATH", DEFAULT_PATH), ("HOSTNAME", additions.hostname), ("HOME", additions.home)];
    let missing = more.into_iter().chain(term).filter(|(name, _)| value(given, name).is_none());
    given.iter().cloned().chain(missing.map(|(name, value)| format!("{name}={value}"))).collect()
}

fn value<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

pub(crate) fn strings(of: &[String], what: &str) -> Result<Vec<CString>> {
    of.iter()
        .map(|text| CString::new(text.as_str()).map_err(|_| refuse(Step::Exec, what, "contains a NUL byte")))
        .collect()
}

/// The file that `exec` will be given, looked up as the user who will run it. The texts of the errors are those that
/// containerd's users know.
pub(crate) fn find(name: &str, environment: &[String]) -> Result<String> {
    if name.contains('/') {
        return check(name).map(|()| name.to_owned()).map_err(|errno| not_runnable(name, describe(errno), errno));
    }
    let directories = value(environment, "PATH").unwrap_or_default().split(':');
    // A relative entry would name a file that the working directory decides.
    let candidates = directories.filter(|directory| directory.starts_with('/'));
    let mut candidates = candidates.map(|directory| format!("{}/{name}", directory.trim_end_matches('/')));
    let found = candidates.find(|candidate| !name.is_empty() && check(candidate).is_ok());
    found.ok_or_else(|| not_runnable(name, "executable file not found in $PATH".to_owned(), Errno::NOENT))
}

fn check(path: &str) -> std::result::Result<(), Errno> {
    let found = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())
}

/// The error of a failed exec.
pub(crate) fn not_executed(name: &str, error: &std::io::Error) -> LaunchError {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    LaunchError { step: Step::Exec, ..not_runnable(name, describe(errno), errno) }
}

fn not_runnable(name: &str, cause: String, errno: Errno) -> LaunchError {
    LaunchError { step: Step::LookUpProgram, object: format!("{name:?}"), cause, errno: Some(errno.raw_os_error()) }
}

/// strerror(3) in Go's spelling.
fn describe(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        Errno::TOOBIG => "argument list too long".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        errno => errno.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let additions = Additions { home: "/srv", hostname: "pod", terminal: true };
        let whole = environment(&owned(&["A=1", "PATH=/x", "HOME=", "HOMER=y"]), &additions);
        assert_eq!(whole, ["A=1", "PATH=/x", "HOME=", "HOMER=y", "HOSTNAME=pod", "TERM=xterm"]);
        let whole = environment(&[], &Additions { terminal: false, ..additions });
        assert_eq!(whole, [&format!("PATH={DEFAULT_PATH}"), "HOSTNAME=pod", "HOME=/srv"]);
    }

    #[test]
    fn a_missing_program_reads_as_under_containerd() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        std::fs::write(directory.path().join("data"), "x").unwrap();
        let environment = owned(&[&format!("PATH=.:{path}")]);
        let text = |name: &str| find(name, &environment).unwrap_err().to_string();
        assert_eq!(text("nonesuch"), r#"exec: "nonesuch": executable file not found in $PATH"#);
        assert_eq!(text("data"), r#"exec: "data": executable file not found in $PATH"#);
        assert_eq!(text(""), r#"exec: "": executable file not found in $PATH"#);
        assert_eq!(text("/nonesuch"), r#"exec: "/nonesuch": no such file or directory"#);
        assert_eq!(text(&format!("{path}/data")), format!(r#"exec: "{path}/data": permission denied"#));
        assert_eq!(text("/"), r#"exec: "/": is a directory"#);
    }
}
