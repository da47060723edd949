//! Bodies of requests, within limits, as objects.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::Value;

use super::fields;
use super::json;
use super::registry::{self, Resource};
use super::status::{Reason, Status};
use super::wire;
use crate::manifest::yaml;
use crate::stream::received::Received;

/// D33: bytes of a body.
pub(crate) const BODY_MAX: usize = 3 * 1024 * 1024;
/// D33: a body that says nothing for this long is given up.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of an unreadable body that its error quotes.
const QUOTED: usize = 256;

/// Reads a body to its end.
///
/// # Errors
/// It is too large, too slow, or breaks off.
pub(crate) async fn read(mut body: Received) -> Result<Bytes, Status> {
    let too_large = || Status::new(Reason::TooLarge, format!("Request entity too large: limit is {BODY_MAX}"));
    let mut bytes = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(IDLE, body.frame()).await {
            Err(_) => return Err(Status::new(Reason::Timeout, "the body of the request did not come in time")),
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => return Err(Status::bad_request(format!("read the body: {error}"))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > BODY_MAX {
            return Err(too_large());
        }
        bytes.extend_from_slice(data);
    }
}

/// The media type of a request, without parameters.
pub(crate) fn media(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

/// What to do about fields that the type doesn't have, or that stand twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

impl FieldValidation {
    /// # Errors
    /// It is none of the three.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Status> {
        match text {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some("Ignore") => Ok(Self::Ignore),
            Some(other) => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// A document out of a body, in whichever language it came.
///
/// # Errors
/// The media type is unknown, or the body is not what it says.
pub(crate) fn document(media: &str, body: &[u8], kind: &str) -> Result<json::Document, Status> {
    match media {
        "application/json" | "" => {
            json::parse(body).map_err(|error| unreadable(kind, body, "json", &error.to_string()))
        }
        "application/yaml" => from_yaml(body, kind),
        "application/vnd.kubernetes.protobuf" => {
            let value = wire::decode(body).map_err(|error| unreadable(kind, &[], "protobuf", &error.to_string()))?;
            Ok(json::Document { value, duplicates: Vec::new() })
        }
        _ => Err(Status::new(
            Reason::UnsupportedMediaType,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// YAML; JSON among it.
pub(crate) fn from_yaml(body: &[u8], kind: &str) -> Result<json::Document, Status> {
    let text = std::str::from_utf8(body).map_err(|error| unreadable(kind, body, "yaml", &error.to_string()))?;
    let documents = yaml::load(text).map_err(|faults| {
        let first = faults.first();
        let line = first.map_or(0, |fault| fault.position.line);
        let message = first.map_or("", |fault| fault.message.as_str());
        unreadable(kind, body, "yaml", &format!("line {line}: {message}"))
    })?;
    let value = documents.into_iter().next().map_or(Value::Null, |document| document.value);
    Ok(json::Document { value, duplicates: Vec::new() })
}

fn unreadable(kind: &str, body: &[u8], language: &str, error: &str) -> Status {
    let quoted = match body {
        [] => "<empty>".to_owned(),
        body => String::from_utf8_lossy(&body[..body.len().min(QUOTED)]).into_owned(),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; {language} parse error: {error} ({quoted})"
    ))
}

/// An object of a resource, as its type writes it. Warnings are added to `warnings`.
///
/// # Errors
/// It is of another kind, a field is of another type, or it breaks the rule of `validation`.
pub(crate) fn object(
    resource: &Resource,
    document: json::Document,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let json::Document { mut value, duplicates } = document;
    identify(resource, &mut value)?;
    let kind = resource.kind;
    let cannot = |why: &str| {
        Status::bad_request(format!("{kind} in version {:?} cannot be handled as a {kind}: {why}", resource.version))
    };
    let (object, problems) = registry::decode(resource, value).map_err(|why| cannot(&why))?;
    let duplicates = duplicates.into_iter().map(|path| format!("duplicate field {path:?}"));
    let problems: Vec<String> = problems.lenient.into_iter().chain(duplicates).collect();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(cannot(&format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Warn => {
            warnings.extend(problems);
            Ok(object)
        }
        FieldValidation::Strict | FieldValidation::Ignore => Ok(object),
    }
}

/// Sees to it that an object says what it is, as the URL says.
fn identify(resource: &Resource, value: &mut Value) -> Result<(), Status> {
    if !value.is_object() {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): it is not an object",
            resource.kind
        )));
    }
    let (kind, version) = (fields::text(value, &["kind"]), fields::text(value, &["apiVersion"]));
    let expected = resource.api_version();
    if !kind.is_empty() && kind != resource.kind {
        let message = format!(
            "{kind} in version {version:?} cannot be handled as a {}: the kind in the data ({kind}) does not match the expected kind ({})",
            resource.kind, resource.kind
        );
        return Err(Status::bad_request(message));
    }
    if !version.is_empty() && version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    let entries = fields::entries(value);
    entries.insert("kind".to_owned(), resource.kind.into());
    entries.insert("apiVersion".to_owned(), expected.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &str, validation: FieldValidation) -> (Result<Value, String>, Vec<String>) {
        let pods = registry::find("", "v1", "pods").unwrap();
        let mut warnings = Vec::new();
        let result = document("application/json", body.as_bytes(), "Pod")
            .and_then(|document| object(pods, document, validation, &mut warnings));
        (result.map_err(|status| status.message), warnings)
    }

    #[test]
    fn field_validation_refuses_warns_or_is_silent() {
        // VA12
        let body = r#"{"metadata": {"name": "a"}, "spec": {"foo": 1, "hostIPC": true, "hostIPC": true}}"#;
        let texts = ["unknown field \"spec.foo\"", "duplicate field \"spec.hostIPC\""];
        let (refused, _) = decode(body, FieldValidation::Strict);
        let expected =
            format!("Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {}", texts.join(", "));
        assert_eq!(refused.unwrap_err(), expected);
        let (accepted, warnings) = decode(body, FieldValidation::Warn);
        assert_eq!((accepted.is_ok(), warnings), (true, texts.map(str::to_owned).to_vec()));
        let (accepted, warnings) = decode(body, FieldValidation::Ignore);
        assert_eq!((accepted.is_ok(), warnings.len()), (true, 0));
    }

    #[test]
    fn another_kind_is_refused_and_a_missing_one_is_the_urls() {
        let (refused, _) = decode(r#"{"kind": "Service", "apiVersion": "v1"}"#, FieldValidation::Warn);
        assert!(refused.unwrap_err().starts_with("Service in version \"v1\" cannot be handled as a Pod: "));
        let (refused, _) = decode(r#"{"kind": "Pod", "apiVersion": "v2"}"#, FieldValidation::Warn);
        assert_eq!(
            refused.unwrap_err(),
            "the API version in the data (v2) does not match the expected API version (v1)"
        );
        let (accepted, _) = decode("{}", FieldValidation::Warn);
        assert_eq!(fields::text(&accepted.unwrap(), &["kind"]), "Pod");
    }

    #[test]
    fn garbage_is_quoted_and_bombs_are_refused() {
        let (refused, _) = decode("{not json", FieldValidation::Warn);
        assert!(refused.unwrap_err().ends_with("({not json)"));
        let (refused, _) = decode("", FieldValidation::Warn);
        assert!(refused.unwrap_err().ends_with("(<empty>)"));
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
        assert!(document("application/yaml", bomb.as_bytes(), "Pod").is_err());
        let refused = |media| document(media, b"k8s", "Pod").unwrap_err().reason;
        assert_eq!(refused("application/vnd.kubernetes.protobuf"), Reason::BadRequest);
        assert_eq!(refused("text/plain"), Reason::UnsupportedMediaType);
    }
}
