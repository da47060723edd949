//! `/healthz`, `/livez`, `/readyz`, `/metrics`.

use http::{Response, StatusCode};

use super::body::Body;
use super::respond;
use super::server::State;
use super::status::Status;

/// What is checked. A server that answers is alive; it has its objects in memory.
const CHECKS: [&str; 3] = ["ping", "log", "store"];

/// Answers a health request: of everything, or of one check.
pub(crate) fn answer(state: &State, check: &str, is_verbose: bool) -> Response<Body> {
    if *state.closing.borrow() {
        return respond::plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "[-]shutdown failed: the server is stopping\n".to_owned(),
        );
    }
    match check {
        "" if is_verbose => {
            let lines: String = CHECKS.iter().map(|check| format!("[+]{check} ok\n")).collect();
            respond::plain(StatusCode::OK, format!("{lines}healthz check passed\n"))
        }
        "" => respond::plain(StatusCode::OK, "ok".to_owned()),
        check if CHECKS.contains(&check) => respond::plain(StatusCode::OK, "ok".to_owned()),
        _ => respond::status(&Status::no_such_path()),
    }
}

/// A few numbers about the server itself, in the text format of Prometheus.
pub(crate) fn metrics(state: &State) -> Response<Body> {
    let text = format!(
        "# TYPE apiserver_connections gauge\napiserver_connections {}\n# TYPE apiserver_storage_version gauge\napiserver_storage_version {}\n",
        state.remote.get() + state.local.get() + state.inner.get(),
        state.store.version(),
    );
    respond::plain(StatusCode::OK, text)
}
