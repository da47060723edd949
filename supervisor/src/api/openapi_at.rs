//! `/openapi`: what `kubectl explain` and client-side validation read.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::body::Body;
use super::openapi;
use super::respond::{self, Accept, Content, Form};
use super::status::{Reason, Status};

/// How long a document with a hash in its address may be kept: for good.
const FOREVER: &str = "public, max-age=31536000, immutable";

fn plain(is_gzip: bool) -> Accept {
    Accept { form: Form::Plain, is_yaml: false, is_gzip, is_pretty: false, discovery: None }
}

fn is_gzip(headers: &HeaderMap) -> bool {
    Accept::of(headers).is_ok_and(|accept| accept.is_gzip)
}

/// A document under its hash; nothing but that when the client has it already.
fn document(
    headers: &HeaderMap,
    path: &str,
    make: impl FnOnce() -> std::io::Result<Option<Vec<u8>>>,
) -> Result<Response<Body>, Status> {
    let tag = format!("\"{}\"", openapi::hash(path));
    let has_it = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if has_it {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let bytes = make().map_err(Status::internal)?.ok_or_else(Status::no_such_path)?;
        respond::bytes_of(&plain(is_gzip(headers)), StatusCode::OK, "application/json", bytes)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// `/openapi/v2`: JSON only.
pub(crate) fn v2(headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accepts.is_empty() && !accepts.contains("json") && !accepts.contains("*/*") {
        return Err(Status::new(
            Reason::NotAcceptable,
            "only the following media types are accepted: application/json",
        ));
    }
    document(headers, "v2", || openapi::v2().map(Some))
}

/// `/openapi/v3`.
pub(crate) fn index() -> Response<Body> {
    respond::write(&plain(false), StatusCode::OK, Content::Value(openapi::v3_index()))
}

/// `/openapi/v3/PATH`.
pub(crate) fn version(headers: &HeaderMap, path: &str, has_hash: bool) -> Result<Response<Body>, Status> {
    let mut response = document(headers, path, || openapi::v3(path))?;
    if has_hash {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    }
    Ok(response)
}
