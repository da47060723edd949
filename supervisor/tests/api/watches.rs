//! The feed of changes.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::harness::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn shown(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}

fn map(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": label}}})
}

fn seen(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[test]
fn what_enters_and_leaves_a_selection_is_added_and_deleted() {
    let api = Api::start();
    api.post(MAPS, &map("a", "x"));
    let mut feed = api.watch(&format!("{MAPS}?watch=1&labelSelector=app%3Dx"));
    assert_eq!(shown(&feed.next().unwrap()), seen("ADDED", "a"));
    api.post(MAPS, &map("b", "y"));
    api.merge(&format!("{MAPS}/b"), &json!({"metadata": {"labels": {"app": "x"}}}));
    assert_eq!(shown(&feed.next().unwrap()), seen("ADDED", "b"));
    api.merge(&format!("{MAPS}/b"), &json!({"data": {"k": "v"}}));
    assert_eq!(shown(&feed.next().unwrap()), seen("MODIFIED", "b"));
    let left = api.merge(&format!("{MAPS}/b"), &json!({"metadata": {"labels": {"app": "z"}}})).body;
    let event = feed.next().unwrap();
    assert_eq!(shown(&event), seen("DELETED", "b"));
    // As the client knows it, at the version that took it from him.
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "x");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    api.delete(&format!("{MAPS}/a"));
    assert_eq!(shown(&feed.next().unwrap()), seen("DELETED", "a"));
}

#[test]
fn a_watch_goes_on_from_the_version_of_a_list() {
    let api = Api::start();
    let version = api.get(MAPS).body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    api.post(MAPS, &map("a", "x"));
    let mut feed = api.watch(&format!("{MAPS}?watch=1&resourceVersion={version}"));
    assert_eq!(shown(&feed.next().unwrap()), seen("ADDED", "a"));
}

#[test]
fn the_initial_events_end_with_a_bookmark() {
    let api = Api::start();
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut feed = api.watch(&format!("{MAPS}?{query}"));
    assert_eq!(shown(&feed.next().unwrap()), seen("ADDED", "kube-root-ca.crt"));
    let end = feed.next().unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(api.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).code, 422);
}

#[test]
fn a_watch_ends_when_its_time_is_over() {
    let api = Api::start();
    let last = api.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")).last().unwrap();
    assert_eq!(last["type"], "BOOKMARK");
}

#[test]
fn tables_name_their_columns_once() {
    let api = Api::start();
    api.post(MAPS, &map("a", "x"));
    let mut stream = api.connect();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    write!(stream, "GET {MAPS}?watch=1&timeoutSeconds=1 HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let text = std::io::read_to_string(stream).unwrap();
    let events: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect();
    assert_eq!(events.len(), 2);
    assert!(events[0]["object"]["columnDefinitions"].is_array() && events[1]["object"]["columnDefinitions"].is_null());
}

#[test]
fn a_client_that_does_not_read_is_no_burden_to_others() {
    let api = Api::start();
    let deaf: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = api.connect();
            write!(stream, "GET {MAPS}?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let mut feed = api.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dlast"));
    let text = "x".repeat(256 * 1024);
    for index in 0..8 {
        let name = format!("m{index}");
        assert_eq!(api.post(MAPS, &json!({"metadata": {"name": name}, "data": {"a": text}})).code, 201);
    }
    api.post(MAPS, &map("last", "x"));
    assert_eq!(shown(&feed.next().unwrap()), seen("ADDED", "last"));
    drop(deaf);
}

/// As the API server does: an event is a text.
#[test]
fn a_watch_comes_over_websocket() {
    use tokio_tungstenite::tungstenite::WebSocket;
    use tokio_tungstenite::tungstenite::protocol::Role;

    let api = Api::start();
    let mut stream = api.connect();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    write!(
        stream,
        "GET {MAPS}?watch=1&fieldSelector=metadata.name%3Da HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
    api.post(MAPS, &map("a", "x"));
    let event: Value = serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(shown(&event), seen("ADDED", "a"));
}
