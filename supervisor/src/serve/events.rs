//! Kubernetes Events: what is said becomes objects, and what is said often becomes one (section 10.8).
//!
//! The rules are those of client-go's recorder. [`Correlator`] decides and does nothing else; [`Recorder`] writes what it
//! decides and lets events go after an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, json};

use super::clock;
use crate::pod::event::{KubeEvent, Severity};
use crate::pod::spec::PodSpec;
use crate::pod::timer::WallTime;
use crate::store::{Change, Durability, Key, Store, StoreError};
use crate::volume::claims::Waiting;

/// The resource.
pub const EVENTS: &str = "events";
/// So many events that differ only in their message are said one by one, later ones together.
const SIMILAR_MAX: usize = 10;
/// Similar events further apart than this are not counted together.
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Events of one source about one object that may come at once.
const BURST: f64 = 25.0;
/// After a burst, one more is said each time that this has passed.
const REFILL: Duration = Duration::from_secs(300);
/// An event is kept this long after it was last seen.
pub const TTL: Duration = Duration::from_secs(3600);
/// Events that are kept; beyond it the oldest go.
pub const EVENTS_MAX: usize = 1000;
/// Things that the correlator remembers of each sort.
const MEMORY_MAX: usize = 4096;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub field_path: Option<String>,
}

/// One thing that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub about: About,
    /// `kubelet`, `default-scheduler`.
    pub component: &'static str,
    /// The node, for what the kubelet says.
    pub host: Option<String>,
    pub severity: Severity,
    pub reason: String,
    pub message: String,
    pub at: WallTime,
}

impl Said {
    pub fn of_pod(spec: &PodSpec, event: &KubeEvent, node: &str) -> Self {
        Self {
            about: About {
                kind: "Pod",
                namespace: spec.namespace.clone(),
                name: spec.name.clone(),
                uid: spec.uid.clone(),
                field_path: event.container.and_then(|index| spec.get(index)).map(|container| container.field_path()),
            },
            component: "kubelet",
            host: Some(node.to_owned()),
            severity: event.severity,
            reason: event.reason.to_owned(),
            message: event.message.clone(),
            at: event.at,
        }
    }

    /// The kubelet uses the node's name for its uid.
    pub fn of_node(node: &str, severity: Severity, reason: &str, message: &str) -> Self {
        let about =
            About { kind: "Node", namespace: String::new(), name: node.into(), uid: node.into(), field_path: None };
        Self {
            about,
            component: "kubelet",
            host: Some(node.to_owned()),
            severity,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: clock::wall(),
        }
    }

    pub fn scheduled(pod: &Pod, node: &str) -> Self {
        let about = about_pod(pod);
        let message = format!("Successfully assigned {}/{} to {node}", about.namespace, about.name);
        Self::of_scheduler(about, Severity::Normal, "Scheduled", message)
    }

    pub fn failed_scheduling(pod: &Pod, message: &str) -> Self {
        Self::of_scheduler(about_pod(pod), Severity::Warning, "FailedScheduling", message.to_owned())
    }

    /// Of who goes for a pod of higher priority, which is named by its uid.
    pub fn preempted(victim: &Pod, by: &str, node: &str) -> Self {
        let message = format!("Preempted by pod {by} on node {node}");
        Self::of_scheduler(about_pod(victim), Severity::Normal, "Preempted", message)
    }

    /// What the controller says that ends pods which don't tolerate the node's taints.
    pub fn of_taints(pod: &Pod, leaves: bool) -> Self {
        let about = about_pod(pod);
        let what = if leaves { "Marking for deletion" } else { "Cancelling deletion of" };
        let message = format!("{what} Pod {}/{}", about.namespace, about.name);
        let (component, reason) = ("taint-eviction-controller", "TaintManagerEviction".to_owned());
        Self { about, component, host: None, severity: Severity::Normal, reason, message, at: clock::wall() }
    }

    fn of_scheduler(about: About, severity: Severity, reason: &str, message: String) -> Self {
        let reason = reason.to_owned();
        Self { about, component: "default-scheduler", host: None, severity, reason, message, at: clock::wall() }
    }

    /// The kubelet's events have the `namespace` of the object; those of nodes go to `default`.
    fn namespace(&self) -> &str {
        if self.about.namespace.is_empty() { "default" } else { &self.about.namespace }
    }
}

impl Said {
    /// What the volume controller says of a claim.
    pub fn of_claim(claim: &Waiting) -> Self {
        Self {
            about: About {
                kind: "PersistentVolumeClaim",
                namespace: claim.namespace.clone(),
                name: claim.name.clone(),
                uid: claim.uid.clone(),
                field_path: None,
            },
            component: "persistentvolume-controller",
            host: None,
            severity: if claim.warning { Severity::Warning } else { Severity::Normal },
            reason: claim.reason.to_owned(),
            message: claim.message.clone(),
            at: clock::wall(),
        }
    }
}

fn about_pod(pod: &Pod) -> About {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let meta = &pod.metadata;
    About {
        kind: "Pod",
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        uid: text(&meta.uid),
        field_path: None,
    }
}

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A new object of this name.
    Create { name: String, message: String },
    /// The object of this name is seen once more.
    Again { name: String, message: String, count: i32, first: WallTime },
    /// Too many.
    Drop,
}

/// Everything but the message.
type Kind = (About, &'static str, String, bool);

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<String>,
    last: WallTime,
}

#[derive(Debug)]
struct Same {
    name: String,
    count: i32,
    first: WallTime,
    last: WallTime,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    last: WallTime,
}

/// Pure; see the module's documentation.
#[derive(Debug, Default)]
pub struct Correlator {
    similar: BTreeMap<Kind, Similar>,
    /// By kind and message; none for those that are said together.
    same: BTreeMap<(Kind, Option<String>), Same>,
    buckets: BTreeMap<(String, &'static str), Bucket>,
}

impl Correlator {
    pub fn take(&mut self, said: &Said) -> Verdict {
        self.forget();
        let (key, message) = self.aggregate(said);
        let verdict = self.observe(key, message, said);
        if self.is_spam(said) { Verdict::Drop } else { verdict }
    }

    /// An event of an earlier life, so that counts go on.
    pub fn remember(&mut self, said: &Said, name: String, count: i32, first: WallTime) {
        let same = Same { name, count, first, last: said.at };
        self.same.insert((kind(said), Some(said.message.clone())), same);
    }

    fn aggregate(&mut self, said: &Said) -> ((Kind, Option<String>), String) {
        let kind = kind(said);
        let fresh = || Similar { messages: BTreeSet::new(), last: said.at };
        let similar = self.similar.entry(kind.clone()).or_insert_with(fresh);
        if said.at.since(similar.last) > SIMILAR_WITHIN {
            *similar = fresh();
        }
        similar.last = said.at;
        similar.messages.insert(said.message.clone());
        if similar.messages.len() < SIMILAR_MAX {
            return ((kind, Some(said.message.clone())), said.message.clone());
        }
        similar.messages.pop_first();
        ((kind, None), format!("(combined from similar events): {}", said.message))
    }

    fn observe(&mut self, key: (Kind, Option<String>), message: String, said: &Said) -> Verdict {
        match self.same.get_mut(&key) {
            Some(same) => {
                same.count = same.count.saturating_add(1);
                same.last = said.at;
                Verdict::Again { name: same.name.clone(), message, count: same.count, first: same.first }
            }
            None => {
                let name = format!("{}.{:x}", said.about.name, said.at.0);
                let taken = self.same.values().any(|same| same.name == name);
                // Two things of the same nanosecond have two names.
                let name = if taken { format!("{name}{:x}", self.same.len()) } else { name };
                let same = Same { name: name.clone(), count: 1, first: said.at, last: said.at };
                self.same.insert(key, same);
                Verdict::Create { name, message }
            }
        }
    }

    fn is_spam(&mut self, said: &Said) -> bool {
        let fresh = || Bucket { tokens: BURST, last: said.at };
        let bucket = self.buckets.entry((said.about.uid.clone(), said.component)).or_insert_with(fresh);
        let gained = said.at.since(bucket.last).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + gained).min(BURST);
        bucket.last = said.at;
        if bucket.tokens < 1.0 {
            return true;
        }
        bucket.tokens -= 1.0;
        false
    }

    /// Keeps the memory small: the oldest go.
    fn forget(&mut self) {
        fn oldest<K: Ord + Clone, V>(all: &mut BTreeMap<K, V>, last: impl Fn(&V) -> WallTime) {
            while all.len() >= MEMORY_MAX {
                let found = all.iter().min_by_key(|(_, value)| last(value)).map(|(key, _)| key.clone());
                let Some(key) = found else { return };
                all.remove(&key);
            }
        }
        oldest(&mut self.similar, |similar| similar.last);
        oldest(&mut self.same, |same| same.last);
        oldest(&mut self.buckets, |bucket| bucket.last);
    }

    /// An object is gone: what was said of it counts no more.
    fn forget_name(&mut self, name: &str) {
        self.same.retain(|_, same| same.name != name);
    }
}

fn kind(said: &Said) -> Kind {
    (said.about.clone(), said.component, said.reason.clone(), said.severity == Severity::Warning)
}

/// Writes events into the store.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    correlator: Correlator,
    /// When each was last seen.
    kept: BTreeMap<Key, WallTime>,
}

impl Recorder {
    pub fn new(store: Store) -> Self {
        let mut recorder = Self { store: store.clone(), correlator: Correlator::default(), kept: BTreeMap::new() };
        for object in store.list(EVENTS, None).0 {
            if let Ok(event) = object.read::<Event>() {
                recorder.remember(&object.key, &event);
            }
        }
        recorder
    }

    fn remember(&mut self, key: &Key, event: &Event) {
        let wall = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            let nanos = time.as_ref().and_then(|time| i64::try_from(time.0.as_nanosecond()).ok());
            nanos.map_or(WallTime::EPOCH, WallTime)
        };
        let last = wall(&event.last_timestamp);
        self.kept.insert(key.clone(), last);
        let Some(said) = read(event, last) else { return };
        let (count, first) = (event.count.unwrap_or(1), wall(&event.first_timestamp));
        self.correlator.remember(&said, key.name.to_string(), count, first);
    }

    pub fn say(&mut self, said: &Said) {
        let (name, message, seen) = match self.correlator.take(said) {
            Verdict::Create { name, message } => (name, message, (1, said.at)),
            Verdict::Again { name, message, count, first } => (name, message, (count, first)),
            Verdict::Drop => return,
        };
        let key = Key::new(EVENTS, said.namespace(), &name);
        self.kept.insert(key.clone(), said.at);
        self.make_room();
        let store = self.store.clone();
        let value = object(said, &name, &message, seen);
        tokio::task::spawn_local(async move {
            if let Err(error) = put(&store, key, value).await {
                tracing::error!("write an event: {error}");
            }
        });
    }

    fn make_room(&mut self) {
        while self.kept.len() > EVENTS_MAX {
            let oldest = self.kept.iter().min_by_key(|(_, last)| **last).map(|(key, _)| key.clone());
            let Some(key) = oldest else { return };
            self.drop_event(&key);
        }
    }

    /// Lets go of what is older than an hour; when to come again.
    pub fn expire(&mut self) -> Option<Duration> {
        let now = clock::wall();
        let old = self.kept.iter().filter(|(_, last)| now.since(**last) >= TTL);
        for key in old.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.drop_event(&key);
        }
        self.kept.values().min().map(|last| TTL.saturating_sub(now.since(*last)))
    }

    fn drop_event(&mut self, key: &Key) {
        self.kept.remove(key);
        self.correlator.forget_name(&key.name);
        let change = Change::Delete { key: key.clone(), expected: None };
        let answer = self.store.commit(change, Durability::Kernel);
        tokio::task::spawn_local(async move {
            match answer.await {
                Ok(_) | Err(StoreError::NotFound(_)) => {}
                Err(error) => tracing::warn!("forget an event: {error}"),
            }
        });
    }
}

/// Replaces the event; one that somebody deleted comes again.
async fn put(store: &Store, key: Key, mut value: Value) -> Result<(), StoreError> {
    let stored = store.get(&key);
    if let Some(stored) = &stored {
        let old = stored.value();
        for kept in ["uid", "creationTimestamp"] {
            value["metadata"][kept] = old["metadata"][kept].clone();
        }
    }
    let change = match stored {
        Some(_) => Change::Update { key, expected: None, value },
        None => Change::Create { key, value },
    };
    match store.commit(change, Durability::Kernel).await {
        Ok(_) | Err(StoreError::Exists(_) | StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn object(said: &Said, name: &str, message: &str, (count, first): (i32, WallTime)) -> Value {
    let mut involved = json!({
        "apiVersion": "v1", "kind": said.about.kind, "name": said.about.name, "uid": said.about.uid,
    });
    if !said.about.namespace.is_empty() {
        involved["namespace"] = json!(said.about.namespace);
    }
    if let Some(path) = &said.about.field_path {
        involved["fieldPath"] = json!(path);
    }
    let mut source = json!({"component": said.component});
    if let Some(host) = &said.host {
        source["host"] = json!(host);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": name,
            "namespace": said.namespace(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": clock::seconds(first),
        },
        "involvedObject": involved,
        "reason": said.reason,
        "message": message,
        "source": source,
        "firstTimestamp": clock::seconds(first),
        "lastTimestamp": clock::seconds(said.at),
        "count": count,
        "type": match said.severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "eventTime": null,
        "reportingComponent": said.component,
        "reportingInstance": said.host.as_deref().unwrap_or_default(),
    })
}

/// What was said, as far as it is one of ours.
fn read(event: &Event, at: WallTime) -> Option<Said> {
    let involved = &event.involved_object;
    let kind =
        ["Pod", "Node", "PersistentVolumeClaim"].into_iter().find(|kind| involved.kind.as_deref() == Some(kind))?;
    let source = event.source.as_ref()?;
    let components = ["kubelet", "default-scheduler", "persistentvolume-controller"];
    let component = components.into_iter().find(|own| source.component.as_deref() == Some(own))?;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Some(Said {
        about: About {
            kind,
            namespace: text(&involved.namespace),
            name: text(&involved.name),
            uid: text(&involved.uid),
            field_path: involved.field_path.clone(),
        },
        component,
        host: source.host.clone(),
        severity: if event.type_.as_deref() == Some("Warning") { Severity::Warning } else { Severity::Normal },
        reason: text(&event.reason),
        message: text(&event.message),
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(reason: &str, message: &str, second: i64) -> Said {
        let about = About {
            kind: "Pod",
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            field_path: Some("spec.containers{c}".into()),
        };
        Said {
            about,
            component: "kubelet",
            host: Some("n1".into()),
            severity: Severity::Warning,
            reason: reason.into(),
            message: message.into(),
            at: WallTime(second * 1_000_000_000),
        }
    }

    #[test]
    fn the_same_thing_is_counted() {
        let mut correlator = Correlator::default();
        let Verdict::Create { name, .. } = correlator.take(&said("BackOff", "m", 1)) else { panic!("no event") };
        assert_eq!(name, "p.3b9aca00");
        let again = Verdict::Again { name, message: "m".into(), count: 2, first: WallTime(1_000_000_000) };
        assert_eq!(correlator.take(&said("BackOff", "m", 700)), again);
    }

    #[test]
    fn what_differs_only_in_its_message_is_said_together_after_ten() {
        let mut correlator = Correlator::default();
        for number in 0..9 {
            let verdict = correlator.take(&said("Unhealthy", &format!("m{number}"), number));
            assert!(matches!(verdict, Verdict::Create { .. }), "{verdict:?}");
        }
        let combined = "(combined from similar events): m9".to_owned();
        let Verdict::Create { message, name } = correlator.take(&said("Unhealthy", "m9", 9)) else { panic!("none") };
        assert_eq!(message, combined);
        let verdict = correlator.take(&said("Unhealthy", "m10", 10));
        assert!(matches!(&verdict, Verdict::Again { name: again, count: 2, .. } if *again == name), "{verdict:?}");
        let later = correlator.take(&said("Unhealthy", "m11", 700));
        assert!(matches!(&later, Verdict::Create { message, .. } if message == "m11"), "{later:?}");
    }

    #[test]
    fn a_flood_is_cut_off_and_comes_back_slowly() {
        let mut correlator = Correlator::default();
        let passed = (0..100).filter(|_| correlator.take(&said("Failed", "m", 1)) != Verdict::Drop).count();
        assert_eq!(passed, 25);
        assert_eq!(correlator.take(&said("Failed", "m", 200)), Verdict::Drop);
        // Counted all the same.
        let verdict = correlator.take(&said("Failed", "m", 302));
        assert!(matches!(verdict, Verdict::Again { count: 102, .. }), "{verdict:?}");
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for number in 0..MEMORY_MAX + 10 {
            let mut said = said("x", "m", i64::try_from(number).unwrap());
            said.about.uid = number.to_string();
            correlator.take(&said);
        }
        assert!(correlator.same.len() <= MEMORY_MAX && correlator.buckets.len() <= MEMORY_MAX);
    }

    #[test]
    fn an_event_is_read_back() {
        let said = said("BackOff", "m", 5);
        let value = object(&said, "p.1", "m", (3, WallTime(1_000_000_000)));
        assert_eq!(value["involvedObject"]["fieldPath"], "spec.containers{c}");
        assert_eq!((&value["firstTimestamp"], &value["count"]), (&json!("1970-01-01T00:00:01Z"), &json!(3)));
        let event: Event = serde_json::from_value(value).unwrap();
        assert_eq!(read(&event, said.at), Some(said));
    }
}
