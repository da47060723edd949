use super::server::{HASTY, LOOPBACK, PATIENT, SOON, Server, answering, closed_port, get, read_head, until_gone};
use crate::pod::event::{HookFailure, HookSuccess, ProbeOutcome};
use crate::pod::spec::{HttpGet, Port};
use crate::probe::{OUTPUT_BYTES, http, http_hook};

fn failure(text: &str) -> ProbeOutcome {
    ProbeOutcome::Failure(text.to_owned())
}

/// HG3, HG4, HG6
#[tokio::test]
async fn an_answer_and_its_outcome() {
    let broken = "net/http: HTTP/1.x transport connection broken";
    for (answer, outcome) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ProbeOutcome::Success),
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end", ProbeOutcome::Success),
        ("HTTP/1.1 204 No Content\r\n\r\n", ProbeOutcome::Success),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", ProbeOutcome::Success),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", failure("HTTP probe failed with statuscode: 404")),
        ("HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad", failure("HTTP probe failed with statuscode: 500")),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 4\r\n\r\naway",
            ProbeOutcome::Warning("Probe terminated redirects, Response body: away".to_owned()),
        ),
        (
            "HTTP/1.1 304 Not Modified\r\n\r\n",
            ProbeOutcome::Warning("Probe terminated redirects, Response body: ".to_owned()),
        ),
        ("", failure(r#"Get "URL/": EOF"#)),
        ("HTTP/1.1 200 OK\r\nA: b\r\n", failure(&format!(r#"Get "URL/": {broken}: unexpected EOF"#))),
        (
            "SSH-2.0-OpenSSH_9.2\r\n",
            failure(&format!(r#"Get "URL/": {broken}: malformed HTTP response "SSH-2.0-OpenSSH_9.2""#)),
        ),
        ("HTTP/1.1 OK\r\n\r\n", failure(&format!(r#"Get "URL/": {broken}: malformed HTTP status code "OK""#))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", ProbeOutcome::Error("unexpected EOF".to_owned())),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha",
            ProbeOutcome::Error("unexpected EOF".to_owned()),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            ProbeOutcome::Error("invalid byte in chunk length".to_owned()),
        ),
    ] {
        let server = answering(&[answer.as_bytes()]);
        let expected = match outcome {
            ProbeOutcome::Failure(text) => ProbeOutcome::Failure(text.replace("URL", &server.url())),
            other @ (ProbeOutcome::Success | ProbeOutcome::Warning(_) | ProbeOutcome::Error(_)) => other,
        };
        assert_eq!(http(LOOPBACK, &get(server.port(), "/"), PATIENT).await, expected, "{answer}");
        server.join();
    }
}

/// HG4
#[tokio::test]
async fn a_long_body_is_cut_and_no_error() {
    let mut answer = b"HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 20000\r\n\r\n".to_vec();
    answer.extend([b'x'; 20_000]);
    let server = answering(&[&answer]);
    let outcome = http(LOOPBACK, &get(server.port(), "/"), PATIENT).await;
    let text = format!("Probe terminated redirects, Response body: {}", "x".repeat(OUTPUT_BYTES));
    assert_eq!(outcome, ProbeOutcome::Warning(text));
}

/// HG1, HG2
#[tokio::test]
async fn the_request_is_what_the_kubelet_sends() {
    let server = answering(&[&b"HTTP/1.1 200 OK\r\n\r\n"[..]; 2]);
    http(LOOPBACK, &get(server.port(), "/healthz?full=1"), PATIENT).await;
    let headers = [("X-Custom", "a"), ("X-Custom", "b"), ("Host", "web.example"), ("Accept", "")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    http(LOOPBACK, &HttpGet { headers, ..get(server.port(), "") }, PATIENT).await;
    let addr = server.addr;
    let plain = format!(
        "GET /healthz?full=1 HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    let claimed = "GET / HTTP/1.1\r\nHost: web.example\r\nUser-Agent: kube-probe/1.36\r\nX-Custom: a\r\nX-Custom: b\r\n\
                   Connection: close\r\n\r\n";
    assert_eq!(server.join(), [plain.as_str(), claimed]);
}

/// HG6
#[tokio::test]
async fn connections_that_fail_are_named() {
    let port = closed_port();
    let asked = get(Port::Number(port), "/");
    let dial = format!(r#"Get "http://127.0.0.1:{port}/": dial tcp 127.0.0.1:{port}: connect: connection refused"#);
    assert_eq!(http(LOOPBACK, &asked, PATIENT).await, ProbeOutcome::Failure(dial));
    let asked = HttpGet { host: Some("no-such.invalid".to_owned()), ..asked };
    let lookup = format!(r#"Get "http://no-such.invalid:{port}/": dial tcp: lookup no-such.invalid: no such host"#);
    assert_eq!(http(LOOPBACK, &asked, PATIENT).await, ProbeOutcome::Failure(lookup));
}

#[tokio::test]
async fn a_reset_names_both_ends() {
    let server = Server::start(1, |mut stream| {
        read_head(&mut stream);
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        stream.peer_addr().unwrap()
    });
    let (addr, url) = (server.addr, server.url());
    let outcome = http(LOOPBACK, &get(server.port(), "/"), PATIENT).await;
    let client = server.join()[0];
    assert_eq!(
        outcome,
        failure(&format!(r#"Get "{url}/": read tcp {client}->{addr}: read: connection reset by peer"#))
    );
}

/// PR15, HG1
#[tokio::test]
async fn what_cannot_be_asked_is_an_error() {
    let unknown = get(Port::Unknown("web".to_owned()), "/");
    let host = HttpGet { host: Some("a b".to_owned()), ..get(Port::Number(1), "/") };
    let headers = vec![("X A".to_owned(), String::new())];
    let header = HttpGet { headers, ..get(Port::Number(1), "/") };
    for (asked, outcome) in [
        (unknown, ProbeOutcome::Error(r#"strconv.Atoi: parsing "web": invalid syntax"#.to_owned())),
        (host, ProbeOutcome::Error(r#"parse "http://a b:1/": invalid character in host name"#.to_owned())),
        (header, failure(r#"Get "http://127.0.0.1:1/": net/http: invalid header field name "X A""#)),
    ] {
        assert_eq!(http(LOOPBACK, &asked, PATIENT).await, outcome);
    }
}

/// HG3
#[tokio::test]
async fn redirects_of_the_same_host_are_followed() {
    let server = answering(&[
        b"HTTP/1.1 301 Moved\r\nLocation: /b?x=1\r\n\r\n",
        b"HTTP/1.1 307 Moved\r\nLocation: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]);
    let headers = vec![("Host".to_owned(), "web.example".to_owned())];
    let asked = HttpGet { headers, ..get(server.port(), "/a") };
    assert_eq!(http(LOOPBACK, &asked, PATIENT).await, ProbeOutcome::Success);
    let url = server.url();
    let seen = server.join();
    let lines = |n: usize| seen[n].lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(1)[..2], ["GET /b?x=1 HTTP/1.1", "Host: web.example"]);
    assert!(lines(1).contains(&format!("Referer: {url}/a")));
    assert_eq!(lines(2)[..2], ["GET /c HTTP/1.1", "Host: web.example"]);
}

/// HG3: names are compared, not addresses.
#[tokio::test]
async fn another_name_is_another_host() {
    let away = b"HTTP/1.1 302 Found\r\nLocation: http://localhost/\r\nContent-Length: 2\r\n\r\nno";
    let server = answering(&[away]);
    let outcome = http(LOOPBACK, &get(server.port(), "/"), PATIENT).await;
    assert_eq!(outcome, ProbeOutcome::Warning("Probe terminated redirects, Response body: no".to_owned()));
    let server = answering(&[away]);
    let asked = HttpGet { host: Some("localhost".to_owned()), ..get(server.port(), "/") };
    let outcome = http(LOOPBACK, &asked, PATIENT).await;
    assert_ne!(outcome, ProbeOutcome::Warning("Probe terminated redirects, Response body: no".to_owned()));
}

/// HG3
#[tokio::test]
async fn a_loop_of_redirects_ends() {
    let server = answering(&[&b"HTTP/1.1 302 Found\r\nLocation: /loop\r\n\r\n"[..]; 10]);
    let outcome = http(LOOPBACK, &get(server.port(), "/"), PATIENT).await;
    assert_eq!(outcome, failure(r#"Get "/loop": stopped after 10 redirects"#));
    assert_eq!(server.join().len(), 10);
}

#[tokio::test]
async fn a_location_that_leads_nowhere_is_named() {
    for (location, text) in [
        ("ftp://127.0.0.1/", r#"Get "ftp://127.0.0.1/": unsupported protocol scheme "ftp""#),
        (
            "http://127.0.0.1:x/",
            "Get \"URL/\": failed to parse Location header \"http://127.0.0.1:x/\": \
             parse \"http://127.0.0.1:x/\": invalid port \":x\" after host",
        ),
    ] {
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n");
        let server = answering(&[answer.as_bytes()]);
        let outcome = http(LOOPBACK, &get(server.port(), "/"), PATIENT).await;
        assert_eq!(outcome, failure(&text.replace("URL", &server.url())));
    }
}

/// LC3
#[tokio::test]
async fn any_status_is_a_hooks_success() {
    let server = answering(&[b"HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nhalf"]);
    let hooked = http_hook(LOOPBACK, &get(server.port(), "/bye"), None).await;
    assert_eq!(hooked, Ok(HookSuccess { http_fallback: None }));
    let head = server.join().remove(0);
    assert!(head.starts_with("GET /bye HTTP/1.1\r\n") && head.contains("\r\nUser-Agent: kube-lifecycle/1.36\r\n"));
}

/// LC3, LC10
#[tokio::test]
async fn a_hook_without_answer_fails() {
    let port = closed_port();
    let error = format!(r#"Get "http://127.0.0.1:{port}/": dial tcp 127.0.0.1:{port}: connect: connection refused"#);
    let failed = http_hook(LOOPBACK, &get(Port::Number(port), "/"), None).await;
    assert_eq!(failed, Err(HookFailure { error, output: String::new() }));

    let server = Server::start(1, until_gone);
    let began = std::time::Instant::now();
    let failed = http_hook(LOOPBACK, &get(server.port(), "/"), Some(HASTY)).await.unwrap_err();
    assert!(failed.error.contains("context deadline exceeded"), "{}", failed.error);
    assert!((HASTY..SOON).contains(&began.elapsed()));
    server.join();
}
