use std::io::Write as _;
use std::time::Instant;

use super::server::{
    HASTY, LOOPBACK, PATIENT, SOON, Server, answering, dripping, flooding, get, read_head, until_gone,
};
use crate::pod::event::ProbeOutcome;
use crate::probe::http;

const LATE: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
const LATE_BODY: &str = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";

/// Asks a server that would keep the probe for ever: the deadline holds, and the server sees the client leave.
async fn runs_out_of_time(server: Server<()>) -> ProbeOutcome {
    let began = Instant::now();
    let outcome = http(LOOPBACK, &get(server.port(), "/"), HASTY).await;
    assert!((HASTY..SOON).contains(&began.elapsed()), "{outcome:?} after {:?}", began.elapsed());
    server.join();
    outcome
}

/// F10, HG6
#[tokio::test]
async fn the_deadline_covers_the_headers() {
    for server in [Server::start(1, until_gone), dripping(b"HTTP/1.1 200 OK\r\nX: ")] {
        let text = format!(r#"Get "{}/": {LATE}"#, server.url());
        assert_eq!(runs_out_of_time(server).await, ProbeOutcome::Failure(text));
    }
}

/// F10, HG6
#[tokio::test]
async fn the_deadline_covers_the_body() {
    for server in [
        dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
        dripping(b"HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n"),
        Server::start(1, |mut stream| {
            read_head(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
            until_gone(stream);
        }),
    ] {
        assert_eq!(runs_out_of_time(server).await, ProbeOutcome::Error(LATE_BODY.to_owned()));
    }
}

/// HG6: one deadline for all requests of a probe.
#[tokio::test]
async fn the_deadline_covers_the_redirects() {
    let mut first = true;
    let server = Server::start(2, move |mut stream| {
        read_head(&mut stream);
        if std::mem::take(&mut first) {
            stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /second\r\n\r\n").unwrap();
        }
        until_gone(stream);
    });
    let text = format!(r#"Get "{}/second": {LATE}"#, server.url());
    assert_eq!(runs_out_of_time(server).await, ProbeOutcome::Failure(text));
}

/// F10, HG4: the body is left alone after 10 KiB.
#[tokio::test]
async fn an_endless_body_is_cut() {
    for (begin, again, outcome) in [
        (&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'x'; 65_536][..], ProbeOutcome::Success),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", ProbeOutcome::Success),
        (
            b"HTTP/1.1 503 No\r\nContent-Length: 99999999999\r\n\r\n",
            b"xxxxxxxx",
            ProbeOutcome::Failure("HTTP probe failed with statuscode: 503".to_owned()),
        ),
    ] {
        let server = flooding(begin, again);
        assert_eq!(http(LOOPBACK, &get(server.port(), "/"), PATIENT).await, outcome);
        server.join();
    }
}

/// F10: the head is bounded in bytes and in headers, and so are the interim answers before it.
#[tokio::test]
async fn an_endless_head_is_refused() {
    let ok = b"HTTP/1.1 200 OK\r\nX: y";
    for (begin, again) in [
        (&ok[..], &b"X-Long-Header-Name: and a value that takes some room as well\r\n"[..]),
        (ok, b"\r\nA: b"),
        (ok, b"xxxxxxxxxxxxx"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        let server = flooding(begin, again);
        let text = "net/http: server response headers exceeded 65536 bytes; aborted";
        let text = format!(r#"Get "{}/": {text}"#, server.url());
        assert_eq!(http(LOOPBACK, &get(server.port(), "/"), PATIENT).await, ProbeOutcome::Failure(text));
        server.join();
    }
}

/// F10: chunks that are all extension.
#[tokio::test]
async fn a_body_of_nothing_is_an_error() {
    let server = flooding(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\nx\r\n",
    );
    let outcome = http(LOOPBACK, &get(server.port(), "/"), PATIENT).await;
    assert!(matches!(outcome, ProbeOutcome::Error(_)), "{outcome:?}");
    server.join();
}

/// F10, D36: one thread asks all, each in a task of its own.
#[tokio::test]
async fn others_are_on_time_meanwhile() {
    let servers =
        [Server::start(1, until_gone), dripping(b"HTTP/1.1 200 OK\r\nX: "), dripping(b"HTTP/1.1 200 OK\r\n\r\n")];
    let hostile = servers.each_ref().map(|server| {
        let asked = get(server.port(), "/");
        tokio::spawn(async move { http(LOOPBACK, &asked, PATIENT).await })
    });
    let good = answering(&[&b"HTTP/1.1 200 OK\r\n\r\n"[..]; 20]);
    for _ in 0..20 {
        assert_eq!(http(LOOPBACK, &get(good.port(), "/"), PATIENT).await, ProbeOutcome::Success);
    }
    for task in hostile {
        assert!(!task.is_finished());
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    servers.into_iter().for_each(|server| drop(server.join()));
    good.join();
}
