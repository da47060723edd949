//! Go's words for answers that are none: what came instead, or how the connection ended.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use super::call::HEAD_BYTES;
use super::tap::RECEIVED_BYTES;
use super::{text, tls};

/// What Go puts before an error in the middle of an answer's head.
const BROKEN: &str = "net/http: HTTP/1.x transport connection broken: ";

/// What hyper says of a head that is too large; clients have no method to ask.
const TOO_LARGE: &str = "message head is too large";

/// Why no head came; `seen` is what came.
pub(super) fn awaiting_head(error: &hyper::Error, seen: &[u8], local: SocketAddr, peer: SocketAddr) -> String {
    let flood = io_cause(error).is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge);
    if flood || error.is_parse() && error.to_string() == TOO_LARGE {
        return format!("net/http: server response headers exceeded {HEAD_BYTES} bytes; aborted");
    }
    let broken = if seen.is_empty() { "" } else { BROKEN };
    if let Some(error) = io_cause(error) {
        return format!("{broken}{}", io_text(error, seen, local, peer));
    }
    if seen.is_empty() {
        return "EOF".to_owned();
    }
    let fault = malformed(seen).unwrap_or_else(|| {
        if error.is_incomplete_message() || error.is_canceled() {
            "unexpected EOF".to_owned()
        } else {
            error.to_string()
        }
    });
    format!("{BROKEN}{fault}")
}

/// Why a body broke off.
pub(super) fn reading_body(error: &hyper::Error, local: SocketAddr, peer: SocketAddr) -> String {
    match io_cause(error) {
        Some(error) if error.raw_os_error().is_some() => io_text(error, &[], local, peer),
        Some(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            format!("server response exceeded {RECEIVED_BYTES} bytes; aborted")
        }
        Some(error) if error.kind() == io::ErrorKind::InvalidInput => "invalid byte in chunk length".to_owned(),
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => error.to_string(),
        Some(_) | None => "unexpected EOF".to_owned(),
    }
}

/// An error of a connection on which `received` had come.
pub(super) fn io_text(error: &io::Error, received: &[u8], local: SocketAddr, peer: SocketAddr) -> String {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls::text(error, received);
    }
    match (error.raw_os_error(), error.kind()) {
        (None, io::ErrorKind::UnexpectedEof) if received.is_empty() => "EOF".to_owned(),
        (None, io::ErrorKind::UnexpectedEof) => "unexpected EOF".to_owned(),
        (None, _) => error.to_string(),
        (Some(_), io::ErrorKind::BrokenPipe) => format!("write tcp {local}->{peer}: write: {}", text::errno(error)),
        (Some(_), _) => format!("read tcp {local}->{peer}: read: {}", text::errno(error)),
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    match error.downcast_ref() {
        Some(error) => Some(error),
        None => error.source().and_then(io_cause),
    }
}

/// What is wrong with the beginning of an answer, as Go reads one: by line, the last one perhaps cut off.
fn malformed(seen: &[u8]) -> Option<String> {
    let mut lines = seen.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next()?;
    malformed_status(first).or_else(|| {
        let complete = lines.by_ref().take_while(|line| !line.is_empty()).collect::<Vec<_>>();
        let cut_off = usize::from(!seen.ends_with(b"\n"));
        let headers = complete.len().saturating_sub(cut_off);
        complete[..headers]
            .iter()
            .find(|line| !is_header(line))
            .map(|line| format!("malformed MIME header line: {}", String::from_utf8_lossy(line)))
    })
}

fn malformed_status(line: &[u8]) -> Option<String> {
    let Some(space) = memchr::memchr(b' ', line) else {
        return Some(format!("malformed HTTP response {}", text::quote(line)));
    };
    let (version, status) = (&line[..space], line[space..].trim_ascii_start());
    let code = status.split(|&byte| byte == b' ').next().unwrap_or_default();
    if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) {
        return Some(format!("malformed HTTP status code {}", text::quote(code)));
    }
    let known = matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit());
    (!known).then(|| format!("malformed HTTP version {}", text::quote(version)))
}

/// A header, or the continuation of one.
fn is_header(line: &[u8]) -> bool {
    line.starts_with(b" ") || line.starts_with(b"\t") || memchr::memchr(b':', line).is_some_and(|colon| colon > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_named() {
        for (seen, fault) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], Some(r#"malformed HTTP response "SSH-2.0-OpenSSH_9.2""#)),
            (b"\x15\x03\x01\x00\x02\x02\x16", Some(r#"malformed HTTP response "\x15\x03\x01\x00\x02\x02\x16""#)),
            (b"HTTP/1.1 2000 OK\r\n", Some(r#"malformed HTTP status code "2000""#)),
            (b"HTTP/1.1 abc\r\n", Some(r#"malformed HTTP status code "abc""#)),
            (b"+OK 200 ready\r\n", Some(r#"malformed HTTP version "+OK""#)),
            (b"HTTP/1.1 200 OK\r\nServer nginx\r\n\r\n", Some("malformed MIME header line: Server nginx")),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nServ", None),
            (b"HTTP/1.1 200", None),
        ] {
            assert_eq!(malformed(seen).as_deref(), fault);
        }
    }
}
