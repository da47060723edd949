//! Questions that are answered and not stored: who am I, may I, is this token good. And bindings.

use http::{Response, StatusCode};
use hyper::Request;
use serde_json::{Value, json};

use super::auth::{self, Ask, User};
use super::body::Body;
use super::call::Call;
use super::registry::{Class, RESOURCES, Resource};
use super::respond::Content;
use super::status::Status;
use super::{fields, receive, subresource, verbs};
use crate::admission::validate::{ErrorKind, FieldError, Invalid};
use crate::stream::received::Received;

pub(crate) async fn answer(call: &Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let media = receive::media(request.headers()).to_owned();
    let body = receive::read(request.into_body()).await?;
    let mut value = receive::document(&media, &body, call.target.resource.kind)?.value;
    settle_namespace(call, &mut value)?;
    check(call.target.resource, &value)?;
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
    Ok(call.reply(StatusCode::CREATED, Content::Value(verbs::show(call, &value))))
}

/// A local question is asked in its namespace.
fn settle_namespace(call: &Call, value: &mut Value) -> Result<(), Status> {
    let Some(namespace) = call.target.namespace.as_deref().filter(|_| call.target.resource.is_namespaced) else {
        return Ok(());
    };
    let own = fields::text(value, &["metadata", "namespace"]);
    if !own.is_empty() && own != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    fields::metadata(value).insert("namespace".to_owned(), namespace.into());
    Ok(())
}

/// What a question about rights must and may not say.
fn check(resource: &Resource, value: &Value) -> Result<(), Status> {
    let (has_subject, is_local) = match resource.kind {
        "SelfSubjectAccessReview" => (false, false),
        "SubjectAccessReview" => (true, false),
        "LocalSubjectAccessReview" => (true, true),
        _ => return Ok(()),
    };
    let faults = faults(value, has_subject, is_local);
    if faults.is_empty() { Ok(()) } else { Err(Status::invalid(resource, "", &Invalid(faults))) }
}

fn faults(value: &Value, has_subject: bool, is_local: bool) -> Vec<FieldError> {
    let at = |key: &str| fields::at(value, &["spec", key]);
    let fault = |path: &str, value: Value, why: &str| FieldError {
        path: path.to_owned(),
        kind: ErrorKind::Invalid { value },
        detail: why.to_owned(),
    };
    let mut faults = Vec::new();
    match (at("resourceAttributes"), at("nonResourceAttributes")) {
        (Some(_), Some(path)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            faults.push(fault("spec.nonResourceAttributes", path.clone(), why));
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            faults.push(fault("spec.resourceAttributes", Value::Null, why));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    let has_nobody = fields::text(value, &["spec", "user"]).is_empty() && texts(value, &["spec", "groups"]).is_empty();
    if has_subject && has_nobody {
        faults.push(fault("spec.user", "".into(), "at least one of user or group must be specified"));
    }
    if !is_local {
        return faults;
    }
    let asked = fields::text(value, &["spec", "resourceAttributes", "namespace"]);
    if at("resourceAttributes").is_some() && asked != fields::text(value, &["metadata", "namespace"]) {
        faults.push(fault("spec.resourceAttributes.namespace", asked.into(), "must match metadata.namespace"));
    }
    if let Some(path) = at("nonResourceAttributes") {
        faults.push(fault("spec.nonResourceAttributes", path.clone(), "disallowed on this kind of request"));
    }
    faults
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

/// Whom a question is about, with the groups that it names and no others.
fn subject(value: &Value) -> User {
    let name = fields::text(value, &["spec", "user"]).to_owned();
    User { name, groups: texts(value, &["spec", "groups"]), ..User::default() }
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
    let user = &call.user;
    let paths = json!([{"verbs": ["get"], "nonResourceURLs": open_urls()}]);
    let may_look = user.is_in(auth::READERS) || user.is_account_of(fields::text(value, &["spec", "namespace"]));
    let (resources, paths) = if user.is_in(auth::MASTERS) {
        let everything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        ([vec![everything], own_rules()].concat(), json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]))
    } else if may_look {
        ([looking_rules(), own_rules()].concat(), paths)
    } else {
        (own_rules(), paths)
    };
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

/// Paths for everybody, and what is below them.
fn open_urls() -> Vec<String> {
    let below = auth::OPEN_PATHS.iter().filter(|path| **path != "/").map(|path| format!("{path}/*"));
    auth::OPEN_PATHS.iter().map(|path| (*path).to_owned()).chain(below).collect()
}

/// Questions about oneself.
fn own_rules() -> Vec<Value> {
    let own = RESOURCES.iter().filter(|resource| auth::SELF_REVIEWS.contains(&resource.plural));
    by_group(&["create"], own.map(|resource| (resource.group, resource.plural.to_owned())))
}

fn looking_rules() -> Vec<Value> {
    let names = |resource: &'static Resource| {
        let parts = resource.subresources.iter().filter(|part| auth::is_visible(resource.plural, part.name));
        let parts = parts.map(|part| format!("{}/{}", resource.plural, part.name));
        std::iter::once(resource.plural.to_owned()).chain(parts).map(|name| (resource.group, name))
    };
    let visible = |resource: &&Resource| resource.class != Class::Review && auth::is_visible(resource.plural, "");
    by_group(&auth::LOOKING, RESOURCES.iter().filter(visible).flat_map(names))
}

/// One rule for each group: a rule is about each of its resources in each of its groups.
fn by_group<'a>(verbs: &[&str], resources: impl Iterator<Item = (&'a str, String)>) -> Vec<Value> {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for (group, name) in resources {
        match groups.iter_mut().find(|(known, _)| *known == group) {
            // Each version of a group has the same.
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push(name),
            None => groups.push((group, vec![name])),
        }
    }
    let rule = |(group, names)| json!({"verbs": verbs, "apiGroups": [group], "resources": names});
    groups.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_say_about_whom_and_what() {
        let paths = |value: &Value, has_subject, is_local| {
            faults(value, has_subject, is_local).into_iter().map(|fault| fault.path).collect::<Vec<_>>()
        };
        assert_eq!(paths(&json!({}), false, false), ["spec.resourceAttributes"]);
        assert_eq!(paths(&json!({"spec": {}}), true, false), ["spec.resourceAttributes", "spec.user"]);
        let path = json!({"spec": {"user": "x", "nonResourceAttributes": {"path": "/"}}});
        assert!(paths(&path, true, false).is_empty());
        assert_eq!(paths(&path, true, true), ["spec.nonResourceAttributes"]);
        let both = json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}});
        assert_eq!(paths(&both, false, false), ["spec.nonResourceAttributes"]);
        let local = |namespace: &str| {
            json!({"metadata": {"namespace": "web"},
                "spec": {"groups": ["g"], "resourceAttributes": {"namespace": namespace}}})
        };
        assert!(paths(&local("web"), true, true).is_empty());
        assert_eq!(paths(&local("other"), true, true), ["spec.resourceAttributes.namespace"]);
    }

    #[test]
    fn somebody_may_what_his_groups_may() {
        let asked = |namespace: &str| {
            json!({"spec": {"user": "e2e", "groups": ["system:serviceaccounts:web"],
                "resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": namespace}}})
        };
        let answer = |namespace| access(&subject(&asked(namespace)), &asked(namespace));
        assert_eq!((answer("web"), answer("other")), (json!({"allowed": true}), json!({"allowed": false})));
    }

    #[test]
    fn no_rule_names_a_resource_that_its_group_has_not() {
        for rule in own_rules().iter().chain(&looking_rules()) {
            let groups = texts(rule, &["apiGroups"]);
            assert_eq!(groups.len(), 1);
            for name in texts(rule, &["resources"]) {
                let plural = name.split('/').next().unwrap_or_default();
                assert!(RESOURCES.iter().any(|r| r.group == groups[0] && r.plural == plural), "{name} in {groups:?}");
            }
        }
    }

    #[test]
    fn what_everybody_may_get_is_in_the_rules() {
        let somebody = User::new("x", []);
        let urls = open_urls();
        for path in
            ["/", "/api", "/apis/apps/v1", "/openid/v1/jwks", "/.well-known/openid-configuration", "/livez/ping"]
        {
            assert!(auth::allows(&somebody, &Ask::Path { verb: "get", path }), "{path}");
            let fits = |url: &String| url == path || url.strip_suffix('*').is_some_and(|own| path.starts_with(own));
            assert!(urls.iter().any(fits), "{path} in {urls:?}");
        }
        assert!(!urls.iter().any(|url| url == "/metrics" || url == "/*" || url == "//*"), "{urls:?}");
    }
}
