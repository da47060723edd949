//! Opening what a launch plan names.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use super::context::Context;
use crate::convert::launch::{ImageProcess, LaunchPlan};
use crate::convert::mounts::Volumes;
use crate::convert::slots::{Needed, SeccompProfile};
use crate::engine::id::{ContainerId, SandboxId};
use crate::engine::program::sealed;
use crate::image::Image;
use crate::pod::event::StartFailureKind;
use crate::runtime::{capabilities, seccomp};
use crate::volume::{self, Missing};

/// Why a descriptor could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{call}({path}): {source}")]
    System { call: &'static str, path: String, source: rustix::io::Errno },
    #[error(transparent)]
    Engine(#[from] crate::engine::error::EngineError),
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}: {source}")]
    SubPath { volume: String, container: String, source: volume::VolumeError },
    #[error("volume {volume:?}: {source}")]
    Volume { volume: String, source: volume::VolumeError },
    #[error("cannot load seccomp profile {profile:?}: {cause}")]
    Seccomp { profile: String, cause: String },
}

impl OpenError {
    /// A sub path that can't be had is the manifest's, or the volume's, fault (VO42).
    pub(super) fn kind(&self) -> StartFailureKind {
        match self {
            Self::SubPath { .. } => StartFailureKind::Config,
            Self::System { .. } | Self::Engine(_) | Self::Volume { .. } | Self::Seccomp { .. } => {
                StartFailureKind::Create
            }
        }
    }
}

/// What the image says about its process.
pub(super) fn image_process(image: &Image) -> ImageProcess {
    let config = image.config.clone();
    ImageProcess {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        user: config.user,
        working_dir: config.working_dir,
        layer_count: image.layers.len(),
    }
}

/// The places of the volumes that are set up.
pub(super) fn places(context: &Context) -> Volumes {
    context.volumes.with(|ready| ready.iter().map(|volume| (volume.name.clone(), volume.place)).collect())
}

/// Every descriptor, in the order of the slots.
pub(super) fn descriptors(
    context: &Context,
    plan: &LaunchPlan,
    container: &Container,
    image: &Image,
    (sandbox, id): (&SandboxId, &ContainerId),
) -> Result<Vec<OwnedFd>, OpenError> {
    let capabilities = plan.launch.process.capabilities.bounding;
    let namespace = context.engine.user_namespace(sandbox)?;
    let namespace = namespace.as_ref().map(|namespace| namespace.as_fd());
    plan.needed
        .iter()
        .map(|needed| match needed {
            Needed::Layer(layer) => open_layer(image.layers.get(*layer).map(std::path::PathBuf::as_path)),
            Needed::Scratch => Ok(context.engine.make_scratch(sandbox, id)?),
            Needed::Volume { name, sub_path, recursive } => {
                open_volume(context, &container.name, (name, sub_path.as_deref()), *recursive, namespace)
            }
            Needed::HostShm => detached("/dev/shm"),
            Needed::Seccomp(profile) => seccomp_program(context, profile, capabilities),
        })
        .collect()
}

fn open_layer(path: Option<&Path>) -> Result<OwnedFd, OpenError> {
    let path = path.unwrap_or(Path::new(""));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(system("open", path))
}

fn open_volume(
    context: &Context,
    container: &str,
    (name, sub_path): (&str, Option<&str>),
    recursive: bool,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, OpenError> {
    let failed = |source| match sub_path {
        Some(_) => OpenError::SubPath { volume: name.to_owned(), container: container.to_owned(), source },
        None => OpenError::Volume { volume: name.to_owned(), source },
    };
    context.volumes.with(|ready| match ready.iter().find(|volume| volume.name == name) {
        Some(volume) => {
            let missing = if volume.is_image { Missing::Refused } else { Missing::Made };
            volume::detached_copy(volume.root.as_fd(), sub_path, recursive, missing, namespace).map_err(failed)
        }
        None => Err(failed(volume::VolumeError::Content("it is not set up".to_owned()))),
    })
}

fn detached(path: &str) -> Result<OwnedFd, OpenError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path, flags).map_err(system("open_tree", Path::new(path)))
}

fn system(call: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> OpenError {
    let path = path.display().to_string();
    move |source| OpenError::System { call, path, source }
}

thread_local! {
    /// The default profile for sets of capabilities: compiling costs more than loading, and most containers have the same.
    static DEFAULT_PROGRAMS: RefCell<BTreeMap<u64, OwnedFd>> = const { RefCell::new(BTreeMap::new()) };
}

pub(super) fn seccomp_program(
    context: &Context,
    profile: &SeccompProfile,
    capabilities: u64,
) -> Result<OwnedFd, OpenError> {
    match profile {
        SeccompProfile::RuntimeDefault => default_program(capabilities),
        // A profile on disk may change.
        SeccompProfile::Localhost(path) => {
            let failed = |cause| OpenError::Seccomp { profile: path.clone(), cause };
            let text = std::fs::read(context.settings.seccomp_dir.join(path));
            let text = text.map_err(|error| failed(error.to_string()))?;
            let program = seccomp::from_profile(&text, capabilities, kernel());
            Ok(sealed("seccomp", &program.map_err(|error| failed(error.to_string()))?)?)
        }
    }
}

/// Compiled once for each set of capabilities.
fn default_program(capabilities: u64) -> Result<OwnedFd, OpenError> {
    let cached = DEFAULT_PROGRAMS.with_borrow(|programs| programs.get(&capabilities).map(OwnedFd::try_clone));
    if let Some(Ok(program)) = cached {
        return Ok(program);
    }
    let failed = |cause| OpenError::Seccomp { profile: "RuntimeDefault".to_owned(), cause };
    let program = seccomp::runtime_default(capabilities).map_err(|error| failed(error.to_string()))?;
    let program = sealed("seccomp", &program)?;
    if let Ok(copy) = program.try_clone() {
        DEFAULT_PROGRAMS.with_borrow_mut(|programs| programs.insert(capabilities, copy));
    }
    Ok(program)
}

/// Compiles what nearly every container needs, for a moment in which there is nothing else to do.
pub(super) fn compile_default() {
    // Who needs it tries again, and says what is wrong.
    let _later = default_program(capabilities::default_set());
}

fn kernel() -> seccomp::Kernel {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    seccomp::Kernel { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
}
