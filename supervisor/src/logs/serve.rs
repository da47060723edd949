//! A log as `kubectl logs` shows it: the part that is asked for, and what is still to come (rules LG1, LG3, LF4).

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::follow::{self, Follower};
use super::record::{self, Record, Stream};
use crate::sys::fd::registered;

/// What is sent at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// How much is looked at at once when the last lines are searched.
const BLOCK_BYTES: u64 = 64 * 1024;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Go on until the container has ended.
    pub follow: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    /// Records from the end, partial ones counted each.
    pub tail: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// One stream alone.
    pub stream: Option<Stream>,
}

/// Writes a log to `out`, which holds it back; ends when `ended` does and all is written, or when nobody reads any more.
///
/// # Errors
/// The log can't be read; an absent file is an empty log.
pub async fn serve(
    path: PathBuf,
    options: &Options,
    ended: impl Future<Output = ()>,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let watch = if options.follow { Some(watch(&path)?) } else { None };
    let mut follower = begin(path, options.tail)?;
    let mut view = View::new(options);
    let mut ended = pin!(ended);
    let mut last = !options.follow;
    loop {
        if !copy(&mut follower, &mut view, &out).await? {
            return Ok(());
        }
        let Some(watch) = watch.as_ref().filter(|_| !last) else { return Ok(()) };
        tokio::select! {
            ready = watch.readable() => {
                drain(watch.get_ref());
                ready?.clear_ready();
            }
            // What it wrote until then is still to be read.
            () = &mut ended => last = true,
            () = out.closed() => return Ok(()),
        }
    }
}

/// Everything that is there now. False when it is enough, or nobody reads.
async fn copy(follower: &mut Follower, view: &mut View<'_>, out: &mpsc::Sender<Bytes>) -> io::Result<bool> {
    loop {
        let more = follower.read(|line| view.add(line))?;
        let wanted = !view.is_full();
        if view.text.len() >= CHUNK_BYTES || !more || !wanted {
            let text = view.text.split().freeze();
            if !text.is_empty() && out.send(text).await.is_err() {
                return Ok(false);
            }
            // Others have their turn, too, while a large file is read.
            tokio::task::yield_now().await;
        }
        if !more || !wanted {
            return Ok(wanted);
        }
    }
}

/// What a client sees of records.
struct View<'a> {
    options: &'a Options,
    text: BytesMut,
    left: u64,
    /// The next record begins a line.
    new_line: bool,
}

impl<'a> View<'a> {
    fn new(options: &'a Options) -> Self {
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Self { options, text: BytesMut::new(), left, new_line: true }
    }

    fn is_full(&self) -> bool {
        self.left == 0
    }

    fn add(&mut self, line: &[u8]) {
        let Some(record) = record::parse(line).filter(|record| self.wants(record)) else { return };
        if self.options.timestamps && self.new_line {
            let time = fixed(record.time);
            self.put(time.as_bytes());
            self.put(b" ");
        }
        self.put(record.content);
        if !record.partial {
            self.put(b"\n");
        }
        self.new_line = !record.partial;
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        let stream = self.options.stream.is_none_or(|stream| stream == record.stream);
        stream
            && self.options.since.is_none_or(|since| record.time.parse::<Timestamp>().is_ok_and(|time| time >= since))
    }

    fn put(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.text.extend_from_slice(bytes.get(..count).unwrap_or_default());
        self.left -= count as u64;
    }
}

/// With nine digits, whatever was written.
fn fixed(time: &str) -> String {
    const LENGTH: usize = "2026-01-02T03:04:05.123456789Z".len();
    if time.len() == LENGTH {
        return time.to_owned();
    }
    time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |time| format!("{time:.9}"))
}

fn begin(path: PathBuf, tail: Option<u64>) -> io::Result<Follower> {
    let Some(lines) = tail else { return Ok(Follower::new(path)) };
    match follow::open(&path) {
        Ok(file) => {
            let start = tail_start(&file, lines)?;
            Follower::starting_at(path, file, start)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Follower::new(path)),
        Err(error) => Err(error),
    }
}

/// Where the last `lines` complete lines begin.
fn tail_start(file: &File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(0)];
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let block = buffer.get_mut(..usize::try_from(end - start).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(block, start)?;
        for at in memchr::memrchr_iter(b'\n', block) {
            if found == lines {
                return Ok(start + at as u64 + 1);
            }
            found += 1;
        }
        end = start;
    }
    Ok(0)
}

fn watch(path: &std::path::Path) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, path.parent().unwrap_or(path), flags)?;
    registered(fd)
}

/// What happened matters less than that something did.
fn drain(watch: &OwnedFd) {
    let mut buffer = [0; 4096];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|count| count > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const LINES: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n\
        2026-01-02T03:04:06.000000001Z stderr P tw\n\
        2026-01-02T03:04:07Z stderr F o\n\
        2026-01-02T03:04:08.000000001Z stdout F three\n";

    fn run<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    async fn collect(mut receiver: mpsc::Receiver<Bytes>) -> String {
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    fn shown(options: &Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LINES).unwrap();
        run(async {
            let (out, receiver) = mpsc::channel(4);
            let (served, text) = tokio::join!(serve(path, options, std::future::pending(), out), collect(receiver));
            served.unwrap();
            text
        })
    }

    /// LG1, LG3
    #[test]
    fn options_choose_what_is_shown() {
        let all = Options::default();
        let since = Some("2026-01-02T03:04:07Z".parse().unwrap());
        for (options, expected) in [
            (all.clone(), "one\ntwo\nthree\n"),
            (Options { tail: Some(1), ..all.clone() }, "three\n"),
            (Options { tail: Some(2), ..all.clone() }, "o\nthree\n"),
            (Options { tail: Some(0), ..all.clone() }, ""),
            (Options { tail: Some(9), ..all.clone() }, "one\ntwo\nthree\n"),
            (Options { limit_bytes: Some(5), ..all.clone() }, "one\nt"),
            (Options { since, ..all.clone() }, "o\nthree\n"),
            (Options { stream: Some(Stream::Stderr), ..all.clone() }, "two\n"),
            (
                Options { timestamps: true, ..all },
                "2026-01-02T03:04:05.000000001Z one\n2026-01-02T03:04:06.000000001Z two\n2026-01-02T03:04:08.000000001Z three\n",
            ),
        ] {
            assert_eq!(shown(&options), expected, "{options:?}");
        }
        assert_eq!(fixed("2026-01-02T03:04:07Z"), "2026-01-02T03:04:07.000000000Z");
    }

    #[test]
    fn the_last_lines_are_found_over_blocks() {
        let mut file = tempfile::tempfile().unwrap();
        let line = "x".repeat(999) + "\n";
        file.write_all(line.repeat(200).as_bytes()).unwrap();
        for lines in [0, 1, 65, 66, 199, 200, 201] {
            assert_eq!(tail_start(&file, lines).unwrap(), 200_000 - 1000 * lines.min(200), "{lines}");
        }
    }

    #[test]
    fn following_ends_with_the_container_and_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LINES).unwrap();
        run(async {
            let (out, mut receiver) = mpsc::channel(4);
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            let options = Options { follow: true, tail: Some(1), ..Options::default() };
            let ended = async { ended.await.unwrap_or(()) };
            let serving = serve(path.clone(), &options, ended, out);
            let client = async {
                assert_eq!(receiver.recv().await.unwrap(), "three\n");
                std::fs::rename(&path, dir.path().join("0.log.20260102-030409")).unwrap();
                std::fs::write(&path, "2026-01-02T03:04:09.000000001Z stdout F four\n").unwrap();
                assert_eq!(receiver.recv().await.unwrap(), "four\n");
                std::fs::write(
                    &path,
                    "2026-01-02T03:04:09.000000001Z stdout F four\n2026-01-02T03:04:10.000000001Z stdout F five\n",
                )
                .unwrap();
                end.send(()).unwrap();
                assert_eq!(receiver.recv().await.unwrap(), "five\n");
                assert!(receiver.recv().await.is_none());
            };
            tokio::join!(serving, client).0.unwrap();
        });
    }

    #[test]
    fn following_ends_when_nobody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        run(async {
            let (out, receiver) = mpsc::channel(4);
            let options = Options { follow: true, ..Options::default() };
            let client = async { drop(receiver) };
            tokio::join!(serve(path, &options, std::future::pending(), out), client).0.unwrap();
        });
    }
}
