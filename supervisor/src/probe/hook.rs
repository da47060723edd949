//! The httpGet lifecycle hook (LC3).

use std::time::Duration;

use http::header::AUTHORIZATION;
use tokio::time::Instant;

use super::call::Call;
use super::{Target, VERSION};
use crate::pod::event::{HookFailure, HookSuccess};
use crate::pod::spec::HttpGet;

/// Asks `get`: any status is success, and no answer within `budget` (none: for ever) is failure. A server that answers HTTPS
/// in plain HTTP is asked again so, without the `Authorization` that was meant for a private line.
pub async fn http_hook(target: Target, get: &HttpGet, budget: Option<Duration>) -> Result<HookSuccess, HookFailure> {
    let failure = |error| HookFailure { error, output: String::new() };
    let deadline = budget.map(|budget| Instant::now() + budget);
    let url = super::http::url(target, get).map_err(failure)?;
    let call = Call::new(url, &get.headers, &format!("kube-lifecycle/{VERSION}"));
    let mut call = call.map_err(|error| failure(error.to_string()))?;
    match call.send(deadline).await {
        Ok(_) => Ok(HookSuccess { http_fallback: None }),
        Err(error) if error.is_plain_answer() => match again_in_plain_http(&mut call, deadline).await {
            Some(host) => Ok(HookSuccess { http_fallback: Some(host) }),
            None => Err(failure(error.to_string())),
        },
        Err(error) => Err(failure(error.to_string())),
    }
}

/// The host that answered.
async fn again_in_plain_http(call: &mut Call, deadline: Option<Instant>) -> Option<String> {
    call.url = call.url.plain();
    call.headers.remove(AUTHORIZATION);
    call.send(deadline).await.ok()?;
    Some(call.url.authority())
}
