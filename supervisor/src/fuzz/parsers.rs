//! The parsers.

use std::fmt::Display;

use cgroupd::Quantity;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::fuzz;
use crate::api::select::{Fields, Labels};
use crate::api::{auth, json, patch, path, query, wire};
use crate::image::{Limits, Reference, document, pax, tar};
use crate::logs::record;
use crate::resolver::Names;
use crate::stream::channels::{Codec, Encoding};
use crate::stream::spdy::{Connection, Event, Headers, Role};
use crate::stream::upgrade::Offer;
use crate::{manifest, stream};

/// One test per parser, so that they run side by side.
macro_rules! parsers {
    ($($(#[$comment:meta])* $name:ident($parse:expr, $made:expr);)*) => {
        $($(#[$comment])* #[test] fn $name() { fuzz(stringify!($name), $parse, $made); })*
    };
}

parsers! {
    /// A connection in either role, bytes coming in pieces.
    spdy(spdy_connection, spdy_samples());
    /// Messages of the WebSocket protocols.
    channels(channel_messages, vec![b"\x00stdin".to_vec(), b"\xff\x00".to_vec(), b"0c3RkaW4=".to_vec()]);
    manifests(|input| with_text(input, |text| said(manifest::decode("f.yaml", text).map_err(|e| e.with_snippets()))), vec![]);
    json_bodies(|input| said(json::parse(input).map(|document| document.duplicates.len())), vec![]);
    patches(patched, vec![]);
    protobuf(|input| said(wire::decode(input)), vec![b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap".to_vec()]);
    selectors(|input| with_text(input, selected), vec![]);
    quantities(|input| with_text(input, quantity), vec![]);
    references(|input| with_text(input, reference), vec![]);
    log_lines(|input| record::parse(input).map_or_else(String::new, |line| format!("{:?}", line.stream)), vec![]);
    headers(|input| with_text(input, request_headers), vec![]);
    urls(|input| with_text(input, url), vec![]);
    archives(archive, vec![archive_sample()]);
    image_documents(documents, vec![]);
    resolver_files(|input| with_text(input, |text| said(Names::new(text, text).map(|_| "read"))), vec![]);
}

fn said<T: std::fmt::Debug, E: Display>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => format!("ok {value:?}").chars().take(64).collect(),
        Err(error) => format!("error {error}"),
    }
}

fn with_text(input: &[u8], parse: impl Fn(&str) -> String) -> String {
    str::from_utf8(input).map_or_else(|_| "not text".to_owned(), parse)
}

fn spdy_connection(input: &[u8]) -> String {
    let (role, input) = match input.split_first() {
        Some((first, rest)) if first % 2 == 1 => (Role::Client, rest),
        Some((_, rest)) => (Role::Server, rest),
        None => return String::new(),
    };
    let (mut connection, mut seen, mut bytes) = (Connection::new(role), String::new(), [0; 512]);
    for piece in input.chunks(7 + input.len() / 4) {
        if let Err(error) = connection.handle_input(piece) {
            return format!("{seen} {error}");
        }
        while let Some(event) = connection.poll_event() {
            match event {
                Event::Opened { id, headers } => {
                    connection.reply(id);
                    seen.push_str(if headers.0.is_empty() { "opened" } else { "headers" });
                }
                Event::Readable(id) => {
                    seen.push_str(&format!("{:?}", connection.read(id, &mut bytes)));
                    connection.write(id, b"answer");
                }
                Event::Writable(id) => {
                    connection.finish(id);
                    seen.push('w');
                }
                Event::GoneAway => seen.push_str("gone"),
            }
        }
        let sent = connection.output().len();
        connection.advance_output(sent);
        assert!(connection.open_streams() <= stream::spdy::MAX_STREAMS, "too many streams");
    }
    seen
}

/// What a client of a session says, with the byte that chooses our role.
fn spdy_samples() -> Vec<Vec<u8>> {
    let mut client = Connection::new(Role::Client);
    let headers = Headers(vec![("streamtype".to_owned(), "stdin".to_owned())]);
    let id = client.open(&headers);
    client.write(id, b"hello");
    client.finish(id);
    client.go_away();
    let mut sample = vec![0];
    sample.extend_from_slice(client.output());
    vec![sample]
}

fn channel_messages(input: &[u8]) -> String {
    let mut seen = String::new();
    for encoding in [Encoding::Binary, Encoding::Base64] {
        let codec = Codec { encoding, closes: true };
        let text = String::from_utf8_lossy(input).into_owned();
        for message in [Message::Binary(input.to_vec().into()), Message::Text(text.into())] {
            let kind = format!("{:?}", codec.decode(message));
            seen.push_str(kind.split_whitespace().next().unwrap_or_default());
        }
        let [first, rest @ ..] = input else { continue };
        let channel = first % 10;
        let back = codec.decode(codec.encode(channel, rest));
        assert_eq!(back, stream::channels::Said::Data { channel, bytes: rest.to_vec().into() }, "it comes back");
    }
    seen
}

/// A list of an object and its patch.
fn patched(input: &[u8]) -> String {
    let Ok(document) = json::parse(input) else { return "no JSON".to_owned() };
    let (live, change) = (&document.value[0], &document.value[1]);
    let manager = patch::Manager { name: "m", api_version: "v1", subresource: "", now: jiff::Timestamp::UNIX_EPOCH };
    let answers = [
        said(patch::json_patch(live, change).map(|_| "json")),
        said(patch::merge_patch(live, change).map(|_| "merge")),
        said(patch::strategic("pods", live, change).map(|_| "strategic")),
        said(patch::apply("pods", Some(live), change, &manager, true).map(|_| "applied")),
        said(patch::apply("configmaps", None, change, &manager, false).map(|_| "made")),
    ];
    let managed = patch::managed_update("pods", Some(live), change.clone(), &manager);
    format!("{} {}", answers.concat(), managed.is_object())
}

fn selected(text: &str) -> String {
    let object: Value = serde_json::json!({"metadata": {"name": "a", "labels": {"app": "web"}}});
    let labels = Labels::parse(text).map(|labels| labels.matches(&object));
    let fields = Fields::parse("pods", text).map(|fields| fields.matches(&object));
    format!("{} {}", said(labels), said(fields))
}

/// What is written reads as the same.
fn quantity(text: &str) -> String {
    let amount = text.parse::<Quantity>();
    if let Ok(amount) = amount {
        assert_eq!(amount.to_string().parse::<Quantity>(), Ok(amount), "{text:?} changes when it is written");
    }
    said(amount)
}

fn reference(text: &str) -> String {
    let read = text.parse::<Reference>();
    if let Ok(reference) = &read {
        let again = reference.to_string().parse::<Reference>().map(|again| again.to_string());
        assert_eq!(again.ok(), Some(reference.to_string()), "{text:?} changes when it is written");
    }
    said(read.map(|reference| reference.familiar()))
}

/// Lines of `name: value`.
fn request_headers(text: &str) -> String {
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
    });
    let headers = HeaderMap::from_iter(pairs);
    let offer =
        Offer::of(&headers).map(|offer| offer.choose(&[("v5.channel.k8s.io", 5), ("v4.channel.k8s.io", 4)], 0).is_ok());
    let user = auth::authenticate(&auth::Peer::Unknown, &headers, None);
    format!("{} {}", said(offer), said(user))
}

fn url(text: &str) -> String {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let query = query::Query::parse(query).map(|query| (query.flag("watch"), query.number("limit").is_ok()));
    let route = path::route(path).map(|route| format!("{route:?}").split(['(', '{']).next().map(str::to_owned));
    format!("{} {}", said(route), said(query))
}

fn archive(input: &[u8]) -> String {
    let records = said(pax::records(input).map(|records| records.len()));
    let mut reader = tar::Reader::new(input);
    loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => return format!("{records} whole"),
            Err(error) => return format!("{records} {error}"),
        }
    }
}

fn archive_sample() -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(5);
    for name in ["etc/hosts", &"long/".repeat(40)] {
        builder.append_data(&mut header, name, &b"hello"[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn documents(input: &[u8]) -> String {
    let limits = Limits::default();
    let media = document::media_type(input, None);
    let answers = [
        said(document::manifest(input, &media, &limits).map(|_| "manifest")),
        said(document::index(input, Some(&media)).map(|_| "index")),
        said(document::config(input, 1).map(|_| "config")),
        said(document::docker_images(input, &limits).map(|_| "docker")),
    ];
    answers.concat()
}
