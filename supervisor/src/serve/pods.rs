//! Pods between the store and the driver: what users want goes down, what happened comes up.
//!
//! The store says which pods there should be; nothing here remembers what can be read there again. A pod's status is
//! written by one task at a time, the newest one wins, and a conflict means reading again.

mod room;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use cgroupd::QosClass;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::admit;
use super::clock;
use super::drain::disruption;
use super::events::{Recorder, Said};
use super::host::Host;
use super::schedule::{self, Misfit, Preemption, Usage};
use super::source::Claimed;
use super::taints::{self, Leaving, Verdict};
use crate::convert::status::{self, Surroundings};
use crate::convert::{machine, resources};
use crate::node::Node;
use crate::pod::resize::{self, Reason, Refusal};
use crate::pod::spec::PodSpec;
use crate::pod::status::Status;
use crate::store::{Change, Durability, Key, Object, Store, StoreError, Version, WatchEvent, WatchEventKind};
use crate::volume::claims::controller;
use room::{Room, priority};

/// The resource.
pub const PODS: &str = "pods";
/// The scheduler that we are.
const SCHEDULER: &str = "default-scheduler";
/// After a write that the disk refused: there may be room again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);
/// How long after its beginning a deferred resize is looked at again, then how often (RZ4).
const DEFERRED_FIRST: Duration = Duration::from_secs(30);
const DEFERRED_AGAIN: Duration = Duration::from_secs(180);
/// Attempts to write a status that others keep changing; the next notice tries again.
const WRITES_MAX: usize = 16;
/// A static pod that comes back within this time counts its instances on: as long as a kubelet keeps old containers.
const ENDED_IS_KNOWN: Duration = Duration::from_secs(60);

/// What is known of a pod that the driver has.
#[derive(Debug)]
struct Known {
    key: Key,
    /// What the status needs besides the machine.
    around: Rc<Surroundings>,
    /// What is allocated to it.
    usage: Usage,
    /// With what a resize waits for: nothing new gets that (RZ4).
    reserved: Usage,
    priority: i32,
    qos: QosClass,
    /// Critical or static: only users end it.
    critical: bool,
    status: Rc<RefCell<Writing>>,
    /// Of a static pod: the number of its containers' next instances.
    next: Option<BTreeMap<String, u32>>,
}

/// A pod's status on its way to the store.
#[derive(Debug, Default)]
struct Writing {
    /// Newer than what is being written.
    next: Option<Box<Status>>,
    busy: bool,
    /// What was written last: its echo in the feed is no news.
    version: Option<Version>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Pods {
    store: Store,
    events: Rc<RefCell<Recorder>>,
    host: Rc<Host>,
    known: BTreeMap<String, Known>,
    /// Pods that found no place, looked at again whenever something becomes free.
    pending: BTreeSet<Key>,
    /// Pods whose resize found no room, looked at again at the same times, and at the latest then (RZ4).
    deferred: BTreeSet<String>,
    deferred_until: Option<Instant>,
    /// What is kept for pods that matter more.
    room: Room,
    /// Pods that the node's taints drive out in a while.
    leaving: Leaving,
    /// Pods that only their manifests end.
    claimed: Claimed,
    /// The node drains: nothing new is taken in.
    refusing: bool,
    /// What nobody remembers is being ended; a pod of the same uid starts afterwards.
    ending: JoinSet<String>,
    awaited: BTreeSet<String>,
    /// Static pods that ended not long ago, with the numbers of their next instances (LF6).
    ended: BTreeMap<String, (Instant, BTreeMap<String, u32>)>,
}

impl Pods {
    pub fn new(store: Store, events: Rc<RefCell<Recorder>>, host: Rc<Host>, claimed: Claimed) -> Self {
        Self {
            store,
            events,
            host,
            known: BTreeMap::new(),
            pending: BTreeSet::new(),
            deferred: BTreeSet::new(),
            deferred_until: None,
            room: Room::default(),
            leaving: Leaving::default(),
            claimed,
            refusing: false,
            ending: JoinSet::new(),
            awaited: BTreeSet::new(),
            ended: BTreeMap::new(),
        }
    }

    /// The node's labels, taints or `unschedulable` have changed.
    pub fn set_host(&mut self, host: Rc<Host>, node: &mut Node) {
        self.host = host;
        if self.is_tainted() {
            let (objects, _) = self.store.list(PODS, None);
            let pods = objects.iter().filter_map(read).filter(|pod| self.is_ours(pod));
            pods.collect::<Vec<_>>().iter().for_each(|pod| self.weigh(pod, node));
        }
        self.retry(node);
    }

    /// Whether taints of the node may drive a pod out, or no longer do.
    fn is_tainted(&self) -> bool {
        !self.leaving.is_empty() || self.host.taints.iter().any(|taint| taint.effect == taints::NO_EXECUTE)
    }

    /// Whether a pod of this node tolerates the node's taints. One that has ended takes nothing from anybody.
    fn weigh(&mut self, pod: &Pod, node: &mut Node) {
        let Some(uid) = pod.metadata.uid.as_deref().filter(|_| self.is_tainted()) else { return };
        if pod.metadata.deletion_timestamp.is_some() || matches!(phase(pod), Some("Succeeded" | "Failed")) {
            return self.leaving.forget(uid);
        }
        let stay = taints::stay(pod, &self.host.taints);
        match self.leaving.look(uid, &key_of(pod), stay, Instant::now()) {
            Verdict::Nothing => {}
            Verdict::Stays => self.events.borrow_mut().say(&Said::of_taints(pod, false)),
            Verdict::Leaves => self.drive_out(pod, node),
        }
    }

    /// When the next pod has tolerated a taint long enough.
    pub fn leaves(&self) -> Option<Instant> {
        self.leaving.next()
    }

    /// Ends the pods that have.
    pub fn drive_due(&mut self, node: &mut Node) {
        for (uid, key) in self.leaving.take_due(Instant::now()) {
            let pod = self.store.get(&key).as_ref().and_then(read);
            if let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&uid)) {
                self.drive_out(&pod, node);
            }
        }
    }

    /// Deletes a pod that does not tolerate a taint (CO6).
    fn drive_out(&self, pod: &Pod, node: &mut Node) {
        self.events.borrow_mut().say(&Said::of_taints(pod, true));
        self.end_for(pod, node, taints::WHY);
    }

    /// Deletes a pod for this reason, with this message (CO6).
    fn end_for(&self, pod: &Pod, node: &mut Node, why: (&'static str, &'static str)) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        node.change(&uid, |machine, now| {
            let condition = disruption(why.0, why.1, machine.spec().generation, now.wall);
            machine.set_condition(condition, now);
        });
        let (store, key) = (self.store.clone(), key_of(pod));
        tokio::task::spawn_local(async move {
            loop {
                let Some(object) = store.get(&key).filter(|object| uid_of(object).as_ref() == Some(&uid)) else {
                    return;
                };
                let mut value = object.value();
                if !taints::mark_leaving(&mut value, why, clock::wall()) {
                    return;
                }
                let change = Change::Update { key: key.clone(), expected: Some(object.version), value };
                match store.commit(change, Durability::Kernel).await {
                    Ok(_) | Err(StoreError::NotFound(_)) => return,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => {
                        tracing::error!("delete {key}: {error}");
                        tokio::time::sleep(WRITE_AGAIN).await;
                    }
                }
            }
        });
    }

    /// Takes over what runs, then goes through all objects.
    pub async fn begin(&mut self, node: &mut Node) {
        let mut bound = BTreeMap::new();
        let (objects, _) = self.store.list(PODS, None);
        for object in &objects {
            let Some(pod) = read(object) else { continue };
            if self.is_ours(&pod) {
                bound.extend(pod.metadata.uid.clone().map(|uid| (uid, pod)));
            }
        }
        let keys: BTreeMap<String, (Key, Pod)> =
            bound.iter().map(|(uid, pod)| (uid.clone(), (key_of(pod), pod.clone()))).collect();
        let adoption = node.adopt(bound).await;
        tracing::info!(
            adopted = adoption.adopted.len(),
            orphans = adoption.orphans.len(),
            fresh = adoption.fresh.len(),
            "pods of an earlier life"
        );
        for uid in adoption.adopted {
            if let Some((key, pod)) = keys.get(&uid) {
                self.know(&uid, key.clone(), &node.allocated(&uid, pod));
            }
        }
        self.awaited = adoption.unremembered;
        self.ending = adoption.ending;
        for object in objects {
            self.sync(&object, node);
        }
    }

    /// Waits for the end of something that nobody remembered; none when there is nothing such.
    pub async fn ended(&mut self) -> Option<String> {
        let ended = self.ending.join_next().await?;
        Some(ended.unwrap_or_else(|error| {
            tracing::error!("end a sandbox that nobody remembers: {error}");
            String::new()
        }))
    }

    /// What [`Self::ended`] gave: a pod of this uid starts.
    pub fn begin_again(&mut self, uid: &str, node: &mut Node) {
        self.awaited.remove(uid);
        self.resync(node);
    }

    /// A change in the store.
    pub fn changed(&mut self, event: &WatchEvent, node: &mut Node) {
        match event.kind {
            WatchEventKind::Added | WatchEventKind::Modified => self.sync(&event.object, node),
            WatchEventKind::Deleted => self.deleted(&event.object, node),
        }
    }

    /// From now on nothing new is taken in.
    pub fn refuse(&mut self) {
        self.refusing = true;
    }

    /// Every pod that is here with its priority.
    pub fn priorities(&self) -> impl Iterator<Item = (&str, i32)> {
        self.known.iter().map(|(uid, known)| (uid.as_str(), known.priority))
    }

    /// Everything again, after the feed was cut off.
    pub fn resync(&mut self, node: &mut Node) {
        let (objects, _) = self.store.list(PODS, None);
        let there: BTreeSet<String> = objects.iter().filter_map(known_uid).collect();
        let gone: Vec<String> = self.known.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.lose(uid, node));
        self.room.keep(&there);
        objects.iter().for_each(|object| self.sync(object, node));
    }

    fn deleted(&mut self, object: &Object, node: &mut Node) {
        self.pending.remove(&object.key);
        let uid = known_uid(object);
        uid.iter().for_each(|uid| self.room.forget(uid));
        match uid.filter(|uid| node.has(uid)) {
            Some(uid) => self.lose(&uid, node),
            None => self.retry(node),
        }
    }

    /// Whatever it was, the driver ends it now (DE3); a static pod is only shown again (ST3).
    fn lose(&self, uid: &str, node: &mut Node) {
        if !self.claimed.borrow().contains(uid) {
            node.change(uid, |machine, now| machine.delete(Duration::ZERO, now));
        }
    }

    /// Brings one pod nearer to what its object says; doing it again changes nothing.
    pub fn sync(&mut self, object: &Object, node: &mut Node) {
        let Some(pod) = read(object) else { return };
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if !self.is_ours(&pod) {
            return self.schedule(object, &pod, node);
        }
        self.pending.remove(&object.key);
        if let Some(known) = self.known.get(&uid) {
            let echo = known.status.borrow().version == Some(object.version);
            if !echo {
                self.weigh(&pod, node);
                self.update(&uid, pod, node);
            }
            return;
        }
        if node.has(&uid) || self.awaited.contains(&uid) || self.slot_is_taken(&object.key, node) {
            // What is left of an earlier pod of this name ends first; its removal brings us here again.
            return;
        }
        // A static pod that nothing is remembered of starts, whatever it was shown as.
        let ended = matches!(phase(&pod), Some("Succeeded" | "Failed")) && !self.claimed.borrow().contains(&uid);
        if pod.metadata.deletion_timestamp.is_some() {
            self.remove(&pod);
        } else if !ended {
            self.add(&uid, object, pod, node);
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&self.host.name)
    }

    fn slot_is_taken(&self, key: &Key, node: &Node) -> bool {
        node.pods().any(|spec| *spec.namespace == *key.namespace && *spec.name == *key.name)
    }

    fn know(&mut self, uid: &str, key: Key, pod: &Pod) {
        let around = Rc::new(self.host.surroundings(pod));
        let priority = priority(pod);
        let usage = Usage::of(pod);
        let next = machine::is_static(pod).then(BTreeMap::new);
        let asked = pod.spec.as_ref().and_then(|spec| resources::pod(spec).ok());
        let qos = asked.map_or(QosClass::BestEffort, |asked| cgroupd::qos::qos_class(&asked));
        let (critical, status) = (machine::is_critical(pod), Rc::default());
        let known = Known { key, around, reserved: usage.clone(), usage, priority, qos, critical, status, next };
        self.known.insert(uid.to_owned(), known);
    }

    fn add(&mut self, uid: &str, object: &Object, pod: Pod, node: &mut Node) {
        if self.awaits_room(uid, node) {
            return;
        }
        self.room.forget(uid);
        let mut spec = machine::spec(&pod);
        self.host.complete(&mut spec);
        for (container, next) in self.ended.remove(uid).into_iter().flat_map(|(_, next)| next) {
            if let Some(own) = spec.containers.iter_mut().find(|own| own.name == container) {
                own.first_attempt = own.first_attempt.max(next);
            }
        }
        let used = self.used(node, None);
        let refusal = match self.refusing {
            true => Some(admit::Refusal::shutdown()),
            false => admit::check(&pod, &self.host, &used),
        };
        let refusal = match refusal {
            Some(_) if machine::is_critical(&pod) && !self.refusing => match self.make_room(uid, object, &pod, node) {
                None => return,
                refusal => refusal,
            },
            refusal => refusal,
        };
        self.know(uid, object.key.clone(), &pod);
        match refusal {
            None => {
                let tainted = self.is_tainted().then(|| pod.clone());
                node.add(pod, spec);
                if let Some(pod) = tainted {
                    self.weigh(&pod, node);
                }
            }
            Some(admit::Refusal { reason, message }) => node.reject(pod, spec, reason, &message),
        }
    }

    /// What living pods have, but for one, and what critical ones are about to get.
    fn used(&self, node: &Node, without: Option<&str>) -> Vec<&Usage> {
        let living = self.known.iter().filter(|(uid, _)| Some(uid.as_str()) != without);
        let living = living.filter(|(uid, _)| node.status(uid).is_some_and(|status| !status.phase.is_final()));
        living.map(|(_, known)| &known.usage).chain(self.room.waited_for()).collect()
    }

    fn update(&mut self, uid: &str, pod: Pod, node: &mut Node) {
        let deletion = pod.metadata.deletion_timestamp.is_some();
        let grace = pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        self.take_conditions(uid, &pod, node);
        let mut spec: PodSpec = machine::spec(&pod);
        self.host.complete(&mut spec);
        let shown = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let shrunk = self.resize(uid, &pod, &spec, node);
        if !shown && let Some(status) = node.status(uid) {
            // A new object of a static pod that runs.
            self.publish(uid, Box::new(status));
        }
        if deletion && !self.claimed.borrow().contains(uid) {
            let grace = grace.map_or(spec.grace, Duration::from_secs);
            node.change(uid, |machine, now| machine.delete(grace, now));
        }
        if shrunk {
            self.retry(node);
        }
    }

    /// RZ4: the pod's new spec with what the node gives to it; true when something became free.
    fn resize(&mut self, uid: &str, pod: &Pod, spec: &PodSpec, node: &mut Node) -> bool {
        let (before, wanted) = (Usage::of(&node.allocated(uid, pod)), Usage::of(pod));
        let verdict = admit::resize(&before, &wanted, &self.host, &self.used(node, Some(uid)));
        node.update(pod, spec, &verdict);
        let held = node.allocated(uid, pod);
        let usage = Usage::of(&held);
        let shrunk = usage.shrinks(&before);
        let reserved = match &verdict {
            resize::Verdict::Refused(Refusal { reason: Reason::Deferred, .. }) => {
                self.deferred.insert(uid.to_owned());
                self.deferred_until.get_or_insert_with(|| Instant::now() + DEFERRED_FIRST);
                usage.larger(&wanted)
            }
            resize::Verdict::Refused(Refusal { reason: Reason::Infeasible, .. }) | resize::Verdict::Allocated => {
                self.deferred.remove(uid);
                usage.clone()
            }
        };
        let around = Rc::new(self.host.surroundings(&held));
        if let Some(known) = self.known.get_mut(uid) {
            known.around = around;
            known.usage = usage;
            known.reserved = reserved;
        }
        node.pod_changed(held);
        shrunk
    }

    /// When deferred resizes are looked at again though nothing became free.
    pub fn deferred_until(&self) -> Option<Instant> {
        self.deferred_until
    }

    /// Resizes that wait for room, those of important pods first (RZ4).
    pub fn retry_resizes(&mut self, node: &mut Node) {
        let waiting = std::mem::take(&mut self.deferred);
        self.deferred_until = (!waiting.is_empty()).then(|| Instant::now() + DEFERRED_AGAIN);
        let known = waiting.iter().filter_map(|uid| Some((uid.clone(), self.known.get(uid)?)));
        let mut all: Vec<(i32, String, Key)> =
            known.map(|(uid, known)| (known.priority, uid, known.key.clone())).collect();
        all.sort_by_key(|(priority, _, _)| std::cmp::Reverse(*priority));
        for (_, uid, key) in all {
            let pod = self.store.get(&key).as_ref().and_then(read);
            if let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&uid)) {
                self.update(&uid, pod, node);
            }
        }
    }

    /// Conditions that others own, such as readiness gates (CO5, CO11).
    fn take_conditions(&self, uid: &str, pod: &Pod, node: &mut Node) {
        let all = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        for condition in all.into_iter().flatten().filter(|condition| !status::is_own(&condition.type_)) {
            node.change(uid, |machine, now| machine.set_condition(status::foreign(condition, now.wall), now));
        }
    }

    // Up.

    /// The newest status of a pod; written when the one before is.
    pub fn publish(&mut self, uid: &str, status: Box<Status>) {
        let Some(known) = self.known.get_mut(uid) else { return };
        if let Some(next) = &mut known.next {
            *next = next_instances(&status);
        }
        let mut writing = known.status.borrow_mut();
        writing.next = Some(status);
        if writing.busy {
            return;
        }
        writing.busy = true;
        let (store, key, around) = (self.store.clone(), known.key.clone(), known.around.clone());
        let (slot, uid) = (known.status.clone(), uid.to_owned());
        tokio::task::spawn_local(async move { write_all(&store, &key, &uid, &around, &slot).await });
    }

    /// An event of a pod.
    pub fn said(&self, uid: &str, event: &crate::pod::event::KubeEvent, node: &Node) {
        let spec = node.pods().find(|spec| spec.uid == uid);
        if let Some(spec) = spec {
            self.events.borrow_mut().say(&Said::of_pod(spec, event, &self.host.name));
        }
    }

    /// Nothing is left of a pod: its object goes, and what waited for its place comes.
    pub fn removed(&mut self, uid: &str, node: &mut Node) {
        self.leaving.forget(uid);
        let known = self.known.remove(uid);
        if let Some(next) = known.as_ref().and_then(|known| known.next.clone()) {
            self.ended.retain(|_, (at, _)| at.elapsed() < ENDED_IS_KNOWN);
            self.ended.insert(uid.to_owned(), (Instant::now(), next));
        }
        if let Some(object) = known.and_then(|known| self.store.get(&known.key)) {
            let is_wanted = self.claimed.borrow().contains(uid);
            match read(&object) {
                Some(pod) if pod.metadata.uid.as_deref() == Some(uid) && !is_wanted => self.remove(&pod),
                // Another pod of this name, or the same static pod that its file wants again.
                _ => self.sync(&object, node),
            }
        } else {
            let (objects, _) = self.store.list(PODS, None);
            objects.iter().for_each(|object| self.sync(object, node));
        }
        self.retry(node);
    }

    /// Deletes the object of a pod that has ended; finalizers keep it (DE4).
    fn remove(&self, pod: &Pod) {
        if pod.metadata.finalizers.iter().flatten().next().is_some() {
            return;
        }
        let (store, key, uid) = (self.store.clone(), key_of(pod), pod.metadata.uid.clone());
        tokio::task::spawn_local(async move {
            loop {
                let Some(object) = store.get(&key).filter(|object| known_uid(object) == uid) else { return };
                let change = Change::Delete { key: key.clone(), expected: Some(object.version) };
                match store.commit(change, Durability::Disk).await {
                    Ok(_) | Err(StoreError::NotFound(_)) => return,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => {
                        tracing::error!("delete {key}: {error}");
                        tokio::time::sleep(WRITE_AGAIN).await;
                    }
                }
            }
        });
    }

    // Scheduling.

    /// Binds a pod that fits; another one stays Pending and says why.
    fn schedule(&mut self, object: &Object, pod: &Pod, node: &mut Node) {
        let Some(spec) = &pod.spec else { return };
        let name = spec.scheduler_name.as_deref().unwrap_or(SCHEDULER);
        let gated = spec.scheduling_gates.iter().flatten().next().is_some();
        if spec.node_name.as_deref().is_some_and(|name| !name.is_empty()) || name != SCHEDULER || gated {
            return;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return self.remove(pod);
        }
        if self.refusing {
            self.pending.insert(object.key.clone());
            return;
        }
        let awaited = self.take_promise(pod.metadata.uid.as_deref().unwrap_or_default());
        let used = self.taken(node, priority(pod), &BTreeSet::new());
        let neighbours = || self.neighbours();
        let claims = self.claims_fit(pod);
        match claims.and_then(|()| schedule::fit(pod, &self.host, &used, &neighbours)) {
            Ok(()) => self.bind(object, pod),
            Err(misfit) => {
                self.pending.insert(object.key.clone());
                let preemption = self.preempt(pod, &misfit, &awaited, node);
                self.tell_why(object, pod, &misfit, &preemption);
            }
        }
    }

    /// Why a pod stays Pending, and whether room is being made for it.
    fn tell_why(&self, object: &Object, pod: &Pod, misfit: &Misfit, preemption: &Preemption) {
        let message = misfit.message(preemption);
        let nominated = preemption.nominates().then_some(self.host.name.as_str());
        let shown = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
        if unschedulable_message(pod) != Some(&message) {
            self.events.borrow_mut().say(&Said::failed_scheduling(pod, &message));
        } else if nominated == shown {
            return;
        }
        self.commit_now(object, |value| schedule::mark_unschedulable(value, &message, nominated));
    }

    fn claims_fit(&self, pod: &Pod) -> Result<(), Misfit> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claim = |name: &str| self.store.get(&Key::new(controller::CLAIMS, namespace, name))?.read().ok();
        let classes = || {
            let (objects, _) = self.store.list(controller::CLASSES, None);
            objects.iter().filter_map(|object| object.read().ok()).collect()
        };
        schedule::claims_fit(pod, &claim, &classes)
    }

    /// The other pods as they are stored; only affinity asks for them.
    fn neighbours(&self) -> Vec<Pod> {
        let (objects, _) = self.store.list(PODS, None);
        let living = |pod: &Pod| self.is_ours(pod) && !matches!(phase(pod), Some("Succeeded" | "Failed"));
        objects.iter().filter_map(read).filter(living).collect()
    }

    fn bind(&mut self, object: &Object, pod: &Pod) {
        let name = self.host.name.clone();
        self.events.borrow_mut().say(&Said::scheduled(pod, &name));
        self.room.bound(pod.metadata.uid.as_deref().unwrap_or_default(), pod);
        // The feed brings it back with its node's name.
        self.commit_now(object, |value| schedule::mark_bound(value, &name));
    }

    /// One change of exactly this version; if somebody was quicker, the feed brings the pod again.
    fn commit_now(&self, object: &Object, change: impl FnOnce(&mut Value)) {
        let mut value = object.value();
        change(&mut value);
        let change = Change::Update { key: object.key.clone(), expected: Some(object.version), value };
        let answer = self.store.commit(change.clone(), Durability::Kernel);
        let store = self.store.clone();
        tokio::task::spawn_local(async move {
            let mut answer = answer.await;
            while let Err(error @ StoreError::Io { .. }) = &answer {
                tracing::error!("schedule: {error}");
                tokio::time::sleep(WRITE_AGAIN).await;
                answer = store.commit(change.clone(), Durability::Kernel).await;
            }
            match answer {
                Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound(_)) => {}
                Err(error) => tracing::error!("schedule: {error}"),
            }
        });
    }

    /// Something became free.
    pub fn retry(&mut self, node: &mut Node) {
        self.retry_resizes(node);
        for object in self.take_pending() {
            self.sync(&object, node);
        }
    }

    /// How many pods are here, for the status line.
    pub fn count(&self) -> usize {
        self.known.len()
    }
}

/// Writes until nothing newer is there.
async fn write_all(store: &Store, key: &Key, uid: &str, around: &Surroundings, slot: &RefCell<Writing>) {
    loop {
        let next = slot.borrow_mut().next.take();
        let Some(status) = next else {
            slot.borrow_mut().busy = false;
            return;
        };
        if let Err(error) = write(store, key, uid, &status::status(&status, around), slot).await {
            tracing::error!("write the status of {key}: {error}");
            tokio::time::sleep(WRITE_AGAIN).await;
            slot.borrow_mut().next.get_or_insert(status);
        }
    }
}

async fn write(
    store: &Store,
    key: &Key,
    uid: &str,
    status: &PodStatus,
    slot: &RefCell<Writing>,
) -> Result<(), StoreError> {
    for _ in 0..WRITES_MAX {
        let Some(object) = store.get(key).filter(|object| known_uid(object).as_deref() == Some(uid)) else {
            return Ok(());
        };
        let mut value = object.value();
        if !put_status(&mut value, status) {
            return Ok(());
        }
        let change = Change::Update { key: key.clone(), expected: Some(object.version), value };
        match store.commit(change, Durability::Kernel).await {
            Ok(written) => {
                slot.borrow_mut().version = Some(written.version);
                return Ok(());
            }
            Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
            Err(StoreError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Replaces what the node owns of a status; false when that changes nothing.
fn put_status(value: &mut Value, status: &PodStatus) -> bool {
    let Ok(mut new) = serde_json::to_value(status) else { return false };
    let old = value.get("status").cloned().unwrap_or_default();
    for kept in ["nominatedNodeName", "resourceClaimStatuses", "resize"] {
        if let Some(own) = old.get(kept) {
            new[kept] = own.clone();
        }
    }
    // A condition that somebody wrote a moment ago, and that the machine has not heard of.
    let known: BTreeSet<String> = kinds(&new).collect();
    let foreign = old["conditions"].as_array().into_iter().flatten();
    let foreign = foreign.filter(|condition| {
        condition["type"].as_str().is_some_and(|kind| !known.contains(kind) && !status::is_own(kind))
    });
    let foreign: Vec<Value> = foreign.cloned().collect();
    if let Some(all) = new["conditions"].as_array_mut() {
        all.splice(0..0, foreign);
    }
    let changed = old != new;
    value["status"] = new;
    changed
}

fn kinds(status: &Value) -> impl Iterator<Item = String> {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.filter_map(|condition| condition["type"].as_str().map(str::to_owned)).collect::<Vec<_>>().into_iter()
}

fn unschedulable_message(pod: &Pod) -> Option<&String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "PodScheduled")?.message.as_ref()
}

/// The pod as the node knows it: a static one under its own uid, not its mirror's (ST3).
pub(super) fn read(object: &Object) -> Option<Pod> {
    let read = object.read().inspect_err(|error| tracing::error!("{} is no Pod: {error}", object.key));
    let mut pod: Pod = read.ok()?;
    if machine::is_static(&pod) {
        pod.metadata.uid = Some(machine::uid(&pod).to_owned());
    }
    Some(pod)
}

/// Of the instances that were made; the others still have their numbers.
fn next_instances(status: &Status) -> BTreeMap<String, u32> {
    let made = status.init.iter().chain(&status.apps).filter(|own| !own.id.is_empty() || own.last.is_some());
    made.map(|own| (own.name.clone(), own.restart_count.saturating_add(1))).collect()
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

pub(super) fn key_of(pod: &Pod) -> Key {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Key::new(PODS, &text(&pod.metadata.namespace), &text(&pod.metadata.name))
}

/// Of an object, without decoding the rest.
#[derive(serde::Deserialize)]
struct Head {
    metadata: Metadata,
}

#[derive(serde::Deserialize)]
struct Metadata {
    uid: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(serde::Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

fn head(object: &Object) -> Option<Metadata> {
    serde_json::from_str::<Head>(&object.text).ok().map(|head| head.metadata)
}

/// The object's own.
pub(super) fn uid_of(object: &Object) -> Option<String> {
    head(object)?.uid
}

/// As of [`read`].
fn known_uid(object: &Object) -> Option<String> {
    let Metadata { uid, annotations } = head(object)?;
    annotations.and_then(|annotations| annotations.mirror).or(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// CO11: what others wrote stays, what the node owns is replaced.
    #[test]
    fn a_status_leaves_foreign_conditions() {
        let mut value = json!({"status": {
            "nominatedNodeName": "n",
            "conditions": [{"type": "example.com/gate", "status": "True"}, {"type": "Ready", "status": "False"}]
        }});
        let condition = |kind: &str| k8s_openapi::api::core::v1::PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            ..Default::default()
        };
        let status = PodStatus { conditions: Some(vec![condition("Ready")]), ..PodStatus::default() };
        assert!(put_status(&mut value, &status));
        let kinds: Vec<_> = kinds(&value["status"]).collect();
        assert_eq!(kinds, ["example.com/gate", "Ready"]);
        assert_eq!(value["status"]["nominatedNodeName"], "n");
        assert_eq!(value["status"]["conditions"][1]["status"], "True");
        assert!(!put_status(&mut value, &status));
    }

    /// ST3
    #[test]
    fn the_objects_of_a_static_pod_are_known_by_the_pod_s_uid() {
        let object = |metadata: Value| Object {
            key: Key::new(PODS, "default", "p"),
            version: Version(1),
            text: json!({"metadata": metadata}).to_string().into(),
        };
        let mirror = object(json!({"uid": "random", "annotations": {machine::MIRROR: "hash"}}));
        assert_eq!((known_uid(&mirror).as_deref(), uid_of(&mirror).as_deref()), (Some("hash"), Some("random")));
        assert_eq!(read(&mirror).unwrap().metadata.uid.as_deref(), Some("hash"));
        let plain = object(json!({"uid": "own", "annotations": {"a": "b"}}));
        assert_eq!(
            (known_uid(&plain).as_deref(), read(&plain).unwrap().metadata.uid.as_deref()),
            (Some("own"), Some("own"))
        );
    }

    /// LF6
    #[test]
    fn a_static_pod_counts_on_from_the_instances_that_were_made() {
        let mut spec = PodSpec::new("ns", "p", "u");
        spec.containers.push(crate::pod::spec::ContainerSpec::new("c", crate::pod::spec::Role::App, "i"));
        let now = crate::pod::timer::Now { mono: crate::pod::timer::Instant(1), wall: crate::pod::timer::WallTime(1) };
        let mut status = crate::pod::machine::Machine::new(spec, now).status();
        assert_eq!(next_instances(&status), BTreeMap::new());
        status.apps[0].id = "monopod://1".to_owned();
        assert_eq!(next_instances(&status), BTreeMap::from([("c".to_owned(), 1)]));
    }
}
