//! The node as its pods see it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::process::{Resource, getrlimit};

use crate::convert::facts::NodeFacts;
use crate::runtime::capabilities;

/// What containers may open, when the host allows it.
const NOFILE: u64 = 1_048_576;

/// Read once; `name` is `spec.nodeName`, by default the host's name.
pub fn node_facts(name: Option<String>, ips: Vec<IpAddr>) -> NodeFacts {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(NOFILE).min(NOFILE);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    NodeFacts {
        name: name.unwrap_or(host),
        ips,
        allocatable_cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000,
        allocatable_memory_bytes: memory_bytes(),
        allocatable_ephemeral_bytes: ephemeral_bytes(),
        cpus: u32::try_from(cpus).unwrap_or(1),
        nofile: (hard, hard),
        apparmor: is_apparmor_enabled(),
        capabilities: capabilities::known_to_kernel(),
    }
}

/// The addresses that the host would speak from, at least the loopback's; connecting a datagram socket sends nothing.
pub fn host_addresses() -> Vec<IpAddr> {
    let toward = |from: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to.parse::<SocketAddr>().ok()?).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let found = [toward("0.0.0.0:0", "192.0.2.1:9"), toward("[::]:0", "[2001:db8::1]:9")];
    let mut addresses: Vec<IpAddr> = found.into_iter().flatten().collect();
    if addresses.is_empty() {
        addresses.push(IpAddr::from([127, 0, 0, 1]));
    }
    addresses
}

fn is_apparmor_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
}

fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<i64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or(0) * 1024
}

fn ephemeral_bytes() -> i64 {
    let size = rustix::fs::statvfs("/var/lib").map_or(0, |fs| fs.f_blocks * fs.f_frsize);
    i64::try_from(size).unwrap_or(i64::MAX)
}
