use std::net::Ipv4Addr;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;

use super::server::{HASTY, LOOPBACK, PATIENT, SOON, Server, answering, closed_port, read_head, until_gone};
use crate::pod::event::ProbeOutcome;
use crate::probe::grpc;

/// What a server says to a call.
#[derive(Clone)]
struct Says {
    message: &'static [u8],
    code: &'static str,
    text: &'static str,
}

const SERVING: Says = Says { message: &[0, 0, 0, 0, 2, 8, 1], code: "0", text: "" };

/// Answers one call on one connection and returns the request and its body.
async fn serve(listener: TcpListener, says: Says) -> (Request<()>, Vec<u8>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let (head, mut incoming) = request.into_parts();
    let answer = async {
        let mut body = Vec::new();
        while let Some(data) = incoming.data().await {
            body.extend(data.unwrap());
        }
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(Bytes::from_static(says.message), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(says.code));
        trailers.insert("grpc-message", HeaderValue::from_static(says.text));
        stream.send_trailers(trailers).unwrap();
        body
    };
    let mut answer = std::pin::pin!(answer);
    let mut body = Vec::new();
    let mut answered = false;
    loop {
        tokio::select! {
            read = &mut answer, if !answered => { body = read; answered = true; }
            more = connection.accept() => if more.is_none_or(|more| more.is_err()) { break },
        }
    }
    (Request::from_parts(head, ()), body)
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// GR1
#[tokio::test]
async fn the_health_service_is_asked() {
    let (listener, port) = listen().await;
    let (outcome, (request, body)) = tokio::join!(grpc(LOOPBACK, port, "web", PATIENT), serve(listener, SERVING));
    assert_eq!(outcome, ProbeOutcome::Success);
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    let agent = request.headers()["user-agent"].to_str().unwrap();
    assert!(agent.starts_with("kube-probe/1.36"), "{agent}");
    assert_eq!(body, b"\0\0\0\0\x05\x0a\x03web");
}

/// GR2
#[tokio::test]
async fn an_answer_and_its_text() {
    for (says, text) in [
        (Says { message: &[0, 0, 0, 0, 2, 8, 2], ..SERVING }, r#"service unhealthy (responded with "NOT_SERVING")"#),
        (Says { message: &[0, 0, 0, 0, 0], ..SERVING }, r#"service unhealthy (responded with "UNKNOWN")"#),
        (
            Says { message: b"", code: "12", text: "unknown service" },
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service",
        ),
        (
            Says { message: b"", code: "5", text: "unknown service" },
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
        ),
    ] {
        let (listener, port) = listen().await;
        let (outcome, _) = tokio::join!(grpc(LOOPBACK, port, "", PATIENT), serve(listener, says));
        assert_eq!(outcome, ProbeOutcome::Failure(text.to_owned()));
    }
}

/// GR2: refused, silent, and speaking something else are all no connection; so is a second one after a wait.
#[tokio::test]
async fn what_is_no_http2_is_not_connected() {
    let silent = Server::start(1, until_gone);
    let other = answering(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]);
    for port in [closed_port(), silent.addr.port(), other.addr.port()] {
        let began = Instant::now();
        let text = "context deadline exceeded";
        let text = format!(r#"timeout: failed to connect service "127.0.0.1:{port}" within 300ms: {text}"#);
        assert_eq!(grpc(LOOPBACK, port, "", HASTY).await, ProbeOutcome::Failure(text));
        assert!((HASTY..SOON).contains(&began.elapsed()));
    }
    silent.join();
    other.join();
}

/// GR2: settings came, an answer didn't.
#[tokio::test]
async fn a_call_without_answer_runs_out_of_time() {
    let server = Server::start(1, |mut stream| {
        use std::io::Write as _;
        read_head(&mut stream);
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        until_gone(stream);
    });
    let outcome = grpc(LOOPBACK, server.addr.port(), "", HASTY).await;
    assert_eq!(outcome, ProbeOutcome::Failure("timeout: health rpc did not complete within 300ms".to_owned()));
    server.join();
}

/// F10: pings are answered until the deadline, and no longer.
#[tokio::test]
async fn a_flood_of_frames_runs_out_of_time() {
    let server = Server::start(1, |mut stream| {
        use std::io::{Read as _, Write as _};
        let mut reader = stream.try_clone().unwrap();
        let drain = std::thread::spawn(move || while matches!(reader.read(&mut [0; 4096]), Ok(1..)) {});
        let mut sent = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        while sent.is_ok() {
            sent = stream.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        }
        drain.join().unwrap();
    });
    let began = Instant::now();
    let outcome = grpc(LOOPBACK, server.addr.port(), "", HASTY).await;
    assert!(matches!(outcome, ProbeOutcome::Failure(_)), "{outcome:?}");
    assert!(began.elapsed() < SOON);
    server.join();
}

/// F10: a status has three bytes.
#[tokio::test]
async fn an_answer_that_is_too_long_is_refused() {
    let (listener, port) = listen().await;
    let says = Says { message: &[0, 0x7f, 0xff, 0xff, 0xff, 8, 1], ..SERVING };
    let (outcome, _) = tokio::join!(grpc(LOOPBACK, port, "", PATIENT), serve(listener, says));
    let ProbeOutcome::Failure(text) = outcome else { panic!("{outcome:?}") };
    assert!(text.starts_with("error: health rpc probe failed: rpc error: code = OutOfRange desc = "), "{text}");
}
