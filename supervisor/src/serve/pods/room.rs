//! Room for pods that matter more than others: who is driven out, and that nobody else takes the place meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::super::admit::{self, Refusal};
use super::super::drain::{BY_KUBELET, disruption};
use super::super::events::Said;
use super::super::preempt::{self, Running};
use super::super::schedule::{self, Misfit, Preemption, Usage};
use super::{Known, Pods};
use crate::node::Node;
use crate::store::{Key, Object};

/// What is kept free.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Critical pods at the door, whose victims have not ended; by uid.
    critical: BTreeMap<String, Critical>,
    /// Pods that the scheduler has bound a moment ago, or drives others out for; by uid.
    promised: BTreeMap<String, Promise>,
}

#[derive(Debug)]
struct Critical {
    key: Key,
    usage: Usage,
    victims: Vec<String>,
}

#[derive(Debug)]
struct Promise {
    usage: Usage,
    /// Whom it holds back: pods of no higher priority.
    until: i32,
    victims: BTreeSet<String>,
}

impl Room {
    /// What critical pods wait for.
    pub(super) fn waited_for(&self) -> impl Iterator<Item = &Usage> {
        self.critical.values().map(|own| &own.usage)
    }

    /// What a pod of this priority may not take.
    fn kept_from(&self, priority: i32) -> impl Iterator<Item = &Usage> {
        let promised = self.promised.values().filter(move |own| own.until >= priority);
        promised.map(|own| &own.usage).chain(self.waited_for())
    }

    /// It is on the node, or is no more.
    pub(super) fn forget(&mut self, uid: &str) {
        self.critical.remove(uid);
        self.promised.remove(uid);
    }

    /// Only these are left.
    pub(super) fn keep(&mut self, there: &BTreeSet<String>) {
        self.critical.retain(|uid, _| there.contains(uid));
        self.promised.retain(|uid, _| there.contains(uid));
    }

    /// It was bound: nobody else gets its place until it comes.
    pub(super) fn bound(&mut self, uid: &str, pod: &Pod) {
        let promise = Promise { usage: Usage::of(pod), until: i32::MAX, victims: BTreeSet::new() };
        self.promised.insert(uid.to_owned(), promise);
    }
}

pub(super) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

impl Pods {
    /// Whether a critical pod still waits for its victims.
    pub(super) fn awaits_room(&self, uid: &str, node: &Node) -> bool {
        let waits = |own: &Critical| own.victims.iter().any(|victim| !node.is_finished(victim));
        self.room.critical.get(uid).is_some_and(waits)
    }

    /// Lets critical pods in whose victims have ended.
    pub fn admit_waiting(&mut self, node: &mut Node) {
        if self.room.critical.is_empty() {
            return;
        }
        let ready = self.room.critical.iter().filter(|(uid, _)| !self.awaits_room(uid, node));
        let ready: Vec<Object> = ready.filter_map(|(_, own)| self.store.get(&own.key)).collect();
        ready.iter().for_each(|object| self.sync(object, node));
    }

    /// Drives out who is in a critical pod's way; none while it waits for that, else why it is refused.
    pub(super) fn make_room(&mut self, uid: &str, object: &Object, pod: &Pod, node: &mut Node) -> Option<Refusal> {
        let used = self.used(node, None);
        if let Some(refusal) = admit::besides_resources(pod, &self.host, &used) {
            return Some(refusal);
        }
        let short = admit::shortages(pod, &self.host, &used);
        let running = self.running(node, |known| known.critical);
        let victims = match preempt::for_critical(&short, &running) {
            Ok(victims) => victims,
            Err(error) => return Some(Refusal::unexpected(&error)),
        };
        for victim in &victims {
            tracing::info!(pod = victim, "{}", preempt::BY_CRITICAL);
            node.change(victim, |machine, now| {
                let generation = machine.spec().generation;
                machine.set_condition(disruption(BY_KUBELET, preempt::FOR_CRITICAL, generation, now.wall), now);
                machine.preempt(preempt::BY_CRITICAL, now);
            });
        }
        let waiting = Critical { key: object.key.clone(), usage: Usage::of(pod), victims };
        self.room.critical.insert(uid.to_owned(), waiting);
        None
    }

    /// The pods that live, but for those that stay in any case.
    fn running<'a>(&'a self, node: &Node, stays: impl Fn(&Known) -> bool) -> Vec<Running<'a>> {
        let living = self.known.iter().filter_map(|(uid, known)| {
            let status = node.status(uid).filter(|status| !status.phase.is_final())?;
            let (usage, qos, priority) = (&known.reserved, known.qos, known.priority);
            Some(Running { uid, usage, qos, priority, stays: stays(known), started: status.start_time.0 })
        });
        living.collect()
    }

    /// What a pod of this priority finds taken, but for what these have.
    pub(super) fn taken(&self, node: &Node, priority: i32, without: &BTreeSet<&str>) -> Vec<&Usage> {
        let living = self.known.iter().filter(|(uid, _)| !without.contains(uid.as_str()));
        let living = living.filter(|(uid, _)| node.status(uid).is_some_and(|status| !status.phase.is_final()));
        living.map(|(_, known)| &known.reserved).chain(self.room.kept_from(priority)).collect()
    }

    /// Whether and how a pod that did not fit gets room: the scheduler deletes who matters less (CO6).
    pub(super) fn preempt(&mut self, pod: &Pod, misfit: &Misfit, awaited: &Awaited, node: &mut Node) -> Preemption {
        if pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
            return Preemption::Never;
        }
        if !misfit.is_preemptible() {
            return Preemption::NoVictims;
        }
        let (own, neighbours) = (priority(pod), self.neighbours());
        let usage = Usage::of(pod);
        let leaving = self.leaving_for(pod, awaited, &neighbours, node);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !leaving.is_empty() {
            self.room.promised.insert(uid, Promise { usage, until: own, victims: leaving });
            return Preemption::Terminating;
        }
        let fits = |gone: &BTreeSet<&str>| {
            let used = self.taken(node, own, gone);
            let left = || {
                let stays = |other: &&Pod| other.metadata.uid.as_deref().is_none_or(|uid| !gone.contains(uid));
                neighbours.iter().filter(stays).cloned().collect()
            };
            schedule::fit(pod, &self.host, &used, &left)
        };
        // A static pod comes back whatever becomes of its object.
        let running = self.running(node, |known| known.next.is_some());
        let victims = match preempt::for_priority(own, &running, &fits) {
            Ok(victims) => victims,
            Err(None) => return Preemption::NoVictims,
            Err(Some(misfit)) => return Preemption::Unhelpful(misfit),
        };
        for victim in &victims {
            let found = neighbours.iter().find(|other| other.metadata.uid.as_ref() == Some(victim));
            if let Some(found) = found.filter(|found| found.metadata.deletion_timestamp.is_none()) {
                self.events.borrow_mut().say(&Said::preempted(found, &uid, &self.host.name));
                self.end_for(found, node, preempt::BY_SCHEDULER);
            }
        }
        self.room.promised.insert(uid, Promise { usage, until: own, victims: victims.into_iter().collect() });
        Preemption::Nominated
    }

    /// Who is on the way out for this pod: as far as is remembered, or shown after a restart.
    fn leaving_for(&self, pod: &Pod, awaited: &Awaited, neighbours: &[Pod], node: &Node) -> BTreeSet<String> {
        let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
        let leaves = |other: &&Pod| {
            let conditions = other.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let disrupted = conditions.into_iter().any(|own| own.reason.as_deref() == Some(preempt::BY_SCHEDULER.0));
            other.metadata.deletion_timestamp.is_some() && disrupted && priority(other) < priority(pod)
        };
        let shown = neighbours.iter().filter(leaves).filter_map(|other| other.metadata.uid.clone());
        let shown: Vec<String> = if nominated == Some(&self.host.name) { shown.collect() } else { Vec::new() };
        let all = awaited.0.iter().cloned().chain(shown);
        all.filter(|uid| node.has(uid) && !node.is_finished(uid)).collect()
    }

    /// What the scheduler promised a pod, until it has looked at it again.
    pub(super) fn take_promise(&mut self, uid: &str) -> Awaited {
        Awaited(self.room.promised.remove(uid).map(|own| own.victims).unwrap_or_default())
    }

    /// Pods that found no place, those of high priority first.
    pub(super) fn take_pending(&mut self) -> Vec<Object> {
        let all = std::mem::take(&mut self.pending);
        let mut all: Vec<Object> = all.iter().filter_map(|key| self.store.get(key)).collect();
        all.sort_by_cached_key(|object| std::cmp::Reverse(super::read(object).map_or(0, |pod| priority(&pod))));
        all
    }
}

/// Victims whose end a pod waits for.
#[derive(Debug)]
pub(super) struct Awaited(BTreeSet<String>);
