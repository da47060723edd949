//! Why the engine could not do something: the operation and the object, once.

use std::path::{Path, PathBuf};

use crate::monitor::client::ClientError;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{what} {id} does not exist")]
    NotFound { what: &'static str, id: String },
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{call}: {source}")]
    System { call: String, source: rustix::io::Errno },
    #[error("cgroup: {0}")]
    Cgroup(#[from] cgroupd::tree::TreeError),
    #[error("network: {0}")]
    Network(#[from] netsetup::NetworkError),
    #[error("monitor: {0}")]
    Monitor(#[from] ClientError),
    #[error("more than {0} descriptors for one container: too many layers or mounts")]
    TooManyDescriptors(usize),
    #[error(transparent)]
    Ids(#[from] crate::user_namespace::claims::ClaimError),
    #[error("name of a cgroup: {0}")]
    CgroupName(#[from] cgroupd::plan::NameError),
    #[error("launch plan: {0}")]
    Plan(#[from] serde_json::Error),
}

impl EngineError {
    pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { operation, path, source }
    }

    pub(super) fn system(call: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let call = call.into();
        move |source| Self::System { call, source }
    }
}
