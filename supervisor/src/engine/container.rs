//! One instance of a container: from a launch plan to its exit record.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::error::EngineError;
use super::id::{ContainerId, SandboxId};
use super::record::{self, ContainerRecord, SandboxRecord};
use super::sandbox::add;
use super::{ContainerSummary, Engine, log_link, program};
use crate::convert::mounts::termination_log;
use crate::monitor::client::{ClientError, Descriptors};
use crate::monitor::protocol::{AttachSpec, ContainerSpec, ExecSpec, ExitRecord, LogSpec, MonitorError, PidNamespace};
use crate::runtime::launch::{Identity, Launch, Process};

/// Name of the owner record in a container's directory.
pub(super) const RECORD: &str = "container.json";
/// Name of the exit record beside it; the monitor writes it.
const EXIT_RECORD: &str = "exit.json";

/// What a container is made from.
#[derive(Debug)]
pub struct ContainerRequest {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    /// As in the manifest.
    pub name: String,
    /// The files of the container's cgroup.
    pub settings: Vec<cgroupd::Setting>,
    pub launch: Launch,
    /// The descriptors that the launch names, in the order of its slots.
    pub descriptors: Vec<OwnedFd>,
    pub pid: PidNamespace,
    pub host_cgroup_namespace: bool,
    pub log: LogRequest,
    pub stdin: bool,
    pub stdin_once: bool,
    /// Kept in the owner record.
    pub memo: serde_json::Value,
}

/// Where the output goes (rules LF1, LF3).
#[derive(Debug, Clone)]
pub struct LogRequest {
    pub dir: PathBuf,
    pub name: String,
    pub max_bytes: u64,
    pub max_files: u32,
}

/// Where an exec's streams lead; none is `/dev/null`.
#[derive(Debug, Default)]
pub struct ExecStreams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Other limits for a container.
#[derive(Debug, Clone)]
pub struct ResizeRequest {
    pub id: ContainerId,
    /// For messages.
    pub name: String,
    pub settings: Vec<cgroupd::Setting>,
}

/// A container that waits for its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub pid: u32,
    pub identity: Identity,
    /// Limits that this host can't enforce, in words.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Upper and work directory of a container's root, made anew. The container's own directory comes first: without it
    /// another process would take the root for a leftover.
    pub fn make_scratch(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<OwnedFd, EngineError> {
        let own = self.dirs().container(sandbox, id);
        super::dirs::create_private(&own).map_err(EngineError::io("make", &own))?;
        let dir = self.dirs().scratch(id);
        for sub in ["upper", "work"] {
            let sub = dir.join(sub);
            super::dirs::create_private(&sub).map_err(EngineError::io("make", &sub))?;
        }
        // The upper directory becomes the root directory that the container sees.
        let upper = dir.join("upper");
        rustix::fs::chmod(&upper, Mode::from_raw_mode(0o755))
            .map_err(EngineError::system(format!("chmod({})", upper.display())))?;
        open_directory(&dir)
    }

    /// Prepares everything up to the exec; what can fail, fails here.
    pub async fn create_container(&self, request: ContainerRequest) -> Result<Created, EngineError> {
        let sandbox = self.sandbox(&request.sandbox)?;
        let dir = self.dirs().container(&request.sandbox, &request.id);
        super::dirs::create_private(&dir).map_err(EngineError::io("make", &dir))?;
        let record = ContainerRecord {
            version: record::VERSION,
            id: request.id.clone(),
            sandbox: request.sandbox.clone(),
            name: request.name.clone(),
            log: Some(request.log.dir.join(&request.log.name)),
            memo: request.memo,
        };
        record::save(&dir.join(RECORD), &record).map_err(EngineError::io("write", &dir))?;
        std::fs::create_dir_all(&request.log.dir).map_err(EngineError::io("make", &request.log.dir))?;
        self.watch_logs(&record);
        let leaf = leaf(&sandbox.record, &request.id)?;
        let cgroup = self.shared.tree.create_container(&leaf, &request.settings)?;
        let mut descriptors = Descriptors::default();
        for fd in request.descriptors {
            add(&mut descriptors, fd)?;
        }
        let spec = ContainerSpec {
            id: request.id.to_string(),
            launch: add(&mut descriptors, program::plan(&request.launch)?)?,
            cgroup: add(&mut descriptors, cgroup.dir)?,
            pid: request.pid,
            host_cgroup_namespace: request.host_cgroup_namespace,
            log: Some(LogSpec {
                dir: add(&mut descriptors, open_directory(&request.log.dir)?)?,
                name: request.log.name,
                max_bytes: request.log.max_bytes,
                max_files: request.log.max_files,
            }),
            stdin: request.stdin,
            stdin_once: request.stdin_once,
            terminal: request.launch.process.terminal,
            record_dir: add(&mut descriptors, open_directory(&dir)?)?,
            record_name: EXIT_RECORD.to_owned(),
        };
        let created = sandbox.client.create_container(spec, descriptors).await?;
        if let Err(error) = log_link::make(self.dirs(), &sandbox.record.pod, &record) {
            tracing::warn!(container = %record.id, "link to its log: {error}");
        }
        let warnings = super::sandbox::warnings(&cgroup.unenforced);
        Ok(Created { pid: created.pid, identity: created.identity, warnings })
    }

    /// Lets the process exec; when it started, RFC 3339.
    pub async fn start_container(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<String, EngineError> {
        Ok(self.client(sandbox)?.start_container(id.as_str()).await?)
    }

    /// To the container's first process; success when it is gone already.
    pub async fn signal_container(
        &self,
        sandbox: &SandboxId,
        id: &ContainerId,
        signal: i32,
    ) -> Result<(), EngineError> {
        gone_is_done(self.client(sandbox)?.signal_container(id.as_str(), signal).await)
    }

    /// SIGKILL to all its processes; success when they are gone already.
    pub async fn kill_container(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<(), EngineError> {
        gone_is_done(self.client(sandbox)?.kill_container(id.as_str()).await)
    }

    /// Forgets an ended container: cgroup, root, records. Its log stays.
    pub async fn remove_container(&self, sandbox: &SandboxId, id: &ContainerId) -> Result<(), EngineError> {
        if let Ok(found) = self.sandbox(sandbox) {
            gone_is_done(found.client.remove_container(id.as_str()).await)?;
            self.remove_cgroup(leaf(&found.record, id)?.path()).await?;
            // One per instance, and they share a small file system.
            match rustix::fs::unlinkat(&found.files, termination_log(id.as_str()), rustix::fs::AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(EngineError::system(format!("unlinkat(termination log of {id})"))(error)),
            }
        }
        let dir = self.dirs().container(sandbox, id);
        if let (Some(owner), Some(own)) = (self.sandbox_record(sandbox), record::load(&dir.join(RECORD))) {
            self.remove_log_link(&owner, &own);
        }
        self.discard(&self.dirs().scratch(id))?;
        self.discard(&dir)
    }

    /// So that what is rotated is packed (LF3).
    pub(super) fn watch_logs(&self, own: &ContainerRecord) {
        let dir = own.log.as_deref().and_then(std::path::Path::parent);
        if let (Some(packer), Some(dir)) = (&self.shared.packer, dir) {
            packer.watch(dir);
        }
    }

    /// One that stays is swept with its log.
    pub(super) fn remove_log_link(&self, sandbox: &SandboxRecord, own: &ContainerRecord) {
        if let Err(error) = log_link::remove(self.dirs(), &sandbox.pod, own) {
            tracing::warn!(container = %own.id, "remove the link to its log: {error}");
        }
    }

    fn sandbox_record(&self, id: &SandboxId) -> Option<SandboxRecord> {
        let connected = self.sandbox(id).ok().map(|sandbox| sandbox.record.clone());
        connected.or_else(|| record::load(&self.dirs().sandbox(id).join(super::sandbox::RECORD)))
    }

    /// Runs one more process in a running container.
    pub async fn exec(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        id: &str,
        process: &Process,
        descriptors: Vec<OwnedFd>,
        streams: ExecStreams,
    ) -> Result<Option<OwnedFd>, EngineError> {
        let mut all = Descriptors::default();
        for fd in descriptors {
            add(&mut all, fd)?;
        }
        let spec = ExecSpec {
            id: id.to_owned(),
            container: container.to_string(),
            process: add(&mut all, program::plan(process)?)?,
            stdin: streams.stdin.map(|fd| add(&mut all, fd)).transpose()?,
            stdout: streams.stdout.map(|fd| add(&mut all, fd)).transpose()?,
            stderr: streams.stderr.map(|fd| add(&mut all, fd)).transpose()?,
            terminal: process.terminal,
        };
        let started = self.client(sandbox)?.exec(spec, all).await?;
        Ok(started.terminal)
    }

    /// Copies a container's output into pipes from now on; a writer of its standard input, or its terminal.
    pub async fn attach_container(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        stdin: bool,
        outputs: (Option<OwnedFd>, Option<OwnedFd>),
    ) -> Result<Option<OwnedFd>, EngineError> {
        let mut all = Descriptors::default();
        let stdout = outputs.0.map(|fd| add(&mut all, fd)).transpose()?;
        let stderr = outputs.1.map(|fd| add(&mut all, fd)).transpose()?;
        let spec = AttachSpec { container: container.to_string(), stdin, stdout, stderr };
        Ok(self.client(sandbox)?.attach(spec, all).await?)
    }

    /// Other limits for a pod and for containers that run (RZ5, RZ6); without `lower` those of the pod only rise. What this
    /// host can't enforce, in words.
    pub fn resize(
        &self,
        sandbox: &SandboxId,
        pod: &[cgroupd::Setting],
        containers: Vec<ResizeRequest>,
        lower: bool,
    ) -> Result<Vec<String>, EngineError> {
        let record = &self.sandbox(sandbox)?.record;
        let cgroup = record.cgroup().ok_or_else(|| no_cgroup(record))?;
        let change = |own: ResizeRequest| {
            Ok(cgroupd::Resized { leaf: leaf(record, &own.id)?, name: own.name, settings: own.settings })
        };
        let changes = containers.into_iter().map(change).collect::<Result<Vec<_>, EngineError>>()?;
        let unenforced = self.shared.tree.resize(&cgroup, pod, &changes, lower)?;
        Ok(super::sandbox::warnings(&unenforced))
    }

    /// One file of a container's cgroup.
    pub fn read_cgroup(&self, sandbox: &SandboxId, id: &ContainerId, file: &str) -> Result<String, EngineError> {
        let leaf = leaf(&self.sandbox(sandbox)?.record, id)?;
        Ok(self.shared.tree.read(&leaf.path(), file)?)
    }

    /// One file of the cgroup of a sandbox's pod.
    pub fn read_pod_cgroup(&self, sandbox: &SandboxId, file: &str) -> Result<String, EngineError> {
        let record = &self.sandbox(sandbox)?.record;
        let cgroup = record.cgroup().ok_or_else(|| no_cgroup(record))?;
        Ok(self.shared.tree.read(&cgroup.path(), file)?)
    }

    pub async fn kill_exec(&self, sandbox: &SandboxId, id: &str) -> Result<(), EngineError> {
        gone_is_done(self.client(sandbox)?.kill_exec(id).await)
    }

    /// The containers of a sandbox that have an owner record.
    pub fn containers(&self, sandbox: &SandboxId) -> Vec<ContainerSummary> {
        let summary =
            |record: ContainerRecord| ContainerSummary { id: record.id, sandbox: record.sandbox, name: record.name };
        self.container_records(sandbox).into_iter().map(summary).collect()
    }

    pub(super) fn container_records(&self, sandbox: &SandboxId) -> Vec<ContainerRecord> {
        let entries = std::fs::read_dir(self.dirs().containers(sandbox)).into_iter().flatten().flatten();
        entries.filter_map(|entry| record::load(&entry.path().join(RECORD))).collect()
    }

    /// How a container ended, as its monitor wrote it down.
    pub fn exit_record(&self, sandbox: &SandboxId, id: &ContainerId) -> Option<ExitRecord> {
        record::load(&self.dirs().container(sandbox, id).join(EXIT_RECORD))
    }
}

fn leaf(record: &record::SandboxRecord, id: &ContainerId) -> Result<cgroupd::ContainerCgroup, EngineError> {
    let pod = record.cgroup().ok_or_else(|| no_cgroup(record))?;
    Ok(pod.leaf(id.as_str())?)
}

fn no_cgroup(record: &record::SandboxRecord) -> EngineError {
    EngineError::NotFound { what: "cgroup of pod", id: record.pod.uid.clone() }
}

fn gone_is_done(result: Result<(), ClientError>) -> Result<(), EngineError> {
    match result {
        Err(
            ClientError::Closed | ClientError::Monitor(MonitorError::NotFound { .. } | MonitorError::WrongState { .. }),
        ) => Ok(()),
        other => Ok(other?),
    }
}

fn open_directory(dir: &std::path::Path) -> Result<OwnedFd, EngineError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map_err(EngineError::system(format!("open({})", dir.display())))
}
