//! Doing what a machine asks for: each action is a task that ends with its outcome.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use k8s_openapi::api::core::v1::PodSpec as ApiSpec;
use netsetup::hostname::{self, Names};
use netsetup::hosts;
use netsetup::resolv::{self, ClusterDns};
use tokio::sync::mpsc;

use super::adopt::{ContainerMemo, SandboxMemo};
use super::context::{CLUSTER_DOMAIN, Context, Known, Turn};
use super::{Input, clock, images, launch, probes, volumes};
use crate::convert::launch::{self as plan};
use crate::convert::mounts::{PodFile, termination_log};
use crate::convert::{resources, sandbox};
use crate::engine::container::{ContainerRequest, LogRequest, ResizeRequest};
use crate::engine::error::EngineError;
use crate::engine::id::ContainerId;
use crate::engine::sandbox::SandboxRequest;
use crate::monitor::client::ClientError;
use crate::monitor::protocol::{MonitorError, PidNamespace};
use crate::pod::action::{Action, Instance, Todo};
use crate::pod::event::{Created, Outcome, SandboxReady, StartFailure, StartFailureKind, User};
use crate::pod::spec::Resources;
use crate::runtime::launch::Process;
use crate::user_namespace::support;

/// Prefix of a container's id in the API.
const RUNTIME: &str = "monopod://";

/// Starts the action's task; its outcome goes into the driver's queue.
pub(super) fn start(
    context: &Rc<Context>,
    action: Action,
    inbox: &mpsc::UnboundedSender<Input>,
) -> tokio::task::AbortHandle {
    let (context, inbox) = (context.clone(), inbox.clone());
    let task = tokio::task::spawn_local(async move {
        let uid = context.reference.uid.clone();
        let pull_started = {
            let (inbox, uid) = (inbox.clone(), uid.clone());
            move || {
                let _ending = inbox.send(Input::PullStarted { uid: uid.clone(), action: action.id });
            }
        };
        tracing::debug!(pod = context.reference.name, "doing {:?}", action.todo);
        let outcome = execute(&context, &action.todo, &pull_started).await;
        tracing::debug!(pod = context.reference.name, "done {:?}: {outcome:?}", action.id);
        if let Some(outcome) = outcome {
            // Fails only when the driver is gone, and then nobody needs it.
            let _ending = inbox.send(Input::Done { uid, action: action.id, outcome });
        }
    });
    task.abort_handle()
}

/// None for actions that have no answer.
async fn execute(context: &Rc<Context>, todo: &Todo, pull_started: &dyn Fn()) -> Option<Outcome> {
    let turn = turn_of(todo).map(|turn| context.turn(turn));
    let _turn = match &turn {
        Some(turn) => Some(turn.lock().await),
        None => None,
    };
    match todo {
        Todo::SetUpVolumes => Some(Outcome::VolumesSetUp(volumes::set_up(context).await)),
        Todo::CreateSandbox { attempt } => {
            let made = create_sandbox(context, *attempt).await;
            Some(Outcome::SandboxCreated(made.map_err(|error| error.to_string())))
        }
        Todo::EnsureImage { container, image, policy } => {
            let ensured = match images::ensure(context, image, *policy, pull_started).await {
                Ok(ready) => volumes::ensure_images(context, *container).await.map(|()| ready),
                Err(failure) => Err(failure),
            };
            Some(Outcome::Image(ensured))
        }
        Todo::CreateContainer { instance, .. } => {
            Some(Outcome::ContainerCreated(create_container(context, *instance).await))
        }
        Todo::StartContainer { instance } => Some(Outcome::ContainerStarted(start_container(context, *instance).await)),
        Todo::Signal { instance, signal } => {
            if let Some(known) = context.known(*instance) {
                report(context, context.engine.signal_container(&known.sandbox, &known.id, signal.0).await);
            }
            None
        }
        Todo::Kill { instance } => {
            if let Some(known) = context.known(*instance) {
                report(context, context.engine.kill_container(&known.sandbox, &known.id).await);
            }
            None
        }
        Todo::RemoveContainer { instance } => {
            Some(Outcome::ContainerRemoved(text(remove_container(context, *instance).await)))
        }
        Todo::RunProbe { instance, handler, timeout, .. } => {
            Some(Outcome::Probe(probes::probe(context, *instance, handler, *timeout).await))
        }
        Todo::RunHook { instance, handler, budget, .. } => {
            Some(Outcome::Hook(probes::hook(context, *instance, handler, *budget).await))
        }
        Todo::Resize { containers, lower } => {
            let resized = resize(context, containers, *lower);
            Some(Outcome::Resized(resized.map_err(|error| error.to_string())))
        }
        Todo::Cancel { .. } => None,
        Todo::StopSandbox { attempt } => Some(Outcome::SandboxStopped(text(stop_sandbox(context, *attempt).await))),
        Todo::TearDownVolumes => Some(Outcome::VolumesTornDown(text(volumes::tear_down(context)))),
        Todo::RemovePod => Some(Outcome::PodRemoved(text(remove_pod(context).await))),
    }
}

/// Signals and kills do not wait: the thing that they would wait for may be what has to be killed.
fn turn_of(todo: &Todo) -> Option<Turn> {
    match todo {
        Todo::SetUpVolumes
        | Todo::CreateSandbox { .. }
        | Todo::Resize { .. }
        | Todo::StopSandbox { .. }
        | Todo::TearDownVolumes
        | Todo::RemovePod => Some(Turn::Pod),
        Todo::CreateContainer { instance, .. }
        | Todo::StartContainer { instance }
        | Todo::RemoveContainer { instance } => Some(Turn::Instance(*instance)),
        Todo::EnsureImage { .. }
        | Todo::Signal { .. }
        | Todo::Kill { .. }
        | Todo::RunProbe { .. }
        | Todo::RunHook { .. }
        | Todo::Cancel { .. } => None,
    }
}

fn text(result: Result<(), EngineError>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

fn report(context: &Context, result: Result<(), EngineError>) {
    if let Err(error) = result {
        context.warn(error.to_string());
    }
}

async fn create_sandbox(context: &Context, attempt: u32) -> Result<SandboxReady, Box<dyn std::error::Error>> {
    let spec = context.api_spec().ok_or("pod has no spec")?;
    let user_namespaces = || support::check(&context.engine.dirs().data);
    sandbox::possible(spec, user_namespaces, |class| context.settings.objects.runtime_handler(class))?;
    let user_namespace = context.ids.get();
    if spec.host_users == Some(false) && user_namespace.is_none() {
        return Err("the pod has no ids of its own (hostUsers: false)".into());
    }
    let id = context.new_sandbox(attempt);
    let host = sandbox::host_namespaces(spec);
    let pod_resources = resources::pod(spec)?;
    let qos = cgroupd::qos::qos_class(&pod_resources);
    let names = context.names()?;
    let status = context
        .engine
        .create_sandbox(SandboxRequest {
            id: id.clone(),
            pod: context.reference.clone(),
            hostname: (!host.network).then(|| names.nodename.clone()),
            host,
            user_namespace,
            sysctls: sandbox::sysctls(spec),
            qos,
            settings: cgroupd::files::pod(&pod_resources, qos, &context.settings.resources),
            ports: sandbox::host_ports(spec),
            when_brain_dies: context.settings.when_brain_dies,
            directories: vec![context.dir(), context.log_dir()],
            memo: serde_json::to_value(SandboxMemo { attempt })?,
            files: context.pod_files(),
        })
        .await?;
    status.warnings.into_iter().for_each(|warning| context.warn(warning));
    let addresses = if host.network { context.settings.node.ips.clone() } else { status.addresses };
    context.set_addresses(addresses.clone());
    write_pod_files(context, spec, host.network, &names, &addresses)?;
    volumes::keep(context, &id, None).await?;
    context.engine.finish_sandbox(&id)?;
    Ok(SandboxReady { ips: addresses })
}

fn write_pod_files(
    context: &Context,
    spec: &ApiSpec,
    host_network: bool,
    names: &Names,
    addresses: &[IpAddr],
) -> Result<(), EngineError> {
    let Some(sandbox) = context.newest_sandbox() else { return Ok(()) };
    let aliases = sandbox::host_aliases(spec);
    let hosts = if host_network {
        hosts::host_network(&context.settings.hosts, &aliases)
    } else {
        hosts::pod(addresses, &names.hostname, names.domain.as_deref(), &aliases)
    };
    let (resolv, warnings) = resolv::merge(&resolv::Request {
        policy: sandbox::dns_policy(spec),
        host_network,
        namespace: &context.reference.namespace,
        pod: &context.description(),
        // There is none yet.
        cluster: &ClusterDns { servers: Vec::new(), domain: CLUSTER_DOMAIN.to_owned() },
        node: &context.settings.resolv,
        config: Some(&sandbox::dns_config(spec)),
    });
    // Everybody's default asks for a resolver that is not there; saying so for every pod would only be noise.
    let spoken = warnings.into_iter().filter(|warning| warning.reason != "MissingClusterDNS");
    spoken.for_each(|warning| context.warn(warning.message));
    for (file, content) in [
        (PodFile::Hosts, hosts),
        (PodFile::Hostname, hostname::render(names)),
        (PodFile::ResolvConf, resolv::render(&resolv)),
    ] {
        context.engine.write_pod_file(&sandbox, file.file_name(), content.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// An instance that was refused leaves nothing: it is tried again under another id, and again.
async fn create_container(context: &Context, instance: Instance) -> Result<Created, StartFailure> {
    let id = ContainerId::random();
    let created = try_create_container(context, instance, &id).await;
    match created.as_ref().err().map(|failure| failure.kind) {
        Some(StartFailureKind::Config | StartFailureKind::Create) => {
            if let Some(sandbox) = context.newest_sandbox() {
                report(context, context.engine.remove_container(&sandbox, &id).await);
            }
            images::release(context, &id);
            context.forget(instance);
        }
        // What the launch refused counts as an instance that died: it is removed like one.
        Some(StartFailureKind::Run) | None => {}
    }
    created
}

async fn try_create_container(
    context: &Context,
    instance: Instance,
    id: &ContainerId,
) -> Result<Created, StartFailure> {
    let failure = |kind, message: String| StartFailure { kind, message };
    let (Some(container), Some(spec), Some(sandbox)) =
        (context.container(instance.container), context.api_spec(), context.newest_sandbox())
    else {
        return Err(failure(StartFailureKind::Create, "the pod has no sandbox".to_owned()));
    };
    let name = container.image.clone().unwrap_or_default();
    let image = images::stored(&context.settings.images, &name)
        .map_err(|_| failure(StartFailureKind::Create, format!("image {name} is gone from the store")))?;
    images::hold(context, &image, &sandbox, id)
        .map_err(|error| failure(StartFailureKind::Create, error.to_string()))?;
    volumes::set_up_images(context, &container, &sandbox, id)
        .await
        .map_err(|message| failure(StartFailureKind::Create, message))?;
    let facts = context.facts();
    let resources =
        resources::container(&container).map_err(|error| failure(StartFailureKind::Config, error.to_string()))?;
    let pod_resources = resources::pod(spec).map_err(|error| failure(StartFailureKind::Config, error.to_string()))?;
    let plan = plan::launch(
        context.sources(&facts),
        &container,
        &launch::image_process(&image),
        &launch::places(context),
        id.as_str(),
        Some(resources::oom_score_adj(spec, &container.name, &pod_resources, memory_bytes(context))),
    )
    .map_err(|error| failure(StartFailureKind::Config, error.to_string()))?;
    context.know(instance, Known { id: (*id).clone(), sandbox: sandbox.clone(), process: None, seccomp: None });
    context
        .engine
        .write_pod_file(&sandbox, &termination_log(id.as_str()), b"", 0o666)
        .map_err(|error| failure(StartFailureKind::Create, error.to_string()))?;
    let descriptors = launch::descriptors(context, &plan, &container, &image, (&sandbox, id))
        .map_err(|error| failure(error.kind(), error.to_string()))?;
    let memo = ContainerMemo::new(instance, &plan);
    let memo = serde_json::to_value(memo).map_err(|error| failure(StartFailureKind::Create, error.to_string()))?;
    let process = Rc::new(plan.launch.process.clone());
    let seccomp = seccomp_program(&plan.launch.process, &descriptors);
    let request = ContainerRequest {
        id: id.clone(),
        sandbox: sandbox.clone(),
        name: container.name.clone(),
        settings: cgroupd::files::container(&pod_resources, &resources, &context.settings.resources),
        launch: plan.launch,
        descriptors,
        pid: pid_namespace(context, spec, instance),
        host_cgroup_namespace: plan.host_cgroup_namespace,
        log: LogRequest {
            dir: context.container_log_dir(instance),
            name: format!("{}.log", instance.attempt),
            max_bytes: context.settings.log.max_bytes,
            max_files: context.settings.log.max_files,
        },
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        memo,
    };
    let created = context.engine.create_container(request).await.map_err(start_failure)?;
    created.warnings.into_iter().for_each(|warning| context.warn(format!("container {}: {warning}", container.name)));
    context.know(instance, Known { id: id.clone(), sandbox, process: Some(process), seccomp });
    Ok(Created {
        id: format!("{RUNTIME}{id}"),
        image: name,
        user: Some(User { uid: created.identity.uid, gid: created.identity.gid, groups: created.identity.groups }),
    })
}

/// Kept for execs, which run under the container's own filter.
fn seccomp_program(process: &Process, descriptors: &[OwnedFd]) -> Option<Rc<OwnedFd>> {
    let slot = usize::from(process.seccomp?.0);
    descriptors.get(slot)?.try_clone().ok().map(Rc::new)
}

/// What the launch itself refused is `RunContainerError`, everything else `CreateContainerError` (section 1.4).
fn start_failure(error: EngineError) -> StartFailure {
    if let EngineError::Monitor(ClientError::Monitor(MonitorError::Launch(launch))) = error {
        return StartFailure { kind: StartFailureKind::Run, message: launch.to_string() };
    }
    StartFailure { kind: StartFailureKind::Create, message: error.to_string() }
}

/// Rule EP5: an ephemeral container may see the processes of its target.
fn pid_namespace(context: &Context, spec: &ApiSpec, instance: Instance) -> PidNamespace {
    let target = context.target_of(instance).map(|known| known.id.as_str().to_owned());
    sandbox::pid_namespace(spec, target)
}

/// RZ5: what is allocated now, into the cgroups of what runs.
fn resize(
    context: &Context,
    containers: &[(Instance, Resources)],
    lower: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let (Some(spec), Some(sandbox)) = (context.api_spec(), context.newest_sandbox()) else { return Ok(()) };
    let policy = &context.settings.resources;
    let whole = resources::pod(spec)?;
    let mut changes = Vec::new();
    for (instance, _) in containers {
        let (Some(known), Some(own)) = (context.known(*instance), context.container(instance.container)) else {
            continue;
        };
        let settings = cgroupd::files::container(&whole, &resources::container(&own)?, policy);
        changes.push(ResizeRequest { id: known.id, name: own.name.clone(), settings });
    }
    let settings = cgroupd::files::pod(&whole, cgroupd::qos::qos_class(&whole), policy);
    let warnings = match context.engine.resize(&sandbox, &settings, changes, lower) {
        // RZ6 has words of its own.
        Err(EngineError::Cgroup(error)) => return Err(error.into()),
        other => other?,
    };
    warnings.into_iter().for_each(|warning| context.warn(warning));
    Ok(())
}

fn memory_bytes(context: &Context) -> u64 {
    u64::try_from(context.settings.node.allocatable_memory_bytes).unwrap_or(0)
}

async fn start_container(context: &Context, instance: Instance) -> Result<crate::pod::timer::WallTime, StartFailure> {
    let Some(known) = context.known(instance) else {
        return Err(StartFailure { kind: StartFailureKind::Create, message: "the container is gone".to_owned() });
    };
    let started = context.engine.start_container(&known.sandbox, &known.id).await.map_err(start_failure)?;
    Ok(clock::wall(&started))
}

async fn remove_container(context: &Context, instance: Instance) -> Result<(), EngineError> {
    if let Some(known) = context.known(instance) {
        context.engine.remove_container(&known.sandbox, &known.id).await?;
        images::release(context, &known.id);
        context.forget(instance);
    }
    Ok(())
}

async fn stop_sandbox(context: &Context, attempt: u32) -> Result<(), EngineError> {
    match context.sandbox(attempt) {
        Some(id) => context.engine.stop_sandbox(&id).await,
        None => Ok(()),
    }
}

/// Everything that is left: sandboxes with their containers, directories, logs (rules TR7, LG4).
async fn remove_pod(context: &Context) -> Result<(), EngineError> {
    for sandbox in context.all_sandboxes() {
        for container in context.engine.containers(&sandbox) {
            context.engine.remove_container(&sandbox, &container.id).await?;
            images::release(context, &container.id);
        }
        context.engine.remove_sandbox(&sandbox).await?;
    }
    context.engine.discard(&context.dir())?;
    context.engine.discard(&context.log_dir())
}
