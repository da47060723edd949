//! A client of the node's API over its Unix socket: who asks is the kernel's word, so nothing is configured.

pub mod discovery;
pub mod error;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use self::error::VerbError;

/// What plain objects are asked for as.
pub const JSON: &str = "application/json";
/// What tables are asked for as.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// The media type of server-side apply.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// A request before it is sent.
#[derive(Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    accept: &'static str,
    body: Option<(&'static str, Vec<u8>)>,
}

impl Call {
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), accept: JSON, body: None }
    }

    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    #[must_use]
    pub fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// A query parameter that is left out when there is nothing to say.
    #[must_use]
    pub fn query_some(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    #[must_use]
    pub fn body(mut self, media: &'static str, value: &Value) -> Self {
        self.body = Some((media, value.to_string().into_bytes()));
        self
    }

    fn uri(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.query).finish();
        format!("{}?{query}", self.path)
    }

    fn request(self, upgrade: &[(header::HeaderName, String)]) -> Result<Request<Full<Bytes>>, VerbError> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.uri())
            .header(header::HOST, "localhost")
            .header(header::USER_AGENT, concat!("monopod/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, self.accept);
        for (name, value) in upgrade {
            request = request.header(name, value);
        }
        let body = match self.body {
            Some((media, bytes)) => {
                request = request.header(header::CONTENT_TYPE, media);
                bytes
            }
            None => Vec::new(),
        };
        request.body(Full::from(body)).map_err(|error| VerbError::Usage(format!("request {}: {error}", self.path)))
    }
}

/// A part of a path, escaped.
pub fn segment(text: &str) -> String {
    let escaped: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    escaped.replace('+', "%20")
}

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Sends a request on a connection of its own; an answer that is an error is one.
    ///
    /// # Errors
    /// The daemon does not run, or refuses.
    pub async fn send(&self, call: Call) -> Result<Response<Incoming>, VerbError> {
        checked(self.exchange(call.request(&[])?).await?).await
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request that switches the connection to another protocol.
    ///
    /// # Errors
    /// The daemon does not run, or refuses.
    pub async fn upgrade(
        &self,
        call: Call,
        headers: &[(header::HeaderName, String)],
    ) -> Result<hyper::upgrade::Upgraded, VerbError> {
        let response = self.exchange(call.request(headers)?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = checked(response).await?;
            return Err(VerbError::Usage(format!("unable to upgrade connection: {}", response.status())));
        }
        hyper::upgrade::on(response).await.map_err(VerbError::Http)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, VerbError> {
        let connect = |source| VerbError::Connect { path: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(VerbError::Http)?;
        // Its errors reach whoever waits for the answer.
        drop(tokio::spawn(connection.with_upgrades()));
        sender.send_request(request).await.map_err(VerbError::Http)
    }

    /// Sends a request whose answer is JSON.
    ///
    /// # Errors
    /// The daemon does not run, refuses, or answers something else.
    pub async fn json(&self, call: Call) -> Result<Value, VerbError> {
        json_of(self.send(call).await?).await
    }

    /// As [`Client::json`], nothing for what is not there.
    ///
    /// # Errors
    /// The daemon does not run, or refuses for another reason.
    pub async fn find(&self, call: Call) -> Result<Option<Value>, VerbError> {
        match self.json(call).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request whose answer is a JSON value per line, for as long as somebody reads.
    ///
    /// # Errors
    /// The daemon does not run, or refuses.
    pub async fn lines(&self, call: Call) -> Result<Lines, VerbError> {
        let response = self.send(call).await?;
        Ok(Lines { body: response.into_body(), rest: Vec::new() })
    }
}

async fn json_of(response: Response<Incoming>) -> Result<Value, VerbError> {
    let bytes = response.into_body().collect().await.map_err(VerbError::Http)?.to_bytes();
    serde_json::from_slice(&bytes).map_err(VerbError::Json)
}

async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>, VerbError> {
    show_warnings(response.headers());
    let code = response.status();
    if code.is_success() || code == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await.map_err(VerbError::Http)?.to_bytes();
    Err(VerbError::of_answer(code, &bytes))
}

/// RFC 7234: `299 - "text"`
fn show_warnings(headers: &HeaderMap) {
    for text in headers.get_all(header::WARNING).iter().filter_map(|value| value.to_str().ok()).filter_map(warning) {
        crate::cli::tell(format_args!("Warning: {text}"));
    }
}

fn warning(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 - \"")?.strip_suffix('"')?;
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    Some(text)
}

/// The lines of an answer that goes on.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// The next value; none when the answer ended.
    ///
    /// # Errors
    /// The connection broke, or a line is no JSON.
    pub async fn next(&mut self) -> Result<Option<Value>, VerbError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.rest) {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(VerbError::Json);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(VerbError::Http)?;
                    self.rest.extend_from_slice(frame.data_ref().map_or(&[], Bytes::as_ref));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_segments_are_escaped() {
        let call = Call::get("/api/v1/pods").query("labelSelector", "a in (b,c)").query_some("x", None::<String>);
        assert_eq!(call.uri(), "/api/v1/pods?labelSelector=a+in+%28b%2Cc%29");
        assert_eq!(segment("a/b c?"), "a%2Fb%20c%3F");
    }

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(warning(r#"299 - "a \"b\" \\ c""#).as_deref(), Some(r#"a "b" \ c"#));
        assert_eq!(warning("199 - nothing"), None);
    }
}
