//! `/healthz`, `/livez`, `/readyz`, `/metrics`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use http::{Response, StatusCode};

use super::body::Body;
use super::call::Verb;
use super::path::Target;
use super::respond;
use super::server::State;
use super::status::Status;

/// What is checked. A server that answers is alive; it has its objects in memory.
/// Tools ask for `etcd` where a cluster has its objects.
const CHECKS: [&str; 4] = ["ping", "log", "etcd", "store"];

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

/// How many requests there were.
#[derive(Debug, Default)]
pub(crate) struct Requests(RefCell<BTreeMap<Asked, u64>>);

/// What one of these numbers is about: nothing of it is a client's own words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
    scope: &'static str,
    code: u16,
}

impl Requests {
    pub(crate) fn count(&self, target: &Target, verb: Verb, code: StatusCode) {
        let resource = target.resource;
        let part = target.subresource.as_deref().and_then(|name| resource.subresource(name));
        let scope = match (&target.name, &target.namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        let asked = Asked {
            group: resource.group,
            version: resource.version,
            resource: resource.plural,
            subresource: part.map_or("", |part| part.name),
            verb: shown(verb),
            scope,
            code: code.as_u16(),
        };
        *self.0.borrow_mut().entry(asked).or_default() += 1;
    }

    fn text(&self) -> String {
        let line = |(asked, count): (&Asked, &u64)| {
            let Asked { group, version, resource, subresource, verb, scope, code } = asked;
            format!(
                "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\"}} {count}\n"
            )
        };
        let lines: String = self.0.borrow().iter().map(line).collect();
        format!("# TYPE apiserver_request_total counter\n{lines}")
    }
}

/// As an API server counts them.
fn shown(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
    }
}

/// A few numbers about the server itself, in the text format of Prometheus.
pub(crate) fn metrics(state: &State) -> Response<Body> {
    let requests = state.requests.text();
    let text = format!(
        "# TYPE apiserver_connections gauge\napiserver_connections {}\n# TYPE apiserver_storage_version gauge\napiserver_storage_version {}\n{requests}",
        state.remote.get() + state.local.get() + state.inner.get(),
        state.store.version(),
    );
    respond::plain(StatusCode::OK, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::path::{Route, route};

    #[test]
    fn requests_are_counted_by_what_they_ask_for() {
        let requests = Requests::default();
        let Ok(Route::Object(target)) = route("/api/v1/namespaces/d/pods/p/log") else { panic!("no object") };
        requests.count(&target, Verb::Get, StatusCode::OK);
        requests.count(&target, Verb::Get, StatusCode::OK);
        let line = "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"log\",verb=\"GET\",version=\"v1\"} 2\n";
        assert!(requests.text().ends_with(line), "{}", requests.text());
    }
}
