//! A process in a container with the streams of this one, over WebSocket.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use http::header::{self, HeaderName};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::termios::{self, OptionalActions, Termios};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::client::error::VerbError;
use super::client::{Call, Client};
use crate::stream::websocket;

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Read of standard input at once.
const READ_BYTES: usize = 16 * 1024;
/// Parts of standard input that wait to be sent.
const WAITING_PARTS: usize = 4;

/// What of this process takes part.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub has_stdin: bool,
    /// Standard input is a terminal, and the other side has one.
    pub has_terminal: bool,
}

/// Where what a command writes to standard output goes.
#[derive(Debug)]
pub enum Output {
    Ours,
    /// In parts, to whoever takes them; when nobody does any more, the session ends.
    Parts(mpsc::Sender<Bytes>),
}

impl Output {
    async fn take(&self, data: Bytes) -> Result<(), VerbError> {
        match self {
            Self::Ours => super::say_bytes(&data),
            Self::Parts(to) => {
                to.send(data).await.map_err(|_| VerbError::Stream(std::io::ErrorKind::BrokenPipe.into()))
            }
        }
    }
}

/// Headers of a switch to WebSocket (RFC 6455).
pub fn upgrade_headers(protocol: &str) -> Vec<(HeaderName, String)> {
    let key = STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
    vec![
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_VERSION, "13".to_owned()),
        (header::SEC_WEBSOCKET_KEY, key),
        (header::SEC_WEBSOCKET_PROTOCOL, protocol.to_owned()),
    ]
}

/// Runs a session to its end; the Status of the process.
///
/// # Errors
/// The server refuses, or the connection breaks.
pub async fn run(client: &Client, call: Call, session: Session) -> Result<Value, VerbError> {
    let socket = connect(client, call).await?;
    let (sender, receiver) = socket.split();
    let _raw = session.has_terminal.then(RawTerminal::enter).transpose().map_err(VerbError::Stream)?;
    let input = session.has_stdin.then(standard_input);
    let resized = session.has_terminal.then(|| signal(SignalKind::window_change())).transpose();
    tokio::select! {
        status = receive(receiver, Output::Ours) => status,
        Err(error) = send(sender, input, resized.map_err(VerbError::Stream)?) => Err(error),
    }
}

/// As [`run`], with other streams than those of this process.
///
/// # Errors
/// The server refuses, or the connection breaks.
pub async fn run_with(
    client: &Client,
    call: Call,
    input: Option<mpsc::Receiver<Vec<u8>>>,
    output: Output,
) -> Result<Value, VerbError> {
    let (sender, receiver) = connect(client, call).await?.split();
    tokio::select! {
        status = receive(receiver, output) => status,
        Err(error) = send(sender, input, None) => Err(error),
    }
}

async fn connect(client: &Client, call: Call) -> Result<WebSocketStream<TokioIo<Upgraded>>, VerbError> {
    let io = TokioIo::new(client.upgrade(call, &upgrade_headers(PROTOCOL)).await?);
    Ok(WebSocketStream::from_raw_socket(io, Role::Client, Some(websocket::config())).await)
}

fn broken(error: Error) -> VerbError {
    VerbError::Stream(std::io::Error::other(error))
}

/// Writes down what comes until the process has ended.
async fn receive(
    mut from: impl Stream<Item = Result<Message, Error>> + Unpin,
    output: Output,
) -> Result<Value, VerbError> {
    while let Some(message) = from.next().await {
        let bytes = match message.map_err(broken)? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text.as_str().to_owned()),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match bytes.split_first() {
            Some((&STDOUT, _)) => output.take(bytes.slice(1..)).await?,
            Some((&STDERR, data)) => std::io::stderr().lock().write_all(data).map_err(VerbError::Output)?,
            Some((&ERROR, data)) if !data.is_empty() => return serde_json::from_slice(data).map_err(VerbError::Json),
            // The end of one of the streams.
            Some(_) | None => {}
        }
    }
    Err(VerbError::usage("the connection ended before the command did"))
}

/// Sends standard input and the terminal's size; never ends by itself.
async fn send(
    mut to: impl Sink<Message, Error = Error> + Unpin,
    mut input: Option<mpsc::Receiver<Vec<u8>>>,
    mut resized: Option<Signal>,
) -> Result<std::convert::Infallible, VerbError> {
    if resized.is_some() {
        send_size(&mut to).await?;
    }
    loop {
        tokio::select! {
            Some(()) = next_resize(&mut resized) => send_size(&mut to).await?,
            part = next_part(&mut input) => {
                let frame = match part {
                    Some(part) => framed(STDIN, &part),
                    None => {
                        input = None;
                        framed(CLOSE, &[STDIN])
                    }
                };
                to.send(frame).await.map_err(broken)?;
            }
        }
    }
}

async fn next_part(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_resize(resized: &mut Option<Signal>) -> Option<()> {
    match resized {
        Some(resized) => resized.recv().await,
        None => std::future::pending().await,
    }
}

fn framed(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.into())
}

async fn send_size(to: &mut (impl Sink<Message, Error = Error> + Unpin)) -> Result<(), VerbError> {
    let Ok(size) = termios::tcgetwinsize(std::io::stdin()) else { return Ok(()) };
    let size = json!({"Width": size.ws_col, "Height": size.ws_row}).to_string();
    to.send(framed(RESIZE, size.as_bytes())).await.map_err(broken)
}

/// Standard input in parts, read by a thread: a read of a terminal can't be taken back.
fn standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(WAITING_PARTS);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer.get(..count).unwrap_or_default().to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The terminal passes every key on while this lives.
#[derive(Debug)]
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> std::io::Result<Self> {
        let before = termios::tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _gone = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// The exit code out of a Status; otherwise why there is none.
pub fn exit_code(status: &Value) -> Result<u8, String> {
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().map_or(&[][..], Vec::as_slice);
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str());
    match code.and_then(|code| code.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(status["message"].as_str().unwrap_or("the command failed for an unknown reason").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_from_the_status() {
        assert_eq!(exit_code(&json!({"status": "Success"})), Ok(0));
        let seven = json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [
            {"reason": "ExitCode", "message": "7"}]}});
        assert_eq!(exit_code(&seven), Ok(7));
        let failed = json!({"status": "Failure", "message": "no such file"});
        assert_eq!(exit_code(&failed), Err("no such file".to_owned()));
    }

    #[test]
    fn a_frame_starts_with_its_channel() {
        assert_eq!(framed(STDIN, b"ab"), Message::Binary(Bytes::from_static(b"\0ab")));
    }
}
