//! One GET and its redirects: a connection for each, driven by the future that waits for it and closed with it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::header::{HeaderMap, LOCATION};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout, timeout_at};

use super::request::NoBody;
use super::tap::{Seen, Stream, Tap};
use super::text::{self, DEADLINE_EXCEEDED};
use super::url::{Reference, Url, is_absolute};
use super::{OUTPUT_BYTES, dial, request, tls, transport};

/// Requests that one probe sends at the most (HG3).
const MAX_REQUESTS: usize = 10;
/// Bytes of an answer's status line and headers.
pub(super) const HEAD_BYTES: usize = 64 * 1024;
/// Headers of an answer.
const HEADERS: usize = 1000;
/// A TLS handshake gets no more, even when the probe would wait longer; the kubelet's limit.
const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What is asked.
pub(super) struct Call {
    pub(super) url: Url,
    /// The `Host` header, when it isn't the URL's.
    host: Option<String>,
    pub(super) headers: HeaderMap,
}

/// Why there is no answer; prints as Go's `url.Error`.
#[derive(Debug, thiserror::Error)]
#[error("Get {}: {cause}", text::quote(.url.as_bytes()))]
pub(super) struct CallError {
    url: String,
    cause: Cause,
}

/// What a request failed by.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("{0}")]
    Request(String),
    #[error(transparent)]
    Dial(dial::DialError),
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainAnswer,
    #[error("{0}")]
    Tls(String),
    #[error("net/http: TLS handshake timeout")]
    TlsTimeout,
    #[error("{0}")]
    Transport(String),
    #[error("stopped after {MAX_REQUESTS} redirects")]
    TooManyRedirects,
    #[error("failed to parse Location header {}: {why}", text::quote(.location.as_bytes()))]
    Location { location: String, why: String },
    #[error("{DEADLINE_EXCEEDED} (Client.Timeout exceeded while awaiting headers)")]
    Deadline,
}

impl CallError {
    /// Whether a client of HTTPS was answered in HTTP (LC3).
    pub(super) fn is_plain_answer(&self) -> bool {
        matches!(self.cause, Cause::PlainAnswer)
    }
}

/// An answer whose body has not been read yet.
pub(super) struct Answer {
    response: Response<Incoming>,
    link: Link,
}

impl Call {
    /// `given` are the handler's headers.
    pub(super) fn new(url: Url, given: &[(String, String)], agent: &str) -> Result<Self, CallError> {
        let invalid = |cause| CallError { url: url.to_string(), cause: Cause::Request(cause) };
        let headers = request::headers(given, agent).map_err(invalid)?;
        Ok(Self { url, host: request::host(given).map(str::to_owned), headers })
    }

    /// Sends the request and follows redirects to the same host, all before `deadline`.
    pub(super) async fn send(&self, deadline: Option<Instant>) -> Result<Answer, CallError> {
        let mut url = self.url.clone();
        let mut host = self.host.as_deref();
        let mut from = None;
        for sent in 1.. {
            let failed = |cause| CallError { url: url.to_string(), cause };
            let exchange = Box::pin(self.exchange(&url, host, from.as_ref()));
            let answer = within(deadline, exchange).await.unwrap_or(Err(Cause::Deadline)).map_err(failed)?;
            let Some(location) = answer.redirect() else { return Ok(answer) };
            let next = match url.follow(&location) {
                Reference::To(next) => next,
                Reference::Elsewhere => return Ok(answer),
                Reference::Unsupported(scheme) => {
                    let cause = Cause::Request(format!("unsupported protocol scheme \"{scheme}\""));
                    return Err(CallError { url: location, cause });
                }
                Reference::Bad(why) => return Err(failed(Cause::Location { location, why })),
            };
            if sent == MAX_REQUESTS {
                return Err(CallError { url: location, cause: Cause::TooManyRedirects });
            }
            // A claimed host is meant for this server as long as it speaks of itself.
            host = host.filter(|_| !is_absolute(&location));
            from = Some(std::mem::replace(&mut url, next));
        }
        Err(CallError { url: url.to_string(), cause: Cause::TooManyRedirects })
    }

    async fn exchange(&self, url: &Url, host: Option<&str>, from: Option<&Url>) -> Result<Answer, Cause> {
        let request = request::get(url, host, &self.headers, from).map_err(Cause::Request)?;
        let (stream, local, peer) = connect(url).await?;
        let (tap, seen) = Tap::asking_first(stream);
        let handshake = http1::Builder::new()
            .title_case_headers(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .max_headers(HEADERS)
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(tap));
        let (mut sender, connection) = handshake.await.map_err(|error| Cause::Transport(error.to_string()))?;
        let mut link = Link { connection: Some(Box::pin(connection)), seen, local, peer };
        match link.drive(sender.send_request(request)).await {
            Ok(response) => Ok(Answer { response, link }),
            Err(error) => Err(Cause::Transport(transport::awaiting_head(&error, &link.seen.bytes(), local, peer))),
        }
    }
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The `Location` of a status that redirects.
    fn redirect(&self) -> Option<String> {
        let redirects = matches!(self.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = self.response.headers().get(LOCATION).filter(|_| redirects)?;
        let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
        Some(location).filter(|location| !location.is_empty())
    }

    /// The first [`OUTPUT_BYTES`] of the body (HG4); otherwise why it broke off.
    pub(super) async fn body(self, deadline: Option<Instant>) -> Result<Vec<u8>, String> {
        let Self { response, mut link } = self;
        let (local, peer) = (link.local, link.peer);
        let mut incoming = response.into_body();
        let read = link.drive(async {
            let mut body = Vec::new();
            while body.len() < OUTPUT_BYTES
                && let Some(frame) = incoming.frame().await
            {
                let frame = frame.map_err(|error| transport::reading_body(&error, local, peer))?;
                let data = frame.into_data().unwrap_or_default();
                body.extend_from_slice(&data[..data.len().min(OUTPUT_BYTES - body.len())]);
            }
            Ok(body)
        });
        let late = || format!("{DEADLINE_EXCEEDED} (Client.Timeout or context cancellation while reading body)");
        within(deadline, read).await.unwrap_or_else(|| Err(late()))
    }
}

/// A connection that works while somebody waits for it.
struct Link {
    /// None when it has ended.
    connection: Option<Pin<Box<Connection>>>,
    seen: Seen,
    local: SocketAddr,
    peer: SocketAddr,
}

type Connection = http1::Connection<TokioIo<Tap<Box<dyn Stream>>>, NoBody>;

impl Link {
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            // Its error, if any, comes out of the future too.
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(cx).is_ready()
            {
                self.connection = None;
            }
            future.as_mut().poll(cx)
        })
        .await
    }
}

async fn connect(url: &Url) -> Result<(Box<dyn Stream>, SocketAddr, SocketAddr), Cause> {
    let socket = dial::dial(&url.host, url.port()).await.map_err(Cause::Dial)?;
    let (local, peer) = (socket.local, socket.peer);
    if !url.https {
        return Ok((Box::new(socket), local, peer));
    }
    let (tap, seen) = Tap::new(socket);
    let handshake = tls::handshake(&url.host, tap, ServerName::from(peer.ip()));
    match timeout(TLS_HANDSHAKE_MAX, handshake).await {
        Ok(Ok(secured)) => Ok((Box::new(secured), local, peer)),
        Ok(Err(error)) => Err(tls_cause(&error, &seen.bytes(), local, peer)),
        Err(_) => Err(Cause::TlsTimeout),
    }
}

fn tls_cause(error: &io::Error, received: &[u8], local: SocketAddr, peer: SocketAddr) -> Cause {
    if received.starts_with(b"HTTP/") {
        return Cause::PlainAnswer;
    }
    Cause::Tls(transport::io_text(error, received, local, peer))
}

/// None when the deadline passed first.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
