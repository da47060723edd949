//! Servers in threads of the test: each takes a known number of connections, and one that waits for its client's leaving
//! proves by its end that the client has left.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::pod::spec::{HttpGet, Port};
use crate::probe::Target;

/// Longer than any answer takes.
pub(super) const PATIENT: Duration = Duration::from_secs(30);
/// For probes that are to run out of time.
pub(super) const HASTY: Duration = Duration::from_millis(300);
/// What a hasty probe may take on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(10);
pub(super) const LOOPBACK: Target = Target { pod_ip: IpAddr::V4(Ipv4Addr::LOCALHOST) };

pub(super) struct Server<T> {
    pub(super) addr: SocketAddr,
    thread: JoinHandle<Vec<T>>,
}

impl<T: Send + 'static> Server<T> {
    /// Serves `count` connections, one after the other.
    pub(super) fn start(count: usize, mut serve: impl FnMut(TcpStream) -> T + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let thread =
            std::thread::spawn(move || (0..count).map(|_| serve(listener.accept().unwrap().0)).collect::<Vec<_>>());
        Self { addr, thread }
    }

    pub(super) fn port(&self) -> Port {
        Port::Number(self.addr.port())
    }

    /// What `serve` returned for each connection, once all have been served.
    pub(super) fn join(self) -> Vec<T> {
        self.thread.join().unwrap()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// A server that answers each request with these bytes and closes; it returns the requests.
pub(super) fn answering(answers: &[&[u8]]) -> Server<String> {
    let mut answers = answers.iter().map(|answer| answer.to_vec()).collect::<Vec<_>>().into_iter();
    Server::start(answers.len(), move |mut stream| {
        let head = read_head(&mut stream);
        stream.write_all(&answers.next().unwrap()).unwrap();
        head
    })
}

/// A request up to its empty line.
pub(super) fn read_head(stream: &mut impl std::io::Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Says nothing until the client leaves.
pub(super) fn until_gone(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

/// Sends `begin`, then `again` for ever, until the client leaves.
pub(super) fn flooding(begin: &'static [u8], again: &'static [u8]) -> Server<()> {
    Server::start(1, move |mut stream| {
        read_head(&mut stream);
        let mut sent = stream.write_all(begin);
        while sent.is_ok() {
            sent = stream.write_all(again);
        }
    })
}

/// Sends `begin`, then a byte whenever it has waited a little for the client's leaving.
pub(super) fn dripping(begin: &'static [u8]) -> Server<()> {
    Server::start(1, move |mut stream| {
        read_head(&mut stream);
        stream.write_all(begin).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        while stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
            if stream.write_all(b"x").is_err() {
                break;
            }
        }
    })
}

/// A port where nobody listens.
pub(super) fn closed_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A listener whose queue is full: the kernel drops whoever else comes.
pub(super) fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let addr = listener.local_addr().unwrap();
    let waiting = std::iter::from_fn(|| TcpStream::connect_timeout(&addr, Duration::from_millis(100)).ok()).collect();
    (listener, waiting)
}

pub(super) fn get(port: Port, path: &str) -> HttpGet {
    HttpGet { https: false, host: None, port, path: path.to_owned(), headers: Vec::new() }
}
