//! Pods of an earlier life of the daemon: what their machines remember meets what the engine shows (D43).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec as ApiSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::context::{Context, Known};
use super::snapshots::Kept;
use super::{Node, clock, launch, volumes};
use crate::convert::launch::LaunchPlan;
use crate::convert::machine;
use crate::convert::slots::{Needed, SeccompProfile};
use crate::engine::Engine;
use crate::engine::adopt::{Adopted, AdoptedContainer};
use crate::engine::record::{Owner, SandboxRecord};
use crate::monitor::protocol::ContainerState;
use crate::pod::action::Instance;
use crate::pod::event::{Boot, Event, Observed, ObservedState, SandboxReady};
use crate::pod::machine::Machine;
use crate::runtime::launch::Process;

/// How long containers of a pod that nothing is remembered of get between SIGTERM and SIGKILL, if no object says it.
const UNKNOWN_GRACE: Duration = Duration::from_secs(30);
/// How often such containers are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Kept in a sandbox's owner record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SandboxMemo {
    pub attempt: u32,
}

/// Kept in a container's owner record: what probes and hooks by exec need.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ContainerMemo {
    instance: Instance,
    process: Process,
    seccomp: Option<SeccompProfile>,
}

impl ContainerMemo {
    pub(super) fn new(instance: Instance, plan: &LaunchPlan) -> Self {
        let seccomp = plan.needed.iter().find_map(|needed| match needed {
            Needed::Seccomp(profile) => Some(profile.clone()),
            Needed::Layer(_) | Needed::Scratch | Needed::Volume { .. } | Needed::HostShm => None,
        });
        Self { instance, process: plan.launch.process.clone(), seccomp }
    }
}

/// What became of the pods.
#[derive(Debug, Default)]
pub struct Adoption {
    /// They go on.
    pub adopted: Vec<String>,
    /// Their objects are gone: they are on their way to their end.
    pub orphans: Vec<String>,
    /// Nothing is remembered of them; they have to be added, once `ending` has given their uid if it has it.
    pub fresh: Vec<Pod>,
    /// What nobody remembers is asked to end, then ended: the uids of those of which nothing is left.
    pub ending: JoinSet<String>,
    /// All uids that `ending` will give.
    pub unremembered: BTreeSet<String>,
}

type Found = (SandboxRecord, Adopted);

impl Node {
    /// Once, before anything else happens: takes over every pod that something is left of. `pods` are those that should
    /// run here, by uid.
    pub async fn adopt(&mut self, mut pods: BTreeMap<String, Pod>) -> Adoption {
        let mut kept = self.settings.snapshots.as_ref().map(super::Snapshots::load).unwrap_or_default();
        let mut found = look(&self.engine).await;
        let mut done = Adoption::default();
        for (uid, kept) in std::mem::take(&mut kept) {
            if kept.spec.static_pod && kept.snapshot.ending_reason() == self.settings.comes_back {
                // It was ended for a shutdown, and its manifest is still there.
                continue;
            }
            let pod = pods.remove(&uid);
            let sandboxes = found.remove(&uid).unwrap_or_default();
            let orphan = pod.is_none();
            let pod = pod.unwrap_or_else(|| bare(&kept));
            match self.adopt_one(kept, pod.clone(), &sandboxes).await {
                Ok(()) if orphan => {
                    self.delete(&uid);
                    done.orphans.push(uid);
                }
                Ok(()) => done.adopted.push(uid),
                Err(error) => {
                    tracing::error!("{error}; it starts anew");
                    found.insert(uid.clone(), sandboxes);
                    pods.extend((!orphan).then_some((uid, pod)));
                }
            }
        }
        for (uid, sandboxes) in found {
            let grace = pods.get(&uid).and_then(grace_of).unwrap_or(UNKNOWN_GRACE);
            let engine = self.engine.clone();
            done.unremembered.insert(uid.clone());
            done.ending.spawn_local(async move {
                for (record, adopted) in sandboxes {
                    end(&engine, &record, &adopted, grace).await;
                }
                uid
            });
        }
        done.fresh = pods.into_values().collect();
        done
    }

    async fn adopt_one(
        &mut self,
        mut kept: Kept,
        pod: Pod,
        sandboxes: &[Found],
    ) -> Result<(), crate::pod::adopt::AdoptError> {
        let same = self.settings.snapshots.as_ref().is_some_and(|snapshots| snapshots.is_of_this_boot(&kept));
        let boot = if same { Boot::Same } else { Boot::New };
        machine::fill_resources(&mut kept.spec, &pod);
        let context = self.context(machine::allocated(&pod, &kept.spec), &kept.spec);
        let observed = observe(&context, sandboxes);
        tracing::debug!(pod = kept.spec.name, "adopting: {observed:?}");
        let uid = kept.spec.uid.clone();
        let machine = Machine::adopt(kept.spec, kept.snapshot, observed, boot, clock::now())?;
        // Also for one that will get a new sandbox: it remembers that its volumes are there.
        if !machine.is_finished()
            && let Err(failure) = volumes::set_up(&context).await
        {
            tracing::warn!(pod = context.reference.name, volume = failure.volume, "{}", failure.message);
        }
        self.insert(uid, machine, context);
        Ok(())
    }
}

/// Every sandbox of the service with its containers, by the pod's uid; all monitors are asked at the same time.
async fn look(engine: &Engine) -> BTreeMap<String, Vec<Found>> {
    let ours = engine.sandboxes().into_iter().filter(|record| record.owner == Owner::Service);
    let asking = ours.map(|record| {
        let engine = engine.clone();
        tokio::task::spawn_local(async move {
            let adopted = engine.adopt_sandbox(&record).await;
            (record, adopted)
        })
    });
    let mut found = BTreeMap::<String, Vec<Found>>::new();
    for task in asking.collect::<Vec<_>>() {
        match task.await {
            Ok((record, adopted)) => found.entry(record.pod.uid.clone()).or_default().push((record, adopted)),
            Err(error) => tracing::error!("look for what runs: {error}"),
        }
    }
    found
}

/// Fills the context with what is known, and tells what runs.
fn observe(context: &Rc<Context>, sandboxes: &[Found]) -> Observed {
    let mut observed = Observed::default();
    let mut newest = None;
    for (record, adopted) in sandboxes {
        let Ok(memo) = serde_json::from_value::<SandboxMemo>(record.memo.clone()) else { continue };
        context.know_sandbox(memo.attempt, record.id.clone());
        if let Some(addresses) = &adopted.live
            && newest < Some(memo.attempt)
        {
            newest = Some(memo.attempt);
            let host = !record.network;
            let ips = if host { context.settings.node.ips.clone() } else { addresses.clone() };
            context.set_addresses(ips.clone());
            observed.sandbox = Some((memo.attempt, SandboxReady { ips }));
        }
        observed.containers.extend(adopted.containers.iter().filter_map(|own| observe_container(context, own)));
    }
    observed
}

fn observe_container(context: &Rc<Context>, own: &AdoptedContainer) -> Option<(Instance, ObservedState)> {
    let memo: ContainerMemo = serde_json::from_value(own.record.memo.clone()).ok()?;
    let (instance, capabilities) = (memo.instance, memo.process.capabilities.bounding);
    let seccomp = memo.seccomp.and_then(|profile| {
        let program = launch::seccomp_program(context, &profile, capabilities);
        program.inspect_err(|error| context.warn(error.to_string())).ok()
    });
    let known = Known {
        id: own.record.id.clone(),
        sandbox: own.record.sandbox.clone(),
        process: Some(Rc::new(memo.process)),
        seccomp: seccomp.map(Rc::new),
    };
    context.know(instance, known);
    let state = match own.state.as_ref()? {
        ContainerState::Created => ObservedState::Created,
        ContainerState::Running { started_at } => ObservedState::Running { started: clock::wall(started_at) },
        ContainerState::Exited(record) => match context.exited(record)? {
            Event::ContainerExited { exit, .. } => ObservedState::Exited(exit),
            Event::Done { .. }
            | Event::PullStarted { .. }
            | Event::ContainerLost { .. }
            | Event::SandboxLost { .. } => return None,
        },
    };
    Some((instance, state))
}

/// As much of a Pod as its end needs, when the object is gone.
fn bare(kept: &Kept) -> Pod {
    let spec = &kept.spec;
    Pod {
        metadata: ObjectMeta {
            namespace: Some(spec.namespace.clone()),
            name: Some(spec.name.clone()),
            uid: Some(spec.uid.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(ApiSpec { host_network: Some(spec.host_network), ..ApiSpec::default() }),
        status: None,
    }
}

fn grace_of(pod: &Pod) -> Option<Duration> {
    let seconds = pod.spec.as_ref()?.termination_grace_period_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

async fn end(engine: &Engine, record: &SandboxRecord, adopted: &Adopted, grace: Duration) {
    tracing::warn!(pod = record.pod.name, sandbox = %record.id, "nothing is remembered of it: ending it");
    let running = adopted.containers.iter().filter(|own| matches!(own.state, Some(ContainerState::Running { .. })));
    let ids: Vec<_> = running.map(|own| own.record.id.clone()).collect();
    for id in &ids {
        if let Err(error) = engine.signal_container(&record.id, id, libc::SIGTERM).await {
            tracing::warn!(container = %id, "{error}");
        }
    }
    let ended = async {
        while ids.iter().any(|id| engine.exit_record(&record.id, id).is_none()) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if adopted.live.is_some() && tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(pod = record.pod.name, "its containers did not end when they were asked to");
    }
    for own in &adopted.containers {
        if let Err(error) = engine.remove_container(&record.id, &own.record.id).await {
            tracing::warn!(container = %own.record.id, "{error}");
        }
    }
    if let Err(error) = engine.remove_sandbox(&record.id).await {
        tracing::warn!(sandbox = %record.id, "{error}");
    }
}
