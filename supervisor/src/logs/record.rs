//! One record of a log file: `<RFC3339Nano> <stdout|stderr> <tags> <content>`.

/// Which stream a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A record without its line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub time: &'a str,
    pub stream: Stream,
    /// The line goes on in the next record of the same stream.
    pub partial: bool,
    pub content: &'a [u8],
}

/// None for what no writer of ours wrote.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    let (tags, content) = word(rest)?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = match tags.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Record { time: std::str::from_utf8(time).ok()?, stream, partial, content })
}

fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr::memchr(b' ', line)?;
    Some((&line[..space], &line[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LF2
    #[test]
    fn records_have_time_stream_tag_and_content() {
        let time = "2026-01-02T03:04:05.123456789Z";
        for (rest, expected) in [
            ("stdout F hello world", Some((Stream::Stdout, false, "hello world"))),
            ("stderr P x", Some((Stream::Stderr, true, "x"))),
            ("stdout F ", Some((Stream::Stdout, false, ""))),
            ("stdout P:more x", Some((Stream::Stdout, true, "x"))),
            ("stdin F x", None),
            ("stdout X x", None),
            ("stdout", None),
        ] {
            let line = format!("{time} {rest}");
            let got = parse(line.as_bytes()).map(|r| (r.stream, r.partial, std::str::from_utf8(r.content).unwrap()));
            assert_eq!(got, expected, "{rest}");
        }
    }
}
