//! Namespaces to try things in, and a look at what is in them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netsetup::{Config, Network, PodId};
use rustix::thread::LinkNameSpaceType;
use tempfile::TempDir;

/// How long a test waits for a packet that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for one that must not.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// A network namespace, held by a child that ends when it is dropped.
pub(crate) struct Namespace {
    child: Child,
    file: File,
}

#[expect(clippy::disallowed_methods, reason = "tests look at the kernel with its own tools")]
fn command(program: &str) -> Command {
    Command::new(program)
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let mut child = command("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare must be installed");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "a network namespace needs root");
        let file = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        Self { child, file }
    }

    /// Runs `act` on a thread inside.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let run = || {
                rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            };
            scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What a command prints; it must succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let (output, good) = self.try_run(line);
        assert!(good, "{line}: {output}");
        output
    }

    pub(crate) fn try_run(&self, line: &str) -> (String, bool) {
        let net = format!("--net=/proc/{}/ns/net", self.child.id());
        let output = command("nsenter").args([net.as_str(), "sh", "-c", line]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.success())
    }

    pub(crate) fn rules(&self) -> String {
        self.run("nft list ruleset")
    }

    pub(crate) fn links(&self) -> Vec<String> {
        let links: Vec<serde_json::Value> = serde_json::from_str(&self.run("ip -j link")).unwrap();
        links.iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
    }

    /// What has been set up in here, as text; equal when nothing changed. What the kernel adds by itself as carriers come
    /// and go is not part of it: operational states and link-local addresses.
    pub(crate) fn snapshot(&self) -> String {
        const LOOK: &str = "ip -br link | awk '{print $1, $3}'; ip -o addr show scope global | awk '{print $2, $4}'; \
            ip route | sed 's/ linkdown//'; ip -6 route | grep -v ^fe80 | sed 's/ linkdown//'; \
            cd /proc/sys/net; cat ipv4/ip_forward ipv6/conf/all/forwarding";
        self.rules() + &self.run(LOOK)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

/// A host with a way out: `uplink` 192.0.2.1 to a namespace that plays the rest of the world at 192.0.2.2.
pub(crate) struct Lab {
    pub(crate) host: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) state: TempDir,
}

pub(crate) const HOST_ADDRESS: &str = "192.0.2.1";
pub(crate) const OUTSIDE_ADDRESS: &str = "192.0.2.2";
pub(crate) const HOST_ADDRESS_V6: &str = "2001:db8::1";
pub(crate) const OUTSIDE_ADDRESS_V6: &str = "2001:db8::2";

impl Lab {
    pub(crate) fn new() -> Self {
        let (host, outside) = (Namespace::new(), Namespace::new());
        // The kernel is in no hurry to bring up a veth whose ends have the same index.
        host.run(&format!(
            "sysctl -qw net.ipv6.conf.default.accept_dad=0; ip link set lo up; ip link add uplink index 77 type veth peer name eth0 netns {}",
            outside.child.id()
        ));
        outside.run("sysctl -qw net.ipv6.conf.default.accept_dad=0; ip link set lo up");
        host.run(&format!(
            "ip addr add {HOST_ADDRESS}/24 dev uplink; ip addr add {HOST_ADDRESS_V6}/64 dev uplink nodad; \
             ip addr add fe80::1/64 dev uplink nodad; ip link set uplink up"
        ));
        outside.run(&format!(
            "ip addr add {OUTSIDE_ADDRESS}/24 dev eth0; ip addr add {OUTSIDE_ADDRESS_V6}/64 dev eth0 nodad; ip link set eth0 up"
        ));
        host.run(&format!(
            "ip route add default via {OUTSIDE_ADDRESS}; ip -6 route add default via {OUTSIDE_ADDRESS_V6}"
        ));
        Self { host, outside, state: TempDir::new().unwrap() }
    }

    pub(crate) fn config(&self) -> Config {
        Config::new(self.state.path())
    }

    pub(crate) fn open(&self) -> Network {
        self.on_host(Network::open(self.config())).unwrap()
    }

    /// Drives a future on a thread of the host.
    pub(crate) fn on_host<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.host.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(future)
        })
    }
}

pub(crate) fn id(text: &str) -> PodId {
    text.parse().unwrap()
}

/// A program that another test starts holds a copy of every socket until its exec: a port may be free a moment later.
fn listen(address: (&str, u16)) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => std::thread::yield_now(),
            listener => return listener.unwrap(),
        }
    }
}

/// Serves one connection inside `at`: the peer's address as the server saw it.
pub(crate) fn tcp(from: &Namespace, to: SocketAddr, at: &Namespace, port: u16) -> Option<IpAddr> {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let listener = at.inside(|| listen((any, port)));
    let client = from.inside(|| TcpStream::connect_timeout(&to, PATIENCE));
    let mut client = client.ok()?;
    let (mut server, peer) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"ping").unwrap();
    let mut word = [0; 4];
    server.read_exact(&mut word).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"pong");
    Some(peer.ip().to_canonical())
}

/// Sends one datagram from a given source address: whether it arrived.
pub(crate) fn udp_arrives(from: &Namespace, source: &str, to: SocketAddr, at: &Namespace) -> bool {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let server = at.inside(|| UdpSocket::bind((any, to.port())).unwrap());
    server.set_read_timeout(Some(SILENCE)).unwrap();
    from.inside(|| {
        let client = UdpSocket::bind((source.parse::<IpAddr>().unwrap(), 0)).unwrap();
        client.send_to(b"x", to).unwrap();
    });
    server.recv_from(&mut [0; 8]).is_ok()
}
