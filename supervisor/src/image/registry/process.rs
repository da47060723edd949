//! The puller's end of the fetcher.

use std::ffi::CString;
use std::io::{self, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::fetch::{FETCH_ARGUMENT, LANES};
use super::wire::{End, Facts, Frame, MAX_CONTENT_BYTES, Question, read_frame};
use super::{Failure, Job};
use crate::engine::program::sealed;
use crate::sys::spawn::{Program, Spawned, spawn};

/// A running fetcher. It ends with its last lane.
#[derive(Debug)]
pub struct Fetcher {
    process: Spawned,
    lanes: Mutex<Vec<UnixStream>>,
}

/// Why an answer did not come whole.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Registry(#[from] Failure),
    /// Whoever takes the content gave up.
    #[error("{0}")]
    Taker(io::Error),
}

impl Fetcher {
    /// Starts it; `program` is this program's path, or another's in tests.
    pub fn start(program: &Path, job: &Job) -> io::Result<Self> {
        let bytes = serde_json::to_vec(job)?;
        let job = sealed("job", &bytes).map_err(io::Error::other)?;
        rustix::fs::seek(&job, rustix::fs::SeekFrom::Start(0))?;
        let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let root = rustix::fs::openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let pairs: Vec<(OwnedFd, OwnedFd)> = (0..LANES)
            .map(|_| rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None))
            .collect::<Result<_, _>>()?;
        let stderr = io::stderr();
        let mut fds = vec![job.as_fd(), null.as_fd(), stderr.as_fd()];
        fds.extend(pairs.iter().map(|(_, theirs)| theirs.as_fd()));
        let process = spawn(&Program {
            path: &CString::new(program.as_os_str().as_bytes())?,
            args: &[c"monopod".to_owned(), CString::new(FETCH_ARGUMENT)?],
            env: &trust_variables(),
            fds: &fds,
            working_directory: root.as_fd(),
        })?;
        let lanes = pairs.into_iter().map(|(ours, _)| UnixStream::from(ours)).collect();
        Ok(Self { process, lanes: Mutex::new(lanes) })
    }

    /// Asks; content goes to `take` piece by piece. At most [`LANES`] may ask at the same time.
    pub fn ask(&self, question: &Question, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<Facts, AskError> {
        let free = || self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = free().pop().ok_or_else(|| Failure::Fetcher("all lanes are busy".to_owned()))?;
        let facts = converse(&lane, question, take)?;
        // Only a lane whose answer came to its end can be asked again.
        free().push(lane);
        facts.map_err(AskError::Registry)
    }
}

fn converse(
    lane: &UnixStream,
    question: &Question,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<Result<Facts, Failure>, AskError> {
    let lost = |error: io::Error| AskError::Registry(Failure::Fetcher(format!("ended early: {error}")));
    question.write(lane).map_err(lost)?;
    let mut from = BufReader::with_capacity(MAX_CONTENT_BYTES, lane);
    let mut buffer = Vec::new();
    loop {
        match read_frame(&mut from, std::mem::take(&mut buffer)).map_err(lost)? {
            Frame::Content(content) => {
                take(&content).map_err(AskError::Taker)?;
                buffer = content;
            }
            Frame::End(End::Done(facts)) => return Ok(Ok(facts)),
            Frame::End(End::Failed(failure)) => return Ok(Err(failure)),
        }
    }
}

/// What the C library's users expect to choose the system's trust with.
fn trust_variables() -> Vec<CString> {
    let names = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
    let set = names.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    set.filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()).collect()
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // Gone already is as good.
        rustix::process::pidfd_send_signal(&self.process.pidfd, rustix::process::Signal::KILL).unwrap_or_default();
        let _status = rustix::process::waitpid(Some(self.process.pid), rustix::process::WaitOptions::empty());
    }
}
