//! Questions that are answered and not stored: who am I, may I, is this token good. And bindings.

use http::{Response, StatusCode};
use hyper::Request;
use serde_json::{Value, json};

use super::auth::{self, Ask, User};
use super::body::Body;
use super::call::Call;
use super::respond::Content;
use super::status::Status;
use super::{fields, receive, subresource};
use crate::stream::received::Received;

pub(crate) async fn answer(call: &Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let media = receive::media(request.headers()).to_owned();
    let body = receive::read(request.into_body()).await?;
    let mut value = receive::document(&media, &body, call.target.resource.kind)?.value;
    let status = match call.target.resource.kind {
        "Binding" => return subresource::bind(call, fields::text(&value, &["metadata", "name"]), &value).await,
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
        "TokenReview" => token(call, &value),
        "SelfSubjectRulesReview" => rules(call, &value),
        "SelfSubjectAccessReview" => access(&call.user, &value),
        "LocalSubjectAccessReview" | "SubjectAccessReview" => access(&subject(&value), &value),
        _ => return Err(Status::method_not_allowed()),
    };
    let entries = fields::entries(&mut value);
    entries.insert("kind".to_owned(), call.target.resource.kind.into());
    entries.insert("apiVersion".to_owned(), call.target.resource.api_version().into());
    entries.entry("metadata").or_insert_with(|| json!({}));
    entries.insert("status".to_owned(), status);
    Ok(call.reply(StatusCode::CREATED, Content::Value(value)))
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn texts(value: &Value, path: &[&str]) -> Vec<String> {
    let list = fields::at(value, path).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn subject(value: &Value) -> User {
    User::new(fields::text(value, &["spec", "user"]), texts(value, &["spec", "groups"]))
}

/// `SubjectAccessReview` and its kin.
fn access(user: &User, value: &Value) -> Value {
    let attribute = |key: &str| fields::text(value, &["spec", "resourceAttributes", key]).to_owned();
    let path = fields::text(value, &["spec", "nonResourceAttributes", "path"]);
    let is_allowed = if path.is_empty() {
        let [verb, group, resource, subresource, namespace, name] =
            ["verb", "group", "resource", "subresource", "namespace", "name"].map(attribute);
        let ask = Ask::Resource {
            verb: &verb,
            group: &group,
            resource: &resource,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
        };
        auth::allows(user, &ask)
    } else {
        let verb = fields::text(value, &["spec", "nonResourceAttributes", "verb"]);
        auth::allows(user, &Ask::Path { verb, path })
    };
    json!({"allowed": is_allowed})
}

fn token(call: &Call, value: &Value) -> Value {
    let token = fields::text(value, &["spec", "token"]);
    let audiences = texts(value, &["spec", "audiences"]);
    let owner = call.state.backends.tokens.as_ref().and_then(|tokens| tokens.verify(token, &audiences));
    match owner {
        None => json!({"user": {}, "error": "invalid bearer token"}),
        Some(owner) => json!({
            "authenticated": true,
            "user": user_info(&auth::of_token(&owner)),
            "audiences": owner.audiences,
        }),
    }
}

/// The policy as rules, for `kubectl auth can-i --list`.
fn rules(call: &Call, value: &Value) -> Value {
    const LOOK: [&str; 3] = ["get", "list", "watch"];
    let user = &call.user;
    let paths = json!([{"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version"]}]);
    let own = json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io", "authentication.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"]});
    let is_own_namespace = user.account_namespace() == Some(fields::text(value, &["spec", "namespace"]));
    let (resources, paths) = if user.is_in(auth::MASTERS) {
        let everything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        (vec![everything, own], json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]))
    } else if user.is_in(auth::READERS) || is_own_namespace {
        let readable: Vec<&str> =
            super::registry::RESOURCES.iter().map(|r| r.plural).filter(|plural| *plural != "secrets").collect();
        let look = json!({"verbs": LOOK, "apiGroups": ["*"], "resources": readable});
        (vec![look, own], paths)
    } else {
        (vec![own], paths)
    };
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
