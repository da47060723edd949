//! The puller as a process of its own, so that the daemon neither waits for it nor reads what strangers wrote.
//!
//! `monopod __pull STORE` has its request as descriptor 0 and tells on 1, a JSON object a line. It goes on when the daemon has gone: a
//! restarted daemon that wants the same image waits for it by the pull's lock.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::{Options, Progress, PullError, Pulled, Request, pull};
use crate::engine::program::sealed;
use crate::image::limits::Limits;
use crate::image::registry::config::ConfigError;
use crate::image::store::Store;
use crate::sys;
use crate::sys::fd::registered;
use crate::sys::spawn::{Program, Spawned, spawn};

/// The first argument that makes the program the puller.
pub const PULL_ARGUMENT: &str = "__pull";
const REQUEST_FD: i32 = 0;
const REPORT_FD: i32 = 1;
/// Bytes that a puller may tell: thousands of lines of progress, and an error.
const MAX_REPORT_BYTES: u64 = 16 << 20;
/// Characters of an error.
const MAX_ERROR_CHARS: usize = 2000;
/// What of the daemon's environment says where logins, trust and helpers are.
const VARIABLES: [&str; 9] = [
    "HOME",
    "PATH",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "REGISTRY_AUTH_FILE",
    "DOCKER_CONFIG",
    "CONTAINERS_REGISTRIES_CONF",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// One line of a puller.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Progress(Progress),
    Done(Box<Pulled>),
    Failed(Refused),
}

/// Why there is no image, as far as a pod's status tells it apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub kind: Kind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Nobody answers.
    Unavailable,
    /// The node's policy wants a signature.
    Signature,
    Other,
}

impl From<&PullError> for Refused {
    fn from(error: &PullError) -> Self {
        let kind = match error {
            PullError::Registry(failure) if failure.is_unavailable() => Kind::Unavailable,
            PullError::Config(ConfigError::Policy { .. }) => Kind::Signature,
            PullError::Registry(_)
            | PullError::Name(_)
            | PullError::Config(_)
            | PullError::Content(_)
            | PullError::Store(_)
            | PullError::Digest { .. }
            | PullError::NoSpace { .. }
            | PullError::Fetcher(_) => Kind::Other,
        };
        Self { kind, message: error.to_string() }
    }
}

/// The puller.
pub fn pull_main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(2) else { return ExitCode::from(2) };
    // The daemon's spawn blocks all signals.
    let ready = nix::sys::signal::SigSet::all().thread_unblock();
    let report = sys::unpack::inherited(REPORT_FD).map(|fd| Mutex::new(File::from(fd)));
    let (Ok(()), Ok(report)) = (ready, report) else { return ExitCode::from(2) };
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let tell = |line: &Report| {
        // A daemon that does not listen any more will ask again and find the image.
        let mut report = report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = serde_json::to_string(line).unwrap_or_default();
        writeln!(report, "{text}").unwrap_or_default();
    };
    let end = work(&PathBuf::from(root), &|progress| tell(&Report::Progress(progress)));
    let done = end.is_ok();
    tell(&end.map_or_else(Report::Failed, |pulled| Report::Done(Box::new(pulled))));
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(root: &Path, tell: &(dyn Fn(Progress) + Sync)) -> Result<Pulled, Refused> {
    let other = |message: String| Refused { kind: Kind::Other, message };
    let mut text = Vec::new();
    let fd = sys::unpack::inherited(REQUEST_FD).map_err(|error| other(format!("request: {error}")))?;
    File::from(fd).read_to_end(&mut text).map_err(|error| other(format!("request: {error}")))?;
    let request: Request = serde_json::from_slice(&text).map_err(|error| other(format!("request: {error}")))?;
    let store = Store::open(root, Limits::default()).map_err(|error| other(error.to_string()))?;
    pull(&store, &request, &Options::default(), tell).map_err(|error| Refused::from(&error))
}

/// A running puller; dropping it ends the pull.
#[derive(Debug)]
struct Puller {
    process: Spawned,
    ended: bool,
}

impl Drop for Puller {
    fn drop(&mut self) {
        if !self.ended {
            // Gone already is as good.
            rustix::process::pidfd_send_signal(&self.process.pidfd, rustix::process::Signal::KILL).unwrap_or_default();
            let _status = rustix::process::waitpid(Some(self.process.pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// Pulls in a process of its own. Dropping the future ends that process.
pub async fn run(root: &Path, request: &Request, tell: &mut dyn FnMut(Progress)) -> Result<Pulled, Refused> {
    let other = |error: io::Error| Refused { kind: Kind::Other, message: format!("the puller: {error}") };
    let (mut puller, reports) = start(root, request).map_err(other)?;
    let outcome = follow(reports, tell).await.map_err(other);
    let pidfd = puller.process.pidfd.try_clone().map_err(other)?;
    registered(pidfd).map_err(other)?.readable().await.map_err(other)?.retain_ready();
    puller.ended = true;
    let _status = rustix::process::waitpid(Some(puller.process.pid), rustix::process::WaitOptions::empty());
    match outcome? {
        Some(Report::Done(pulled)) => Ok(*pulled),
        Some(Report::Failed(refused)) => Err(refused),
        Some(Report::Progress(_)) | None => Err(other(io::Error::other("it ended without a result"))),
    }
}

fn start(root: &Path, request: &Request) -> io::Result<(Puller, OwnedFd)> {
    let request = sealed("request", &serde_json::to_vec(request)?).map_err(io::Error::other)?;
    rustix::fs::seek(&request, rustix::fs::SeekFrom::Start(0))?;
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let directory = rustix::fs::openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stderr = io::stderr();
    let root = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(root.as_os_str()))?;
    let process = spawn(&Program {
        path: c"/proc/self/exe",
        args: &[c"monopod".to_owned(), CString::new(PULL_ARGUMENT)?, root],
        env: &environment(),
        fds: &[request.as_fd(), report.as_fd(), stderr.as_fd()],
        working_directory: directory.as_fd(),
    })?;
    Ok((Puller { process, ended: false }, reports))
}

fn environment() -> Vec<CString> {
    let set = VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    set.filter_map(|(name, value)| {
        let value = std::os::unix::ffi::OsStringExt::into_vec(value);
        CString::new([name.as_bytes(), b"=", &value].concat()).ok()
    })
    .collect()
}

/// Reads until the puller closes its end; the last report that is no progress counts.
async fn follow(reports: OwnedFd, tell: &mut dyn FnMut(Progress)) -> io::Result<Option<Report>> {
    rustix::io::ioctl_fionbio(&reports, true)?;
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(reports)?;
    let mut lines = BufReader::new(pipe.take(MAX_REPORT_BYTES)).lines();
    let mut end = None;
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Report::Progress(progress) => tell(progress),
            Report::Failed(refused) => end = Some(Report::Failed(printable(refused))),
            done @ Report::Done(_) => end = Some(done),
        }
    }
    Ok(end)
}

/// Errors quote what strangers wrote (D20).
fn printable(refused: Refused) -> Refused {
    let clean = refused.message.chars().map(|c| if c.is_control() { ' ' } else { c });
    Refused { message: clean.take(MAX_ERROR_CHARS).collect(), ..refused }
}
