//! The form of an answer: what the client accepts, and how it is written.

use std::io::Write;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use super::body::Body;
use super::status::{Reason, Status};

/// Bytes from which an answer is compressed for a client that asks for it; below, it costs more than it saves.
const GZIP_FROM: usize = 128 * 1024;
/// Bytes of all warnings of an answer; further ones are left out.
const WARNINGS_MAX: usize = 4 * 1024;

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    /// Columns, as `kubectl get` prints them.
    Table,
    /// Only the metadata.
    Partial,
}

/// What the client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub form: Form,
    pub is_yaml: bool,
    pub is_gzip: bool,
    /// For people: indented.
    pub is_pretty: bool,
    /// In which version of `meta.k8s.io` tables and metadata are written.
    pub meta: &'static str,
    /// `apidiscovery.k8s.io` version of aggregated discovery.
    pub discovery: Option<&'static str>,
}

impl Accept {
    /// JSON as it is.
    pub(crate) const fn plain() -> Self {
        let meta = "meta.k8s.io/v1";
        Self { form: Form::Plain, is_yaml: false, is_gzip: false, is_pretty: false, meta, discovery: None }
    }

    /// # Errors
    /// Nothing that the client accepts can be written.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        Self::first(headers, |_| true)
    }

    /// [`Self::of`] for what has no columns.
    ///
    /// # Errors
    /// Nothing that the client accepts can be written.
    pub(crate) fn of_tableless(headers: &HeaderMap) -> Result<Self, Status> {
        Self::first(headers, |accept| accept.form != Form::Table)
    }

    fn first(headers: &HeaderMap, fits: impl Fn(&Self) -> bool) -> Result<Self, Status> {
        let fresh = Self { is_gzip: has_gzip(headers), is_pretty: is_for_people(headers), ..Self::plain() };
        let text = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if text.trim().is_empty() {
            return Ok(fresh);
        }
        let mut taken = text.split(',').filter_map(|media| {
            let mut accept = fresh;
            (accept.take(media) && fits(&accept)).then_some(accept)
        });
        if let Some(accept) = taken.next() {
            return Ok(accept);
        }
        Err(Status::new(Reason::NotAcceptable, NOT_ACCEPTABLE))
    }

    /// Whether this media type can be served; sets how.
    fn take(&mut self, media: &str) -> bool {
        let mut parts = media.split(';').map(str::trim);
        self.is_yaml = match parts.next().unwrap_or_default() {
            "application/json" | "*/*" | "application/*" => false,
            "application/yaml" => true,
            _ => return false,
        };
        let (mut group, mut version, mut kind) = ("", "", "");
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("g", value)) => group = value,
                Some(("v", value)) => version = value,
                Some(("as", value)) => kind = value,
                Some(_) | None => {}
            }
        }
        self.meta = if version == "v1beta1" { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" };
        match (group, version, kind) {
            (_, _, "") => true,
            ("meta.k8s.io", "v1" | "v1beta1", "Table") => self.shown(Form::Table),
            ("meta.k8s.io", "v1" | "v1beta1", "PartialObjectMetadata" | "PartialObjectMetadataList") => {
                self.shown(Form::Partial)
            }
            ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => self.discovered("v2"),
            ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => self.discovered("v2beta1"),
            _ => false,
        }
    }

    fn shown(&mut self, form: Form) -> bool {
        self.form = form;
        true
    }

    fn discovered(&mut self, version: &'static str) -> bool {
        self.discovery = Some(version);
        true
    }
}

const NOT_ACCEPTABLE: &str = "only the following media types are accepted: application/json, application/yaml";

fn has_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| coding.trim().split(';').next() == Some("gzip"))
}

fn is_for_people(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|start| agent.starts_with(start))
}

/// A JSON answer before it is written.
#[derive(Debug)]
pub(crate) enum Content {
    Value(Value),
    /// JSON that is text already.
    Text(Arc<str>),
}

impl Content {
    fn into_text(self, accept: &Accept) -> Result<Vec<u8>, serde_json::Error> {
        let text = match self {
            Self::Text(text) if !accept.is_yaml && !accept.is_pretty => return Ok(text.as_bytes().to_vec()),
            Self::Text(text) => return Self::Value(serde_json::from_str(&text)?).into_text(accept),
            Self::Value(value) if accept.is_yaml => {
                serde_saphyr::to_string(&value).map_err(serde::ser::Error::custom)?.into_bytes()
            }
            Self::Value(value) if accept.is_pretty => serde_json::to_vec_pretty(&value)?,
            Self::Value(value) => serde_json::to_vec(&value)?,
        };
        Ok(text)
    }
}

/// Writes an answer.
pub(crate) fn write(accept: &Accept, code: StatusCode, content: Content) -> Response<Body> {
    let bytes = match content.into_text(accept) {
        Ok(bytes) => bytes,
        Err(error) => return status(&Status::internal(error)),
    };
    let media = if accept.is_yaml { "application/yaml" } else { "application/json" };
    bytes_of(accept, code, media, bytes)
}

/// Writes bytes, compressed where that helps.
pub(crate) fn bytes_of(accept: &Accept, code: StatusCode, media: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let compressed = (accept.is_gzip && bytes.len() >= GZIP_FROM).then(|| gzip(&bytes)).flatten();
    let is_compressed = compressed.is_some();
    let mut response = Response::new(Body::whole(compressed.unwrap_or(bytes)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// Writes an error.
pub(crate) fn status(status: &Status) -> Response<Body> {
    let mut response = write(&Accept::plain(), status.reason.code(), Content::Value(status.to_value()));
    if status.reason == Reason::TooManyRequests {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Writes plain text, as health checks answer.
pub(crate) fn plain(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Adds `Warning: 299 - "..."` headers (RFC 7234), each text once.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let mut size = 0;
    for (index, text) in warnings.iter().enumerate() {
        size += text.len();
        if warnings[..index].contains(text) || size > WARNINGS_MAX {
            continue;
        }
        let escaped: String = text
            .chars()
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c if c.is_control() => vec![' '],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Result<Accept, Status> {
        Accept::of(&HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())]))
    }

    #[test]
    fn the_first_form_that_can_be_written_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().form, Form::Table);
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(typed).unwrap().form, Form::Plain);
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(accept(partial).unwrap().form, Form::Partial);
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(accept(discovery).unwrap().discovery, Some("v2"));
        assert!(accept("application/yaml").unwrap().is_yaml);
        assert!(accept("*/*").is_ok());
        let old = accept("application/json;as=Table;v=v1beta1;g=meta.k8s.io").unwrap();
        assert_eq!((old.form, old.meta), (Form::Table, "meta.k8s.io/v1beta1"));
    }

    #[test]
    fn what_has_no_columns_makes_no_table() {
        let of = |text: &str| Accept::of_tableless(&HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())]));
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(of(table).unwrap_err().reason, Reason::NotAcceptable);
        assert_eq!(of(&format!("{table},application/json")).unwrap().form, Form::Plain);
    }

    #[test]
    fn what_cannot_be_written_is_not_acceptable() {
        for text in ["application/vnd.kubernetes.protobuf", "text/html", "application/json;as=Table;v=v9;g=meta.k8s.io"]
        {
            assert_eq!(accept(text).unwrap_err().reason, Reason::NotAcceptable, "{text}");
        }
    }

    #[test]
    fn warnings_are_quoted_and_stand_once() {
        let mut headers = HeaderMap::new();
        warn(&mut headers, &["a \"b\"".to_owned(), "a \"b\"".to_owned(), "c\nd".to_owned()]);
        let texts: Vec<&str> = headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(texts, ["299 - \"a \\\"b\\\"\"", "299 - \"c d\""]);
    }

    #[test]
    fn large_answers_are_compressed_for_those_who_ask() {
        let mut accept = accept("application/json").unwrap();
        let big = || Content::Text(format!("{:?}", "a".repeat(GZIP_FROM)).into());
        assert!(write(&accept, StatusCode::OK, big()).headers().get("content-encoding").is_none());
        accept.is_gzip = true;
        assert_eq!(write(&accept, StatusCode::OK, big()).headers()["content-encoding"], "gzip");
    }
}
