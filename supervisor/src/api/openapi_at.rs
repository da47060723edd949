//! `/openapi`: what `kubectl explain` and client-side validation read.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::body::Body;
use super::openapi;
use super::respond::{self, Accept, Content};
use super::status::{Reason, Status};

const JSON: &str = "application/json";
/// How long a document with a hash in its address may be kept: for good.
const FOREVER: &str = "public, max-age=31536000, immutable";

fn plain(is_gzip: bool) -> Accept {
    Accept { is_gzip, ..Accept::plain() }
}

fn is_gzip(headers: &HeaderMap) -> bool {
    let mut plain = headers.clone();
    plain.remove(header::ACCEPT);
    Accept::of(&plain).is_ok_and(|accept| accept.is_gzip)
}

/// A document under its hash; nothing but that when the client has it already.
fn document(
    headers: &HeaderMap,
    path: &str,
    media: &'static str,
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
        respond::bytes_of(&plain(is_gzip(headers)), StatusCode::OK, media, bytes)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

type Make = fn() -> std::io::Result<Vec<u8>>;

/// `/openapi/v2`: as JSON, or as the protobuf that older kubectls read.
pub(crate) fn v2(headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = accepts.split(',').map(|media| media.split(';').next().unwrap_or_default().trim());
    let form = first.into_iter().find_map(|media| match media {
        "" | "*/*" | "application/*" | JSON => Some((JSON, "v2", openapi::v2 as Make)),
        openapi::V2_PROTOBUF_TYPE | openapi::V2_PROTOBUF_ACCEPT => {
            Some((openapi::V2_PROTOBUF_TYPE, "v2.pb", openapi::v2_protobuf as Make))
        }
        _ => None,
    });
    let Some((media, path, make)) = form else {
        let known = format!("only the following media types are accepted: {JSON}, {}", openapi::V2_PROTOBUF_TYPE);
        return Err(Status::new(Reason::NotAcceptable, known));
    };
    document(headers, path, media, || make().map(Some))
}

/// `/openapi/v3`.
pub(crate) fn index() -> Response<Body> {
    respond::write(&plain(false), StatusCode::OK, Content::Value(openapi::v3_index()))
}

/// `/openapi/v3/PATH`.
pub(crate) fn version(headers: &HeaderMap, path: &str, has_hash: bool) -> Result<Response<Body>, Status> {
    let mut response = document(headers, path, JSON, || openapi::v3(path))?;
    if has_hash {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    }
    Ok(response)
}
