//! Who has which address: durable records in a directory that several processes of one host may share.
//!
//! ```text
//! <state>/lock            held (flock) while records are read or changed; eight octets, a count of changes
//! <state>/network.json    the ranges, and the host's settings that were changed, with their old values
//! <state>/pods/<id>.json  one lease each, written before anything of it is created (D43)
//! ```
//! All of it is about kernel objects that don't outlive a boot: a record of another boot is void, and nothing is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::ipam::{HostNumber, Ranges};
use crate::names::PodId;
use crate::nft::rules::HostPort;

/// How long a released address rests at least, in milliseconds. The kernel destroys a namespace 26-51 ms after its last
/// user, a batch of 500 in 0.1 s; this is ten times that.
pub const QUARANTINE_MS: u64 = 1000;
/// Version of the records' format.
const VERSION: u32 = 1;
/// Longest record that is read.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// One pod's claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    pub version: u32,
    pub boot_id: String,
    pub pod: PodId,
    pub number: HostNumber,
    pub host_link: String,
    pub ports: Vec<HostPort>,
    /// Milliseconds since boot; none while the pod has it.
    pub released_at: Option<u64>,
}

/// What belongs to the whole network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkRecord {
    pub version: u32,
    pub boot_id: String,
    pub ranges: Ranges,
    /// Settings of the host that were changed, with the values that were there before.
    pub changed: BTreeMap<String, String>,
}

/// The records, cached while nobody else changes them.
#[derive(Debug)]
pub(crate) struct Leases {
    directory: PathBuf,
    lock: File,
    boot_id: String,
    seen: Option<u64>,
    pub(crate) network: Option<NetworkRecord>,
    by_pod: BTreeMap<PodId, Lease>,
    used: BTreeSet<HostNumber>,
    previous: Option<HostNumber>,
}

impl Leases {
    pub(crate) fn open(directory: &Path) -> Result<Self, NetworkError> {
        let pods = directory.join("pods");
        fs::create_dir_all(&pods).map_err(failed("mkdir", &pods))?;
        let path = directory.join("lock");
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = fs::read_to_string(path).map_err(failed("read", path))?.trim().to_owned();
        Ok(Self {
            directory: directory.to_owned(),
            lock,
            boot_id,
            seen: None,
            network: None,
            by_pod: BTreeMap::new(),
            used: BTreeSet::new(),
            previous: None,
        })
    }

    /// Runs `act` while no other process reads or changes the records.
    pub(crate) fn locked<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        let path = self.directory.join("lock");
        loop {
            match rustix::fs::flock(&self.lock, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed("flock", &path)(error.into())),
            }
        }
        let result = self.refresh().and_then(|()| act(self));
        let unlocked =
            rustix::fs::flock(&self.lock, FlockOperation::Unlock).map_err(|error| failed("flock", &path)(error.into()));
        let value = result?;
        unlocked.map(|()| value)
    }

    pub(crate) fn get(&self, pod: &PodId) -> Option<&Lease> {
        self.by_pod.get(pod)
    }

    /// Those that pods have.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Lease> {
        self.by_pod.values().filter(|lease| lease.released_at.is_none())
    }

    /// Those whose addresses rest.
    pub(crate) fn resting(&self) -> impl Iterator<Item = &Lease> {
        self.by_pod.values().filter(|lease| lease.released_at.is_some())
    }

    /// Claims the next free number and writes the record.
    pub(crate) fn claim(
        &mut self,
        ranges: &Ranges,
        pod: &PodId,
        host_link: String,
        ports: &[HostPort],
    ) -> Result<Lease, NetworkError> {
        let number = self.peek(ranges)?;
        let lease = Lease {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            pod: pod.clone(),
            number,
            host_link,
            ports: ports.to_vec(),
            released_at: None,
        };
        self.put(lease.clone())?;
        self.previous = Some(number);
        Ok(lease)
    }

    /// The number that the next claim would get.
    pub(crate) fn peek(&self, ranges: &Ranges) -> Result<HostNumber, NetworkError> {
        Ok(ranges.next(&self.used, self.previous)?)
    }

    pub(crate) fn put(&mut self, lease: Lease) -> Result<(), NetworkError> {
        self.changing()?;
        self.write(&self.path(&lease.pod), &lease)?;
        self.used.insert(lease.number);
        self.by_pod.insert(lease.pod.clone(), lease);
        Ok(())
    }

    pub(crate) fn remove(&mut self, pod: &PodId) -> Result<(), NetworkError> {
        self.changing()?;
        remove_file(&self.path(pod))?;
        if let Some(lease) = self.by_pod.remove(pod) {
            self.used.remove(&lease.number);
        }
        Ok(())
    }

    pub(crate) fn put_network(
        &mut self,
        ranges: Ranges,
        changed: BTreeMap<String, String>,
    ) -> Result<(), NetworkError> {
        let record = NetworkRecord { version: VERSION, boot_id: self.boot_id.clone(), ranges, changed };
        if self.network.as_ref() != Some(&record) {
            self.changing()?;
            self.write(&self.directory.join("network.json"), &record)?;
            self.network = Some(record);
        }
        Ok(())
    }

    pub(crate) fn remove_network(&mut self) -> Result<(), NetworkError> {
        self.changing()?;
        self.network = None;
        remove_file(&self.directory.join("network.json"))
    }

    fn path(&self, pod: &PodId) -> PathBuf {
        self.directory.join("pods").join(format!("{pod}.json"))
    }

    /// Counts a change before it is made: who dies half-way leaves others reading again.
    fn changing(&mut self) -> Result<(), NetworkError> {
        let path = self.directory.join("lock");
        let next = self.seen.unwrap_or(0).wrapping_add(1);
        self.lock.write_all_at(&next.to_le_bytes(), 0).map_err(failed("write", &path))?;
        self.seen = Some(next);
        Ok(())
    }

    /// Reads everything again if another process changed something.
    fn refresh(&mut self) -> Result<(), NetworkError> {
        let mut bytes = [0; 8];
        let path = self.directory.join("lock");
        let length = self.lock.read_at(&mut bytes, 0).map_err(failed("read", &path))?;
        let count = if length == bytes.len() { u64::from_le_bytes(bytes) } else { 0 };
        if self.seen == Some(count) {
            return Ok(());
        }
        self.seen = None;
        self.load()?;
        self.seen = Some(count);
        Ok(())
    }

    fn load(&mut self) -> Result<(), NetworkError> {
        self.by_pod.clear();
        self.used.clear();
        let network: Option<NetworkRecord> = read(&self.directory.join("network.json"));
        self.network = network.filter(|record| record.version == VERSION && record.boot_id == self.boot_id);
        let pods = self.directory.join("pods");
        for entry in fs::read_dir(&pods).map_err(failed("opendir", &pods))? {
            let path = entry.map_err(failed("readdir", &pods))?.path();
            match read::<Lease>(&path).filter(|lease| self.is_valid(lease, &path)) {
                Some(lease) => {
                    self.used.insert(lease.number);
                    self.by_pod.insert(lease.pod.clone(), lease);
                }
                // Of another boot, half-written or damaged: the claim is void; its link, if any, goes with a sweep.
                None => remove_file(&path)?,
            }
        }
        self.previous = self.previous.max(self.used.last().copied());
        Ok(())
    }

    /// Nothing on disk is trusted: a file must say what its name says, and two can't have one address.
    fn is_valid(&self, lease: &Lease, path: &Path) -> bool {
        let inside = self.network.as_ref().is_none_or(|network| network.ranges.holds(lease.number));
        lease.version == VERSION
            && lease.boot_id == self.boot_id
            && self.path(&lease.pod) == path
            && inside
            && !self.used.contains(&lease.number)
    }

    /// Temporary file and rename; nobody sees half a record.
    fn write(&self, path: &Path, record: &impl Serialize) -> Result<(), NetworkError> {
        let text = serde_json::to_vec(record).map_err(|error| failed("write", path)(error.into()))?;
        let temporary = self.directory.join("new");
        fs::write(&temporary, text).map_err(failed("write", &temporary))?;
        fs::rename(&temporary, path).map_err(failed("rename", path))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = File::open(path).ok()?;
    serde_json::from_reader(io::Read::take(file, RECORD_BYTES_MAX)).ok()
}

fn remove_file(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("unlink", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(crate) fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::File { call, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn ranges() -> Ranges {
        Ranges::new("10.0.0.0/28".parse().unwrap(), None).unwrap()
    }

    fn claim(leases: &mut Leases, pod: &str) -> Result<Lease, NetworkError> {
        leases.locked(|leases| leases.claim(&ranges(), &pod.parse().unwrap(), "link".to_owned(), &[]))
    }

    fn held(leases: &mut Leases) -> Vec<String> {
        leases.locked(|leases| Ok(leases.held().map(|lease| lease.pod.to_string()).collect())).unwrap()
    }

    #[test]
    fn two_processes_never_give_one_address_twice() {
        let directory = TempDir::new().unwrap();
        let (mut a, mut b) = (Leases::open(directory.path()).unwrap(), Leases::open(directory.path()).unwrap());
        let mut numbers = BTreeSet::new();
        for round in 0..6 {
            assert!(numbers.insert(claim(&mut a, &format!("a{round}")).unwrap().number));
            assert!(numbers.insert(claim(&mut b, &format!("b{round}")).unwrap().number));
        }
        assert_eq!(held(&mut a), held(&mut b));
        assert_eq!(held(&mut a).len(), 12);
    }

    #[test]
    fn records_are_there_after_a_crash() {
        let directory = TempDir::new().unwrap();
        let lease = claim(&mut Leases::open(directory.path()).unwrap(), "a").unwrap();
        let mut again = Leases::open(directory.path()).unwrap();
        assert_eq!(held(&mut again), ["a"]);
        assert_ne!(claim(&mut again, "b").unwrap().number, lease.number);
    }

    #[test]
    fn a_removed_claim_frees_its_number_last() {
        let directory = TempDir::new().unwrap();
        let mut leases = Leases::open(directory.path()).unwrap();
        let first = claim(&mut leases, "a").unwrap().number;
        leases.locked(|leases| leases.remove(&"a".parse().unwrap())).unwrap();
        assert_ne!(claim(&mut leases, "b").unwrap().number, first);
    }

    #[test]
    fn a_damaged_or_foreign_record_costs_itself_alone() {
        let directory = TempDir::new().unwrap();
        let mut leases = Leases::open(directory.path()).unwrap();
        let good = claim(&mut leases, "good").unwrap();
        let pods = directory.path().join("pods");
        let text = fs::read_to_string(pods.join("good.json")).unwrap();
        fs::write(pods.join("cut.json"), &text[..text.len() / 2]).unwrap();
        fs::write(pods.join("other-name.json"), &text).unwrap();
        fs::write(pods.join("old-boot.json"), text.replace(&leases.boot_id, "x").replace("\"good\"", "\"old-boot\""))
            .unwrap();
        fs::write(pods.join("same-number.json"), text.replace("\"good\"", "\"same-number\"")).unwrap();
        fs::write(pods.join("huge.json"), vec![b' '; 100_000]).unwrap();
        let mut again = Leases::open(directory.path()).unwrap();
        assert_eq!(held(&mut again), ["good"]);
        assert_eq!(again.get(&good.pod), Some(&good));
        assert_eq!(fs::read_dir(&pods).unwrap().count(), 1);
    }
}
