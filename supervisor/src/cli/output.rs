//! Container output on the terminal: whole lines, each with its container's name in front.

use std::io::{self, IsTerminal as _, Write};

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

/// Writes the lines of many containers to one stream.
#[derive(Debug)]
pub struct Printer<W> {
    out: W,
    prefix: LogPrefix,
    colour: bool,
    sources: Vec<String>,
    width: usize,
}

/// A container among those that a printer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(usize);

impl Printer<io::Stdout> {
    /// For standard output; coloured when that is a terminal and `NO_COLOR` is not set.
    pub fn stdout(prefix: LogPrefix) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::new(io::stdout(), prefix, colour)
    }
}

impl<W: Write> Printer<W> {
    pub fn new(out: W, prefix: LogPrefix, colour: bool) -> Self {
        Self { out, prefix, colour, sources: Vec::new(), width: 0 }
    }

    /// Adds a container under the name that will stand in front of its lines.
    pub fn add(&mut self, name: &str) -> Source {
        let name: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        self.width = self.width.max(name.chars().count());
        self.sources.push(name);
        Source(self.sources.len() - 1)
    }

    /// Writes one line, or a part of one (`complete` false) as it is.
    pub fn line(&mut self, source: Source, content: &[u8], complete: bool) -> io::Result<()> {
        if let (LogPrefix::Auto, Some(name)) = (self.prefix, self.sources.get(source.0)) {
            let width = self.width;
            if self.colour {
                let colour = COLOURS[source.0 % COLOURS.len()];
                write!(self.out, "\x1b[{colour}m{name:width$} |\x1b[0m ")?;
            } else {
                write!(self.out, "{name:width$} | ")?;
            }
        }
        self.out.write_all(content)?;
        if complete || self.prefix == LogPrefix::Auto {
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
        let mut printer = Printer::new(&mut out, LogPrefix::Auto, false);
        let (app, sidecar) = (printer.add("app"), printer.add("sidecar"));
        printer.line(app, b"hello", true).unwrap();
        printer.line(sidecar, b"\xff", true).unwrap();
        assert_eq!(out, b"app     | hello\nsidecar | \xff\n");
    }

    #[test]
    fn without_prefix_the_bytes_are_the_container_s_own() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, LogPrefix::None, true);
        let app = printer.add("app");
        printer.line(app, b"par", false).unwrap();
        printer.line(app, b"tial", true).unwrap();
        assert_eq!(out, b"partial\n");
    }

    /// D20
    #[test]
    fn control_characters_in_names_do_not_reach_the_terminal() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, LogPrefix::Auto, false);
        let source = printer.add("a\x1b[2J");
        printer.line(source, b"x", true).unwrap();
        assert!(!out.contains(&0x1b));
    }
}
