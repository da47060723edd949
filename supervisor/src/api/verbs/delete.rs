//! `delete` and `deletecollection` (10.4).

use http::{Response, StatusCode};
use hyper::Request;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::body::Body;
use super::super::call::Call;
use super::super::query::bad_dry_run;
use super::super::receive;
use super::super::registry::Resource;
use super::super::respond::Content;
use super::super::status::{self, Status};
use super::super::{fields, strategy};
use super::create::durability;
use super::list::{Selection, selected, shown};
use super::read::{show, stored};
use crate::store::{self, Object, StoreError};
use crate::stream::received::Received;

/// How often a deletion is tried anew because somebody else changed the object.
const ATTEMPTS_MAX: usize = 16;

/// What becomes of the objects that a deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

impl Policy {
    /// The finalizers that keep an object meanwhile.
    pub(crate) const FOREGROUND: &str = "foregroundDeletion";
    pub(crate) const ORPHAN: &str = "orphan";

    fn finalizer(self) -> Option<&'static str> {
        match self {
            Self::Background => None,
            Self::Foreground => Some(Self::FOREGROUND),
            Self::Orphan => Some(Self::ORPHAN),
        }
    }

    /// Out of `propagationPolicy` and the older `orphanDependents`.
    fn parse(policy: &str, orphans: Option<bool>) -> Result<Option<Self>, Status> {
        let invalid = |why: &str| {
            let message = format!("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: {why}");
            Status::new(status::Reason::Invalid, message)
                .with_details(json!({"group": "meta.k8s.io", "kind": "DeleteOptions"}))
        };
        match (policy, orphans) {
            ("", None) => Ok(None),
            ("", Some(true)) => Ok(Some(Self::Orphan)),
            ("", Some(false)) => Ok(Some(Self::Background)),
            (policy, Some(_)) => Err(invalid(&format!(
                "Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set"
            ))),
            ("Background", None) => Ok(Some(Self::Background)),
            ("Foreground", None) => Ok(Some(Self::Foreground)),
            ("Orphan", None) => Ok(Some(Self::Orphan)),
            (other, None) => Err(invalid(&format!(
                "Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
            ))),
        }
    }
}

/// How something is to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    /// Seconds; none for the object's own.
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub version: Option<String>,
    /// None for what the object itself says, by its finalizers.
    pub policy: Option<Policy>,
    pub is_dry: bool,
}

impl DeleteOptions {
    /// Out of the query, and of the body, which counts more.
    ///
    /// # Errors
    /// The body is no `DeleteOptions`.
    pub(crate) fn of(call: &Call, body: &Value) -> Result<Self, Status> {
        let number = |value: &Value| {
            let bad = || {
                Status::bad_request(
                    "json: cannot unmarshal into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
                )
            };
            value.as_i64().ok_or_else(bad)
        };
        let text = |path: &[&str]| Some(fields::text(body, path).to_owned()).filter(|text| !text.is_empty());
        let grace = match fields::at(body, &["gracePeriodSeconds"]) {
            Some(value) => Some(number(value)?),
            None => call.query.number("gracePeriodSeconds")?,
        };
        let mut is_dry = call.query.is_dry_run()?;
        for value in fields::at(body, &["dryRun"]).and_then(Value::as_array).into_iter().flatten() {
            match value.as_str().unwrap_or_default() {
                "All" => is_dry = true,
                other => return Err(bad_dry_run(other)),
            }
        }
        let in_query = call.query.get("propagationPolicy").unwrap_or_default().to_owned();
        let orphans = fields::at(body, &["orphanDependents"]).and_then(Value::as_bool);
        let orphans =
            orphans.or_else(|| call.query.get("orphanDependents").map(|_| call.query.flag("orphanDependents")));
        let policy = Policy::parse(&text(&["propagationPolicy"]).unwrap_or(in_query), orphans)?;
        Ok(Self {
            policy,
            grace,
            uid: text(&["preconditions", "uid"]),
            version: text(&["preconditions", "resourceVersion"]),
            is_dry,
        })
    }
}

async fn options(call: &Call, request: Request<Received>) -> Result<DeleteOptions, Status> {
    let media = receive::media(request.headers()).to_owned();
    let body = receive::read(request.into_body()).await?;
    let value = match body.as_ref() {
        [] => Value::Null,
        body => receive::document(&media, body, "DeleteOptions")?.value,
    };
    DeleteOptions::of(call, &value)
}

pub(crate) async fn delete(call: &Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let name = call.target.object()?.to_owned();
    let options = options(call, request).await?;
    let removed = remove(call, &name, &options).await?;
    let value = removed.value();
    // Some kinds answer themselves, the others that they are gone.
    let answers_itself = matches!(
        call.target.resource.plural,
        "pods"
            | "services"
            | "serviceaccounts"
            | "persistentvolumes"
            | "persistentvolumeclaims"
            | "podtemplates"
            | "resourcequotas"
    );
    let content = match removed {
        Removed::Gone(_) if !answers_itself => {
            status::success(call.target.resource, &name, fields::text(&value, &["metadata", "uid"]))
        }
        Removed::Gone(_) | Removed::Marked(_) => show(call, &value),
    };
    Ok(call.reply(StatusCode::OK, Content::Value(content)))
}

pub(crate) async fn delete_collection(call: &Call, request: Request<Received>) -> Result<Response<Body>, Status> {
    let options = options(call, request).await?;
    let selection = Selection::of(call)?;
    let (objects, version) = selected(call, &selection);
    let mut removed = Vec::new();
    for object in objects {
        match remove(call, &object.key.name, &options).await {
            Ok(Removed::Gone(object) | Removed::Marked(object)) => removed.push(object),
            // Gone by itself meanwhile.
            Err(status) if status.reason == status::Reason::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    let page = json!({"resourceVersion": version.to_string()});
    Ok(call.reply(StatusCode::OK, shown(call, &removed, &page)))
}

/// What became of an object that was deleted.
#[derive(Debug)]
pub(crate) enum Removed {
    /// It is no longer there.
    Gone(Object),
    /// It goes when what it stands for has ended.
    Marked(Object),
}

impl Removed {
    fn value(&self) -> Value {
        match self {
            Self::Gone(object) | Self::Marked(object) => object.value(),
        }
    }
}

/// Deletes an object of the request's resource.
///
/// # Errors
/// It isn't there, a precondition doesn't hold, or it must stay.
pub(crate) async fn remove(call: &Call, name: &str, options: &DeleteOptions) -> Result<Removed, Status> {
    let resource = call.target.resource;
    strategy::may_delete(call, name)?;
    for _ in 0..ATTEMPTS_MAX {
        let live = stored(call, name)?;
        let old = live.value();
        check(call, name, &live, &old, options)?;
        let marked = match plan(resource, &old, options, call.now) {
            Plan::Nothing => return Ok(Removed::Marked(live)),
            Plan::Remove => None,
            Plan::Mark(value) => Some(value),
        };
        let (key, expected) = (live.key.clone(), Some(live.version));
        if options.is_dry {
            return Ok(dry(live, marked));
        }
        let is_marked = marked.is_some();
        let change = match marked {
            Some(value) => store::Change::Update { key, expected, value },
            None => store::Change::Delete { key, expected },
        };
        match call.state.store.commit(change, durability(resource.plural)).await {
            Ok(object) if is_marked => return Ok(Removed::Marked(object)),
            Ok(object) => return Ok(Removed::Gone(object)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(Status::of_store(resource, name, &error)),
        }
    }
    Err(Status::modified(resource, name))
}

fn dry(mut live: Object, marked: Option<Value>) -> Removed {
    match marked {
        Some(value) => {
            live.text = value.to_string().into();
            Removed::Marked(live)
        }
        None => Removed::Gone(live),
    }
}

/// DE5
fn check(call: &Call, name: &str, live: &Object, old: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let uid = fields::text(old, &["metadata", "uid"]);
    if let Some(expected) = options.uid.as_deref().filter(|expected| *expected != uid) {
        return Err(Status::other_uid(call.target.resource, name, expected, uid));
    }
    if let Some(expected) = options.version.as_deref().filter(|expected| *expected != live.version.to_string()) {
        let why = format!(
            "the ResourceVersion in the precondition ({expected}) does not match the ResourceVersion in record ({}). The object might have been modified",
            live.version
        );
        return Err(Status::conflict(call.target.resource, name, &why));
    }
    Ok(())
}

/// What deleting does to an object.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    Nothing,
    Remove,
    Mark(Value),
}

pub(crate) fn plan(resource: &Resource, old: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let wanted = with_policy(old, options.policy);
    let plan = match resource.plural {
        "pods" => plan_pod(&wanted, options.grace, now),
        "namespaces" => plan_namespace(&wanted, now),
        _ => plan_other(&wanted, now),
    };
    // It is being deleted already, from now on in another way.
    if plan == Plan::Nothing && wanted != *old { Plan::Mark(wanted) } else { plan }
}

/// The object with the finalizer that a policy needs, and without that of another.
fn with_policy(old: &Value, policy: Option<Policy>) -> Value {
    let mut value = old.clone();
    let Some(policy) = policy else { return value };
    let before = fields::at(old, &["metadata", "finalizers"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let others = before.into_iter().filter(|name| name != Policy::FOREGROUND && name != Policy::ORPHAN);
    let finalizers: Vec<Value> = others.chain(policy.finalizer().map(Value::from)).collect();
    let metadata = fields::metadata(&mut value);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
    value
}

fn plan_other(old: &Value, now: Timestamp) -> Plan {
    if !fields::is_filled(old, &["metadata", "finalizers"]) {
        return Plan::Remove;
    }
    if !fields::text(old, &["metadata", "deletionTimestamp"]).is_empty() {
        return Plan::Nothing;
    }
    Plan::Mark(marked(old, now, 0))
}

/// A namespace is emptied first; then it goes.
fn plan_namespace(old: &Value, now: Timestamp) -> Plan {
    if !fields::text(old, &["metadata", "deletionTimestamp"]).is_empty() {
        return Plan::Nothing;
    }
    let mut value = marked(old, now, 0);
    fields::metadata(&mut value).remove("deletionGracePeriodSeconds");
    fields::object(&mut value, "status").insert("phase".to_owned(), "Terminating".into());
    Plan::Mark(value)
}

/// DE1-DE4
fn plan_pod(old: &Value, asked: Option<i64>, now: Timestamp) -> Plan {
    let is_over = matches!(fields::text(old, &["status", "phase"]), "Succeeded" | "Failed");
    let has_node = !fields::text(old, &["spec", "nodeName"]).is_empty();
    let grace = if is_over || !has_node { 0 } else { grace(old, asked) };
    let has_finalizers = fields::is_filled(old, &["metadata", "finalizers"]);
    let deadline: Option<Timestamp> = fields::text(old, &["metadata", "deletionTimestamp"]).parse().ok();
    let Some(deadline) = deadline else {
        if grace == 0 && !has_finalizers {
            return Plan::Remove;
        }
        return Plan::Mark(marked(old, now, grace));
    };
    let before = fields::at(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    // Without a wish of its own, a second deletion changes nothing.
    let grace = if asked.is_none() && !is_over && has_node { before } else { grace };
    if grace == 0 && !has_finalizers {
        return Plan::Remove;
    }
    if grace >= before {
        return Plan::Nothing;
    }
    let begin = deadline.saturating_sub(SignedDuration::from_secs(before)).unwrap_or(now);
    Plan::Mark(marked(old, begin, grace))
}

/// A pod that its node ends, with the time that it may have; none for one that ends already.
pub(crate) fn ending(pod: &Value, now: Timestamp) -> Option<Value> {
    let is_new = fields::text(pod, &["metadata", "deletionTimestamp"]).is_empty();
    is_new.then(|| marked(pod, now, grace(pod, None)))
}

/// DE1, UP2
fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let own = fields::at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    let grace = asked.or(own).unwrap_or_default();
    if grace < 0 { 1 } else { grace }
}

/// DE2, GE2
fn marked(old: &Value, begin: Timestamp, grace: i64) -> Value {
    let mut value = old.clone();
    let is_first = fields::text(old, &["metadata", "deletionTimestamp"]).is_empty();
    let generation = fields::at(old, &["metadata", "generation"]).and_then(Value::as_i64);
    let metadata = fields::metadata(&mut value);
    let end = begin.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(begin);
    metadata.insert("deletionTimestamp".to_owned(), fields::time(end));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if let Some(generation) = generation.filter(|_| is_first) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: &str, phase: &str) -> Value {
        json!({"metadata": {"generation": 1}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30},
            "status": {"phase": phase}})
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn grace(plan: &Plan) -> Option<(i64, String)> {
        let Plan::Mark(value) = plan else { return None };
        let grace = value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap();
        Some((grace, fields::text(value, &["metadata", "deletionTimestamp"]).to_owned()))
    }

    #[test]
    fn a_pod_gets_the_time_that_it_may_have() {
        // DE1
        for (pod, asked, expected) in [
            (pod("n", "Running"), None, Some(30)),
            (pod("n", "Running"), Some(5), Some(5)),
            (pod("n", "Running"), Some(-3), Some(1)),
            (pod("n", "Running"), Some(0), None),
            (pod("n", "Succeeded"), None, None),
            (pod("n", "Failed"), Some(9), None),
            (pod("", "Pending"), None, None),
        ] {
            let plan = plan_pod(&pod, asked, at(100));
            assert_eq!(grace(&plan).map(|(grace, _)| grace), expected);
            assert_eq!(plan == Plan::Remove, expected.is_none());
        }
    }

    #[test]
    fn a_second_deletion_only_shortens() {
        // DE2, DE3
        let Plan::Mark(first) = plan_pod(&pod("n", "Running"), None, at(100)) else { panic!("not marked") };
        assert_eq!(first["metadata"]["generation"], 2);
        assert_eq!(plan_pod(&first, None, at(105)), Plan::Nothing);
        assert_eq!(plan_pod(&first, Some(60), at(105)), Plan::Nothing);
        let shorter = plan_pod(&first, Some(10), at(105));
        assert_eq!(grace(&shorter), Some((10, "1970-01-01T00:01:50Z".to_owned())));
        assert_eq!(plan_pod(&first, Some(0), at(105)), Plan::Remove);
    }

    #[test]
    fn a_policy_is_a_finalizer() {
        let old = json!({"metadata": {"finalizers": ["a/b", "orphan"]}});
        for (policy, expected) in [
            (None, json!(["a/b", "orphan"])),
            (Some(Policy::Background), json!(["a/b"])),
            (Some(Policy::Foreground), json!(["a/b", "foregroundDeletion"])),
            (Some(Policy::Orphan), json!(["a/b", "orphan"])),
        ] {
            assert_eq!(with_policy(&old, policy)["metadata"]["finalizers"], expected);
        }
        assert_eq!(with_policy(&json!({"metadata": {}}), Some(Policy::Background)), json!({"metadata": {}}));
        assert_eq!(Policy::parse("Orphan", Some(true)).unwrap_err().reason, status::Reason::Invalid);
        assert!(Policy::parse("Never", None).is_err());
        assert_eq!(Policy::parse("", Some(true)).unwrap(), Some(Policy::Orphan));
    }

    #[test]
    fn finalizers_keep_an_object() {
        // DE4
        let mut kept = pod("n", "Running");
        kept["metadata"]["finalizers"] = json!(["a/b"]);
        assert_eq!(grace(&plan_pod(&kept, Some(0), at(100))).map(|(grace, _)| grace), Some(0));
        assert!(grace(&plan_other(&kept, at(100))).is_some());
        assert_eq!(plan_other(&json!({"metadata": {}}), at(100)), Plan::Remove);
    }
}
