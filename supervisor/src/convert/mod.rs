//! From Kubernetes objects to what the rest of the program understands. Pure: everything that must be known is an argument.

pub mod env;
mod env_file;
pub mod event;
pub mod expand;
pub mod facts;
pub mod field;
pub mod launch;
pub mod machine;
pub mod mounts;
pub mod references;
pub mod resources;
pub mod security;
pub mod slots;
pub mod status;

/// Why a container's plan can't be made now: the reason `CreateContainerConfigError`, retried until the cause is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
