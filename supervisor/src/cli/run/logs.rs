//! Container output on the terminal: whole lines, each with its container's name in front.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::{RunError, io};
use crate::logs::follow::Follower;
use crate::logs::record;
use crate::pod::spec::PodSpec;
use crate::pod::status::{ContainerStatus, Status};
use crate::sys::fd::registered;

/// What all containers write.
#[derive(Debug)]
pub(super) struct Logs {
    printer: Printer<io::Stdout>,
    watch: AsyncFd<OwnedFd>,
    log_dir: PathBuf,
    /// By pod and container.
    sources: BTreeMap<(String, String), Followable>,
    followers: Vec<(Source, Follower)>,
}

#[derive(Debug)]
struct Followable {
    source: Source,
    dir: PathBuf,
    /// The newest instance that is followed.
    attempt: Option<u32>,
}

impl Logs {
    pub(super) fn new(prefix: LogPrefix, log_dir: PathBuf) -> Result<Self, RunError> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let watch = watch.map_err(|error| io("inotify_init")(error.into()))?;
        let watch = registered(watch).map_err(io("watch the logs"))?;
        let printer = Printer::stdout(prefix);
        Ok(Self { printer, watch, log_dir, sources: BTreeMap::new(), followers: Vec::new() })
    }

    pub(super) fn add(&mut self, spec: &PodSpec, several: bool) -> Result<(), RunError> {
        let pod_dir = self.log_dir.join(format!("{}_{}_{}", spec.namespace, spec.name, spec.uid));
        for container in &spec.containers {
            let dir = pod_dir.join(&container.name);
            std::fs::create_dir_all(&dir).map_err(io(format!("make {}", dir.display())))?;
            let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            let watched = inotify::add_watch(self.watch.get_ref(), &dir, flags);
            watched.map_err(|error| io(format!("watch {}", dir.display()))(error.into()))?;
            let name = if several { format!("{}/{}", spec.name, container.name) } else { container.name.clone() };
            let source = self.printer.add(&name);
            let key = (spec.uid.clone(), container.name.clone());
            self.sources.insert(key, Followable { source, dir, attempt: None });
        }
        Ok(())
    }

    pub(super) fn status(&mut self, uid: &str, status: &Status) {
        for container in status.init.iter().chain(&status.apps).chain(&status.ephemeral) {
            self.follow(uid, container);
        }
    }

    /// A new instance has a new file.
    fn follow(&mut self, uid: &str, container: &ContainerStatus) {
        let key = (uid.to_owned(), container.name.clone());
        let Some(known) = self.sources.get_mut(&key) else { return };
        if container.id.is_empty() || known.attempt == Some(container.restart_count) {
            return;
        }
        known.attempt = Some(container.restart_count);
        let path = known.dir.join(format!("{}.log", container.restart_count));
        self.followers.push((known.source, Follower::new(path)));
    }

    pub(super) async fn changed(&self) {
        if let Ok(mut ready) = self.watch.readable().await {
            drain_events(self.watch.get_ref());
            ready.clear_ready();
        }
    }

    pub(super) fn print(&mut self) -> bool {
        let printer = &mut self.printer;
        let mut printed = false;
        for (source, follower) in &mut self.followers {
            let source = *source;
            let mut print = |line: &[u8]| {
                if let Some(record) = record::parse(line) {
                    printed = true;
                    if let Err(error) = printer.line(source, record.content, !record.partial) {
                        tracing::debug!("write output: {error}");
                    }
                }
            };
            while let Ok(true) = follower.read(&mut print) {}
        }
        printed
    }
}

/// Only that something happened matters; every follower looks for itself.
fn drain_events(watch: &OwnedFd) {
    let mut buffer = [0; 4096];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|read| read > 0) {}
}

/// `--log-prefix`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogPrefix {
    /// `container | line`, with the pod's name too when several pods run
    Auto,
    /// Only what the containers wrote
    None,
}

/// Foreground colours that read well on dark and light backgrounds (ECMA-48 SGR).
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// What a printer puts in front of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    Name,
    ColouredName,
    Nothing,
}

/// Writes the lines of many containers to one stream.
#[derive(Debug)]
struct Printer<W> {
    out: W,
    front: Front,
    sources: Vec<String>,
    width: usize,
}

/// A container among those that a printer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source(usize);

impl Printer<io::Stdout> {
    /// For standard output; coloured when that is a terminal and `NO_COLOR` is not set.
    fn stdout(prefix: LogPrefix) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let front = match (prefix, colour) {
            (LogPrefix::Auto, true) => Front::ColouredName,
            (LogPrefix::Auto, false) => Front::Name,
            (LogPrefix::None, _) => Front::Nothing,
        };
        Self::new(io::stdout(), front)
    }
}

impl<W: Write> Printer<W> {
    fn new(out: W, front: Front) -> Self {
        Self { out, front, sources: Vec::new(), width: 0 }
    }

    /// Adds a container under the name that will stand in front of its lines.
    fn add(&mut self, name: &str) -> Source {
        let name: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        self.width = self.width.max(name.chars().count());
        self.sources.push(name);
        Source(self.sources.len() - 1)
    }

    /// Writes one line, or a part of one (`complete` false) as it is.
    fn line(&mut self, source: Source, content: &[u8], complete: bool) -> io::Result<()> {
        let name = self.sources.get(source.0).map_or("", |name| name);
        let width = self.width;
        match self.front {
            Front::Name => write!(self.out, "{name:width$} | ")?,
            Front::ColouredName => {
                let colour = COLOURS[source.0 % COLOURS.len()];
                write!(self.out, "\x1b[{colour}m{name:width$} |\x1b[0m ")?;
            }
            Front::Nothing => {}
        }
        self.out.write_all(content)?;
        if complete || self.front != Front::Nothing {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_aligned_in_front_of_lines() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, Front::Name);
        let (app, sidecar) = (printer.add("app"), printer.add("sidecar"));
        printer.line(app, b"hello", true).unwrap();
        printer.line(sidecar, b"\xff", true).unwrap();
        assert_eq!(out, b"app     | hello\nsidecar | \xff\n");
    }

    #[test]
    fn without_prefix_the_bytes_are_the_container_s_own() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, Front::Nothing);
        let app = printer.add("app");
        printer.line(app, b"par", false).unwrap();
        printer.line(app, b"tial", true).unwrap();
        assert_eq!(out, b"partial\n");
    }

    /// D20
    #[test]
    fn control_characters_in_names_do_not_reach_the_terminal() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, Front::Name);
        let source = printer.add("a\x1b[2J");
        printer.line(source, b"x", true).unwrap();
        assert!(!out.contains(&0x1b));
    }
}
