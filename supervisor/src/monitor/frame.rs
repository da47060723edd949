//! From bytes to CRI log records (rule LF2); pure.
//!
//! `<stamp> <stream> <F|P> <content>\n`: a line is one `F` record, or `P` records of 16 KiB and one last `F`. However the
//! input is cut into chunks, the records are the same; so a line without its end is carried, not written.

/// Longest content of a record; a line of exactly this length (without its newline) is not split.
pub const MAX_CONTENT_BYTES: usize = 16 * 1024;
/// Everything of a record that is not content: stamp, stream, tag, three spaces, newline.
pub const OVERHEAD_BYTES: usize = super::clock::RFC3339_BYTES + " stdout F \n".len();
/// Longest record.
pub const MAX_RECORD_BYTES: usize = MAX_CONTENT_BYTES + OVERHEAD_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamName {
    Stdout,
    Stderr,
}

impl StreamName {
    fn text(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where records go: a slice that is filled from the front, and the room that is left in the current file.
#[derive(Debug)]
pub struct Out<'a> {
    buffer: &'a mut [u8],
    len: usize,
    file_room: u64,
    /// The file holds something already, so a record that does not fit goes into the next one.
    file_used: bool,
}

/// How far framing came. What is consumed is in records or carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed {
    All,
    BufferFull { consumed: usize },
    FileFull { consumed: usize },
}

enum Full {
    Buffer,
    File,
}

impl<'a> Out<'a> {
    /// `file_size` of `file_max` bytes are used; a file that holds nothing takes any record. The buffer has to hold one
    /// record of [`MAX_RECORD_BYTES`].
    pub fn new(buffer: &'a mut [u8], file_size: u64, file_max: u64) -> Self {
        let file_room = file_max.saturating_sub(file_size);
        Self { buffer, len: 0, file_room, file_used: file_size > 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, prefix: &[u8], carried: &[u8], content: &[u8]) -> Result<(), Full> {
        let size = prefix.len() + carried.len() + content.len() + 1;
        if self.file_room < size as u64 && self.file_used {
            return Err(Full::File);
        }
        let Some(place) = self.buffer.get_mut(self.len..self.len + size) else {
            return Err(Full::Buffer);
        };
        let (head, rest) = place.split_at_mut(prefix.len());
        let (middle, rest) = rest.split_at_mut(carried.len());
        let (tail, end) = rest.split_at_mut(content.len());
        head.copy_from_slice(prefix);
        middle.copy_from_slice(carried);
        tail.copy_from_slice(content);
        end.copy_from_slice(b"\n");
        self.len += size;
        self.file_room = self.file_room.saturating_sub(size as u64);
        self.file_used = true;
        Ok(())
    }
}

/// What precedes the content of every record that is read in one go.
#[derive(Debug)]
pub struct Prefix {
    full: Vec<u8>,
    partial: Vec<u8>,
}

impl Prefix {
    pub fn new(stamp: &str, stream: StreamName) -> Self {
        let stream = stream.text();
        Self { full: format!("{stamp} {stream} F ").into_bytes(), partial: format!("{stamp} {stream} P ").into_bytes() }
    }
}

/// The beginning of a line whose end has not come yet: at most [`MAX_CONTENT_BYTES`].
#[derive(Debug, Default)]
pub struct Framer {
    carried: Vec<u8>,
}

/// What the input begins with.
enum Piece {
    /// A line's end, after so many bytes.
    Line(usize),
    /// So many bytes fill the content of a `P` record, and more follows.
    Filled(usize),
    /// The line goes on after the input.
    Open,
}

impl Framer {
    /// Turns input into records, until all is consumed or something is full; call again with the rest then.
    pub fn frame(&mut self, input: &[u8], prefix: &Prefix, out: &mut Out<'_>) -> Framed {
        let mut consumed = 0;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let pushed = match self.piece(rest) {
                Piece::Line(len) => self.record(&prefix.full, rest, len, out).map(|()| len + 1),
                Piece::Filled(len) => self.record(&prefix.partial, rest, len, out).map(|()| len),
                Piece::Open => {
                    self.carried.extend_from_slice(rest);
                    return Framed::All;
                }
            };
            match pushed {
                Ok(len) => consumed += len,
                Err(Full::Buffer) => return Framed::BufferFull { consumed },
                Err(Full::File) => return Framed::FileFull { consumed },
            }
        }
    }

    /// Whether a line was begun whose end has not come.
    pub fn is_in_a_line(&self) -> bool {
        !self.carried.is_empty()
    }

    /// The stream has ended: what is carried becomes an `F` record.
    pub fn finish(&mut self, prefix: &Prefix, out: &mut Out<'_>) -> Framed {
        if self.carried.is_empty() {
            return Framed::All;
        }
        match self.record(&prefix.full, &[], 0, out) {
            Ok(()) => Framed::All,
            Err(Full::Buffer) => Framed::BufferFull { consumed: 0 },
            Err(Full::File) => Framed::FileFull { consumed: 0 },
        }
    }

    fn piece(&self, rest: &[u8]) -> Piece {
        let fill = MAX_CONTENT_BYTES - self.carried.len();
        let window = rest.get(..=fill).unwrap_or(rest);
        match memchr::memchr(b'\n', window) {
            Some(len) => Piece::Line(len),
            None if window.len() > fill => Piece::Filled(fill),
            None => Piece::Open,
        }
    }

    fn record(&mut self, prefix: &[u8], rest: &[u8], len: usize, out: &mut Out<'_>) -> Result<(), Full> {
        out.push(prefix, &self.carried, rest.get(..len).unwrap_or_default())?;
        if !self.carried.is_empty() {
            self.carried = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: &str = "2026-11-21T04:47:18.000000000Z";

    /// Files that come out of the chunks, each at most `file_max` bytes.
    fn files(chunks: &[&[u8]], buffer_bytes: usize, file_max: u64) -> Vec<Vec<u8>> {
        let prefix = Prefix::new(STAMP, StreamName::Stdout);
        let mut framer = Framer::default();
        let mut buffer = vec![0; buffer_bytes];
        let mut files = vec![Vec::new()];
        for chunk in chunks.iter().map(Some).chain([None]) {
            let mut rest = chunk.copied().unwrap_or_default();
            loop {
                let file = files.last_mut().unwrap();
                let mut out = Out::new(&mut buffer, file.len() as u64, file_max);
                let framed = match chunk {
                    Some(_) => framer.frame(rest, &prefix, &mut out),
                    None => framer.finish(&prefix, &mut out),
                };
                file.extend_from_slice(out.bytes());
                match framed {
                    Framed::All => break,
                    Framed::BufferFull { consumed } => rest = &rest[consumed..],
                    Framed::FileFull { consumed } => {
                        rest = &rest[consumed..];
                        files.push(Vec::new());
                    }
                }
            }
        }
        files
    }

    /// Tag and length of content of each record.
    fn shape(input: &[u8]) -> Vec<(char, usize)> {
        let text = files(&[input], 2 * MAX_RECORD_BYTES, u64::MAX).concat();
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let tag_at = OVERHEAD_BYTES - 3;
        lines.map(|line| (char::from(line[tag_at]), line.len() - OVERHEAD_BYTES)).collect()
    }

    #[test]
    fn lines_become_records() {
        let text = files(&[b"a\n\nbc"], MAX_RECORD_BYTES, u64::MAX).concat();
        let expected = format!("{STAMP} stdout F a\n{STAMP} stdout F \n{STAMP} stdout F bc\n");
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn long_lines_are_split_at_16_kib() {
        // LF2: (bytes before the newline or the end, expected records)
        let line = |len: usize, end: &[u8]| [vec![b'x'; len], end.to_vec()].concat();
        let max = MAX_CONTENT_BYTES;
        for end in [&b"\n"[..], b""] {
            assert_eq!(shape(&line(max - 1, end)), [('F', max - 1)]);
            assert_eq!(shape(&line(max, end)), [('F', max)]);
            assert_eq!(shape(&line(max + 1, end)), [('P', max), ('F', 1)]);
            assert_eq!(shape(&line(2 * max, end)), [('P', max), ('F', max)]);
            assert_eq!(shape(&line(2 * max + 1, end)), [('P', max), ('P', max), ('F', 1)]);
        }
        assert_eq!(shape(b""), []);
        assert_eq!(shape(b"\n"), [('F', 0)]);
    }

    #[test]
    fn a_file_ends_exactly_at_the_limit() {
        let record = OVERHEAD_BYTES as u64 + 1;
        let lengths =
            |max| -> Vec<usize> { files(&[b"a\nb\nc\n"], MAX_RECORD_BYTES, max).iter().map(Vec::len).collect() };
        let one = usize::try_from(record).unwrap();
        assert_eq!(lengths(2 * record), [2 * one, one]);
        assert_eq!(lengths(2 * record - 1), [one, one, one]);
        // A record larger than a file still gets one of its own.
        assert_eq!(lengths(5), [one, one, one]);
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => prop::collection::vec(prop_oneof![4 => Just(b'a'), 1 => Just(b'\n')], 0..50),
            1 => (MAX_CONTENT_BYTES - 3..MAX_CONTENT_BYTES + 3).prop_map(|len| vec![b'x'; len]),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_records_do_not_depend_on_how_the_input_is_cut(
            text in text(),
            chunk in 1usize..40_000,
            buffer in MAX_RECORD_BYTES..3 * MAX_RECORD_BYTES,
            file_max in 100u64..60_000,
        ) {
            let chunks: Vec<&[u8]> = text.chunks(chunk).collect();
            let whole = files(&[&text], 4 * MAX_RECORD_BYTES, file_max);
            prop_assert_eq!(files(&chunks, buffer, file_max), whole);
        }

        #[test]
        fn no_byte_is_lost(text in text()) {
            let records = files(&[&text], 4 * MAX_RECORD_BYTES, u64::MAX).concat();
            let mut back = Vec::new();
            for record in records.split_inclusive(|byte| *byte == b'\n') {
                back.extend_from_slice(&record[OVERHEAD_BYTES - 1..record.len() - 1]);
                if record[OVERHEAD_BYTES - 3] == b'F' {
                    back.push(b'\n');
                }
            }
            if !text.ends_with(b"\n") && !text.is_empty() {
                back.pop();
            }
            prop_assert_eq!(back, text);
        }
    }
}
