//! Who has which address: one file per pod, written before anything is made for it (D43).
//!
//! Several processes on one host share the directory under a lock. A released lease stays, as such, until the pod's link is
//! gone: the kernel destroys network namespaces later, and until then the address still answers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ipam::{self, Subnets};
use crate::names;

/// What a pod was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub pod: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub link: String,
    pub mac: [u8; 6],
    #[serde(default)]
    pub ports: Vec<crate::HostPort>,
    /// The pod is gone, its link perhaps not yet.
    #[serde(default)]
    pub released: bool,
}

impl Lease {
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)]
    }
}

/// What all pods of the host share.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Shared {
    pub subnets: Subnets,
    /// Number of the address that was given out last.
    pub last: u32,
}

/// The directory, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
    _lock: File,
}

const SHARED: &str = "network.json";
const LOCK: &str = "lock";
const DIRECTORY: &str = "leases";

impl Leases {
    /// Waits for the lock; nobody holds it for longer than a few file operations.
    pub(crate) fn lock(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir.join(DIRECTORY))?;
        let lock = File::create(dir.join(LOCK))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
        Ok(Self { dir: dir.to_path_buf(), _lock: lock })
    }

    pub(crate) fn shared(&self) -> Option<Shared> {
        load(&self.dir.join(SHARED))
    }

    pub(crate) fn set_shared(&self, shared: &Shared) -> io::Result<()> {
        save(&self.dir.join(SHARED), shared)
    }

    pub(crate) fn forget_shared(&self) -> io::Result<()> {
        remove(&self.dir.join(SHARED))
    }

    /// Every lease, released ones too. A damaged file is taken for none: its pod is swept as unknown.
    pub(crate) fn all(&self) -> Vec<Lease> {
        let entries = std::fs::read_dir(self.dir.join(DIRECTORY)).into_iter().flatten().flatten();
        entries.filter_map(|entry| load(&entry.path())).collect()
    }

    pub(crate) fn find(&self, pod: &str) -> Option<Lease> {
        load(&self.path(pod))
    }

    /// A lease for `pod`; the one that it has already, if any. None when every address is taken.
    pub(crate) fn take(&self, pod: &str, ports: &[crate::HostPort], shared: &mut Shared) -> io::Result<Option<Lease>> {
        if let Some(lease) = self.find(pod).filter(|lease| !lease.released) {
            return Ok(Some(lease));
        }
        let taken: BTreeSet<IpAddr> = self.all().iter().flat_map(Lease::addresses).collect();
        let Some((number, v4, v6)) = ipam::next(&shared.subnets, shared.last, &taken) else { return Ok(None) };
        shared.last = number;
        self.set_shared(shared)?;
        let lease = Lease {
            pod: pod.to_owned(),
            v4,
            v6,
            link: names::host_link(pod),
            mac: names::mac(pod),
            ports: ports.to_vec(),
            released: false,
        };
        save(&self.path(pod), &lease)?;
        Ok(Some(lease))
    }

    pub(crate) fn release(&self, lease: &Lease) -> io::Result<()> {
        save(&self.path(&lease.pod), &Lease { released: true, ..lease.clone() })
    }

    /// The address may be used again.
    pub(crate) fn forget(&self, pod: &str) -> io::Result<()> {
        remove(&self.path(pod))
    }

    fn path(&self, pod: &str) -> PathBuf {
        self.dir.join(DIRECTORY).join(format!("{pod}.json"))
    }
}

/// Readers see the old content or the new. The directory is on a file system that a reboot empties, so nothing is synced.
fn save(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(value)?)?;
    std::fs::rename(&temporary, path)
}

fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        Shared { subnets: Subnets { v4: "10.0.0.0/29".parse().unwrap(), v6: "fd00::/64".parse().unwrap() }, last: 0 }
    }

    #[test]
    fn a_pod_keeps_its_address_and_a_released_one_stays_taken() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::lock(dir.path()).unwrap();
        let mut shared = shared();
        let first = leases.take("a", &[], &mut shared).unwrap().unwrap();
        assert_eq!(leases.take("a", &[], &mut shared).unwrap(), Some(first.clone()));
        for pod in ["b", "c", "d", "e"] {
            assert!(leases.take(pod, &[], &mut shared).unwrap().is_some());
        }
        assert_eq!(leases.take("f", &[], &mut shared).unwrap(), None);
        leases.release(&first).unwrap();
        assert_eq!(leases.take("f", &[], &mut shared).unwrap(), None);
        leases.forget("a").unwrap();
        assert_eq!(leases.take("f", &[], &mut shared).unwrap().unwrap().v4, first.v4);
    }

    #[test]
    fn a_damaged_lease_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::lock(dir.path()).unwrap();
        leases.take("a", &[], &mut shared()).unwrap();
        std::fs::write(leases.path("a"), "{").unwrap();
        assert!(leases.all().is_empty());
    }
}
