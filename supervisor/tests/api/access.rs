//! Who is let in (D31, D32), and what nobody is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::harness::Api;

#[test]
fn without_a_credential_there_are_version_and_health_alone() {
    let api = Api::start();
    for path in ["/version", "/healthz", "/livez", "/readyz"] {
        assert_eq!(api.send_tls(path, &[]).code, 200, "{path}");
    }
    let paths = [
        "/",
        "/api",
        "/apis",
        "/api/v1/pods",
        "/openapi/v2",
        "/metrics",
        "/nope",
        "/api/v1/namespaces/default/secrets",
        "/apis/metrics.k8s.io/v1beta1/nodes",
    ];
    for path in paths {
        let answer = api.send_tls(path, &[]);
        assert_eq!((answer.code, answer.message()), (401, "Unauthorized"), "{path}");
        assert_eq!(api.send_tls(path, &[("Authorization", "Bearer forged")]).code, 401, "{path}");
    }
    // Detail is for those who have a credential.
    assert_eq!(api.send_tls("/livez?verbose", &[]).body, "ok");
    assert!(api.get("/livez?verbose").body.as_str().unwrap().contains("[+]ping ok"));
}

#[test]
fn browsers_are_kept_out() {
    // D32
    let api = Api::start();
    assert_eq!(api.send_tls("/version", &[("Host", "attacker.example")]).code, 421);
    assert_eq!(api.send_tls("/version", &[("Host", "kubernetes.default.svc")]).code, 200);
    assert_eq!(api.send_tls("/version", &[("Origin", "https://localhost")]).code, 403);
}

#[test]
fn impersonation_takes_the_rights_of_the_other() {
    let api = Api::start();
    let answer = api.send("GET", "/api/v1/namespaces/y/pods", &[("Impersonate-User", "x")], "");
    let expected =
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\"";
    assert_eq!((answer.code, answer.message()), (403, expected));
    let reader = [("Impersonate-User", "x"), ("Impersonate-Group", "monopod:readers")];
    assert_eq!(api.send("GET", "/api/v1/namespaces/y/pods", &reader, "").code, 200);
    assert_eq!(api.send("GET", "/api/v1/namespaces/y/secrets", &reader, "").code, 403);
    // Who asks to be less than he is must not be answered as who he is.
    let nobody = [("Impersonate-Group", "monopod:readers")];
    assert_eq!(api.send("GET", "/api/v1/namespaces/y/secrets", &nobody, "").code, 500);
    let account = [("Impersonate-User", "system:serviceaccount:y:robot"), ("Impersonate-Uid", "u1")];
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [&account[..], &[("Content-Type", "application/json")]].concat();
    let who = api.send("POST", reviews, &headers, "{}").body["status"]["userInfo"].clone();
    assert_eq!((&who["uid"], &who["groups"][1]), (&json!("u1"), &json!("system:serviceaccounts:y")));
    let answer = api.send("GET", "/nope", &[("Impersonate-User", "x")], "");
    assert_eq!(answer.message(), "forbidden: User \"x\" cannot get path \"/nope\"");
}

#[test]
fn too_much_is_refused_and_nothing_is_changed() {
    // D33
    let api = Api::start();
    let body = vec![b' '; 3 * 1024 * 1024 + 1];
    let answer = api.send("POST", "/api/v1/namespaces/default/pods", &[("Content-Type", "application/json")], body);
    assert_eq!(answer.code, 413);
    assert!(answer.message().starts_with("Request entity too large"));
    let long = "x".repeat(20 * 1024);
    assert_eq!(api.send("GET", "/version", &[("X-Long", &long)], "").code, 431);
    assert_eq!(api.get("/api/v1/pods").body["items"].as_array().unwrap().len(), 0);
}

/// A client that sends its body only after the answer came has not lost its connection by that.
#[test]
fn an_answer_before_the_body_breaks_no_pipe() {
    const BODY: usize = 2 << 20;
    let api = Api::start();
    let mut stream = api.connect();
    let path = "/api/v1/namespaces/default/configmaps/none";
    write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n").unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let status_line = |answers: &mut BufReader<UnixStream>| {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(status_line(&mut answers), "HTTP/1.1 405 Method Not Allowed\r\n");
    stream.write_all(&vec![b' '; BODY]).unwrap();
    write!(stream, "GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    answers.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200 OK\r\n") && rest.contains("gitVersion"), "{rest}");
}
