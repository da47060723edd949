//! Connections to ports of a pod, through one connection of a client.
//!
//! Over SPDY, plain or tunnelled in WebSocket, every forwarded connection is a pair of streams, one for data and one for
//! what went wrong. The older form over WebSocket has a pair of channels for each port that the URL names, and one
//! connection each.

use std::collections::BTreeMap;
use std::future::Future;

use std::pin::Pin;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::channels::{self, Codec, Encoding};
use super::spdy::{self, Headers, ResetStatus, Role, Stream};
use super::upgrade::{Offer, UpgradeError};
use super::{IDLE_TIMEOUT, STREAM_CREATION_TIMEOUT, websocket};

/// Most ports of the older form.
pub const MAX_PORTS: usize = 64;
/// Streams that wait for their other half.
const MAX_UNPAIRED: usize = 256;
/// Copied at once, in each direction.
const COPY_BYTES: usize = 16 * 1024;

const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// SPDY within the messages of a WebSocket.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// Connects to a port; the error is for the client.
pub type Dial = Rc<dyn Fn(u16) -> Pin<Box<dyn Future<Output = Result<TcpStream, String>>>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Spdy,
    Tunnel,
    Channels(Encoding),
}

const WEBSOCKET_PROTOCOLS: &[(&str, Kind)] = &[
    (TUNNEL_PROTOCOL, Kind::Tunnel),
    ("v4.channel.k8s.io", Kind::Channels(Encoding::Binary)),
    ("v4.base64.channel.k8s.io", Kind::Channels(Encoding::Base64)),
];

/// Both ends agree on a protocol.
#[derive(Debug)]
pub struct Agreed {
    offer: Offer,
    kind: Kind,
    name: Option<&'static str>,
}

impl Agreed {
    /// What is spoken with a client.
    pub fn on(offer: Offer) -> Result<Self, UpgradeError> {
        let chosen = match &offer {
            Offer::Spdy { .. } => offer.choose(&[(SPDY_PROTOCOL, Kind::Spdy)], Kind::Spdy)?,
            Offer::WebSocket { .. } => offer.choose(WEBSOCKET_PROTOCOLS, Kind::Channels(Encoding::Binary))?,
        };
        Ok(Self { offer, kind: chosen.protocol, name: chosen.name })
    }

    /// Whether the URL has to name the ports.
    pub fn needs_ports(&self) -> bool {
        matches!(self.kind, Kind::Channels(_))
    }

    /// The answer that switches.
    pub fn response(&self) -> http::Response<super::body::Body> {
        self.offer.accept(self.name)
    }

    /// Forwards until the client leaves.
    pub async fn serve<T>(&self, io: T, ports: &[u16], dial: Dial)
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        match self.kind {
            Kind::Spdy => over_spdy(spdy::Session::start(io, Role::Server, IDLE_TIMEOUT), dial).await,
            Kind::Tunnel => {
                let tunnel = websocket::Tunnel::new(websocket::server(io).await);
                over_spdy(spdy::Session::start(tunnel, Role::Server, IDLE_TIMEOUT), dial).await;
            }
            Kind::Channels(encoding) => {
                let codec = Codec { encoding, closes: false };
                let count = u8::try_from(2 * ports.len().min(MAX_PORTS)).unwrap_or(u8::MAX);
                let socket = websocket::server(io).await;
                over_channels(channels::Session::start(socket, codec, count, IDLE_TIMEOUT), ports, dial).await;
            }
        }
    }
}

/// A connection that has not both of its streams yet.
#[derive(Debug)]
struct Half {
    data: Option<Stream>,
    error: Option<Stream>,
    port: u16,
    since: Instant,
}

async fn over_spdy(session: spdy::Session, dial: Dial) {
    let mut halves: BTreeMap<String, Half> = BTreeMap::new();
    // Ends what it holds when the client has left.
    let mut forwards = JoinSet::new();
    loop {
        let oldest = halves.values().map(|half| half.since).min().unwrap_or_else(Instant::now);
        let accepted = match timeout_at(oldest + STREAM_CREATION_TIMEOUT, session.accept()).await {
            Ok(Some(accepted)) => accepted,
            Ok(None) => break,
            Err(_) => {
                // Dropping resets them.
                halves.retain(|_, half| half.since.elapsed() < STREAM_CREATION_TIMEOUT);
                continue;
            }
        };
        while forwards.try_join_next().is_some() {}
        let (headers, stream) = accepted;
        if let Some((port, data, error)) = pair(&mut halves, &headers, stream) {
            forwards.spawn_local(forward(data, error, port, dial.clone()));
        }
    }
    if !forwards.is_empty() {
        // No new ones come, but those that are there may go on until the connection ends.
        tokio::select! {
            () = session.ended() => {}
            () = async { while forwards.join_next().await.is_some() {} } => {}
        }
    }
    session.close();
}

/// Puts a stream to its other half; both when there are both.
fn pair(halves: &mut BTreeMap<String, Half>, headers: &Headers, stream: Stream) -> Option<(u16, Stream, Stream)> {
    let port = headers.get("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    let is_data = match headers.get("streamtype") {
        Some("data") => true,
        Some("error") => false,
        _ => {
            stream.reset(ResetStatus::ProtocolError);
            return None;
        }
    };
    let Some(port) = port else {
        stream.reset(ResetStatus::ProtocolError);
        return None;
    };
    // The oldest clients number nothing; their error stream comes first, its data stream next.
    let unnamed = || (stream.id() - if is_data { 2 } else { 0 }).to_string();
    let request = headers.get("requestid").map_or_else(unnamed, str::to_owned);
    if halves.len() >= MAX_UNPAIRED && !halves.contains_key(&request) {
        stream.reset(ResetStatus::RefusedStream);
        return None;
    }
    let half = Half { data: None, error: None, port, since: Instant::now() };
    let half = halves.entry(request.clone()).or_insert(half);
    let slot = if is_data { &mut half.data } else { &mut half.error };
    if slot.is_some() {
        stream.reset(ResetStatus::ProtocolError);
        return None;
    }
    *slot = Some(stream);
    if half.data.is_none() || half.error.is_none() {
        return None;
    }
    let half = halves.remove(&request)?;
    Some((half.port, half.data?, half.error?))
}

/// One connection, until the pod has said all. Clients wait for the end of the error stream before they end their own half,
/// so that half is not waited for.
async fn forward(data: impl AsyncRead + AsyncWrite, mut error: impl AsyncWrite + Unpin, port: u16, dial: Dial) {
    let (from_client, mut to_client) = tokio::io::split(data);
    match dial(port).await {
        Ok(socket) => {
            let (from_pod, mut to_pod) = socket.into_split();
            let upload = async {
                let copied = copy(from_client, &mut to_pod).await;
                // The pod may still have something to say, unless the client broke off.
                if copied.is_ok() && to_pod.shutdown().await.is_ok() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                _over = copy(from_pod, &mut to_client) => {}
                () = upload => {}
            }
        }
        Err(text) => {
            let _left = error.write_all(text.as_bytes()).await;
        }
    }
    let _left = to_client.shutdown().await;
    let _left = error.shutdown().await;
}

async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<u64> {
    tokio::io::copy_buf(&mut BufReader::with_capacity(COPY_BYTES, from), &mut to).await
}

async fn over_channels(opened: (channels::Session, Vec<channels::Channel>), ports: &[u16], dial: Dial) {
    let (session, channels) = opened;
    let mut channels = channels.into_iter();
    let mut forwards = JoinSet::new();
    for port in ports.iter().copied() {
        let (Some(mut data), Some(mut error)) = (channels.next(), channels.next()) else { break };
        let dial = dial.clone();
        forwards.spawn_local(async move {
            let number = port.to_le_bytes();
            let announced = async {
                data.write_all(&number).await?;
                error.write_all(&number).await
            };
            if announced.await.is_ok() {
                forward(data, error, port, dial).await;
            }
        });
    }
    tokio::select! {
        () = session.ended() => {}
        () = async { while forwards.join_next().await.is_some() {} } => {
            session.close();
            session.ended().await;
        }
    }
}

/// The ports that a URL names: several, or several in one.
pub fn ports<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for value in values {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for text in value.split(',') {
            match text.parse::<u16>() {
                Ok(0) => return Err(format!("port {text:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(error) => return Err(format!("unable to parse {text:?} as a port: {error}")),
            }
        }
    }
    if ports.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    if ports.len() > MAX_PORTS {
        return Err(format!("{} ports are more than {MAX_PORTS}", ports.len()));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_upstream_does() {
        assert_eq!(ports(["80", "81,82"].into_iter()), Ok(vec![80, 81, 82]));
        for (values, expected) in [
            (vec![], "query parameter \"port\" is required"),
            (vec![""], "query parameter \"port\" cannot be empty"),
            (vec!["0"], "port \"0\" must be > 0"),
            (vec!["x"], "unable to parse \"x\" as a port: invalid digit found in string"),
        ] {
            assert_eq!(ports(values.into_iter()), Err(expected.to_owned()));
        }
    }

    fn run<F: Future>(test: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    /// A server that sends back what it gets, and a client of it.
    async fn echoing() -> (spdy::Session, u16) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::task::spawn_local(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let (mut read, mut write) = socket.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let dial: Dial = Rc::new(move |wanted| {
            Box::pin(async move {
                match wanted == port {
                    true => TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string()),
                    false => Err(format!("nothing at {wanted}")),
                }
            })
        });
        let (ours, theirs) = tokio::io::duplex(10_000);
        tokio::task::spawn_local(over_spdy(spdy::Session::start(theirs, Role::Server, IDLE_TIMEOUT), dial));
        (spdy::Session::start(ours, Role::Client, IDLE_TIMEOUT), port)
    }

    fn open(client: &spdy::Session, kind: &str, port: u16, request: usize) -> Stream {
        let pairs = [("streamType", kind.to_owned()), ("port", port.to_string()), ("requestID", request.to_string())];
        client.open(&Headers(pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()))
    }

    /// Issue E, point 3: hundreds of sessions, and half-close.
    #[test]
    fn hundreds_of_connections_share_one() {
        use tokio::io::AsyncReadExt as _;
        run(async {
            let (client, port) = echoing().await;
            let mut all = JoinSet::new();
            for request in 0..300 {
                let client = client.clone();
                all.spawn_local(async move {
                    let (mut error, data) =
                        (open(&client, "error", port, request), open(&client, "data", port, request));
                    error.shutdown().await.unwrap();
                    let (mut read, mut write) = tokio::io::split(data);
                    let payload = vec![u8::try_from(request % 256).unwrap(); 100_000];
                    let sending = async {
                        write.write_all(&payload).await.unwrap();
                        write.shutdown().await.unwrap();
                    };
                    let mut back = Vec::new();
                    let (_, received) = tokio::join!(sending, read.read_to_end(&mut back));
                    assert_eq!((received.unwrap(), &back), (payload.len(), &payload));
                    let mut text = String::new();
                    error.read_to_string(&mut text).await.unwrap();
                    assert_eq!(text, "");
                });
            }
            while let Some(done) = all.join_next().await {
                done.unwrap();
            }
        });
    }

    #[test]
    fn a_port_that_nobody_listens_at_is_an_error_of_that_connection_alone() {
        use tokio::io::AsyncReadExt as _;
        run(async {
            let (client, port) = echoing().await;
            let (mut error, _data) = (open(&client, "error", 1, 1), open(&client, "data", 1, 1));
            let mut text = String::new();
            error.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "nothing at 1");
            let (_error, mut data) = (open(&client, "error", port, 2), open(&client, "data", port, 2));
            data.write_all(b"still").await.unwrap();
            let mut back = [0; 5];
            data.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"still");
        });
    }
}
