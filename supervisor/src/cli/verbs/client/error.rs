//! What goes wrong, in the words of kubectl.

use std::fmt;
use std::io;
use std::path::PathBuf;

use http::StatusCode;
use serde_json::{Value, json};

/// Why a verb failed. Prints as the whole line that a user sees.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    #[error("{}", not_running(path, source))]
    Connect { path: PathBuf, source: io::Error },
    #[error("error: the connection to monopod serve broke: {0}")]
    Http(hyper::Error),
    #[error("error: an answer of monopod serve is no JSON: {0}")]
    Json(serde_json::Error),
    /// A Status; `doing` says which of several objects it is about.
    #[error("{}", FromServer { doing: doing.as_deref(), status })]
    Server { doing: Option<String>, status: Box<Value> },
    #[error("error: {0}")]
    Usage(String),
    #[error("error: read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("error: write to standard output: {0}")]
    Output(io::Error),
    /// A stream (exec, attach, port-forward) broke.
    #[error("error: {0}")]
    Stream(io::Error),
}

fn not_running(path: &std::path::Path, source: &io::Error) -> String {
    let path = path.display();
    let failed = format!("error: connect to {path}: {source}");
    if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return format!(
            "error: monopod serve is not running (connect to {path}: {source})\n\
             Start it with `systemctl start monopod` or `monopod serve`, or name its socket with --socket."
        );
    }
    if source.kind() == io::ErrorKind::PermissionDenied {
        return format!("{failed}\nOnly root and members of the configured groups may ask the node.");
    }
    failed
}

impl VerbError {
    /// Out of an answer whose code is no success.
    pub fn of_answer(code: StatusCode, body: &[u8]) -> Self {
        let status = serde_json::from_slice(body).ok().filter(|value: &Value| value["kind"] == "Status");
        let other = || json!({"code": code.as_u16(), "message": String::from_utf8_lossy(body).trim()});
        Self::Server { doing: None, status: Box::new(status.unwrap_or_else(other)) }
    }

    /// An error that came where an object was expected, in a watch.
    pub fn of_status(status: &Value) -> Self {
        Self::Server { doing: None, status: Box::new(status.clone()) }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Says what was done when it happened.
    #[must_use]
    pub fn doing(self, what: impl Into<String>) -> Self {
        let Self::Server { status, .. } = self else { return self };
        Self::Server { doing: Some(what.into()), status }
    }

    fn code(&self) -> Option<u64> {
        match self {
            Self::Server { status, .. } => status["code"].as_u64(),
            Self::Connect { .. }
            | Self::Http(_)
            | Self::Json(_)
            | Self::Usage(_)
            | Self::Read { .. }
            | Self::Output(_)
            | Self::Stream(_) => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The version that a watch starts from is no longer known.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    pub fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

struct FromServer<'s> {
    doing: Option<&'s str>,
    status: &'s Value,
}

impl fmt::Display for FromServer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |pointer| self.status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if text("/reason") == "Invalid" {
            return invalid(self.status, f);
        }
        match text("/reason") {
            "" => f.write_str("Error from server: ")?,
            reason => write!(f, "Error from server ({reason}): ")?,
        }
        if let Some(doing) = self.doing {
            write!(f, "{doing}: ")?;
        }
        f.write_str(text("/message"))
    }
}

/// The causes one by one: the message holds them all in one line.
fn invalid(status: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let details = &status["details"];
    match text(details, "name") {
        name if name.is_empty() && text(details, "kind").is_empty() => f.write_str("The request is invalid")?,
        name => write!(f, "The {} {name:?} is invalid", text(details, "kind"))?,
    }
    let causes = details["causes"].as_array().map_or(&[][..], Vec::as_slice);
    let lines: Vec<String> = causes
        .iter()
        .map(|cause| match text(cause, "field") {
            field if field.is_empty() => text(cause, "message"),
            field => format!("{field}: {}", text(cause, "message")),
        })
        .collect();
    match lines.as_slice() {
        [] => write!(f, ": {}", text(status, "message")),
        [one] => write!(f, ": {one}"),
        several => {
            f.write_str(": ")?;
            several.iter().try_for_each(|line| write!(f, "\n* {line}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: Value) -> String {
        VerbError::of_status(&status).to_string()
    }

    #[test]
    fn errors_read_as_kubectl_prints_them() {
        let missing = json!({"kind": "Status", "reason": "NotFound", "message": "pods \"x\" not found", "code": 404});
        assert_eq!(shown(missing.clone()), "Error from server (NotFound): pods \"x\" not found");
        let doing = VerbError::of_status(&missing).doing("error when creating \"f\"");
        assert_eq!(doing.to_string(), "Error from server (NotFound): error when creating \"f\": pods \"x\" not found");
        assert!(doing.is_not_found());
        let one = json!({"reason": "Invalid", "details": {"name": "x", "kind": "Pod", "causes": [
            {"field": "spec", "message": "Forbidden: no"}]}});
        assert_eq!(shown(one), "The Pod \"x\" is invalid: spec: Forbidden: no");
        let two = json!({"reason": "Invalid", "details": {"name": "x", "kind": "Pod", "causes": [
            {"field": "a", "message": "Required value"}, {"message": "b"}]}});
        assert_eq!(shown(two), "The Pod \"x\" is invalid: \n* a: Required value\n* b");
    }

    #[test]
    fn a_daemon_that_does_not_run_says_what_to_do() {
        let error = VerbError::Connect { path: "/run/x".into(), source: io::ErrorKind::NotFound.into() };
        assert!(error.to_string().contains("systemctl start monopod"), "{error}");
    }

    #[test]
    fn an_answer_without_a_status_is_told_as_it_is() {
        let error = VerbError::of_answer(StatusCode::BAD_GATEWAY, b"nothing there\n");
        assert_eq!(error.to_string(), "Error from server: nothing there");
    }
}
