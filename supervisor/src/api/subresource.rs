//! Parts of objects: `status`, streams of pods, tokens, evictions, bindings.

use http::{Response, StatusCode};
use hyper::Request;
use serde_json::{Value, json};

use super::body::Body;
use super::call::{Call, Verb};
use super::respond::Content;
use super::status::{Reason, Status};
use super::streams::TokenOrder;
use super::verbs::{self, DeleteOptions, Origin, Part};
use super::{fields, node_proxy, proxy, receive};
use crate::store::{Key, Object};
use crate::stream::received::Received;

/// Life of a token unless another is asked for, and what may be asked for.
const TOKEN_SECONDS: i64 = 3600;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

pub(crate) async fn answer(call: &Call, verb: Verb, request: Request<Received>) -> Result<Response<Body>, Status> {
    let name = call.target.object()?;
    match call.target.subresource.as_deref().unwrap_or_default() {
        "status" | "ephemeralcontainers" | "resize" | "finalize" => match verb {
            Verb::Get => verbs::get(call),
            Verb::Update => verbs::update(call, request).await,
            Verb::Patch => verbs::patch(call, request).await,
            Verb::Create | Verb::List | Verb::Watch | Verb::Delete | Verb::DeleteCollection => {
                Err(Status::method_not_allowed())
            }
        },
        "binding" => {
            let value = body(request, "Binding").await?;
            bind(call, name, &value).await
        }
        "eviction" => evict(call, name, request).await,
        "token" => token(call, name, request).await,
        stream => streamed(call, name, stream, request).await,
    }
}

async fn body(request: Request<Received>, kind: &str) -> Result<Value, Status> {
    let media = receive::media(request.headers()).to_owned();
    let body = receive::read(request.into_body()).await?;
    Ok(receive::document(&media, &body, kind)?.value)
}

pub(super) fn pod(call: &Call, name: &str) -> Result<Object, Status> {
    let key = Key::new("pods", call.target.space(), name);
    call.state.store.get(&key).ok_or_else(|| Status::not_found(call.target.resource, name))
}

/// Puts a pod on a node.
pub(crate) async fn bind(call: &Call, name: &str, binding: &Value) -> Result<Response<Body>, Status> {
    let node = fields::text(binding, &["target", "name"]).to_owned();
    let resource = super::registry::find("", "v1", "pods").unwrap_or(call.target.resource);
    if node.is_empty() {
        return Err(Status::bad_request("target.name: Required value"));
    }
    let make = |live: &Value| {
        let own = fields::text(live, &["spec", "nodeName"]);
        if !own.is_empty() {
            let message = format!(
                "Operation cannot be fulfilled on pods/binding {name:?}: pod {name} is already assigned to node {own:?}"
            );
            return Err(
                Status::new(Reason::Conflict, message).with_details(json!({"name": name, "kind": "pods/binding"}))
            );
        }
        let mut pod = live.clone();
        fields::object(&mut pod, "spec").insert("nodeName".to_owned(), node.as_str().into());
        Ok(pod)
    };
    let inner = as_pod(call, resource, name);
    verbs::change(&inner, name, Part::Binding, Origin::Update, make).await?;
    Ok(call.reply(StatusCode::CREATED, Content::Value(done())))
}

/// The same call, for the pod itself.
fn as_pod(call: &Call, resource: &'static super::registry::Resource, name: &str) -> Call {
    Call {
        state: std::rc::Rc::clone(&call.state),
        user: call.user.clone(),
        target: super::path::Target {
            resource,
            namespace: call.target.namespace.clone(),
            name: Some(name.to_owned()),
            subresource: None,
            rest: String::new(),
            is_watch: false,
        },
        query: call.query.clone(),
        accept: call.accept,
        now: call.now,
        agent: call.agent.clone(),
        warnings: std::cell::RefCell::default(),
    }
}

fn done() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// There are no disruption budgets on one node: an eviction is a deletion.
async fn evict(call: &Call, name: &str, request: Request<Received>) -> Result<Response<Body>, Status> {
    let value = body(request, "Eviction").await?;
    let own = fields::text(&value, &["metadata", "name"]);
    if !own.is_empty() && own != name {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Eviction object: {name:?} != {own:?}"
        )));
    }
    let options = DeleteOptions::of(call, &value["deleteOptions"])?;
    let inner = as_pod(call, call.target.resource, name);
    verbs::remove(&inner, name, &options).await?;
    Ok(call.reply(StatusCode::CREATED, Content::Value(done())))
}

/// `kubectl create token`.
async fn token(call: &Call, name: &str, request: Request<Received>) -> Result<Response<Body>, Status> {
    let mut value = body(request, "TokenRequest").await?;
    let account = call.state.store.get(&Key::new("serviceaccounts", call.target.space(), name));
    let account = account.ok_or_else(|| Status::not_found(call.target.resource, name))?.value();
    let tokens = call.state.backends.tokens.as_ref();
    let tokens = tokens.ok_or_else(|| Status::new(Reason::ServiceUnavailable, "no tokens are signed here"))?;
    let order = order(call, name, &account, &value)?;
    let issued = tokens.issue(&order).map_err(Status::internal)?;
    let expires = jiff::Timestamp::from_second(issued.expires).unwrap_or(call.now);
    let entries = fields::entries(&mut value);
    entries.insert("kind".to_owned(), "TokenRequest".into());
    entries.insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
    entries.insert(
        "metadata".to_owned(),
        json!({
            "name": name, "namespace": call.target.space(), "creationTimestamp": fields::time(call.now),
        }),
    );
    entries.insert("status".to_owned(), json!({"token": issued.token, "expirationTimestamp": fields::time(expires)}));
    let spec = fields::object(&mut value, "spec");
    spec.insert("expirationSeconds".to_owned(), order.seconds.into());
    Ok(call.reply(StatusCode::CREATED, Content::Value(value)))
}

fn order(call: &Call, name: &str, account: &Value, value: &Value) -> Result<TokenOrder, Status> {
    let seconds = fields::at(value, &["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(TOKEN_SECONDS);
    let invalid = |field: &str, why: &str| {
        Status::new(
            Reason::Invalid,
            format!("TokenRequest.authentication.k8s.io {name:?} is invalid: {field}: Invalid value: {seconds}: {why}"),
        )
    };
    if seconds < TOKEN_SECONDS_MIN {
        return Err(invalid("spec.expirationSeconds", "may not specify a duration less than 10 minutes"));
    }
    if seconds > TOKEN_SECONDS_MAX {
        return Err(invalid("spec.expirationSeconds", "may not specify a duration larger than 2^32 seconds"));
    }
    let audiences = fields::at(value, &["spec", "audiences"]).and_then(Value::as_array);
    let audiences = audiences.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(TokenOrder {
        namespace: call.target.space().to_owned(),
        account: name.to_owned(),
        account_uid: fields::text(account, &["metadata", "uid"]).to_owned(),
        audiences,
        seconds,
        bound_to: bound(call, value)?,
    })
}

/// The object with which a token dies; it must be there.
fn bound(call: &Call, value: &Value) -> Result<Option<(String, String, String)>, Status> {
    let Some(reference) = fields::at(value, &["spec", "boundObjectRef"]) else { return Ok(None) };
    let text = |key: &str| fields::text(reference, &[key]).to_owned();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (plural, namespace) = match kind.as_str() {
        "Pod" => ("pods", call.target.space()),
        "Secret" => ("secrets", call.target.space()),
        "Node" => ("nodes", ""),
        other => return Err(Status::bad_request(format!("cannot bind token to object of type {other}"))),
    };
    let resource = super::registry::find("", "v1", plural).unwrap_or(call.target.resource);
    let object = call.state.store.get(&Key::new(plural, namespace, &name));
    let object = object.ok_or_else(|| Status::not_found(resource, &name))?.value();
    let own = fields::text(&object, &["metadata", "uid"]).to_owned();
    if !uid.is_empty() && uid != own {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(resource, &name, &why));
    }
    Ok(Some((kind, name, own)))
}

/// What goes on to the node.
async fn streamed(call: &Call, name: &str, kind: &str, request: Request<Received>) -> Result<Response<Body>, Status> {
    if call.target.resource.plural == "nodes" {
        if let Some(response) = proxy::moved(&call.target.rest, &request) {
            return Ok(response);
        }
        return node_proxy::answer(call, request.method(), name).await;
    }
    let streams = call.state.backends.streams.clone();
    let missing = || Status::new(Reason::NotImplemented, "no node serves this stream");
    let streams = streams.ok_or_else(missing)?;
    if kind == "proxy" {
        let (pod, port) = proxy::target(call, name)?;
        if let Some(response) = proxy::moved(&call.target.rest, &request) {
            return Ok(response);
        }
        return streams.proxy(pod, port, call.target.rest.clone(), request).await;
    }
    let pod = pod(call, name)?;
    match kind {
        "log" => streams.log(pod, request).await,
        "exec" => streams.exec(pod, request).await,
        "attach" => streams.attach(pod, request).await,
        "portforward" => streams.port_forward(pod, request).await,
        _ => Err(Status::no_such_path()),
    }
}
