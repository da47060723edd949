//! Whole sessions over sockets in memory: clients that are slow, old, or gone.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role as Side;

use super::port_forward;
use super::remote_command::{Agreed, End, Process, Wanted, run as run_command};
use super::spdy::{Headers, Role, Session, Stream};
use super::upgrade::Offer;

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, limited)
}

fn spdy() -> Offer {
    Offer::Spdy { protocols: vec!["v4.channel.k8s.io".to_owned()] }
}

fn websocket(protocol: &str) -> Offer {
    Offer::WebSocket { key: "x".to_owned(), protocols: vec![protocol.to_owned()] }
}

/// The pipes of a process that a test plays.
struct Played {
    stdin: std::io::PipeReader,
    stdout: std::io::PipeWriter,
    exit: tokio::sync::oneshot::Sender<i32>,
    session: tokio::task::JoinHandle<()>,
}

const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };

fn play(offer: Offer) -> (Played, DuplexStream) {
    let (client, server) = tokio::io::duplex(4096);
    let (stdin, to_stdin) = std::io::pipe().unwrap();
    let (from_stdout, stdout) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&stdout, true).unwrap();
    let (exit, exited) = tokio::sync::oneshot::channel();
    let session = tokio::task::spawn_local(async move {
        let Ok(client) = Agreed::on(offer).unwrap().open(server, WANTED).await else { return };
        let (stdin, stdout) = (Some(OwnedFd::from(to_stdin)), Some(OwnedFd::from(from_stdout)));
        let process = Process { stdin, stdout, ..Process::default() };
        let ended = async {
            match exited.await {
                Ok(code) => End::Exited { code, command: "[x]".to_owned() },
                Err(_) => std::future::pending().await,
            }
        };
        run_command(client, process, ended).await.unwrap();
    });
    (Played { stdin, stdout, exit, session }, client)
}

fn open(session: &Session, kind: &str) -> Stream {
    session.open(&Headers(vec![("streamType".to_owned(), kind.to_owned())]))
}

struct Streams {
    session: Session,
    error: Stream,
    stdin: Stream,
    stdout: Stream,
}

fn connect(client: DuplexStream) -> Streams {
    let session = Session::start(client, Role::Client, Duration::from_secs(100));
    let (error, stdin, stdout) = (open(&session, "error"), open(&session, "stdin"), open(&session, "stdout"));
    Streams { session, error, stdin, stdout }
}

/// Writes until the pipe is full for good; how much it took.
async fn flood(stdout: &mut std::io::PipeWriter) -> usize {
    let (mut total, mut full) = (0, 0);
    while full < 50 {
        match stdout.write(&[b'x'; 65_536]) {
            Ok(count) => (total, full) = (total + count, 0),
            Err(_) => full += 1,
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    total
}

/// D33: overflow is back-pressure, never growth.
#[test]
fn a_client_that_does_not_read_holds_back_the_process() {
    run(async {
        let (mut played, client) = play(spdy());
        let mut streams = connect(client);
        let total = flood(&mut played.stdout).await;
        assert!(total < 1 << 20, "{total} bytes were taken");
        played.exit.send(3).unwrap();
        drop(played.stdout);
        let mut all = Vec::new();
        streams.stdout.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), total);
        let mut status = String::new();
        streams.error.read_to_string(&mut status).await.unwrap();
        assert!(status.contains("\"ExitCode\"") && status.contains("\"3\""), "{status}");
    });
}

#[test]
fn a_process_that_does_not_read_holds_back_its_client() {
    run(async {
        let (mut played, client) = play(spdy());
        let Streams { session: _session, error: _error, mut stdin, stdout: _stdout } = connect(client);
        let payload = vec![b'y'; 3_000_000];
        let sending = async { stdin.write_all(&payload).await };
        let sent = tokio::time::timeout(Duration::from_millis(300), sending).await;
        assert!(sent.is_err(), "everything was taken");
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            played.stdin.read_to_end(&mut all).unwrap();
            all.len()
        });
        stdin.shutdown().await.unwrap();
        let received = tokio::task::spawn_blocking(move || reading.join().unwrap()).await.unwrap();
        assert!(received > 100_000, "{received}");
    });
}

#[test]
fn a_client_that_vanishes_takes_its_streams_along() {
    for offer in [spdy(), websocket("v5.channel.k8s.io")] {
        run(async {
            let is_spdy = matches!(offer, Offer::Spdy { .. });
            let (mut played, client) = play(offer);
            if is_spdy {
                let streams = connect(client);
                // Its streams are there, and then the machine is gone.
                tokio::time::sleep(Duration::from_millis(20)).await;
                streams.session.close();
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                drop(client);
            }
            played.session.await.unwrap();
            let mut rest = Vec::new();
            played.stdin.read_to_end(&mut rest).unwrap();
            assert_eq!(played.stdout.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
            assert!(played.exit.is_closed());
        });
    }
}

async fn over_websocket(client: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(client, Side::Client, None).await
}

/// Messages until the server says goodbye.
async fn messages(socket: &mut WebSocketStream<DuplexStream>) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(frame) = &message {
            assert_eq!(frame.as_ref().map(|frame| u16::from(frame.code)), Some(1000));
        } else {
            all.push(message);
        }
    }
    all
}

#[test]
fn version_5_closes_stdin_and_says_goodbye() {
    run(async {
        let (mut played, client) = play(websocket("v5.channel.k8s.io"));
        let mut socket = over_websocket(client).await;
        socket.send(Message::Binary(Bytes::from_static(b"\0hello"))).await.unwrap();
        socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = String::new();
            played.stdin.read_to_string(&mut all).unwrap();
            all
        });
        assert_eq!(reading.await.unwrap(), "hello");
        played.stdout.write_all(b"bye").unwrap();
        drop(played.stdout);
        played.exit.send(0).unwrap();
        let binary = |channel: u8, text: &str| Message::Binary([&[channel], text.as_bytes()].concat().into());
        let expected = [binary(1, ""), binary(1, "bye"), binary(3, r#"{"metadata":{},"status":"Success"}"#)];
        assert_eq!(messages(&mut socket).await, expected);
    });
}

#[test]
fn text_clients_speak_base64() {
    run(async {
        let (mut played, client) = play(websocket("base64.channel.k8s.io"));
        let mut socket = over_websocket(client).await;
        socket.send(Message::Text("0aGVsbG8=".into())).await.unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut five = [0; 5];
            played.stdin.read_exact(&mut five).unwrap();
            (five, played.stdin)
        });
        assert_eq!(&reading.await.unwrap().0, b"hello");
        drop(played.stdout);
        played.exit.send(9).unwrap();
        let all = messages(&mut socket).await;
        let [Message::Text(first), Message::Text(error)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(first.as_str(), "1");
        let text = base64::engine::general_purpose::STANDARD.decode(error.as_str().strip_prefix('3').unwrap()).unwrap();
        let text = String::from_utf8(text).unwrap();
        // Version 1 knows no objects.
        assert!(text.starts_with("command terminated with non-zero exit code"), "{text}");
    });
}

#[test]
fn ports_named_in_the_url_have_two_channels_each() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut four = [0; 4];
            socket.read_exact(&mut four).await.unwrap();
            socket.write_all(&four.map(|byte| byte.to_ascii_uppercase())).await.unwrap();
        });
        let dial: port_forward::Dial = Rc::new(move |port| {
            Box::pin(async move {
                match port {
                    258 => tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string()),
                    _ => Err("nobody".to_owned()),
                }
            })
        });
        let (client, server) = tokio::io::duplex(4096);
        let agreed = port_forward::Agreed::on(websocket("v4.channel.k8s.io")).unwrap();
        assert!(agreed.needs_ports());
        tokio::task::spawn_local(async move { agreed.serve(server, &[258, 3], dial).await });
        let mut socket = over_websocket(client).await;
        socket.send(Message::Binary(Bytes::from_static(b"\0ping"))).await.unwrap();
        let mut all: Vec<Vec<u8>> = messages(&mut socket).await.into_iter().map(|m| m.into_data().to_vec()).collect();
        all.sort();
        let expected: [&[u8]; 6] =
            [b"\0\x02\x01", b"\0PING", b"\x01\x02\x01", b"\x02\x03\0", b"\x03\x03\0", b"\x03nobody"];
        assert_eq!(all, expected);
    });
}
