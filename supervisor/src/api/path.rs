//! What a URL asks for.

use super::registry::{self, Resource};
use super::status::Status;

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Route {
    /// `/`
    Root,
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz` and single checks below them.
    Health {
        check: String,
    },
    /// `/metrics`
    Metrics,
    /// `/api`
    Api,
    /// `/apis`
    Apis,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    GroupVersion {
        group: String,
        version: String,
    },
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiV3,
    /// `/openapi/v3/apis/GROUP/VERSION`; the part after `v3/`.
    OpenApiV3Version(String),
    /// `/.well-known/openid-configuration`
    OpenIdConfiguration,
    /// `/openid/v1/jwks`
    OpenIdKeys,
    Object(Target),
    /// Nothing is served there.
    Unknown,
}

/// A resource, an object of it, or a part of an object.
#[derive(Debug)]
pub(crate) struct Target {
    pub resource: &'static Resource,
    /// None: all namespaces, or a kind without.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    /// What follows the subresource, with its leading slash; for `proxy`.
    pub rest: String,
    /// The old way to ask for a watch: `/api/v1/watch/pods`.
    pub is_watch: bool,
}

impl Target {
    /// The namespace, empty without one.
    pub(crate) fn space(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The name; a request without one is not for this handler.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn object(&self) -> Result<&str, Status> {
        self.name.as_deref().ok_or_else(Status::method_not_allowed)
    }
}

/// Reads the path of a URL.
///
/// # Errors
/// It has a broken escape.
pub(crate) fn route(path: &str) -> Result<Route, Status> {
    let parts = words(path).map(decoded).collect::<Result<Vec<String>, Status>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(match parts.as_slice() {
        [] => Route::Root,
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        ["healthz" | "livez" | "readyz"] => Route::Health { check: String::new() },
        ["healthz" | "livez" | "readyz", check @ ..] => Route::Health { check: check.join("/") },
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", rest @ ..] => Route::OpenApiV3Version(rest.join("/")),
        [".well-known", "openid-configuration"] => Route::OpenIdConfiguration,
        ["openid", "v1", "jwks"] => Route::OpenIdKeys,
        ["api"] => Route::Api,
        ["apis"] => Route::Apis,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::GroupVersion { group: String::new(), version: (*version).to_owned() },
        ["apis", group, version] => Route::GroupVersion { group: (*group).to_owned(), version: (*version).to_owned() },
        ["api", version, rest @ ..] => target("", version, rest, path),
        ["apis", group, version, rest @ ..] => target(group, version, rest, path),
        _ => Route::Unknown,
    })
}

fn target(group: &str, version: &str, rest: &[&str], path: &str) -> Route {
    let (is_watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        // A namespace itself, or a part of it.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let [plural, rest @ ..] = rest else { return Route::Unknown };
    let Some(resource) = registry::find(group, version, plural) else { return Route::Unknown };
    if namespace.is_some() && !resource.is_namespaced {
        return Route::Unknown;
    }
    let (name, subresource, tail) = match rest {
        [] => (None, None, &[][..]),
        [name] => (Some(*name), None, &[][..]),
        [name, subresource, tail @ ..] => (Some(*name), Some(*subresource), tail),
    };
    let is_proxy = subresource == Some("proxy");
    if name.is_some() && resource.is_namespaced && namespace.is_none() || !tail.is_empty() && !is_proxy {
        return Route::Unknown;
    }
    if subresource.is_some_and(|subresource| resource.subresource(subresource).is_none()) {
        return Route::Unknown;
    }
    Route::Object(Target {
        resource,
        namespace,
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
        // As it was sent: its escapes are another server's.
        rest: if is_proxy { after(path, words(path).count() - tail.len()).to_owned() } else { String::new() },
        is_watch,
    })
}

/// The parts of a path between its slashes.
fn words(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// What follows the first so many parts of a path, with its slash.
fn after(path: &str, count: usize) -> &str {
    let is_end = |at: usize| path[at..].starts_with('/') && at > 0 && !path[..at].ends_with('/');
    let end = (0..path.len()).filter(|at| path.is_char_boundary(*at) && is_end(*at)).nth(count.saturating_sub(1));
    end.map_or("", |end| &path[end..])
}

fn decoded(part: &str) -> Result<String, Status> {
    decode(part, false).ok_or_else(|| Status::bad_request("the path has a broken escape"))
}

/// Resolves `%XX`, and `+` in forms.
pub(super) fn decode(text: &str, is_form: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(high)? << 4 | digit(low)?);
                after
            }
            (b'%', _) => return None,
            (b'+', after) if is_form => {
                bytes.push(b' ');
                after
            }
            (byte, after) => {
                bytes.push(*byte);
                after
            }
        };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        let route = route(path).unwrap();
        let Route::Object(target) = &route else { return format!("{route:?}") };
        format!(
            "{} {} {} {}{}",
            target.resource.qualified(),
            target.namespace.as_deref().unwrap_or("-"),
            target.name.as_deref().unwrap_or("-"),
            target.subresource.as_deref().unwrap_or("-"),
            target.rest,
        )
    }

    #[test]
    fn paths_name_what_they_ask_for() {
        for (path, expected) in [
            ("/api/v1/pods", "pods - - -"),
            ("/api/v1/namespaces/web/pods", "pods web - -"),
            ("/api/v1/namespaces/web/pods/h", "pods web h -"),
            ("/api/v1/namespaces/web/pods/h/log", "pods web h log"),
            ("/api/v1/namespaces/web/pods/h:80/proxy/a%2Fb/c", "pods web h:80 proxy/a%2Fb/c"),
            ("/api/v1/namespaces/web/pods/proxy-1/proxy", "pods web proxy-1 proxy"),
            ("/api//v1/namespaces/web/pods/proxy-1/proxy/", "pods web proxy-1 proxy/"),
            ("/api/v1/namespaces/web/services/h/proxy//a/", "services web h proxy//a/"),
            ("/api/v1/namespaces", "namespaces - - -"),
            ("/api/v1/namespaces/web", "namespaces - web -"),
            ("/api/v1/namespaces/web/finalize", "namespaces - web finalize"),
            ("/api/v1/nodes/n:10250/proxy/stats/summary", "nodes - n:10250 proxy/stats/summary"),
            ("/api/v1/nodes/n/status", "nodes - n status"),
            ("/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "leases.coordination.k8s.io a b -"),
            ("/api/v1/watch/namespaces/web/pods", "pods web - -"),
            ("/api/v1/namespaces/web/poods", "Unknown"),
            ("/api/v1/namespaces/web/nodes", "Unknown"),
            ("/api/v1/namespaces/web/pods/h/nope", "Unknown"),
            ("/api/v1/namespaces/web/pods/h/log/x", "Unknown"),
            ("/api/v1/pods/h", "Unknown"),
            ("/api/v9", "GroupVersion { group: \"\", version: \"v9\" }"),
            ("/openid/v1/jwks", "OpenIdKeys"),
            ("/livez/ping", "Health { check: \"ping\" }"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }

    #[test]
    fn broken_escapes_are_refused() {
        assert!(route("/api/v1/namespaces/%zz").is_err());
        assert!(route("/api/v1/namespaces/%ff").is_err());
        assert_eq!(decode("a%3Db+c", true).unwrap(), "a=b c");
    }
}
