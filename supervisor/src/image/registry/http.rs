//! One request at a time over HTTP/1.1, with every wait and every size bounded (D29).

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::connect::{self, ConnectError, Origin};
use super::names::Names;

/// Wait for the head of an answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Wait for the next bytes of a body.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a document: manifests, tokens, errors.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Header lines of an answer.
const MAX_HEADERS: usize = 100;
/// Bytes of an answer's head, and of what is read ahead of a body.
const BUFFER_BYTES: usize = 256 << 10;
/// Redirects of one request; registries send blobs to a store and the store to a cache.
const MAX_REDIRECTS: usize = 5;
/// Bytes of a redirect's target: signed URLs are long.
const MAX_LOCATION_BYTES: usize = 16 << 10;
/// Connections that are kept for the next request.
const MAX_IDLE: usize = 4;
const USER_AGENT: &str = concat!("monopod/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum HttpError {
    Connect(ConnectError),
    /// The connection broke, or nothing came in time.
    Broken(String),
    /// An answer that no registry gives.
    Protocol(String),
}

/// What to ask.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) url: Url,
    pub(super) accept: &'static [&'static str],
    pub(super) range_from: u64,
    pub(super) authorization: Option<HeaderValue>,
    /// A form to post; none is a GET.
    pub(super) form: Option<String>,
}

/// An answer whose body waits.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    origin: Origin,
    sender: Sender,
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections towards one registry and where it sends us.
pub(super) struct Http {
    names: Names,
    tls: Arc<ClientConfig>,
    insecure: bool,
    /// The registry itself is on this machine, so it may send us to this machine.
    near: Cell<bool>,
    home: RefCell<Option<Origin>>,
    idle: RefCell<Vec<(Origin, Sender)>>,
}

impl Http {
    pub(super) fn new(names: Names, tls: Arc<ClientConfig>, insecure: bool) -> Self {
        Self { names, tls, insecure, near: Cell::new(false), home: RefCell::default(), idle: RefCell::default() }
    }

    /// Asks, and follows redirects. The authorization goes to the first origin and to no other.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Reply, HttpError> {
        let first = origin(&ask.url)?;
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let here = origin(&url)?;
            let authorization = ask.authorization.as_ref().filter(|_| here == first);
            let reply = self.send(&here, request(ask, &url, authorization)?).await?;
            let Some(next) = redirect(&url, &reply)? else {
                return Ok(reply);
            };
            if first.https && next.scheme() != "https" && !self.insecure {
                return Err(HttpError::Protocol(format!("redirects to plain HTTP at {}", shown(&next))));
            }
            url = next;
        }
        Err(HttpError::Protocol(format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn send(&self, origin: &Origin, request: Request<Full<Bytes>>) -> Result<Reply, HttpError> {
        if let Some(mut sender) = self.take_idle(origin)
            && sender.ready().await.is_ok()
        {
            // A server may close a connection at the moment in which it is used again.
            match respond(&mut sender, request.clone()).await {
                Ok(response) => return Ok(reply(response, origin, sender)),
                Err(HttpError::Broken(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut sender = self.connect(origin).await?;
        let response = respond(&mut sender, request).await?;
        Ok(reply(response, origin, sender))
    }

    async fn connect(&self, origin: &Origin) -> Result<Sender, HttpError> {
        let at_home = self.home.borrow().as_ref().is_none_or(|home| home.host == origin.host);
        let may_be_near = at_home || self.near.get();
        let connected = connect::connect(origin, &self.names, &self.tls, may_be_near).await;
        let (stream, address) = connected.map_err(HttpError::Connect)?;
        if self.home.borrow().is_none() {
            self.set_home(origin, address.ip());
        }
        let mut builder = http1::Builder::new();
        builder.max_headers(MAX_HEADERS).max_buf_size(BUFFER_BYTES);
        let broken = |error: hyper::Error| HttpError::Broken(error_text(&error));
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                // Whoever waits for the answer gets the same error.
                tracing::debug!("connection: {error}");
            }
        });
        Ok(sender)
    }

    fn set_home(&self, origin: &Origin, address: IpAddr) {
        self.near.set(connect::is_near(address));
        *self.home.borrow_mut() = Some(origin.clone());
    }

    fn take_idle(&self, origin: &Origin) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().position(|(known, sender)| known == origin && !sender.is_closed())?;
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, origin: Origin, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(_, sender)| !sender.is_closed());
        if idle.len() < MAX_IDLE {
            idle.push((origin, sender));
        }
    }

    /// The whole body of a small answer.
    pub(super) async fn document(&self, mut reply: Reply, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut whole = Vec::new();
        let read = async {
            while let Some(piece) = reply.next().await? {
                if whole.len() as u64 + piece.len() as u64 > limit {
                    return Err(HttpError::Protocol(format!("an answer of more than {limit} bytes")));
                }
                whole.extend_from_slice(&piece);
            }
            Ok(())
        };
        let in_time = timeout(DOCUMENT_TIMEOUT, read).await;
        in_time.map_err(|_| HttpError::Broken("the answer took too long".to_owned()))??;
        self.done(reply);
        Ok(whole)
    }

    /// Keeps the connection of a body that was read to its end.
    pub(super) fn done(&self, reply: Reply) {
        if hyper::body::Body::is_end_stream(&reply.body) {
            self.keep(reply.origin, reply.sender);
        }
    }
}

impl Reply {
    /// The next piece of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            match timeout(IDLE_TIMEOUT, self.body.frame()).await {
                Err(_) => {
                    let seconds = IDLE_TIMEOUT.as_secs();
                    return Err(HttpError::Broken(format!("nothing came for {seconds} s")));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(HttpError::Broken(error_text(&error))),
                Ok(Some(Ok(frame))) => {
                    // Trailers say nothing that counts.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn reply(response: Response<Incoming>, origin: &Origin, sender: Sender) -> Reply {
    let (parts, body) = response.into_parts();
    Reply { status: parts.status, headers: parts.headers, body, origin: origin.clone(), sender }
}

async fn respond(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
    match timeout(HEAD_TIMEOUT, sender.send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) if error.is_parse() => Err(HttpError::Protocol(error_text(&error))),
        Ok(Err(error)) => Err(HttpError::Broken(error_text(&error))),
        Err(_) => Err(HttpError::Broken(format!("no answer for {} s", HEAD_TIMEOUT.as_secs()))),
    }
}

fn request(ask: &Ask, url: &Url, authorization: Option<&HeaderValue>) -> Result<Request<Full<Bytes>>, HttpError> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let method = if ask.form.is_some() { Method::POST } else { Method::GET };
    let mut builder = Request::builder().method(method).uri(target).header(header::HOST, host(url));
    builder = builder.header(header::USER_AGENT, USER_AGENT);
    for accept in ask.accept {
        builder = builder.header(header::ACCEPT, *accept);
    }
    if ask.range_from > 0 {
        builder = builder.header(header::RANGE, format!("bytes={}-", ask.range_from));
    }
    if let Some(value) = authorization {
        builder = builder.header(header::AUTHORIZATION, value);
    }
    if ask.form.is_some() {
        builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    let body = ask.form.clone().unwrap_or_default();
    builder.body(Full::from(body)).map_err(|error| HttpError::Protocol(error.to_string()))
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn origin(url: &Url) -> Result<Origin, HttpError> {
    Origin::of(url).ok_or_else(|| HttpError::Protocol(format!("not an HTTP address: {}", shown(url))))
}

/// Where an answer sends us.
fn redirect(from: &Url, reply: &Reply) -> Result<Option<Url>, HttpError> {
    let moves = matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = reply.header(header::LOCATION).filter(|_| moves) else {
        return Ok(None);
    };
    if location.len() > MAX_LOCATION_BYTES {
        return Err(HttpError::Protocol("redirects to an endless address".to_owned()));
    }
    let bad = |error: url::ParseError| HttpError::Protocol(format!("redirects to no address: {error}"));
    let mut next = from.join(location).map_err(bad)?;
    // A name and a password in there are nobody's we know.
    if next.set_username("").is_err() || next.set_password(None).is_err() {
        return Err(HttpError::Protocol("redirects to no HTTP address".to_owned()));
    }
    Ok(Some(next))
}

/// Without what may be secret: name and password, query (D35).
pub(super) fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), host(url), url.path())
}

fn error_text(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
