//! From a container's output to its log. Bounded: what cannot be written stays in the pipe, and the container waits (D42).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::clock::Wall;
use super::frame::{Framed, Framer, MAX_RECORD_BYTES, Out, Prefix, StreamName};
use super::log_file::LogFile;
use crate::sys::buffer::Buffer;

/// Most that is read at once.
const INPUT_BYTES: usize = 64 * 1024;
/// Fits the records of a usual input, and stays in the second-level cache.
const OUTPUT_BYTES: usize = 128 * 1024;
const _: () = assert!(OUTPUT_BYTES >= MAX_RECORD_BYTES);
/// Size that the pipe of a flooded stream gets; another one keeps the kernel's 64 KiB.
const FLOOD_PIPE_BYTES: usize = 1024 * 1024;
/// A read of so much looks like a flood: what comes next is gathered.
const BURST_BYTES: usize = 8 * 1024;
/// So much was gathered: it is one.
const FLOOD_BYTES: usize = 32 * 1024;
/// How long a flood is gathered; the timer's slack of 50 us comes on top. Woken for each of the writer's small writes, both
/// sides would spend more on waking than on writing.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000 };
/// Reads per turn of the event loop, so that one container cannot starve the others.
const READS_PER_TURN: u32 = 8;

/// Memory for reading and framing, shared by all containers of the pod and given back when the pod is quiet.
#[derive(Debug)]
pub struct Scratch {
    input: Buffer,
    output: Buffer,
    dirty: bool,
}

impl Scratch {
    pub fn new() -> io::Result<Self> {
        Ok(Self { input: Buffer::new(INPUT_BYTES)?, output: Buffer::new(OUTPUT_BYTES)?, dirty: false })
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub fn release(&mut self) {
        if self.dirty {
            self.input.release();
            self.output.release();
            self.dirty = false;
        }
    }

    /// The larger buffer, for other short uses.
    pub fn borrow(&mut self) -> &mut [u8] {
        self.dirty = true;
        self.output.as_mut_slice()
    }
}

/// One stream of a container.
#[derive(Debug)]
struct Source {
    name: StreamName,
    /// Stays open after its end, so that the event loop can take it out of its set.
    reader: OwnedFd,
    ended: bool,
    /// Kept open while the container lives, so that its closing of a stream is not taken for the stream's end.
    writer: Option<OwnedFd>,
    framer: Framer,
    enlarged: bool,
}

/// Output that could not be written yet, in the order in which it goes.
#[derive(Debug)]
struct Held {
    /// Records, or what is left of them.
    framed: Vec<u8>,
    /// Read from this stream but not framed.
    unframed: Vec<u8>,
    source: usize,
    /// The file is full: rotate first.
    rotate: bool,
}

/// Clients that see what a container writes, at the same time. Who comes after them is refused.
pub const MAX_ATTACHERS: usize = 16;

/// Pipes that get a copy of the output. The first one that can't take it ends both: the container waits for its log alone.
#[derive(Debug)]
pub struct Attacher {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Attacher {
    pub fn new(stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> io::Result<Self> {
        for pipe in [&stdout, &stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { stdout, stderr })
    }

    /// False when it is not to be written to any more.
    fn copy(&self, stream: StreamName, bytes: &[u8]) -> bool {
        let pipe = match stream {
            StreamName::Stdout => &self.stdout,
            StreamName::Stderr => &self.stderr,
        };
        pipe.as_ref().is_none_or(|pipe| rustix::io::write(pipe, bytes) == Ok(bytes.len()))
    }

    /// Whether somebody reads it.
    fn is_read(&self) -> bool {
        let gone = |pipe: &OwnedFd| {
            let mut polled = [PollFd::new(pipe, PollFlags::empty())];
            let found = rustix::event::poll(&mut polled, Some(&Timespec::default()));
            found.is_ok_and(|found| found > 0)
        };
        ![&self.stdout, &self.stderr].into_iter().flatten().any(gone)
    }
}

#[derive(Debug)]
pub struct Pump {
    sources: Vec<Source>,
    log: LogFile,
    held: Option<Held>,
    attachers: Vec<Attacher>,
    /// The newest record is a line that its stream's end has ended.
    unterminated: bool,
}

/// State of the pump after a turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more to read now.
    Drained,
    /// More is there.
    Busy,
    /// The stream has ended.
    Ended,
    /// The log cannot be written; the text says why.
    Blocked(String),
}

impl Pump {
    /// Pipes of the given streams; each reader must be non-blocking. A terminal has no writer.
    pub fn new(log: LogFile, streams: Vec<(StreamName, OwnedFd, Option<OwnedFd>)>) -> Self {
        let source = |(name, reader, writer)| Source {
            name,
            reader,
            ended: false,
            writer,
            framer: Framer::default(),
            enlarged: false,
        };
        let sources = streams.into_iter().map(source).collect();
        Self { sources, log, held: None, attachers: Vec::new(), unterminated: false }
    }

    /// From now on `attacher` gets a copy. False when there are too many.
    pub fn attach(&mut self, attacher: Attacher) -> bool {
        self.attachers.retain(Attacher::is_read);
        let room = self.attachers.len() < MAX_ATTACHERS;
        if room {
            self.attachers.push(attacher);
        }
        room
    }

    /// Nothing more comes.
    pub fn detach_all(&mut self) {
        self.attachers = Vec::new();
    }

    pub fn reader(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.sources.get(index).map(|source| source.reader.as_fd())
    }

    /// Whether the stream has come to its end; what is held of it may still be unwritten.
    pub fn has_ended(&self, index: usize) -> bool {
        self.sources.get(index).is_none_or(|source| source.ended)
    }

    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Whether every stream has ended and is written.
    pub fn is_finished(&self) -> bool {
        self.held.is_none() && self.sources.iter().all(|source| source.ended)
    }

    /// Whether the log is complete and the container wrote no newline after the last of it.
    pub fn ends_within_a_line(&self) -> bool {
        self.unterminated && self.is_finished()
    }

    pub fn is_blocked(&self) -> bool {
        self.held.is_some()
    }

    /// The container has ended: from now on a stream ends when its last writer does.
    pub fn release_writers(&mut self) {
        for source in &mut self.sources {
            source.writer = None;
        }
    }

    /// Moves what is there from one stream into the log.
    pub fn turn(&mut self, index: usize, scratch: &mut Scratch) -> Turn {
        if self.held.is_some() {
            return Turn::Blocked(String::new());
        }
        scratch.dirty = true;
        for _ in 0..READS_PER_TURN {
            match self.step(index, scratch) {
                Ok(Step::Read(count)) if count < BURST_BYTES => return Turn::Drained,
                Ok(Step::Read(count)) if count < INPUT_BYTES => gather(),
                Ok(Step::Read(_)) => {}
                Ok(Step::Nothing) => return Turn::Drained,
                Ok(Step::Ended) => return Turn::Ended,
                Err(cause) => return Turn::Blocked(cause),
            }
        }
        Turn::Busy
    }

    fn step(&mut self, index: usize, scratch: &mut Scratch) -> Result<Step, String> {
        let Some(source) = self.sources.get_mut(index).filter(|source| !source.ended) else {
            return Ok(Step::Ended);
        };
        let reader = &source.reader;
        let input = scratch.input.as_mut_slice();
        let count = match rustix::io::read(reader, &mut *input) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Step::Nothing),
            // EIO: the last process closed the other side of a terminal. Other errors end a stream as well: there is no
            // better source to turn to.
            Err(_) => 0,
        };
        if count == 0 {
            source.ended = true;
            self.store(index, &[], scratch.output.as_mut_slice())?;
            return Ok(Step::Ended);
        }
        if count >= FLOOD_BYTES && !source.enlarged {
            source.enlarged = true;
            // Refused when the user's pipes are many: it works with a smaller one, slower.
            let _size = rustix::pipe::fcntl_setpipe_size(reader, FLOOD_PIPE_BYTES);
        }
        let input = input.get(..count).unwrap_or_default();
        let name = source.name;
        self.attachers.retain(|attacher| attacher.copy(name, input));
        self.store(index, input, scratch.output.as_mut_slice())?;
        Ok(Step::Read(count))
    }

    /// Frames and writes; an empty input is the stream's end. On failure everything unwritten is held.
    fn store(&mut self, index: usize, input: &[u8], output: &mut [u8]) -> Result<(), String> {
        let Some(source) = self.sources.get_mut(index) else {
            return Ok(());
        };
        let prefix = Prefix::new(&Wall::now().rfc3339(), source.name);
        let ends_a_line = input.is_empty() && source.framer.is_in_a_line();
        let mut rest = input;
        loop {
            let mut out = Out::new(output, self.log.size(), self.log.max_bytes());
            let framed = if input.is_empty() {
                source.framer.finish(&prefix, &mut out)
            } else {
                source.framer.frame(rest, &prefix, &mut out)
            };
            let (consumed, more, rotate) = match framed {
                Framed::All => (rest.len(), false, false),
                Framed::BufferFull { consumed } => (consumed, true, false),
                Framed::FileFull { consumed } => (consumed, true, true),
            };
            rest = rest.get(consumed..).unwrap_or_default();
            if !out.bytes().is_empty() {
                self.unterminated = ends_a_line;
            }
            let failure = match self.log.write(out.bytes()) {
                Err((written, errno)) => Some((written, errno.to_string())),
                Ok(()) if rotate => self.log.rotate().err().map(|error| (out.bytes().len(), error.to_string())),
                Ok(()) => None,
            };
            if let Some((written, cause)) = failure {
                let framed = out.bytes().get(written..).unwrap_or_default().to_vec();
                self.held = Some(Held { framed, unframed: rest.to_vec(), source: index, rotate });
                return Err(cause);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Tries again to write what is held.
    pub fn retry(&mut self, scratch: &mut Scratch) -> Result<(), String> {
        let Some(mut held) = self.held.take() else {
            return Ok(());
        };
        if let Err((written, errno)) = self.log.write(&held.framed) {
            held.framed.drain(..written);
            self.held = Some(held);
            return Err(errno.to_string());
        }
        held.framed = Vec::new();
        if held.rotate
            && let Err(error) = self.log.rotate()
        {
            self.held = Some(held);
            return Err(error.to_string());
        }
        let ended = self.has_ended(held.source);
        if held.unframed.is_empty() && !ended {
            return Ok(());
        }
        scratch.dirty = true;
        self.store(held.source, &held.unframed, scratch.output.as_mut_slice())?;
        match ended && !held.unframed.is_empty() {
            true => self.store(held.source, &[], scratch.output.as_mut_slice()),
            false => Ok(()),
        }
    }
}

/// Others wait meanwhile, no longer than for the disk.
fn gather() {
    // Woken early by a signal it gathers less.
    let _rest = rustix::thread::nanosleep(&GATHER);
}

enum Step {
    Read(usize),
    Nothing,
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pump(directory: &std::path::Path) -> (Pump, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let fd = std::fs::File::open(directory).unwrap().into();
        let log = LogFile::open(fd, "0.log".to_owned(), u64::MAX, 5).unwrap();
        (Pump::new(log, vec![(StreamName::Stdout, reader.into(), None)]), writer)
    }

    #[test]
    fn output_goes_to_the_file_and_the_end_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let (mut pump, mut writer) = pump(directory.path());
        let mut scratch = Scratch::new().unwrap();
        assert_eq!(pump.turn(0, &mut scratch), Turn::Drained);
        writer.write_all(b"hello\nrest").unwrap();
        assert_eq!(pump.turn(0, &mut scratch), Turn::Drained);
        drop(writer);
        assert_eq!(pump.turn(0, &mut scratch), Turn::Ended);
        assert!(pump.is_finished());
        let text = std::fs::read_to_string(directory.path().join("0.log")).unwrap();
        let contents: Vec<&str> = text.lines().map(|line| &line[31..]).collect();
        assert_eq!(contents, ["stdout F hello", "stdout F rest"]);
    }

    /// VO60: the log alone does not tell.
    #[test]
    fn the_pump_knows_whether_the_last_line_had_an_end() {
        for (written, expected) in [("a\nb", true), ("a", true), ("a\n", false), ("", false)] {
            let directory = tempfile::tempdir().unwrap();
            let (mut pump, mut writer) = pump(directory.path());
            let mut scratch = Scratch::new().unwrap();
            writer.write_all(written.as_bytes()).unwrap();
            assert_eq!(pump.turn(0, &mut scratch), Turn::Drained);
            assert!(!pump.ends_within_a_line(), "{written:?}");
            drop(writer);
            assert_eq!(pump.turn(0, &mut scratch), Turn::Ended);
            assert_eq!(pump.ends_within_a_line(), expected, "{written:?}");
        }
    }

    /// How fast bytes of short lines leave a pipe; run by hand in an optimised build.
    #[test]
    #[ignore = "a measurement, not a check"]
    fn throughput() {
        const TOTAL: usize = 200_000_000;
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let (mut pump, mut writer) = pump(directory.path());
        let mut scratch = Scratch::new().unwrap();
        let block = ("x".repeat(127) + "\n").repeat(32);
        let start = std::time::Instant::now();
        let writing = std::thread::spawn(move || {
            for _ in 0..TOTAL / block.len() {
                writer.write_all(block.as_bytes()).unwrap();
            }
        });
        loop {
            match pump.turn(0, &mut scratch) {
                Turn::Ended => break,
                Turn::Busy => {}
                Turn::Drained => {
                    let fd =
                        rustix::event::PollFd::from_borrowed_fd(pump.reader(0).unwrap(), rustix::event::PollFlags::IN);
                    rustix::event::poll(&mut [fd], None).unwrap();
                }
                Turn::Blocked(cause) => panic!("{cause}"),
            }
        }
        writing.join().unwrap();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        println!("{:?} for {TOTAL} bytes, {cpu:?} in the pump", start.elapsed());
    }
}
