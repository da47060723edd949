//! A command's streams over a connection: exec and attach.
//!
//! Clients name the streams that they want in the request; over SPDY they open each of them, over WebSocket each has its
//! number. When the command has ended its remaining output is sent, then a status on the error stream, then the end.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::channels::{self, Codec, Encoding};
use super::fd::Fd;
use super::spdy::{self, ResetStatus, Role};
use super::upgrade::{Offer, UpgradeError};
use super::{CHUNK_BYTES, IDLE_TIMEOUT, STREAM_CREATION_TIMEOUT, websocket};

/// Output that is on its way when a process has ended is waited for this long after the last of it: a child that it left
/// behind may hold the pipe for ever.
const DRAIN: Duration = Duration::from_millis(50);
/// Longest message about a terminal's size.
const RESIZE_BYTES: usize = 1024;

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A version of the protocol; what each can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Errors as plain text.
    V1,
    /// A stream may be half-closed.
    V2,
    /// A terminal may be resized.
    V3,
    /// The status is an object and carries the exit code.
    V4,
    /// Half-close over WebSocket.
    V5,
}

const SPDY_PROTOCOLS: &[(&str, Version)] = &[
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

const fn binary(version: Version) -> (Version, Encoding) {
    (version, Encoding::Binary)
}

const WEBSOCKET_PROTOCOLS: &[(&str, (Version, Encoding))] = &[
    ("v5.channel.k8s.io", binary(Version::V5)),
    ("v4.channel.k8s.io", binary(Version::V4)),
    ("v4.base64.channel.k8s.io", (Version::V4, Encoding::Base64)),
    ("channel.k8s.io", binary(Version::V1)),
    ("base64.channel.k8s.io", (Version::V1, Encoding::Base64)),
];

/// Numbers of the channels over WebSocket: stdin, stdout, stderr, error, resize.
const CHANNELS: u8 = 5;

type Reader = Box<dyn AsyncRead + Unpin>;
type Writer = Box<dyn AsyncWrite + Unpin>;

/// Both ends agree on a protocol.
#[derive(Debug)]
pub struct Agreed {
    offer: Offer,
    kind: Kind,
    /// For the answer.
    pub name: Option<&'static str>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Spdy(Version),
    WebSocket(Version, Encoding),
}

impl Agreed {
    /// What is spoken with a client.
    pub fn on(offer: Offer) -> Result<Self, UpgradeError> {
        let (kind, name) = match &offer {
            Offer::Spdy { .. } => {
                let chosen = offer.choose(SPDY_PROTOCOLS, Version::V1)?;
                (Kind::Spdy(chosen.protocol), chosen.name)
            }
            Offer::WebSocket { .. } => {
                let chosen = offer.choose(WEBSOCKET_PROTOCOLS, binary(Version::V1))?;
                (Kind::WebSocket(chosen.protocol.0, chosen.protocol.1), chosen.name)
            }
        };
        Ok(Self { offer, kind, name })
    }

    /// The answer that switches.
    pub fn response(&self) -> http::Response<super::body::Body> {
        self.offer.accept(self.name)
    }

    /// Waits until the client has opened its streams.
    pub async fn open<T>(&self, io: T, wanted: Wanted) -> io::Result<Client>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        match self.kind {
            Kind::Spdy(version) => {
                let session = spdy::Session::start(io, Role::Server, IDLE_TIMEOUT);
                let opened = tokio::time::timeout(STREAM_CREATION_TIMEOUT, over_spdy(session, version, wanted)).await;
                opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
            Kind::WebSocket(version, encoding) => {
                let codec = Codec { encoding, closes: version >= Version::V5 };
                let socket = websocket::server(io).await;
                Ok(over_websocket(channels::Session::start(socket, codec, CHANNELS, IDLE_TIMEOUT), version, wanted))
            }
        }
    }
}

/// A client's ends of the streams.
pub struct Client {
    connection: Connection,
    version: Version,
    stdin: Option<Reader>,
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    resize: Option<Reader>,
    error: Writer,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("version", &self.version).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Connection {
    Spdy(spdy::Session),
    WebSocket(channels::Session),
}

impl Connection {
    async fn ended(&self) {
        match self {
            Self::Spdy(session) => session.ended().await,
            Self::WebSocket(session) => session.ended().await,
        }
    }

    fn close(&self) {
        match self {
            Self::Spdy(session) => session.close(),
            Self::WebSocket(session) => session.close(),
        }
    }
}

/// The error stream comes in any case; the resize stream with a terminal, from version 3 on.
async fn over_spdy(session: spdy::Session, version: Version, wanted: Wanted) -> io::Result<Client> {
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let resizes = wanted.tty && version >= Version::V3;
    let expected = 1 + [wanted.stdin, wanted.stdout, wanted.stderr, resizes].iter().filter(|wanted| **wanted).count();
    for _ in 0..expected {
        let (headers, stream) = session.accept().await.ok_or(io::ErrorKind::ConnectionAborted)?;
        let slot = match headers.get("streamtype") {
            Some("stdin") if wanted.stdin => &mut stdin,
            Some("stdout") if wanted.stdout => &mut stdout,
            Some("stderr") if wanted.stderr => &mut stderr,
            Some("error") => &mut error,
            Some("resize") if resizes => &mut resize,
            _ => {
                stream.reset(ResetStatus::RefusedStream);
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        *slot = Some(stream);
    }
    let error = error.ok_or(io::ErrorKind::InvalidData)?;
    let writer = |stream: Option<spdy::Stream>| stream.map(|stream| Box::new(stream) as Writer);
    Ok(Client {
        connection: Connection::Spdy(session),
        version,
        stdin: stdin.map(|stream| Box::new(stream) as Reader),
        stdout: writer(stdout),
        stderr: writer(stderr),
        resize: resize.map(|stream| Box::new(stream) as Reader),
        error: Box::new(error),
    })
}

fn over_websocket(opened: (channels::Session, Vec<channels::Channel>), version: Version, wanted: Wanted) -> Client {
    let (session, channels) = opened;
    let mut channels = channels.into_iter();
    let mut next = |wanted: bool| channels.next().filter(|_| wanted);
    let (stdin, stdout, stderr) = (next(wanted.stdin), next(wanted.stdout), next(wanted.stderr));
    let (error, resize) = (next(true), next(wanted.tty));
    // A client may wait for a first message before it writes.
    if let Some(first) = stdout.as_ref().or(stderr.as_ref()).or(error.as_ref()) {
        first.announce();
    }
    let writer = |channel: Option<channels::Channel>| channel.map(|channel| Box::new(channel) as Writer);
    Client {
        connection: Connection::WebSocket(session),
        version,
        stdin: stdin.map(|channel| Box::new(channel) as Reader),
        stdout: writer(stdout),
        stderr: writer(stderr),
        resize: resize.map(|channel| Box::new(channel) as Reader),
        error: writer(error).unwrap_or_else(|| Box::new(tokio::io::sink())),
    }
}

/// How a command came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The process ended; `command` is what was run, for the message.
    Exited { code: i32, command: String },
    /// Nothing to say: what was attached to has ended.
    Done,
    /// It could not be run.
    Failed(String),
}

impl End {
    /// What the error stream says.
    fn text(&self, version: Version) -> Vec<u8> {
        if version >= Version::V4 {
            return self.status().to_string().into_bytes();
        }
        match self {
            Self::Done | Self::Exited { code: 0, .. } => Vec::new(),
            Self::Exited { .. } | Self::Failed(_) => self.message().into_bytes(),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Exited { code, command } => format!(
                "command terminated with non-zero exit code: error executing command {command}, exit code {code}"
            ),
            Self::Failed(error) => format!("Internal error occurred: error executing command in container: {error}"),
            Self::Done => String::new(),
        }
    }

    /// A `Status` object.
    fn status(&self) -> Value {
        match self {
            Self::Done | Self::Exited { code: 0, .. } => json!({"metadata": {}, "status": "Success"}),
            Self::Exited { code, .. } => json!({
                "metadata": {}, "status": "Failure", "message": self.message(), "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(error) => {
                let message = format!("error executing command in container: {error}");
                json!({
                    "metadata": {}, "status": "Failure", "message": self.message(), "reason": "InternalError",
                    "details": {"causes": [{"message": message}]}, "code": 500,
                })
            }
        }
    }
}

/// The process's ends of the streams; those that a client did not ask for are closed or lead nowhere.
#[derive(Debug, Default)]
pub struct Process {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// Whose size the client may change.
    pub terminal: Option<OwnedFd>,
}

/// Says why nothing ran.
pub async fn fail(client: Client, end: &End) {
    finish(client.connection, client.version, client.stdout, client.stderr, client.error, end).await;
}

/// Moves bytes between client and process until `ended`, then reports. When the client leaves, the process loses its streams
/// and nothing else: a terminal hangs up, a pipe breaks.
pub async fn run(client: Client, process: Process, ended: impl Future<Output = End>) -> io::Result<()> {
    let Client { connection, version, stdin, mut stdout, mut stderr, resize, error } = client;
    let stdin_of_process = process.stdin.map(Fd::new).transpose()?;
    let inputs = async {
        tokio::join!(copy_input(stdin, stdin_of_process), resize_terminal(resize, process.terminal));
        // The command goes on without.
        std::future::pending::<()>().await;
    };
    let end = {
        let outputs = (process.stdout, stdout.as_mut(), process.stderr, stderr.as_mut());
        tokio::select! {
            end = until_drained(ended, outputs) => Some(end),
            () = inputs => None,
            () = connection.ended() => None,
        }
    };
    if let Some(end) = end {
        finish(connection, version, stdout, stderr, error, &end).await;
    }
    Ok(())
}

type Outputs<'a> = (Option<OwnedFd>, Option<&'a mut Writer>, Option<OwnedFd>, Option<&'a mut Writer>);

/// The end of the command, once its output is sent.
async fn until_drained(ended: impl Future<Output = End>, outputs: Outputs<'_>) -> End {
    let (over, is_over) = tokio::sync::watch::channel(false);
    let ending = async {
        let end = ended.await;
        over.send_replace(true);
        end
    };
    let (stdout, to_stdout, stderr, to_stderr) = outputs;
    let copying = copy_output(stdout, to_stdout, is_over.clone());
    tokio::join!(ending, copying, copy_output(stderr, to_stderr, is_over)).0
}

async fn finish(
    connection: Connection,
    version: Version,
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    mut error: Writer,
    end: &End,
) {
    for mut stream in [stdout, stderr].into_iter().flatten() {
        // A client that has left misses nothing.
        let _left = stream.shutdown().await;
    }
    let _left = error.write_all(&end.text(version)).await;
    let _left = error.shutdown().await;
    connection.close();
    connection.ended().await;
}

/// What a process does not take is read nevertheless, or its client would wait for ever.
async fn copy_input(from: Option<Reader>, mut to: Option<Fd>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES / 2];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if let Some(fd) = &to
            && fd.write_all(buffer.get(..count).unwrap_or_default()).await.is_err()
        {
            to = None;
        }
    }
}

async fn copy_output(from: Option<OwnedFd>, to: Option<&mut Writer>, mut over: tokio::sync::watch::Receiver<bool>) {
    let Some(Ok(from)) = from.map(Fd::new) else { return };
    let mut to = to;
    loop {
        let ready = if *over.borrow() {
            tokio::time::timeout(DRAIN, from.readable()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
        } else {
            tokio::select! {
                ready = from.readable() => ready,
                _ = over.changed() => continue,
            }
        };
        if ready.is_err() || copy_ready(&from, &mut to).await.is_none() {
            return;
        }
    }
}

/// Moves what is there; None at the end. Streams that are silent hold no buffer.
async fn copy_ready(from: &Fd, to: &mut Option<&mut Writer>) -> Option<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = match from.try_read(&mut buffer) {
            Ok(None) => return Some(()),
            Ok(Some(0)) | Err(_) => return None,
            Ok(Some(count)) => count,
        };
        if let Some(writer) = to
            && writer.write_all(buffer.get(..count).unwrap_or_default()).await.is_err()
        {
            // The process may still have something to do.
            *to = None;
        }
    }
}

/// `{"Width":80,"Height":24}`, one after the other.
async fn resize_terminal(from: Option<Reader>, terminal: Option<OwnedFd>) {
    let (Some(mut from), Some(terminal)) = (from, terminal) else { return };
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        text.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let used = sizes(&text, |size| {
            let _not_a_terminal = rustix::termios::tcsetwinsize(&terminal, size);
        });
        text.drain(..used);
        if text.len() > RESIZE_BYTES {
            return;
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads complete messages; how many bytes they were.
fn sizes(text: &[u8], mut resize: impl FnMut(rustix::termios::Winsize)) -> usize {
    let mut messages = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut used = 0;
    while let Some(message) = messages.next() {
        match message {
            Ok(Size { width, height }) => {
                resize(rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 });
                used = messages.byte_offset();
            }
            Err(error) if error.is_eof() => return used,
            // Nothing after it can be understood.
            Err(_) => return text.len(),
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_carries_the_exit_code() {
        let end = End::Exited { code: 3, command: "[sh -c exit 3]".to_owned() };
        let status: Value = serde_json::from_slice(&end.text(Version::V4)).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        let text = String::from_utf8(end.text(Version::V3)).unwrap();
        assert!(text.starts_with("command terminated with non-zero exit code: "), "{text}");
    }

    #[test]
    fn success_is_said_from_version_4_on() {
        assert_eq!(End::Done.text(Version::V1), b"");
        let status: Value = serde_json::from_slice(&End::Done.text(Version::V5)).unwrap();
        assert_eq!(status["status"], "Success");
    }

    #[test]
    fn sizes_come_in_pieces_or_several_at_once() {
        let mut seen = Vec::new();
        let mut feed = |text: &[u8]| sizes(text, |size| seen.push((size.ws_col, size.ws_row)));
        assert_eq!(feed(br#"{"Width":80,"He"#), 0);
        let two = "{\"Width\":80,\"Height\":24}\n{\"Width\":1,\"Height\":2}";
        assert_eq!(feed(format!("{two}\n{{\"Wi").as_bytes()), two.len());
        assert_eq!(feed(b"nonsense"), 8);
        assert_eq!(seen, [(80, 24), (1, 2)]);
    }

    #[test]
    fn a_protocol_is_agreed_on() {
        let spdy = |names: &[&str]| Offer::Spdy { protocols: names.iter().map(|name| (*name).to_owned()).collect() };
        let agreed = Agreed::on(spdy(&["v5.channel.k8s.io", "v4.channel.k8s.io"])).unwrap();
        assert_eq!(agreed.name, Some("v4.channel.k8s.io"));
        assert!(Agreed::on(spdy(&["v9.channel.k8s.io"])).is_err());
    }
}
