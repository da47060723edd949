//! The subresources of a pod that are streams, from the request to the answer.
//!
//! The caller has found the pod and checked who asks. What a kubelet would refuse is answered in plain text, as a kubelet's
//! answer is passed on; what the API server would refuse is a [`Refusal`], for the caller to make a Status of.

use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;

use super::logs::{Asked, Wrong, instance_of};
use super::query::Query;
use super::{SessionError, Sessions};
use crate::convert::machine;
use crate::logs;
use crate::stream::body::Body;
use crate::stream::received::Received;
use crate::stream::remote_command::{self, Agreed, End, Wanted};
use crate::stream::upgrade::Offer;
use crate::stream::{messages, port_forward};

/// What the API server would not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: StatusCode,
    /// The `reason` of the Status.
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self { code: StatusCode::BAD_REQUEST, reason: "BadRequest", message: message.into() }
    }

    fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        Self { code: StatusCode::INTERNAL_SERVER_ERROR, reason: "InternalError", message }
    }
}

/// An answer, or why there is none.
pub type Answer = Result<Response<Body>, Refusal>;

impl Sessions {
    /// `pods/log`, over WebSocket for a client that asks for it.
    pub fn log_request(&self, pod: &Pod, request: &mut Request<Received>) -> Answer {
        let answer = self.log(pod, request)?;
        let Ok(offer @ Offer::WebSocket { .. }) = Offer::of(request.headers()) else { return Ok(answer) };
        let (encoding, accepted) = match messages::agree(&offer) {
            Ok(agreed) => agreed,
            Err(error) => return Ok(error.response()),
        };
        let upgrade = hyper::upgrade::on(request);
        tokio::task::spawn_local(async move {
            match upgrade.await {
                Ok(io) => messages::send(TokioIo::new(io), encoding, answer.into_body()).await,
                Err(error) => tracing::debug!("log: {error}"),
            }
        });
        Ok(accepted)
    }

    /// `pods/log`.
    fn log(&self, pod: &Pod, request: &Request<Received>) -> Answer {
        let query = Query::of(request.uri());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let asked = Asked::of(&query, jiff::Timestamp::now()).map_err(|wrong| match wrong {
            Wrong::Unreadable(text) => Refusal::bad_request(text),
            Wrong::Invalid(texts) => Refusal {
                code: StatusCode::UNPROCESSABLE_ENTITY,
                reason: "Invalid",
                message: format!("PodLogOptions {name:?} is invalid: {}", listed(&texts)),
            },
        })?;
        let container = container_of(pod, query.get("container"))?;
        if node_of(pod).is_none() {
            return Ok(text(StatusCode::OK, ""));
        }
        let count = instance_of(pod, &container, asked.previous).map_err(Refusal::bad_request)?;
        let uid = machine::uid(pod).to_owned();
        let Some((path, found)) = self.log_of(&uid, &container, count) else {
            return Err(Refusal::internal(SessionError::NoPod));
        };
        let mut options = asked.options;
        options.follow &= found.is_some();
        let sessions = self.clone();
        let (out, body) = Body::pieces();
        tokio::task::spawn_local(async move {
            let ended = async {
                match &found {
                    Some(found) => sessions.ended(&uid, found).await,
                    None => std::future::pending().await,
                }
            };
            if let Err(error) = logs::serve::serve(path.clone(), &options, ended, out).await {
                tracing::warn!("read {}: {error}", path.display());
            }
        });
        let mut response = Response::new(body);
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    /// `pods/exec`.
    pub fn exec_request(&self, pod: &Pod, request: &mut Request<Received>) -> Answer {
        let query = Query::of(request.uri());
        let container = streamed_container(pod, &query)?;
        let command: Vec<String> = query.all("command").map(str::to_owned).collect();
        if command.is_empty() {
            return Ok(text(StatusCode::BAD_REQUEST, "you must specify at least one command for the container"));
        }
        let uid = machine::uid(pod).to_owned();
        let slot = match self.check_container(&uid, &container).and_then(|()| self.slot(&uid)) {
            Ok(slot) => slot,
            Err(error) => return Ok(refused(&error)),
        };
        let sessions = self.clone();
        Ok(remote(request, &query, query.flag("tty"), move |client, wanted| async move {
            let _slot = slot;
            match sessions.exec(&uid, &container, &command, wanted).await {
                Ok(running) => {
                    let (process, end) = running.split();
                    remote_command::run(client, process, end).await
                }
                Err(error) => {
                    remote_command::fail(client, &End::Failed(format!("failed to exec in container: {error}"))).await;
                    Ok(())
                }
            }
        }))
    }

    /// `pods/attach`.
    pub fn attach_request(&self, pod: &Pod, request: &mut Request<Received>) -> Answer {
        let query = Query::of(request.uri());
        let container = streamed_container(pod, &query)?;
        let uid = machine::uid(pod).to_owned();
        // A container has a terminal or has none, whatever the client thinks.
        let tty = self.has_terminal(&uid, &container);
        let (tty, slot) = match tty.and_then(|tty| Ok((tty, self.slot(&uid)?))) {
            Ok(ready) => ready,
            Err(error) => return Ok(refused(&error)),
        };
        let sessions = self.clone();
        Ok(remote(request, &query, tty, move |client, wanted| async move {
            let _slot = slot;
            match sessions.attach(&uid, &container, wanted).await {
                Ok((process, end)) => remote_command::run(client, process, end).await,
                Err(error) => {
                    remote_command::fail(client, &End::Failed(error.to_string())).await;
                    Ok(())
                }
            }
        }))
    }

    /// `pods/portforward`.
    pub fn port_forward_request(&self, pod: &Pod, request: &mut Request<Received>) -> Answer {
        let query = Query::of(request.uri());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if node_of(pod).is_none() {
            return Err(Refusal::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let uid = machine::uid(pod).to_owned();
        let slot = match self.check_network(&uid).and_then(|()| self.slot(&uid)) {
            Ok(slot) => slot,
            Err(error) => return Ok(refused(&error)),
        };
        let agreed = match Offer::of(request.headers()).and_then(port_forward::Agreed::on) {
            Ok(agreed) => agreed,
            Err(error) => return Ok(error.response()),
        };
        let ports = match port_forward::ports(query.all("ports").chain(query.all("port"))) {
            Ok(ports) => ports,
            Err(error) if agreed.needs_ports() => return Ok(text(StatusCode::BAD_REQUEST, error)),
            // Streams say where they go.
            Err(_) => Vec::new(),
        };
        let sessions = self.clone();
        let dial: port_forward::Dial = Rc::new(move |port| {
            let (sessions, uid) = (sessions.clone(), uid.clone());
            Box::pin(async move { sessions.dial_loopback(&uid, port).await })
        });
        let response = agreed.response();
        let upgrade = hyper::upgrade::on(request);
        tokio::task::spawn_local(async move {
            let _slot = slot;
            match upgrade.await {
                Ok(io) => agreed.serve(TokioIo::new(io), &ports, dial).await,
                Err(error) => tracing::debug!("port-forward: {error}"),
            }
        });
        Ok(response)
    }
}

/// Switches protocols and lets `session` have the client's streams.
fn remote<F, S>(request: &mut Request<Received>, query: &Query, tty: bool, session: F) -> Response<Body>
where
    F: FnOnce(remote_command::Client, Wanted) -> S + 'static,
    S: Future<Output = std::io::Result<()>> + 'static,
{
    // A terminal has one output.
    let wanted =
        Wanted { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") && !tty, tty };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let agreed = match Offer::of(request.headers()).and_then(Agreed::on) {
        Ok(agreed) => agreed,
        Err(error) => return error.response(),
    };
    let response = agreed.response();
    let upgrade = hyper::upgrade::on(request);
    tokio::task::spawn_local(async move {
        let done = async {
            let io = TokioIo::new(upgrade.await.map_err(std::io::Error::other)?);
            let client = agreed.open(io, wanted).await?;
            session(client, wanted).await
        };
        if let Err(error) = done.await {
            tracing::debug!("stream: {error}");
        }
    });
    response
}

/// As a kubelet says it.
fn refused(error: &SessionError) -> Response<Body> {
    let code = match error {
        SessionError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        SessionError::NoPod | SessionError::NoContainer(_) | SessionError::Engine(_) | SessionError::Io { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    text(code, error.to_string())
}

fn text(code: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = code;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// As an aggregate of errors prints: one alone, several in brackets.
fn listed(texts: &[String]) -> String {
    match texts {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Rule XE1.
fn container_of(pod: &Pod, asked: Option<&str>) -> Result<String, Refusal> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let apps: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    let inits: Vec<&str> = spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str());
    match (asked.filter(|asked| !asked.is_empty()), apps.as_slice()) {
        (Some(asked), _) => {
            let known = apps.iter().chain(&inits).copied().chain(ephemeral).any(|name| name == asked);
            let refusal = || Refusal::bad_request(format!("container {asked} is not valid for pod {name}"));
            known.then(|| asked.to_owned()).ok_or_else(refusal)
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, several) => {
            let mut message =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
            if !inits.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", inits.join(" ")));
            }
            Err(Refusal::bad_request(message))
        }
    }
}

fn streamed_container(pod: &Pod, query: &Query) -> Result<String, Refusal> {
    let container = container_of(pod, query.get("container"))?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if node_of(pod).is_none() {
        return Err(Refusal::bad_request(format!("pod {name} does not have a host assigned")));
    }
    Ok(container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// XE1
    #[test]
    fn a_container_is_chosen_as_upstream_does() {
        let pod = |apps: &[&str], inits: &[&str]| -> Pod {
            let list = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
            let spec = json!({"containers": list(apps), "initContainers": list(inits)});
            serde_json::from_value(json!({"metadata": {"name": "y"}, "spec": spec})).unwrap()
        };
        let chosen = |pod: &Pod, asked| container_of(pod, asked).map_err(|refusal| refusal.message);
        assert_eq!(chosen(&pod(&["a"], &["i"]), None), Ok("a".to_owned()));
        assert_eq!(chosen(&pod(&["a", "b"], &["i"]), Some("i")), Ok("i".to_owned()));
        assert_eq!(chosen(&pod(&["a"], &[]), Some("c")), Err("container c is not valid for pod y".to_owned()));
        let several = "a container name must be specified for pod y, choose one of: [a b]";
        assert_eq!(chosen(&pod(&["a", "b"], &[]), None), Err(several.to_owned()));
        let inits = format!("{several} or one of the init containers: [i]");
        assert_eq!(chosen(&pod(&["a", "b"], &["i"]), None), Err(inits));
    }
}
