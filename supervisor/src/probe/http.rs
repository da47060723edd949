//! The httpGet probe (HG1-HG6).

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::call::{Answer, Call, CallError};
use super::url::Url;
use super::{Target, VERSION, port_number, text};
use crate::pod::event::ProbeOutcome;
use crate::pod::spec::HttpGet;

/// Characters that would end a URL's host, or are never part of one.
const NOT_IN_HOSTS: &str = " \"<>\\^`{|}%/?#@";

/// Asks `get` of its host, or of the Pod; `timeout` covers everything up to the last byte of the body (HG6). A body that
/// breaks off is an error, not a failure: the kubelet says nothing of the container then.
pub async fn http(target: Target, get: &HttpGet, timeout: Duration) -> ProbeOutcome {
    let deadline = Some(Instant::now() + timeout);
    let url = match url(target, get) {
        Ok(url) => url,
        Err(error) => return ProbeOutcome::Error(error),
    };
    let answer = match Box::pin(ask(url, get, deadline)).await {
        Ok(answer) => answer,
        Err(error) => return ProbeOutcome::Failure(error.to_string()),
    };
    let status = answer.status();
    match answer.body(deadline).await {
        Ok(body) => verdict(status, &body),
        Err(error) => ProbeOutcome::Error(error),
    }
}

async fn ask(url: Url, get: &HttpGet, deadline: Option<Instant>) -> Result<Answer, CallError> {
    Call::new(url, &get.headers, &format!("kube-probe/{VERSION}"))?.send(deadline).await
}

/// What the handler asks; otherwise the text of why it can't be asked.
pub(super) fn url(target: Target, get: &HttpGet) -> Result<Url, String> {
    let port = port_number(&get.port)?;
    let host = target.host(get.host.as_deref());
    let url = Url::new(get.https, &host, port, &get.path);
    if host.chars().any(|c| c.is_ascii_control() || NOT_IN_HOSTS.contains(c)) {
        return Err(format!("parse {}: invalid character in host name", text::quote(url.to_string().as_bytes())));
    }
    Ok(url)
}

/// HG3, HG4
fn verdict(status: StatusCode, body: &[u8]) -> ProbeOutcome {
    match status.as_u16() {
        200..300 => ProbeOutcome::Success,
        300..400 => {
            let body = String::from_utf8_lossy(body);
            ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        code => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HG3, HG4
    #[test]
    fn the_status_decides() {
        for (status, outcome) in [
            (101, ProbeOutcome::Failure("HTTP probe failed with statuscode: 101".to_owned())),
            (200, ProbeOutcome::Success),
            (299, ProbeOutcome::Success),
            (302, ProbeOutcome::Warning("Probe terminated redirects, Response body: away".to_owned())),
            (400, ProbeOutcome::Failure("HTTP probe failed with statuscode: 400".to_owned())),
            (503, ProbeOutcome::Failure("HTTP probe failed with statuscode: 503".to_owned())),
        ] {
            assert_eq!(verdict(StatusCode::from_u16(status).unwrap(), b"away"), outcome);
        }
    }
}
