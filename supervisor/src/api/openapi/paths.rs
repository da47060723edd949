//! The operations on each path. Clients read off them which kind takes which query parameter.

use serde_json::{Map, Value, json};

use super::resources::{Kind, Resource, Scope, capital};
use super::{REFERENCE_V2, REFERENCE_V3};

/// Which version of OpenAPI is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "Whether the output is indented.");
const DRY_RUN: Parameter = ("dryRun", "string", "All: everything is done but nothing is written.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of who makes these changes.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What happens with unknown and duplicate fields: Ignore, Warn or Strict.");
const FORCE: Parameter = ("force", "boolean", "Whether an apply takes fields from other managers.");
const WRITE: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: &[Parameter] = &[
    PRETTY,
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds until the object is deleted; 0 is at once."),
    ("orphanDependents", "boolean", "Use propagationPolicy instead."),
    ("propagationPolicy", "string", "What happens with dependents: Orphan, Background or Foreground."),
];
const LIST: &[Parameter] = &[
    PRETTY,
    ("allowWatchBookmarks", "boolean", "Whether a watch sends bookmarks."),
    ("continue", "string", "Where the list goes on, as the server said with the part before."),
    ("fieldSelector", "string", "Selects objects by their fields."),
    ("labelSelector", "string", "Selects objects by their labels."),
    ("limit", "integer", "The most objects in one answer."),
    ("resourceVersion", "string", "Which state is asked for."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Whether a watch begins with what is there."),
    ("timeoutSeconds", "integer", "When the request ends."),
    ("watch", "boolean", "Whether changes are sent as they happen."),
];

const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// What is the same for all operations of a path.
struct Path<'r> {
    dialect: Dialect,
    resource: &'r Resource,
    /// What stands in the path.
    parts: Vec<&'static str>,
    /// `NamespacedPodStatus`
    name: String,
}

/// What makes an operation.
struct Operation<'o> {
    verb: &'static str,
    action: &'static str,
    kind: Kind,
    parameters: &'o [Parameter],
    body: Option<String>,
    answer: String,
}

/// The paths of a resource.
pub(super) fn of(resource: &Resource, dialect: Dialect) -> Vec<(String, Value)> {
    let root = format!("/{}", resource.root());
    let plural = resource.plural;
    let scoped = if resource.scope == Scope::Namespace { "Namespaced" } else { "" };
    let named = format!("{scoped}{}", resource.kind.kind);
    let mut parts = if resource.scope == Scope::Namespace { vec!["namespace"] } else { Vec::new() };
    let base = match resource.scope {
        Scope::Namespace => format!("{root}/namespaces/{{namespace}}/{plural}"),
        Scope::Cluster | Scope::CreateOnly => format!("{root}/{plural}"),
    };
    let path = |parts: &[&'static str], name: String| Path { dialect, resource, parts: parts.to_vec(), name };
    let mut out = vec![(base.clone(), path(&parts, named.clone()).collection())];
    if resource.scope == Scope::CreateOnly {
        return out;
    }
    if resource.scope == Scope::Namespace {
        let everywhere = path(&[], format!("{}ForAllNamespaces", resource.kind.kind));
        out.push((format!("{root}/{plural}"), everywhere.item(vec![everywhere.list()])));
    }
    parts.push("name");
    let item = path(&parts, named.clone());
    out.push((format!("{base}/{{name}}"), item.object()));
    for (name, other) in &resource.subresources {
        let sub = path(&parts, format!("{named}{}", capital(name)));
        out.push((format!("{base}/{{name}}/{name}"), sub.subresource(*other)));
    }
    out
}

impl Path<'_> {
    fn list(&self) -> Operation<'static> {
        let kind = self.resource.kind;
        let answer = format!("{}List", kind.definition());
        Operation { verb: "get", action: "list", kind, parameters: LIST, body: None, answer }
    }

    fn with_body(&self, verb: &'static str, kind: Kind) -> Operation<'static> {
        let (action, parameters) = if verb == "patch" { ("patch", PATCH) } else { (verb, WRITE) };
        let body = match verb {
            "patch" => "io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned(),
            _ => kind.definition(),
        };
        Operation { verb, action, kind, parameters, body: Some(body), answer: kind.definition() }
    }

    fn read(&self) -> Operation<'static> {
        let kind = self.resource.kind;
        Operation { verb: "get", action: "get", kind, parameters: &[PRETTY], body: None, answer: kind.definition() }
    }

    fn delete(&self, action: &'static str) -> Operation<'static> {
        let (kind, body) = (self.resource.kind, Some(DELETE_OPTIONS.to_owned()));
        Operation { verb: "delete", action, kind, parameters: DELETE, body, answer: STATUS.to_owned() }
    }

    fn collection(&self) -> Value {
        let create = self.with_body("post", self.resource.kind);
        if self.resource.scope == Scope::CreateOnly {
            return self.item(vec![create]);
        }
        self.item(vec![self.list(), create, self.delete("deletecollection")])
    }

    fn object(&self) -> Value {
        let kind = self.resource.kind;
        let (put, patch) = (self.with_body("put", kind), self.with_body("patch", kind));
        self.item(vec![self.read(), put, patch, self.delete("delete")])
    }

    fn subresource(&self, other: Option<Kind>) -> Value {
        let kind = self.resource.kind;
        match other {
            Some(other) => self.item(vec![self.with_body("post", other)]),
            None => self.item(vec![self.read(), self.with_body("put", kind), self.with_body("patch", kind)]),
        }
    }

    fn item(&self, operations: Vec<Operation<'_>>) -> Value {
        let mut item = Map::new();
        for operation in operations {
            item.insert(operation.verb.to_owned(), self.operation(&operation));
        }
        let in_path = self.parts.iter().map(|name| {
            let description = if *name == "name" { "name of the object" } else { "object name and auth scope" };
            let mut parameter = self.parameter(&(*name, "string", description), "path");
            parameter["required"] = true.into();
            parameter
        });
        item.insert("parameters".to_owned(), in_path.collect());
        Value::Object(item)
    }

    fn parameter(&self, (name, kind, description): &Parameter, place: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place, "description": description, "uniqueItems": true});
        match self.dialect {
            Dialect::V2 => parameter["type"] = (*kind).into(),
            Dialect::V3 => {
                parameter = json!({"name": name, "in": place, "description": description});
                parameter["schema"] = json!({"type": kind, "uniqueItems": true});
            }
        }
        parameter
    }

    fn reference(&self, name: &str) -> Value {
        if name.ends_with(".Patch") {
            return json!({"type": "object", "description": "a patch of the object"});
        }
        let prefix = match self.dialect {
            Dialect::V2 => REFERENCE_V2,
            Dialect::V3 => REFERENCE_V3,
        };
        json!({"$ref": format!("{prefix}{name}")})
    }

    fn operation(&self, operation: &Operation<'_>) -> Value {
        let Kind { group, version, kind } = operation.kind;
        let mut parameters: Vec<Value> = operation.parameters.iter().map(|p| self.parameter(p, "query")).collect();
        let mut out = json!({
            "operationId": self.operation_id(operation),
            "tags": [self.resource.kind.operation()],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": {"group": group, "kind": kind, "version": version},
        });
        let answer = self.reference(&operation.answer);
        match self.dialect {
            Dialect::V2 => {
                if let Some(body) = &operation.body {
                    let is_required = operation.verb != "delete";
                    let schema = self.reference(body);
                    parameters.push(json!({"name": "body", "in": "body", "required": is_required, "schema": schema}));
                }
                let consumes = if operation.verb == "patch" { PATCH_TYPES.to_vec() } else { vec!["*/*"] };
                out["consumes"] = json!(consumes);
                out["produces"] = json!(["application/json", "application/yaml"]);
                out["responses"] = json!({"200": {"description": "OK", "schema": answer}});
            }
            Dialect::V3 => {
                if let Some(body) = &operation.body {
                    out["requestBody"] = json!({"content": self.content(operation, body)});
                }
                let answer = json!({"application/json": {"schema": answer}});
                out["responses"] = json!({"200": {"description": "OK", "content": answer}});
            }
        }
        out["parameters"] = parameters.into();
        out
    }

    fn content(&self, operation: &Operation<'_>, body: &str) -> Value {
        let types = if operation.verb == "patch" { PATCH_TYPES.to_vec() } else { vec!["*/*"] };
        let schema = |name: &&str| ((*name).to_owned(), json!({"schema": self.reference(body)}));
        Value::Object(types.iter().map(schema).collect())
    }

    /// `listCoreV1NamespacedPod`
    fn operation_id(&self, operation: &Operation<'_>) -> String {
        let verb = match (operation.verb, operation.action) {
            (_, "list") => "list",
            (_, "deletecollection") => "deleteCollection",
            ("get", _) => "read",
            ("post", _) => "create",
            ("put", _) => "replace",
            (verb, _) => verb,
        };
        let version = self.resource.kind.operation();
        let version = version.trim_start_matches("Core");
        let core = if self.resource.kind.group.is_empty() { "Core" } else { "" };
        format!("{verb}{core}{version}{}", self.name)
    }
}
