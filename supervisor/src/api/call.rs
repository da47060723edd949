//! One request: from its headers to its answer.

use std::cell::RefCell;
use std::rc::Rc;

use http::{HeaderMap, Method, Response, StatusCode, header};
use hyper::Request;
use jiff::Timestamp;

use super::auth::{self, Ask, Peer, User};
use super::body::Body;
use super::keep::heartbeat;
use super::path::{self, Route, Target};
use super::query::Query;
use super::respond::{self, Accept, Content};
use super::server::State;
use super::status::{Reason, Status};
use super::{discovery, health, openapi_at, review, subresource, usage, verbs};
use crate::stream::received::Received;

/// A request for a resource, by somebody who may make it.
#[derive(Debug)]
pub(crate) struct Call {
    pub state: Rc<State>,
    pub user: User,
    pub target: Target,
    pub query: Query,
    pub accept: Accept,
    pub now: Timestamp,
    /// The name by which the client's changes are remembered, when it gives none.
    pub agent: String,
    /// What the client is warned of, beside its answer.
    pub warnings: RefCell<Vec<String>>,
}

impl Call {
    /// What the server itself asks for: it tidies up after clients.
    pub(crate) fn own(state: &Rc<State>, resource: &'static super::registry::Resource, namespace: &str) -> Self {
        let user = User::new("system:apiserver", [auth::MASTERS.to_owned()]);
        Self {
            state: Rc::clone(state),
            user,
            target: Target {
                resource,
                namespace: resource.is_namespaced.then(|| namespace.to_owned()),
                name: None,
                subresource: None,
                rest: String::new(),
                is_watch: false,
            },
            query: Query::default(),
            accept: Accept::plain(),
            now: Timestamp::now(),
            agent: "kube-controller-manager".to_owned(),
            warnings: RefCell::default(),
        }
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    /// An answer with JSON in it.
    pub(crate) fn reply(&self, code: StatusCode, content: Content) -> Response<Body> {
        respond::write(&self.accept, code, content)
    }
}

/// Answers a request, whatever it is.
pub(crate) async fn answer(state: &Rc<State>, peer: &Peer, request: Request<Received>) -> Response<Body> {
    let result = handle(state, peer, request).await;
    result.unwrap_or_else(|status| respond::status(&status))
}

async fn handle(state: &Rc<State>, peer: &Peer, request: Request<Received>) -> Result<Response<Body>, Status> {
    if !matches!(peer, Peer::Local(_)) {
        check_browser(state, &request)?;
    }
    let uri = request.uri().clone();
    let route = path::route(uri.path())?;
    let query = Query::parse(uri.query().unwrap_or_default())?;
    if !is_long(&route, &query) {
        query.check_timeout()?;
    }
    let user = auth::authenticate(peer, request.headers(), state.backends.tokens.as_deref());
    if let Some(answer) = open_to_all(state, &route, &query, matches!(user, Ok(Some(_)))) {
        return Ok(answer);
    }
    let user = auth::impersonate(user?.ok_or_else(Status::unauthorized)?, request.headers())?;
    let Route::Object(target) = route else {
        let verb = request.method().as_str().to_ascii_lowercase();
        let ask = Ask::Path { verb: &verb, path: uri.path() };
        if !auth::allows(&user, &ask) {
            return Err(auth::denied(&user, &ask, None));
        }
        if request.method() != Method::GET && !matches!(route, Route::Unknown) {
            return Err(Status::method_not_allowed());
        }
        return document(state, &route, &query, request.headers());
    };
    let accept = accept_of(&target, request.headers())?;
    let agent = agent_of(request.headers());
    let call = Call {
        state: Rc::clone(state),
        user,
        target,
        query,
        accept,
        now: Timestamp::now(),
        agent,
        warnings: RefCell::default(),
    };
    object(call, request).await
}

/// Whether a request lasts as long as it likes, and has a `timeout` of its own if any.
fn is_long(route: &Route, query: &Query) -> bool {
    let Route::Object(target) = route else { return false };
    is_stream(target) || target.is_watch || query.flag("watch")
}

fn is_stream(target: &Target) -> bool {
    const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
    target.subresource.as_deref().is_some_and(|name| STREAMS.contains(&name))
}

/// What the client accepts. Of a stream, that is for whoever is behind it to say; to questions, no answer is a table.
fn accept_of(target: &Target, headers: &HeaderMap) -> Result<Accept, Status> {
    let is_question = matches!(target.subresource.as_deref(), Some("binding" | "eviction" | "token"));
    if is_stream(target) {
        Ok(Accept::of(headers).unwrap_or(Accept::plain()))
    } else if is_question || target.resource.class == super::registry::Class::Review {
        Accept::of_tableless(headers)
    } else {
        Accept::of(headers)
    }
}

/// Bytes of the name that a client's changes go by.
const AGENT_MAX: usize = 128;

/// `kubectl/v1.33 (linux/amd64)` is `kubectl`.
fn agent_of(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(AGENT_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// D32: no page in a browser on this machine speaks to the API, under whatever name it reaches it.
fn check_browser(state: &State, request: &Request<Received>) -> Result<(), Status> {
    let headers = request.headers();
    let in_header = || headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = request.uri().authority().map_or_else(in_header, http::uri::Authority::as_str);
    let allowed = |origin: &http::HeaderValue| {
        is_same_origin(origin, host) || state.config.origins.iter().any(|known| origin.as_bytes() == known.as_bytes())
    };
    if !headers.get_all(header::ORIGIN).iter().all(allowed) {
        return Err(Status::new(Reason::Forbidden, "requests with an Origin header are not allowed"));
    }
    if is_own_name(state, host) {
        return Ok(());
    }
    Err(Status::new(Reason::Misdirected, format!("this server is not {host:?}")))
}

/// WebSocket libraries name the server itself, as the Python client's does. No page comes from here, so none can.
fn is_same_origin(origin: &http::HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    // Without its port, the same name may be another server's.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    has_port && authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

fn is_own_name(state: &State, host: &str) -> bool {
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => host,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        // A page can be served from a name that turns into our address, but not from the address itself.
        return address.is_loopback() || state.config.addresses.contains(&address) || is_service(state, address);
    }
    let known = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    known.contains(&host) || host == state.config.node_name || state.config.hosts.iter().any(|own| own == host)
}

fn is_service(state: &State, address: std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V4(address) if state.config.services.contains(&address))
}

/// What needs no credential (D31); in more detail for those who have one.
fn open_to_all(state: &State, route: &Route, query: &Query, is_known: bool) -> Option<Response<Body>> {
    match route {
        Route::Version => Some(respond::write(&Accept::plain(), StatusCode::OK, Content::Value(discovery::version()))),
        Route::Health { check } => Some(health::answer(state, check, query.flag("verbose") && is_known)),
        Route::Root
        | Route::Metrics
        | Route::Api
        | Route::Apis
        | Route::Group(_)
        | Route::GroupVersion { .. }
        | Route::OpenApiV2
        | Route::OpenApiV3
        | Route::OpenApiV3Version(_)
        | Route::OpenIdConfiguration
        | Route::OpenIdKeys
        | Route::Object(_)
        | Route::Unknown => None,
    }
}

/// Documents about the server itself.
fn document(state: &State, route: &Route, query: &Query, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    match route {
        // These have media types of their own.
        Route::OpenApiV2 => return openapi_at::v2(headers),
        Route::OpenApiV3 => return Ok(openapi_at::index()),
        Route::OpenApiV3Version(path) => return openapi_at::version(headers, path, query.get("hash").is_some()),
        Route::Metrics => return Ok(health::metrics(state)),
        Route::OpenIdConfiguration => return open_id(state, "application/json", |tokens| tokens.configuration()),
        Route::OpenIdKeys => return open_id(state, "application/jwk-set+json", |tokens| tokens.keys()),
        Route::Root
        | Route::Api
        | Route::Apis
        | Route::Group(_)
        | Route::GroupVersion { .. }
        | Route::Version
        | Route::Health { .. }
        | Route::Object(_)
        | Route::Unknown => {}
    }
    let accept = &Accept::of(headers)?;
    let value = match route {
        Route::Root => discovery::root(),
        Route::Api | Route::Apis if accept.discovery.is_some() => return Ok(aggregated(route, accept, headers)),
        Route::Api => discovery::api_versions(&state.address),
        Route::Apis => discovery::api_groups(),
        Route::Group(group) => discovery::api_group(group).ok_or_else(Status::no_such_path)?,
        Route::GroupVersion { group, version } => {
            discovery::api_resources(group, version).ok_or_else(Status::no_such_path)?
        }
        Route::OpenApiV2
        | Route::OpenApiV3
        | Route::OpenApiV3Version(_)
        | Route::Metrics
        | Route::OpenIdConfiguration
        | Route::OpenIdKeys
        | Route::Version
        | Route::Health { .. }
        | Route::Object(_)
        | Route::Unknown => return Err(Status::no_such_path()),
    };
    let mut response = respond::write(accept, StatusCode::OK, Content::Value(value));
    if matches!(route, Route::Api | Route::Apis) {
        response.headers_mut().append(header::VARY, http::HeaderValue::from_static("Accept"));
    }
    Ok(response)
}

/// With these, others can check the tokens of service accounts.
fn open_id(
    state: &State,
    media: &'static str,
    read: impl Fn(&dyn super::streams::Tokens) -> serde_json::Value,
) -> Result<Response<Body>, Status> {
    let tokens = state.backends.tokens.as_deref().ok_or_else(Status::no_such_path)?;
    Ok(respond::bytes_of(&Accept::plain(), StatusCode::OK, media, read(tokens).to_string().into_bytes()))
}

fn aggregated(route: &Route, accept: &Accept, headers: &HeaderMap) -> Response<Body> {
    let version = accept.discovery.unwrap_or("v2");
    let value = discovery::aggregated(matches!(route, Route::Api), version);
    let tag = format!("\"{}\"", discovery::hash(&value.to_string()));
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = respond::write(accept, StatusCode::OK, Content::Value(value));
    if is_known {
        response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().append(header::VARY, http::HeaderValue::from_static("Accept"));
    if let Ok(tag) = http::HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    let media = match version {
        "v2beta1" => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    response
}

/// What a request does to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    fn of(method: &Method, target: &Target, query: &Query) -> Result<Self, Status> {
        let is_one = target.name.is_some();
        let is_passed_on = target.subresource.as_deref() == Some("proxy");
        Ok(match *method {
            Method::HEAD | Method::OPTIONS if is_passed_on => Self::Get,
            Method::GET if is_one && !target.is_watch => Self::Get,
            Method::GET if target.is_watch || query.flag("watch") => Self::Watch,
            Method::GET => Self::List,
            Method::POST if is_one && target.subresource.is_none() => return Err(Status::method_not_allowed()),
            Method::POST => Self::Create,
            Method::PUT => Self::Update,
            Method::PATCH => Self::Patch,
            Method::DELETE if is_one => Self::Delete,
            Method::DELETE => Self::DeleteCollection,
            _ => return Err(Status::method_not_allowed()),
        })
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

async fn object(call: Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let verb = Verb::of(request.method(), &call.target, &call.query)?;
    let result = allowed(&call, verb, request).await;
    let code = result.as_ref().map_or_else(|status| status.reason.code(), Response::status);
    call.state.requests.count(&call.target, verb, code);
    result
}

async fn allowed(call: &Call, verb: Verb, request: Request<Received>) -> Result<Response<Body>, Status> {
    authorize(call, verb)?;
    let is_allowed = match &call.target.subresource {
        Some(name) => call.target.resource.subresource(name).is_some_and(|sub| sub.verbs.contains(&verb.text())),
        None => call.target.resource.allows(verb.text()),
    };
    if !is_allowed {
        return Err(Status::method_not_allowed());
    }
    let mut response = Box::pin(dispatch(call, verb, request)).await?;
    respond::warn(response.headers_mut(), &call.warnings.borrow());
    Ok(response)
}

fn authorize(call: &Call, verb: Verb) -> Result<(), Status> {
    let Target { resource, name, subresource, .. } = &call.target;
    // A namespace is asked for in itself.
    let namespace = match (resource.plural, resource.group) {
        ("namespaces", "") => name.as_deref().unwrap_or_default(),
        _ => call.target.space(),
    };
    let ask = Ask::Resource {
        verb: verb.text(),
        group: resource.group,
        resource: resource.plural,
        subresource: subresource.as_deref().unwrap_or_default(),
        namespace,
        name: name.as_deref().unwrap_or_default(),
    };
    if auth::allows(&call.user, &ask) { Ok(()) } else { Err(auth::denied(&call.user, &ask, Some(resource))) }
}

async fn dispatch(call: &Call, verb: Verb, request: Request<Received>) -> Result<Response<Body>, Status> {
    use super::registry::Class;
    if matches!(verb, Verb::Get | Verb::List) && heartbeat::is_seen_in(call.target.resource) {
        heartbeat::renew(&call.state).await;
    }
    if call.target.subresource.is_some() {
        return subresource::answer(call, verb, request).await;
    }
    match call.target.resource.class {
        Class::Review => review::answer(call, request).await,
        Class::Metrics => usage::answer(call).await,
        Class::Stored | Class::EventView | Class::Workload => match verb {
            Verb::Get => verbs::get(call),
            Verb::List => verbs::list(call),
            Verb::Watch => verbs::watch(call, request),
            Verb::Create => verbs::create(call, request).await,
            Verb::Update => verbs::update(call, request).await,
            Verb::Patch => verbs::patch(call, request).await,
            Verb::Delete => verbs::delete(call, request).await,
            Verb::DeleteCollection => verbs::delete_collection(call, request).await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_depends_on_what_is_asked_for() {
        let is_accepted = |path: &str, media: &'static str| {
            let path::Route::Object(target) = path::route(path).unwrap() else { return false };
            let headers = HeaderMap::from_iter([(header::ACCEPT, http::HeaderValue::from_static(media))]);
            accept_of(&target, &headers).is_ok()
        };
        let (pod, table) = ("/api/v1/namespaces/d/pods/p", "application/json;as=Table;v=v1;g=meta.k8s.io");
        assert!(is_accepted(&format!("{pod}/proxy/"), "text/html") && !is_accepted(pod, "text/html"));
        assert!(is_accepted(pod, table) && !is_accepted(&format!("{pod}/eviction"), table));
        assert!(!is_accepted("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", table));
    }

    #[test]
    fn a_proxy_takes_the_methods_of_whoever_is_behind_it() {
        let verb = |method: Method, path: &str| {
            let path::Route::Object(target) = path::route(path).unwrap() else { return None };
            Verb::of(&method, &target, &Query::default()).ok()
        };
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(verb(method, "/api/v1/namespaces/d/pods/p/proxy/x"), Some(Verb::Get));
        }
        for method in [Method::HEAD, Method::OPTIONS] {
            assert_eq!(verb(method.clone(), "/api/v1/namespaces/d/pods"), None);
            assert_eq!(verb(method, "/api/v1/namespaces/d/pods/p/log"), None);
        }
    }

    /// D32
    #[test]
    fn only_the_server_itself_is_the_same_origin() {
        let host = "127.0.0.1:6443";
        for (origin, same) in [
            ("https://127.0.0.1:6443", true),
            ("http://127.0.0.1:6443", true),
            ("https://127.0.0.1", false),
            ("https://evil.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_same_origin(&http::HeaderValue::from_static(origin), host), same, "{origin:?}");
        }
        for (origin, host) in [("https://", ""), ("https://localhost", "localhost"), ("https://[::1]", "[::1]")] {
            assert!(!is_same_origin(&http::HeaderValue::from_static(origin), host), "{origin:?}");
        }
    }
}
