//! Against the kernel, as root: a network namespace plays the host, others are pods or the world outside.
#![expect(clippy::disallowed_methods, reason = "tests make namespaces and call ip and nft")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use netsetup::{Attachment, Config, HostPort, Network, PodId, Protocol, Ranges};
use nix::sched::CloneFlags;
use rustix::thread::LinkNameSpaceType;

/// Longest wait for a connection that works.
const PATIENCE: Duration = Duration::from_secs(5);
/// A packet that is dropped is waited for this long.
const SILENCE: Duration = Duration::from_millis(300);

fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> String {
    let output =
        Command::new(program).args(arguments.split(' ')).output().expect("iproute2 and nftables are installed");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a test on a thread whose network namespace is a host of its own.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Network) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network need root");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let config = Config { ranges: Ranges::Auto, state_dir: dir.path().to_path_buf() };
            test(Network::open(config).await.unwrap()).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A new network namespace.
fn namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
        OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
    });
    thread.join().unwrap()
}

/// Runs `body` inside a namespace.
fn inside<T: Send + 'static>(netns: &OwnedFd, body: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        body()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn pod(name: &str) -> PodId {
    PodId::parse(name).unwrap()
}

/// A server in a namespace that tells each client the address that it came from.
fn serve(netns: &OwnedFd, address: SocketAddr) {
    let listener = inside(netns, move || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let peer = client.peer_addr().unwrap().ip();
            client.write_all(peer.to_string().as_bytes()).unwrap();
        }
    });
}

/// What the server at `address` says, from inside a namespace.
fn ask(netns: &OwnedFd, address: SocketAddr, patience: Duration) -> std::io::Result<IpAddr> {
    inside(netns, move || ask_here(address, patience))
}

fn ask_here(address: SocketAddr, patience: Duration) -> std::io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.parse().unwrap())
}

async fn attach(network: &Network, name: &str, netns: &OwnedFd) -> Attachment {
    network.attach(&pod(name), netns.as_fd(), &[]).await.unwrap()
}

#[test]
fn pods_reach_each_other_by_both_families() {
    on_a_host(|network| async move {
        let (a, b) = (namespace(), namespace());
        let from = attach(&network, "a", &a).await;
        let to = attach(&network, "b", &b).await;
        for (own, other) in from.addresses.iter().zip(&to.addresses) {
            serve(&b, SocketAddr::new(*other, 8080));
            assert_eq!(ask(&a, SocketAddr::new(*other, 8080), PATIENCE).unwrap(), *own);
        }
    });
}

#[test]
fn the_world_sees_the_host_s_address() {
    on_a_host(|network| async move {
        let (world, a) = (namespace(), namespace());
        let file = world.try_clone().unwrap();
        connect_world(&file);
        attach(&network, "a", &a).await;
        serve(&world, "192.0.2.9:80".parse().unwrap());
        let seen = ask(&a, "192.0.2.9:80".parse().unwrap(), PATIENCE).unwrap();
        assert_eq!(seen.to_string(), "192.0.2.1");
    });
}

/// A veth from the host (192.0.2.1) to a namespace that plays the world outside (192.0.2.9).
fn connect_world(world: &OwnedFd) {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/{}/fd/{}", std::process::id(), world.as_raw_fd());
    ip("link add up0 type veth peer name world0");
    ip(&format!("link set world0 netns {path}"));
    ip("address add 192.0.2.1/24 dev up0");
    ip("link set up0 up");
    inside(world, || {
        ip("link set lo up");
        ip("address add 192.0.2.9/24 dev world0");
        ip("link set world0 up");
    });
}

/// PO1, PO2
#[test]
fn a_host_port_leads_to_the_pod_from_loopback_and_outside() {
    on_a_host(|network| async move {
        let (world, a) = (namespace(), namespace());
        connect_world(&world);
        let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        let attachment = network.attach(&pod("a"), a.as_fd(), &[port]).await.unwrap();
        serve(&a, SocketAddr::new(attachment.addresses[0], 80));
        assert_eq!(ask(&world, "192.0.2.1:8080".parse().unwrap(), PATIENCE).unwrap().to_string(), "192.0.2.9");
        ask_here("127.0.0.1:8080".parse().unwrap(), PATIENCE).unwrap();
        ask_here("192.0.2.1:8080".parse().unwrap(), PATIENCE).unwrap();
        network.detach(&pod("a")).await.unwrap();
        assert!(ask(&world, "192.0.2.1:8080".parse().unwrap(), SILENCE).is_err());
    });
}

/// D24, P34
#[test]
fn a_foreign_source_address_is_dropped() {
    on_a_host(|network| async move {
        let (a, b) = (namespace(), namespace());
        attach(&network, "a", &a).await;
        let to = attach(&network, "b", &b).await;
        let server = SocketAddr::new(to.addresses[0], 8080);
        serve(&b, server);
        ask(&a, server, PATIENCE).unwrap();
        let subnet = to.addresses[0].to_string();
        let foreign = format!("{}.77.77", subnet.split('.').take(2).collect::<Vec<_>>().join("."));
        inside(&a, move || {
            let own = ip("-4 -o address show dev eth0");
            let own = own.split_whitespace().nth(3).unwrap().to_owned();
            ip(&format!("address add {foreign}/16 dev eth0"));
            ip(&format!("address delete {own} dev eth0"));
        });
        assert!(ask(&a, server, SILENCE).is_err());
    });
}

#[test]
fn attaching_twice_changes_nothing() {
    on_a_host(|network| async move {
        let a = namespace();
        let first = attach(&network, "a", &a).await;
        assert_eq!(attach(&network, "a", &a).await, first);
        assert_eq!(network.leases().unwrap(), [pod("a")]);
    });
}

/// D43: what a crash left is removed, and nothing of anybody else.
#[test]
fn a_sweep_removes_exactly_what_is_ours() {
    on_a_host(|network| async move {
        ip("link add foreign0 type bridge");
        ip("link add mp0 type bridge");
        run("nft", "add table inet foreign");
        let before = (ip("-o link show"), run("nft", "list ruleset"));
        let (a, b) = (namespace(), namespace());
        attach(&network, "a", &a).await;
        attach(&network, "b", &b).await;
        let swept = network.sweep(&[pod("b")]).await.unwrap();
        assert_eq!((swept.leases, swept.links.len()), (vec!["a".to_owned()], 1));
        assert_eq!(network.leases().unwrap(), [pod("b")]);
        network.sweep(&[]).await.unwrap();
        assert_eq!((ip("-o link show"), run("nft", "list ruleset")), before);
    });
}

#[test]
fn rounds_leave_nothing_behind() {
    const ROUNDS: usize = 100;
    on_a_host(|network| async move {
        let mut addresses = std::collections::BTreeSet::new();
        let started = std::time::Instant::now();
        for round in 0..ROUNDS {
            let netns = namespace();
            addresses.insert(attach(&network, &format!("pod-{round}"), &netns).await.addresses[0]);
            network.detach(&pod(&format!("pod-{round}"))).await.unwrap();
        }
        println!("attach and detach: {:?} each", started.elapsed() / ROUNDS as u32);
        assert_eq!(addresses.len(), ROUNDS, "an address came back too early");
        network.sweep(&[]).await.unwrap();
        let names: Vec<String> =
            ip("-br link show").lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["lo"]);
        assert_eq!(run("nft", "list ruleset"), "");
    });
}
