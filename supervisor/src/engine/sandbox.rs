//! A pod's namespaces, network, cgroup and monitor.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use tokio::sync::mpsc;

use tokio::sync::oneshot;

use super::error::EngineError;
use super::id::SandboxId;
use super::record::{self, PodReference, SandboxRecord};
use super::{Engine, EngineEvent, What};
use crate::convert::mounts::FILES_VOLUME;
use crate::monitor::client::{Client, ClientError, Descriptors, MonitorProcess};
use crate::monitor::protocol::{Event, HostNamespaces, SandboxSpec, WhenBrainDies};
use crate::monitor::spawn::Start;
use crate::runtime::launch::FdSlot;
use crate::user_namespace::{IdRange, claims};

/// Name of the owner record in a sandbox's directory.
pub(super) const RECORD: &str = "sandbox.json";
/// `/dev/shm` of a pod (section 8.4).
const SHM_BYTES: u64 = 64 << 20;
/// Of each file that we write into a pod (D37).
const POD_FILE_BYTES: u64 = 64 << 10;

/// What a sandbox is made from.
#[derive(Debug, Clone)]
pub struct SandboxRequest {
    pub id: SandboxId,
    pub pod: PodReference,
    pub hostname: Option<String>,
    pub host: HostNamespaces,
    /// The pod's own users; none when it has the host's.
    pub user_namespace: Option<IdRange>,
    pub sysctls: Vec<(String, String)>,
    pub qos: cgroupd::QosClass,
    /// The files of the pod's cgroup.
    pub settings: Vec<cgroupd::Setting>,
    pub ports: Vec<netsetup::HostPort>,
    pub when_brain_dies: WhenBrainDies,
    /// What the caller made for the pod, removed with the sandbox when its owner dies.
    pub directories: Vec<std::path::PathBuf>,
    /// Kept in the owner record.
    pub memo: serde_json::Value,
    /// How many files of [`POD_FILE_BYTES`] the pod may need: three of its own and the termination logs.
    pub files: u64,
}

/// A sandbox with a live connection to its monitor.
#[derive(Debug)]
pub struct Sandbox {
    pub(super) client: Client,
    pub(super) record: SandboxRecord,
    /// The pod's own files, until and after the monitor keeps the mount.
    pub(super) files: OwnedFd,
    pub(super) netns: OwnedFd,
    /// The pod's own user namespace, if it has one.
    pub(super) users: Option<OwnedFd>,
}

/// What is known once a sandbox stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStatus {
    pub id: SandboxId,
    /// Primary first; empty with the host's network.
    pub addresses: Vec<IpAddr>,
    /// Limits that this host can't enforce, in words.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes the cgroup, starts the monitor and pause, and connects the network.
    pub async fn create_sandbox(&self, request: SandboxRequest) -> Result<SandboxStatus, EngineError> {
        let shared = &self.shared;
        let record = SandboxRecord {
            version: record::VERSION,
            id: request.id.clone(),
            boot_id: record::boot_id(),
            owner: shared.config.owner.clone(),
            pod: request.pod.clone(),
            qos: request.qos.to_string(),
            network: !request.host.network,
            user_namespace: request.user_namespace,
            directories: request.directories.clone(),
            memo: request.memo.clone(),
        };
        self.write_sandbox_record(&record)?;
        let (sender, receiver) = oneshot::channel();
        let network = self.connect(&request, sender);
        let durable = self.sync_sandbox_record(&request.id);
        // What runs in threads begins first: starting the monitor keeps this one busy.
        let (connected, durable, started) = tokio::join!(network, durable, self.start_sandbox(&request, receiver));
        let made = match (connected, started, durable) {
            (Ok(addresses), Ok(started), Ok(())) => self.connect_isolated(&request, started, addresses).await,
            (Err(error), _, _) | (Ok(_), Err(error), _) | (Ok(_), Ok(_), Err(error)) => Err(error),
        };
        let (started, addresses) = match made {
            Ok(made) => made,
            Err(error) => {
                // A failed attach has undone itself, and then this changes nothing.
                if record.network {
                    self.detach(&request.id).await?;
                }
                return Err(error);
            }
        };
        let status = SandboxStatus { id: request.id.clone(), addresses, warnings: started.warnings };
        let sandbox = Sandbox {
            client: started.client,
            record,
            files: started.files,
            netns: started.netns,
            users: started.users,
        };
        shared.sandboxes.borrow_mut().insert(request.id, std::rc::Rc::new(sandbox));
        Ok(status)
    }

    /// Cgroup, monitor, pause and the pod's files.
    async fn start_sandbox(&self, request: &SandboxRequest, netns: Netns) -> Result<Started, EngineError> {
        let shared = &self.shared;
        let cgroup = cgroupd::PodCgroup { uid: cgroupd::PodUid::new(request.pod.uid.clone())?, qos: request.qos };
        let unenforced = shared.tree.create_pod(&cgroup, &request.settings)?;
        let leaf = shared.tree.create_sandbox(&cgroup.leaf(request.id.as_str())?)?.dir;
        let client = self.start_monitor(&request.id, &leaf).await?;
        let netns =
            netns.await.map_err(|_| EngineError::NotFound { what: "network of", id: request.id.to_string() })?;
        let mut descriptors = Descriptors::default();
        let slots = SandboxSlots {
            cgroup: add(&mut descriptors, leaf)?,
            pause: add(&mut descriptors, shared.programs.pause()?)?,
            netns: netns.map(|netns| add(&mut descriptors, netns)).transpose()?,
        };
        let files = files_volume(request.files, request.user_namespace)?;
        let keeping = client.keep_volume(FILES_VOLUME, duplicate(&files, "mount")?);
        let creating = client.create_sandbox(sandbox_spec(request, slots), descriptors);
        let (created, kept) = tokio::join!(creating, keeping);
        kept?;
        let created = created?;
        let users = request.user_namespace.map(|_| open_user_namespace(created.pause_pid)).transpose()?;
        Ok(Started { client, files, netns: created.netns, users, warnings: warnings(&unenforced) })
    }

    /// Ends every process of the sandbox and its monitor, gives its address back. The records of its containers stay until
    /// they are removed.
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), EngineError> {
        let known = self.shared.sandboxes.borrow_mut().remove(id);
        let Some(sandbox) = known else { return self.stop_unconnected(id).await };
        let ended = sandbox.client.shutdown().await;
        let detached = if sandbox.record.network { self.detach(id).await } else { Ok(()) };
        match ended {
            // Whatever the monitor left running has nobody else who would end it.
            Err(ClientError::Closed) => self.remove_resources(&sandbox.record).await?,
            other => other?,
        }
        // The namespaces go with their last descriptor.
        drop(sandbox);
        self.remove_state(id)?;
        detached
    }

    /// Removes what is left of a stopped sandbox: cgroup, records, files.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.stop_sandbox(id).await?;
        let dir = self.dirs().sandbox(id);
        if let Some(record) = record::load::<SandboxRecord>(&dir.join(RECORD)) {
            self.remove_resources(&record).await?;
            self.container_records(id).iter().for_each(|own| self.remove_log_link(&record, own));
        }
        self.discard(&dir)
    }

    /// Writes one of the pod's own files; containers see it at once.
    pub fn write_pod_file(&self, id: &SandboxId, name: &str, content: &[u8], mode: u32) -> Result<(), EngineError> {
        let sandbox = self.sandbox(id)?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = rustix::fs::openat(&sandbox.files, name, flags, mode)
            .map_err(EngineError::system(format!("openat({name})")))?;
        // Independent of our umask.
        rustix::fs::fchmod(&file, mode).map_err(EngineError::system(format!("fchmod({name})")))?;
        if let Some(ids) = sandbox.record.user_namespace {
            let (uid, gid) = (Uid::from_raw(ids.first()), Gid::from_raw(ids.first()));
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(EngineError::system(format!("fchown({name})")))?;
        }
        use std::io::Write as _;
        std::fs::File::from(file).write_all(content).map_err(EngineError::io("write", name))
    }

    /// Reads at most `limit` bytes from the end of one of the pod's own files. A container can write to it, but not
    /// replace it: it sees the file alone, not its directory.
    pub fn read_pod_file(&self, id: &SandboxId, name: &str, limit: usize) -> Result<Vec<u8>, EngineError> {
        use std::os::unix::fs::FileExt as _;
        let sandbox = self.sandbox(id)?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&sandbox.files, name, flags, Mode::empty())
            .map_err(EngineError::system(format!("openat({name})")))?;
        let file = std::fs::File::from(file);
        let size = file.metadata().map_err(EngineError::io("stat", name))?.len();
        let length = usize::try_from(size).unwrap_or(usize::MAX).min(limit);
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, size - length as u64).map_err(EngineError::io("read", name))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Hands a detached mount to the monitor, which keeps it for the pod's containers.
    pub async fn keep_volume(&self, id: &SandboxId, name: &str, mount: OwnedFd) -> Result<(), EngineError> {
        Ok(self.client(id)?.keep_volume(name, mount).await?)
    }

    /// A detached copy of a kept volume's mount: it outlives the monitor, and another one can keep it.
    pub async fn clone_volume(&self, id: &SandboxId, name: &str) -> Result<OwnedFd, EngineError> {
        Ok(self.client(id)?.clone_volume(name).await?)
    }

    /// The pod's network namespace.
    pub fn network_namespace(&self, id: &SandboxId) -> Result<OwnedFd, EngineError> {
        self.sandbox(id)?.netns.try_clone().map_err(EngineError::io("duplicate", "network namespace"))
    }

    /// The pod's own user namespace, which its volumes get their ids from.
    pub fn user_namespace(&self, id: &SandboxId) -> Result<Option<OwnedFd>, EngineError> {
        let sandbox = self.sandbox(id)?;
        sandbox.users.as_ref().map(|users| duplicate(users, "user namespace")).transpose()
    }

    /// Ids for a pod, no other pod's as long as its directory or a sandbox of it is there; written down when this returns.
    pub fn claim_ids(&self, uid: &str) -> Result<IdRange, EngineError> {
        let sandboxes = self.sandboxes();
        if let Some(known) = sandboxes.iter().filter(|record| record.pod.uid == uid).find_map(|own| own.user_namespace)
        {
            return Ok(known);
        }
        let taken = sandboxes.iter().filter_map(|record| record.user_namespace).collect();
        Ok(claims::claim(&self.dirs().pods(), uid, taken)?)
    }

    fn write_sandbox_record(&self, record: &SandboxRecord) -> Result<(), EngineError> {
        let dir = self.dirs().sandbox(&record.id);
        super::dirs::create_private(&dir.join("containers")).map_err(EngineError::io("make", &dir))?;
        let path = dir.join(RECORD);
        record::save(&path, record).map_err(EngineError::io("write", &path))
    }

    /// Beside the making of what ends with the boot anyway; done before anything of a container is on disk.
    async fn sync_sandbox_record(&self, id: &SandboxId) -> Result<(), EngineError> {
        let path = self.dirs().sandbox(id).join(RECORD);
        let place = path.clone();
        let synced = tokio::task::spawn_blocking(move || record::sync(&path)).await;
        synced.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(EngineError::io("fsync", &place))
    }

    async fn start_monitor(&self, id: &SandboxId, cgroup: &OwnedFd) -> Result<Client, EngineError> {
        let state = self.dirs().monitor(id);
        super::dirs::create_private(&state).map_err(EngineError::io("make", &state))?;
        let start = Start { state: &state, cgroup: cgroup.as_fd(), template: &self.shared.programs.template };
        let (client, events, process) = Client::spawn(&start).await?;
        self.forward(id.clone(), events, Some(process));
        Ok(client)
    }

    /// Passes a monitor's events on until its connection ends. One of an earlier life is not ours to reap.
    pub(super) fn forward(
        &self,
        id: SandboxId,
        mut events: mpsc::UnboundedReceiver<Event>,
        process: Option<MonitorProcess>,
    ) {
        let out = self.shared.events.clone();
        tokio::task::spawn_local(async move {
            let send = |what| out.send(EngineEvent { sandbox: id.clone(), what }).is_ok();
            while let Some(event) = events.recv().await {
                if !send(What::Happened(event)) {
                    return;
                }
            }
            if let Some(process) = process {
                // Reaps it; how it ended changes nothing.
                let _exit = process.wait().await;
            }
            let _nobody_listens = send(What::MonitorLost);
        });
    }

    /// Makes the pod's network namespace, if it is not the host's, hands it over and connects it.
    async fn connect(
        &self,
        request: &SandboxRequest,
        netns: oneshot::Sender<Option<OwnedFd>>,
    ) -> Result<Vec<IpAddr>, EngineError> {
        // Who takes it may have failed before; then what is made here is undone. In a user namespace it is made with it.
        if request.host.network || request.user_namespace.is_some() {
            let _failed = netns.send(None);
            return Ok(Vec::new());
        }
        let make = move || {
            let own = crate::sys::process::enter_new_network_namespace()?;
            let _failed = netns.send(Some(own.try_clone()?));
            Ok(own)
        };
        let attached = self.shared.network.attach_new(&pod_id(&request.id)?, &request.ports, make).await?;
        Ok(attached.addresses)
    }

    /// Connects the network namespace that was made with the pod's user namespace.
    async fn connect_isolated(
        &self,
        request: &SandboxRequest,
        started: Started,
        addresses: Vec<IpAddr>,
    ) -> Result<(Started, Vec<IpAddr>), EngineError> {
        if request.user_namespace.is_none() {
            return Ok((started, addresses));
        }
        let network = &self.shared.network;
        let attached = network.attach(&pod_id(&request.id)?, started.netns.as_fd(), &request.ports).await?;
        Ok((started, attached.addresses))
    }

    pub(super) async fn detach(&self, id: &SandboxId) -> Result<(), EngineError> {
        Ok(self.shared.network.detach(&pod_id(id)?).await?)
    }

    /// The cgroup with all that may be left in it, and the socket.
    pub(super) async fn remove_resources(&self, record: &SandboxRecord) -> Result<(), EngineError> {
        if let Some(cgroup) = record.cgroup() {
            self.remove_cgroup(cgroup.path()).await?;
        }
        self.remove_state(&record.id)
    }

    /// The directory with the monitor's socket: while it is there, something of the sandbox may be there in this boot.
    pub(super) fn remove_state(&self, id: &SandboxId) -> Result<(), EngineError> {
        let state = self.dirs().monitor(id);
        match std::fs::remove_dir_all(&state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(EngineError::io("remove", &state)(error)),
            _ => Ok(()),
        }
    }

    /// Waits, off the loop, until the kernel has let go of every process in it.
    pub(super) async fn remove_cgroup(&self, path: cgroupd::CgroupPath) -> Result<(), EngineError> {
        let tree = self.shared.tree.clone();
        match tokio::task::spawn_blocking(move || tree.remove(&path)).await {
            Ok(removed) => Ok(removed?),
            Err(error) => Err(EngineError::io("remove cgroup of", "a pod")(std::io::Error::other(error))),
        }
    }

    /// Moves a directory out of the way at once; it is deleted in the background.
    pub fn discard(&self, dir: &std::path::Path) -> Result<(), EngineError> {
        let trash = self.dirs().trash().join(trash_name(dir));
        match std::fs::rename(dir, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // Logs may lie on a file system of their own.
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                let removed = crate::volume::remove::path(dir);
                return removed.map_err(|error| EngineError::io("remove", dir)(std::io::Error::other(error)));
            }
            Err(error) => return Err(EngineError::io("discard", dir)(error)),
        }
        tokio::task::spawn_blocking(move || {
            // Strangers wrote it: no link is followed and no mount entered.
            if let Err(error) = crate::volume::remove::path(&trash) {
                tracing::warn!("delete {}: {error}; the next start tries again", trash.display());
            }
        });
        Ok(())
    }
}

pub(super) fn pod_id(id: &SandboxId) -> Result<netsetup::PodId, EngineError> {
    id.as_str().parse().map_err(|_| EngineError::NotFound { what: "sandbox", id: id.to_string() })
}

/// What the manifest asks for and this host can't enforce, in words.
pub(super) fn warnings(unenforced: &[cgroupd::Unenforced]) -> Vec<String> {
    let asked = unenforced.iter().filter(|what| what.setting.origin == cgroupd::Origin::Manifest);
    asked.map(ToString::to_string).collect()
}

/// The pod's network namespace once it is made; none when it is the host's.
type Netns = oneshot::Receiver<Option<OwnedFd>>;

/// What goes with a [`SandboxSpec`].
struct SandboxSlots {
    cgroup: FdSlot,
    pause: FdSlot,
    netns: Option<FdSlot>,
}

/// A sandbox that is not connected yet.
struct Started {
    client: Client,
    files: OwnedFd,
    netns: OwnedFd,
    users: Option<OwnedFd>,
    warnings: Vec<String>,
}

fn duplicate(fd: &OwnedFd, what: &str) -> Result<OwnedFd, EngineError> {
    fd.try_clone().map_err(EngineError::io("duplicate", what))
}

fn sandbox_spec(request: &SandboxRequest, slots: SandboxSlots) -> SandboxSpec {
    SandboxSpec {
        id: request.id.to_string(),
        hostname: request.hostname.clone(),
        host: request.host,
        sysctls: request.sysctls.clone(),
        cgroup: slots.cgroup,
        pause: slots.pause,
        netns: slots.netns,
        user_namespace: request.user_namespace,
        oom_score_adj: Some(cgroupd::oom::SANDBOX_ADJ),
        shm_bytes: (!request.host.ipc).then_some(SHM_BYTES),
        when_brain_dies: request.when_brain_dies,
    }
}

/// A detached tmpfs for the pod's own files, as large as they may become together.
fn files_volume(files: u64, ids: Option<IdRange>) -> Result<OwnedFd, EngineError> {
    let call = |call: &str| EngineError::system(format!("{call}(tmpfs of the pod's files)"));
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(call("fsopen"))?;
    let mut options = BTreeMap::from([("size", (files * POD_FILE_BYTES).to_string()), ("mode", "0755".to_owned())]);
    if let Some(ids) = ids {
        options.extend(["uid", "gid"].map(|key| (key, ids.first().to_string())));
    }
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&fs, key, value.as_str()).map_err(call("fsconfig"))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(call("fsconfig"))?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(call("fsmount"))
}

/// The monitor has not reaped pause, so the number is still its.
pub(super) fn open_user_namespace(pause: u32) -> Result<OwnedFd, EngineError> {
    let path = format!("/proc/{pause}/ns/user");
    Ok(std::fs::File::open(&path).map_err(EngineError::io("open", &path))?.into())
}

/// A container's root and its records carry the same id: what they lie in keeps them apart.
fn trash_name(dir: &std::path::Path) -> String {
    let names = dir.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy().into_owned());
    names.collect::<Vec<_>>().join(".")
}

pub(super) fn add(descriptors: &mut Descriptors, fd: OwnedFd) -> Result<FdSlot, EngineError> {
    descriptors.add(fd).ok_or(EngineError::TooManyDescriptors(crate::convert::slots::MAX_DESCRIPTORS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_shares_an_id_does_not_meet_in_the_trash() {
        let [root, records] = ["/d/scratch/abc", "/d/sandboxes/x/containers/abc"].map(|dir| trash_name(Path::new(dir)));
        assert_eq!(root, "abc.scratch");
        assert_ne!(root, records);
    }
}
