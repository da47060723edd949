//! `/openapi`: what `kubectl explain` and client-side validation read.

use http::{HeaderMap, Response};

use super::body::Body;
use super::respond::Accept;
use super::status::Status;

/// `/openapi/v2`.
pub(crate) fn v2(_accept: &Accept, _headers: &HeaderMap) -> Result<Response<Body>, Status> {
    Err(Status::no_such_path())
}

/// `/openapi/v3`.
pub(crate) fn index(_accept: &Accept) -> Result<Response<Body>, Status> {
    Err(Status::no_such_path())
}

/// `/openapi/v3/PATH`.
pub(crate) fn version(_accept: &Accept, _path: &str) -> Result<Response<Body>, Status> {
    Err(Status::no_such_path())
}
