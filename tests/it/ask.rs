//! Asks a daemon's API over its socket. A look costs no process: those who look often on an emulated machine would be what
//! they wait for.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

/// Where `monopod serve` listens.
pub const SOCKET: &str = "/run/monopod/monopod.sock";
/// Longest that an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The object at a path, if it is there.
pub fn get(path: &str) -> Option<Value> {
    ask("GET", path, None).ok().filter(|(status, _)| *status == 200).map(|(_, object)| object)
}

/// A pod of the namespace `default`, if it is there.
pub fn pod(name: &str) -> Option<Value> {
    get(&format!("/api/v1/namespaces/default/pods/{name}"))
}

/// What the only container of a pod of the namespace `default` has printed.
pub fn logs(name: &str) -> Option<String> {
    let answer = exchange("GET", &format!("/api/v1/namespaces/default/pods/{name}/log"), None);
    answer.ok().filter(|(status, _)| *status == 200).map(|(_, text)| text)
}

/// A status and a body; an error means that nobody knows what happened.
pub fn ask(method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
    let (status, body) = exchange(method, path, body)?;
    Ok((status, serde_json::from_str(&body).unwrap_or_default()))
}

fn exchange(method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A status is a promise, also when the body was cut off.
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.get(9..12).and_then(|code| code.parse().ok());
    let Some(status) = status else { return Err(read.err().unwrap_or(io::ErrorKind::UnexpectedEof.into())) };
    let body = answer.split_once("\r\n\r\n").map(|(head, body)| unchunked(head, body)).unwrap_or_default();
    Ok((status, body))
}

fn unchunked(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, more)) = rest.split_once("\r\n")
        && let Ok(size) = usize::from_str_radix(size.trim(), 16)
        && let Some(chunk) = more.get(..size)
    {
        whole += chunk;
        rest = more.get(size + 2..).unwrap_or_default();
    }
    whole
}
