//! Programs and plans as descriptors that nobody can write any more (D11).

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::Serialize;

use super::error::EngineError;
use crate::monitor::spawn::find_binary;
use crate::monitor::template::Template;

/// What the engine starts.
#[derive(Debug)]
pub struct Programs {
    pause: OwnedFd,
    pub(super) template: Template,
}

impl Programs {
    /// Pause, sealed, and the process that makes monitors.
    pub fn open() -> Result<Self, EngineError> {
        let find = |name: &'static str| find_binary(name).map_err(EngineError::io("find", name));
        let path = find("pause")?;
        let bytes = std::fs::read(&path).map_err(EngineError::io("read", &path))?;
        let monitor = find("monitor")?;
        let template = Template::start(monitor).map_err(EngineError::io("start", "monitor"))?;
        Ok(Self { pause: sealed("pause", &bytes)?, template })
    }

    pub fn pause(&self) -> Result<OwnedFd, EngineError> {
        self.pause.try_clone().map_err(EngineError::io("duplicate", "pause"))
    }
}

/// A plan as JSON, for a monitor's child.
pub fn plan(value: &impl Serialize) -> Result<OwnedFd, EngineError> {
    sealed("plan", &serde_json::to_vec(value)?)
}

/// `bytes` in a memfd that can neither grow, shrink nor change.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, EngineError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create(name, flags).map_err(EngineError::system(format!("memfd_create({name})")))?;
    let mut file = File::from(memfd);
    file.write_all(bytes).map_err(EngineError::io("write", name))?;
    let memfd = OwnedFd::from(file);
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memfd, seals).map_err(EngineError::system(format!("fcntl({name}, F_ADD_SEALS)")))?;
    Ok(memfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_plan_can_not_be_changed() {
        let memfd = sealed("x", b"abc").unwrap();
        assert!(rustix::io::pwrite(&memfd, b"z", 0).is_err());
        let mut back = [0; 3];
        assert_eq!(rustix::io::pread(&memfd, &mut back, 0).unwrap(), 3);
        assert_eq!(&back, b"abc");
    }
}
