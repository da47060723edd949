//! Probes and lifecycle hooks: those by exec go through the pod's monitor, the others are asked from here.

use std::rc::Rc;
use std::time::Duration;

use super::context::Context;
use crate::convert::launch::exec as exec_process;
use crate::engine::container::ExecStreams;
use crate::pod::action::Instance;
use crate::pod::event::{HookFailure, HookSuccess, ProbeOutcome};
use crate::pod::spec::{HookHandler, ProbeHandler};
use crate::probe::{self, Combined, ExecEnd, Target};
use crate::runtime::launch::FdSlot;
use rustix::pipe::PipeFlags;

pub(super) async fn probe(
    context: &Rc<Context>,
    instance: Instance,
    handler: &ProbeHandler,
    timeout: Duration,
) -> ProbeOutcome {
    let Some(pod_ip) = context.primary_address() else {
        return ProbeOutcome::Error("the pod has no address".to_owned());
    };
    let target = Target { pod_ip };
    match handler {
        ProbeHandler::Exec { command } => match run(context, instance, command, Some(timeout)).await {
            Ok((end, output)) => probe::exec_outcome(end, &output, command),
            Err(error) => ProbeOutcome::Error(error),
        },
        ProbeHandler::HttpGet(get) => probe::http(target, get, timeout).await,
        ProbeHandler::TcpSocket { host, port } => probe::tcp(target, host.as_deref(), port, timeout).await,
        ProbeHandler::Grpc { port, service } => probe::grpc(target, *port, service, timeout).await,
    }
}

pub(super) async fn hook(
    context: &Rc<Context>,
    instance: Instance,
    handler: &HookHandler,
    budget: Option<Duration>,
) -> Result<HookSuccess, HookFailure> {
    let failed =
        |error: String, output: Vec<u8>| HookFailure { error, output: String::from_utf8_lossy(&output).into_owned() };
    match handler {
        HookHandler::Exec { command } => match run(context, instance, command, budget).await {
            Ok((ExecEnd::Exited(0), _)) => Ok(HookSuccess { http_fallback: None }),
            Ok((ExecEnd::Exited(code), output)) => {
                Err(failed(format!("command '{}' exited with {code}", command.join(" ")), output))
            }
            Ok((ExecEnd::TimedOut(_), output)) => Err(failed("context deadline exceeded".to_owned(), output)),
            Err(error) => Err(failed(error, Vec::new())),
        },
        HookHandler::HttpGet(get) => match context.primary_address() {
            Some(pod_ip) => probe::http_hook(Target { pod_ip }, get, budget).await,
            None => Err(failed("the pod has no address".to_owned(), Vec::new())),
        },
        // The machine sleeps by itself.
        HookHandler::Sleep { .. } => Ok(HookSuccess { http_fallback: None }),
        HookHandler::TcpSocket => Err(failed("invalid handler".to_owned(), Vec::new())),
    }
}

/// Output that is on its way when the process has ended is waited for this long.
const DRAIN: Duration = Duration::from_millis(50);

/// Runs a command in a container and collects the beginning of its output; past its time it is killed.
async fn run(
    context: &Rc<Context>,
    instance: Instance,
    command: &[String],
    limit: Option<Duration>,
) -> Result<(ExecEnd, Vec<u8>), String> {
    let known = context.known(instance).ok_or("the container is gone")?;
    let process = known.process.clone().ok_or("the container was not created")?;
    let mut plan = exec_process(&process, command.to_vec(), false);
    let mut descriptors = Vec::new();
    if let Some(program) = &known.seccomp {
        descriptors.push(program.try_clone().map_err(|error| error.to_string())?);
    }
    plan.seccomp = (!descriptors.is_empty()).then_some(FdSlot(0));
    let (reader, writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| e.to_string())?;
    // The process must not see a pipe that can't take its output right now.
    rustix::io::ioctl_fionbio(&writer, false).map_err(|error| error.to_string())?;
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader).map_err(|error| error.to_string())?;
    let second = writer.try_clone().map_err(|error| error.to_string())?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut exit = context.await_exec(&id);
    let guard = KillOnDrop { context: context.clone(), known: known.clone(), id: id.clone(), armed: true };
    let streams = ExecStreams { stdin: None, stdout: Some(writer), stderr: Some(second) };
    let started = context.engine.exec(&known.sandbox, &known.id, &id, &plan, descriptors, streams).await;
    started.map_err(|error| error.to_string())?;
    let mut guard = guard;
    let mut combined = Combined::default();
    let finished = async {
        // Both streams are one pipe, so that their order is kept. What can't be read is not there.
        let collecting = std::pin::pin!(probe::collect(reader, tokio::io::empty(), &mut combined));
        let mut collecting = collecting;
        tokio::select! {
            exit = &mut exit => {
                // A child of the process may hold the pipe for ever.
                let _rest = tokio::time::timeout(DRAIN, &mut collecting).await;
                exit
            }
            _all = &mut collecting => (&mut exit).await,
        }
    };
    let ended = match limit {
        Some(limit) => tokio::time::timeout(limit, finished).await.map_err(|_| limit),
        None => Ok(finished.await),
    };
    match ended {
        Ok(Ok(exit)) => {
            guard.armed = false;
            Ok((ExecEnd::Exited(exit.code()), combined.bytes().to_vec()))
        }
        Ok(Err(_)) => Err("the container ended".to_owned()),
        // The guard kills it.
        Err(limit) => Ok((ExecEnd::TimedOut(limit), combined.bytes().to_vec())),
    }
}

/// A probe or hook that is given up leaves no process behind.
struct KillOnDrop {
    context: Rc<Context>,
    known: super::context::Known,
    id: String,
    armed: bool,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (context, known, id) = (self.context.clone(), self.known.clone(), self.id.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = context.engine.kill_exec(&known.sandbox, &id).await {
                context.warn(error.to_string());
            }
        });
    }
}
