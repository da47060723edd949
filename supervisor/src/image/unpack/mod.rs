//! Unpacks one layer in a process of its own that can reach nothing but the target directory (D26).
//!
//! This file is both ends: [`unpack`] starts the process and believes it little; [`unpack_main`] is the process.

mod apply;
mod jail;
mod later;
mod layer;
mod report;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::{PipeFlags, pipe_with};

pub use report::Summary;

use self::apply::Applier;
use self::layer::Layer;
use self::report::Report;
use super::limits::Limits;
use super::tar::Reader;
use crate::sys;

/// The first argument that makes the program the unpacker.
pub const UNPACK_ARGUMENT: &str = "__unpack";
/// Where the process finds what it needs.
const LAYER_FD: i32 = 0;
const REPORT_FD: i32 = 1;
const TARGET_FD: i32 = 3;
/// Stored bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 1 << 20;
/// Headers are read block by block.
const HEADER_BUFFER_BYTES: usize = 32 << 10;
/// Texts about what was left out that are passed on; the count is always exact.
const MAX_SKIPPED_TEXTS: usize = 20;
/// `openat2` gives EAGAIN when the tree changes under it.
const MAX_TRIES: usize = 64;

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("start the unpacker: {0}")]
    Start(#[source] io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the unpacker's report: {0}")]
    Report(#[source] io::Error),
    #[error("the unpacker was ended by signal {signal}{}", meaning(*signal))]
    Killed { signal: i32 },
    #[error("the unpacker ended with code {0} and without a result")]
    NoResult(i32),
    #[error("fsetxattr({path:?}, \"trusted.overlay.opaque\"): {errno}")]
    Opaque { path: String, errno: Errno },
}

fn meaning(signal: i32) -> &'static str {
    match signal {
        libc::SIGSYS => ": it made a system call that it may not make",
        libc::SIGXCPU => ": the layer took too much processor time",
        libc::SIGXFSZ => ": a file grew too large",
        libc::SIGABRT => ": it ran out of its memory limit or had a bug",
        _ => "",
    }
}

/// One layer to unpack.
#[derive(Debug)]
pub struct Job<'a> {
    /// The program to run as unpacker, normally this one.
    pub program: BorrowedFd<'a>,
    /// The stored layer: a file at its start, or a pipe.
    pub layer: BorrowedFd<'a>,
    /// An empty directory.
    pub target: BorrowedFd<'a>,
    /// Held open as long as the process lives, so that a lock on it outlives a killed parent.
    pub lock: BorrowedFd<'a>,
    pub limits: &'a Limits,
}

/// What was unpacked, with up to 20 texts about what was left out.
#[derive(Debug)]
pub struct Unpacked {
    pub summary: Summary,
    pub skipped: Vec<String>,
}

/// Unpacks a layer and waits for it; `progress` gets the stored bytes read so far. The caller removes `target` after an error.
pub fn unpack(job: &Job<'_>, progress: &mut dyn FnMut(u64)) -> Result<Unpacked, UnpackError> {
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC).map_err(|err| UnpackError::Start(err.into()))?;
    let child = start(job, report).map_err(UnpackError::Start)?;
    let result = follow(job, BufReader::new(File::from(reports)), progress);
    if result.is_err() {
        child.kill();
    }
    let status = child.wait().map_err(UnpackError::Start)?;
    if let Some(signal) = status
        .terminating_signal()
        .filter(|_| !matches!(result, Err(UnpackError::Refused(_) | UnpackError::Opaque { .. })))
    {
        return Err(UnpackError::Killed { signal });
    }
    result?.ok_or(UnpackError::NoResult(status.exit_status().unwrap_or(-1)))
}

fn start(job: &Job<'_>, report: OwnedFd) -> io::Result<sys::unpack::Unpacker> {
    let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // A descriptor's mount stays in the namespace where it was opened; a detached copy can be attached in the child's.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let target = rustix::mount::open_tree(job.target, "", flags)?;
    let limits = serde_json::to_string(job.limits)?;
    let argv = sys::unpack::argv(c"monopod", &[UNPACK_ARGUMENT, &limits])?;
    let fds = [job.layer, report.as_fd(), null.as_fd(), target.as_fd(), job.lock];
    sys::unpack::spawn(job.program, &argv, fds)
}

/// Reads reports until the process closes its end.
fn follow(
    job: &Job<'_>,
    mut reports: impl io::Read,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<Unpacked>, UnpackError> {
    let mut skipped = Vec::new();
    let mut done = None;
    while let Some(report) = Report::read(&mut reports).map_err(UnpackError::Report)? {
        match report {
            Report::Progress(bytes) => progress(bytes),
            Report::Opaque(path) => make_opaque(job.target, &path)?,
            Report::Skipped(text) if skipped.len() < MAX_SKIPPED_TEXTS => skipped.push(text),
            Report::Skipped(_) => {}
            Report::Done(summary) => done = Some(summary),
            Report::Failed(text) => return Err(UnpackError::Refused(text)),
        }
    }
    Ok(done.map(|summary| Unpacked { summary, skipped }))
}

/// Sets the attribute that only real root may set. The path is the unpacker's word: it is resolved inside the target alone.
fn make_opaque(target: BorrowedFd<'_>, path: &[u8]) -> Result<(), UnpackError> {
    let failed = |errno| UnpackError::Opaque { path: path.escape_ascii().to_string(), errno };
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let open = || rustix::fs::openat2(target, path, flags, Mode::empty(), resolve);
    let mut tries = (0..MAX_TRIES).map(|_| open());
    let dir = match tries.find(|result| !matches!(result, Err(Errno::AGAIN))) {
        Some(Ok(dir)) => dir,
        // A later entry replaced the directory.
        Some(Err(Errno::NOENT | Errno::NOTDIR)) => return Ok(()),
        Some(Err(errno)) => return Err(failed(errno)),
        None => return Err(failed(Errno::AGAIN)),
    };
    rustix::fs::fsetxattr(&dir, c"trusted.overlay.opaque", b"y", XattrFlags::empty()).map_err(failed)
}

/// The unpacker: `monopod __unpack LIMITS`, with the layer as 0, reports to 1, the target directory as 3.
pub fn unpack_main() -> ExitCode {
    let limits = std::env::args().nth(2).unwrap_or_default();
    let Ok(mut report) = sys::unpack::inherited(REPORT_FD).map(File::from) else {
        return ExitCode::from(2);
    };
    let result = work(&limits, &report).unwrap_or_else(Report::Failed);
    let told = result.write(&mut report).and_then(|()| report.flush());
    match (result, told) {
        (Report::Done(_), Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn work(limits: &str, report: &File) -> Result<Report, String> {
    let limits: Limits = serde_json::from_str(limits).map_err(|err| format!("limits: {err}"))?;
    let layer = sys::unpack::inherited(LAYER_FD).map_err(|err| format!("layer: {err}"))?;
    let target = sys::unpack::inherited(TARGET_FD).map_err(|err| format!("target: {err}"))?;
    let root = jail::enter(target, &limits).map_err(|err| format!("lock the unpacker in: {err}"))?;
    apply_layer(File::from(layer), root, &limits, report)
}

fn apply_layer(stored: File, root: OwnedFd, limits: &Limits, report: &File) -> Result<Report, String> {
    let layer = Layer::new(stored, limits).map_err(|err| err.to_string())?;
    let stored_bytes = layer.stored_bytes();
    let mut told = 0;
    // A parent that does not listen any more has gone, and this process goes with it.
    let mut tell = |message: Report| message.write(report).unwrap_or_default();
    let mut archive = Reader::new(BufReader::with_capacity(
        HEADER_BUFFER_BYTES,
        Watched {
            inner: layer,
            watch: || {
                if stored_bytes.get() - told >= PROGRESS_BYTES {
                    told = stored_bytes.get();
                    Report::Progress(told).write(report).unwrap_or_default();
                }
            },
        },
    ));
    let mut applier = Applier::new(root, limits, &mut tell);
    applier.apply_all(&mut archive).map_err(|err| err.to_string())?;
    let (entries, skipped) = (applier.entries, applier.skipped);
    let layer = archive.into_inner().into_inner().inner;
    let (diff_id, uncompressed_bytes) = layer.finish().map_err(|err| err.to_string())?;
    Ok(Report::Done(Summary { diff_id, uncompressed_bytes, entries, skipped }))
}

/// Calls `watch` before every read.
struct Watched<R, F> {
    inner: R,
    watch: F,
}

impl<R: io::Read, F: FnMut()> io::Read for Watched<R, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (self.watch)();
        self.inner.read(buf)
    }
}
