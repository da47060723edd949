//! What the daemon does about what was found.

use tokio::time::Instant;

use super::super::drain::{BY_KUBELET, disruption};
use super::super::events::Said;
use super::super::{Daemon, Host};
use super::look::{Limits, Looked, Reclaimed};
use super::signal::Met;
use super::victim::{self, Victim};
use super::{Pressure, Pressures};
use crate::node::PodStats;
use crate::pod::event::Severity;

impl Daemon {
    pub(in super::super) fn limits(&self) -> Limits {
        Limits::new(&self.config, &self.images)
    }

    /// Something was written, given back, or is looked at again.
    pub(in super::super) fn look(&mut self) {
        self.pressure.changed(&self.limits(), &self.node.sessions());
    }

    /// The watchdog.
    pub(in super::super) fn glance(&mut self) {
        self.pressure.glance(&self.limits(), &self.node.sessions());
    }

    pub(in super::super) fn stalled(&mut self) {
        self.pressure.stalled(&self.limits(), &self.node.sessions());
    }

    /// After whatever happened.
    pub(in super::super) fn peek(&mut self) {
        if self.pressure.victim().is_some_and(|uid| self.node.is_finished(uid)) {
            self.pressure.is_rid();
            return self.look();
        }
        let (config, images) = (&self.config, &self.images);
        self.pressure.peek(|| Limits::new(config, images), &self.node.sessions(), Instant::now());
    }

    pub(in super::super) async fn looked(&mut self, looked: Result<Looked, String>) {
        if self.pressure.take_again() {
            self.look();
        }
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) => return tracing::error!("look at what the node has left: {error}"),
        };
        if !looked.removed.is_empty() {
            tracing::info!("removed images that nobody uses, the disk is nearly full: {}", looked.removed.join(", "));
        }
        if self.pressure.fails_anew(looked.failure.is_some())
            && let Some(failure) = &looked.failure
        {
            self.say_of_node(Severity::Warning, "FreeDiskSpaceFailed", failure);
        }
        let period = self.config.eviction_pressure_transition_period;
        let shown = self.pressure.judge(&looked, period, Instant::now());
        self.show(shown, !looked.removed.is_empty()).await;
        if let Some((met, reclaimed)) = looked.most_urgent {
            self.reclaim(&met, reclaimed, &looked);
        }
    }

    /// The list of images is a part of the node's status, too.
    async fn show(&mut self, shown: Pressures, images_changed: bool) {
        if shown == self.host.pressure && !images_changed {
            return;
        }
        for pressure in Pressure::ALL {
            let holds = shown.contains(pressure);
            if holds != self.host.pressure.contains(pressure) {
                let reason = pressure.event(holds);
                let text = format!("Node {} status is now: {reason}", self.host.name);
                self.say_of_node(Severity::Normal, &reason, &text);
            }
        }
        let mut host = Host::clone(&self.host);
        host.pressure = shown;
        self.host = std::rc::Rc::new(host);
        self.publish_node().await;
        self.pods.set_host(self.host.clone(), &mut self.node);
    }

    /// One pod goes, when nothing else helps (EV5).
    fn reclaim(&mut self, met: &Met, reclaimed: Reclaimed, looked: &Looked) {
        let scarce = met.signal.scarce();
        self.say_of_node(Severity::Warning, "EvictionThresholdMet", &format!("Attempting to reclaim {scarce}"));
        // A victim is still on its way; a draining node ends all pods anyway.
        if reclaimed == Reclaimed::Enough || self.pressure.victim().is_some() || self.drain.is_some() {
            return;
        }
        // What ended pods wrote is of no use to anybody; the next look tells whether that sufficed.
        if scarce.is_of_disk() && self.node.discard_ended() > 0 {
            return self.look();
        }
        // One that has ended since, or is ending, gives back what it has anyway.
        let lives = |uid: &str| self.node.status(uid).is_some_and(|status| !status.phase.is_final());
        let living: Vec<PodStats> = looked.pods.iter().filter(|own| lives(&own.uid)).cloned().collect();
        match victim::choose(met, &living) {
            Some(victim) => self.evict(victim),
            None => tracing::warn!("{scarce} is scarce, and no pod is here that may be evicted"),
        }
    }

    /// EV7, CO6
    fn evict(&mut self, victim: Victim) {
        let Victim { uid, message } = victim;
        tracing::warn!(pod = uid, "evicted: {message}");
        self.node.change(&uid, |machine, now| {
            machine.set_condition(disruption(BY_KUBELET, &message, machine.spec().generation, now.wall), now);
            machine.evict(&message, now);
        });
        self.pressure.evicts(uid, Instant::now());
    }

    pub(in super::super) fn say_of_node(&self, severity: Severity, reason: &str, text: &str) {
        self.events.borrow_mut().say(&Said::of_node(&self.host.name, severity, reason, text));
    }
}
