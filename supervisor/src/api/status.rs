//! Errors as clients see them: Kubernetes `Status` objects with reason, code, details and causes.

use std::fmt;

use http::StatusCode;
use serde_json::{Value, json};

use super::registry::Resource;
use crate::admission::validate::Invalid;
use crate::store::StoreError;

/// Reasons of Status objects. Each stands for one HTTP code, none for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Expired,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    Misdirected,
    InternalError,
    NotImplemented,
    ServiceUnavailable,
    Timeout,
}

impl Reason {
    pub fn code(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::AlreadyExists | Self::Conflict => StatusCode::CONFLICT,
            Self::Expired => StatusCode::GONE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The `reason` field.
    fn text(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::TooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::Misdirected => "BadRequest",
            Self::InternalError => "InternalError",
            Self::NotImplemented => "NotImplemented",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
        }
    }
}

/// An error that a client is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub reason: Reason,
    pub message: String,
    /// `details`, when there are any.
    pub details: Option<Box<Value>>,
    /// `metadata.continue`: how a list that can't go on as it began goes on.
    pub next: Option<Box<str>>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None, next: None }
    }

    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
            .with_details(json!({"causes": [{"message": message}]}))
    }

    /// A path that nothing is served at.
    pub fn no_such_path() -> Self {
        Self::new(Reason::NotFound, "the server could not find the requested resource").with_details(json!({}))
    }

    pub fn method_not_allowed() -> Self {
        Self::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
            .with_details(json!({}))
    }

    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(Reason::NotFound, message).with_details(details(resource, name))
    }

    pub fn already_exists(resource: &Resource, name: &str, is_terminating: bool) -> Self {
        let prefix = if is_terminating { "object is being deleted: " } else { "" };
        let message = format!("{prefix}{} {name:?} already exists", resource.qualified());
        Self::new(Reason::AlreadyExists, message).with_details(details(resource, name))
    }

    /// UP6: someone else was faster.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
        Self::new(Reason::Conflict, message).with_details(details(resource, name))
    }

    pub fn forbidden(resource: &Resource, name: &str, why: impl fmt::Display) -> Self {
        let subject = match name {
            "" => resource.qualified(),
            name => format!("{} {name:?}", resource.qualified()),
        };
        Self::new(Reason::Forbidden, format!("{subject} is forbidden: {why}")).with_details(details(resource, name))
    }

    /// Fields that are not as they must be.
    pub fn invalid(resource: &Resource, name: &str, invalid: &Invalid) -> Self {
        Self::invalid_kind(resource.group, resource.kind, name, invalid)
    }

    /// [`Self::invalid`] for what is no stored object, such as the options of a request.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, invalid: &Invalid) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes: Vec<Value> = invalid
            .causes()
            .into_iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        let mut details = json!({"name": name, "kind": kind, "causes": causes});
        if !group.is_empty() {
            details["group"] = group.into();
        }
        Self::new(Reason::Invalid, invalid.message(&qualified, name)).with_details(details)
    }

    /// A version that is no longer remembered.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// What a change of an object failed with.
    pub fn of_store(resource: &Resource, name: &str, error: &StoreError) -> Self {
        match error {
            StoreError::Exists(_) => Self::already_exists(resource, name, false),
            StoreError::NotFound(_) => Self::not_found(resource, name),
            StoreError::Conflict { .. } => Self::modified(resource, name),
            StoreError::OtherUid { expected, found, .. } => Self::other_uid(resource, name, expected, found),
            StoreError::Gone { asked, oldest } => {
                Self::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::TooLarge { .. } => Self::new(Reason::TooLarge, error.to_string()),
            StoreError::TooMany { .. } => Self::forbidden(resource, name, error),
            StoreError::Io { .. } => Self::internal(error),
        }
    }

    /// A precondition on the uid that doesn't hold.
    pub fn other_uid(resource: &Resource, name: &str, expected: &str, found: &str) -> Self {
        let why = format!(
            "the UID in the precondition ({expected}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
        );
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.kind);
        Self::new(Reason::Conflict, message).with_details(json!({"name": name, "kind": resource.kind}))
    }

    /// The object.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.text(), "code": self.reason.code().as_u16(),
        });
        if let Some(details) = &self.details {
            value["details"] = (**details).clone();
        }
        if let Some(next) = &self.next {
            value["metadata"]["continue"] = (**next).into();
        }
        value
    }
}

/// `details` of an object, as the API writes them: `kind` is the resource.
fn details(resource: &Resource, name: &str) -> Value {
    let mut details = json!({"kind": resource.plural});
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !resource.group.is_empty() {
        details["group"] = resource.group.into();
    }
    details
}

/// The Status object that says that something is done.
pub fn success(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = details(resource, name);
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::registry;

    #[test]
    fn texts_are_those_of_the_api_server() {
        let pods = registry::find("", "v1", "pods").unwrap();
        let leases = registry::find("coordination.k8s.io", "v1", "leases").unwrap();
        for (status, code, message) in [
            (Status::not_found(pods, "nope"), 404, "pods \"nope\" not found"),
            (Status::not_found(leases, "l"), 404, "leases.coordination.k8s.io \"l\" not found"),
            (Status::already_exists(pods, "h", false), 409, "pods \"h\" already exists"),
            (Status::already_exists(pods, "h", true), 409, "object is being deleted: pods \"h\" already exists"),
            (
                Status::modified(pods, "h"),
                409,
                "Operation cannot be fulfilled on pods \"h\": the object has been modified; please apply your changes to the latest version and try again",
            ),
            (Status::no_such_path(), 404, "the server could not find the requested resource"),
        ] {
            let value = status.to_value();
            assert_eq!((value["message"].as_str(), value["code"].as_u64()), (Some(message), Some(code)));
        }
        let details = Status::not_found(leases, "l").to_value()["details"].clone();
        assert_eq!(details, json!({"name": "l", "group": "coordination.k8s.io", "kind": "leases"}));
    }
}
