//! `watch`: the feed of changes as clients see it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::super::body::{Body, Gone, Writer};
use super::super::call::Call;
use super::super::fields;
use super::super::keep::heartbeat;
use super::super::registry::Class;
use super::super::respond::Form;
use super::super::shape;
use super::super::status::Status;
use super::list::{Selection, forbidden, invalid_options, selected, version};
use super::read::{show_text, viewed};
use crate::store::{Object, StoreError, Version, Watch, WatchEvent, WatchEventKind};
use crate::stream::messages;
use crate::stream::received::Received;
use crate::stream::upgrade::Offer;

/// How often a client that wants them gets a bookmark.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How long a watch lasts when the client doesn't say: between this and twice as long, so that clients don't all come
/// back at once.
const LIFE: Duration = Duration::from_secs(1800);
/// The longest that a client may ask for.
const LIFE_MAX: i64 = 24 * 3600;

/// Bytes of an object from which its text is shared; a smaller one is copied, and goes out in one piece.
const SHARED_FROM: usize = 4 * 1024;

/// The text of a stored object, as bytes.
struct Shared(Arc<str>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What is sent at the start.
struct Start {
    objects: Vec<Object>,
    version: Version,
    /// The client wants to be told where the start ends (WatchList).
    has_end: bool,
}

/// The feed, over WebSocket for a client that asks for it.
pub(crate) fn watch(call: &Call, mut request: Request<Received>) -> Result<Response<Body>, Status> {
    let response = answer(call)?;
    let Ok(offer @ Offer::WebSocket { .. }) = Offer::of(request.headers()) else { return Ok(response) };
    // As the API server does, whatever protocol the client names.
    let accepted = offer.accept(None).map(|_| Body::empty());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        match upgrade.await {
            Ok(io) => messages::send_lines(TokioIo::new(io), response.into_body()).await,
            Err(error) => tracing::debug!("watch: {error}"),
        }
    });
    Ok(accepted)
}

fn answer(call: &Call) -> Result<Response<Body>, Status> {
    let selection = Selection::of(call)?;
    let (start, feed) = begin(call, &selection)?;
    let (writer, body) = Body::pieces();
    let feeder = Feeder { call: copy(call), selection, writer, is_first: true };
    let life = life(call)?;
    let closing = call.state.closing.clone();
    tokio::task::spawn_local(async move {
        // A client that goes away is no error.
        drop(feeder.run(start, feed, life, closing).await);
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The part of a call that outlives its request.
fn copy(call: &Call) -> Call {
    Call {
        state: Rc::clone(&call.state),
        user: call.user.clone(),
        target: super::super::path::Target {
            resource: call.target.resource,
            namespace: call.target.namespace.clone(),
            name: call.target.name.clone(),
            subresource: None,
            rest: String::new(),
            is_watch: true,
        },
        query: call.query.clone(),
        accept: call.accept,
        now: call.now,
        agent: String::new(),
        warnings: std::cell::RefCell::default(),
    }
}

fn life(call: &Call) -> Result<Duration, Status> {
    let asked = call.query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    let spread = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    let own = LIFE + LIFE * spread / 256;
    Ok(asked.map_or(own, |seconds| Duration::from_secs(seconds.min(LIFE_MAX).unsigned_abs())))
}

fn begin(call: &Call, selection: &Selection) -> Result<(Option<Start>, Result<Watch, StoreError>), Status> {
    let asked = version(call)?;
    let initial = call.query.get("sendInitialEvents").map(|_| call.query.flag("sendInitialEvents"));
    check_match(call, initial.is_some())?;
    match (asked, initial) {
        // From a version on, without a start.
        (Some(asked), None | Some(false)) => return Ok((None, feed(call, asked))),
        (None, Some(false)) => return Ok((None, feed(call, call.state.store.version()))),
        (None, None) | (_, Some(true)) => {}
    }
    let (objects, version) = selected(call, selection);
    let start = Start { objects, version, has_end: initial == Some(true) };
    Ok((Some(start), feed(call, version)))
}

/// How `resourceVersionMatch` and `sendInitialEvents` go together.
fn check_match(call: &Call, has_initial: bool) -> Result<(), Status> {
    let field = "resourceVersionMatch";
    match (call.query.get(field), has_initial) {
        (None, false) | (Some("NotOlderThan"), true) => Ok(()),
        (None, true) => Err(invalid_options(
            field,
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
        (Some(_), false) => {
            Err(invalid_options(field, &forbidden("is forbidden for watch unless sendInitialEvents is provided")))
        }
        (Some(other), true) => {
            Err(invalid_options(field, &format!("Unsupported value: {other:?}: supported values: \"NotOlderThan\"")))
        }
    }
}

fn feed(call: &Call, from: Version) -> Result<Watch, StoreError> {
    call.state.store.watch(&call.target.resource.storage(), call.target.namespace.as_deref(), from)
}

struct Feeder {
    call: Call,
    selection: Selection,
    writer: Writer,
    /// Columns of a Table are named once.
    is_first: bool,
}

impl Feeder {
    async fn run(
        mut self,
        start: Option<Start>,
        feed: Result<Watch, StoreError>,
        life: Duration,
        mut closing: tokio::sync::watch::Receiver<bool>,
    ) -> Result<(), Gone> {
        let mut feed = match feed {
            Ok(feed) => feed,
            Err(error) => return self.error(&Status::of_store(self.call.target.resource, "", &error)).await,
        };
        if let Some(start) = start {
            self.start(start).await?;
        }
        let has_bookmarks = self.call.query.flag("allowWatchBookmarks");
        let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let has_heartbeats = heartbeat::is_seen_in(self.call.target.resource);
        let mut heartbeats = tokio::time::interval(heartbeat::RENEWAL);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = tokio::time::sleep(life);
        tokio::pin!(end);
        loop {
            let gone = self.writer.clone();
            tokio::select! {
                // Changes first: a bookmark may not name a version before which something is still to be sent.
                biased;
                event = feed.next() => match event {
                    Some(event) => self.event(&event).await?,
                    None => return self.error(&Status::expired("too old resource version: the watch fell behind")).await,
                },
                _ = bookmarks.tick(), if has_bookmarks => self.bookmark(self.call.state.store.version(), false).await?,
                _ = heartbeats.tick(), if has_heartbeats => heartbeat::renew(&self.call.state).await,
                () = &mut end => {
                    if has_bookmarks {
                        self.bookmark(self.call.state.store.version(), false).await?;
                    }
                    return Ok(());
                }
                () = gone.gone() => return Ok(()),
                _ = closing.wait_for(|closing| *closing) => return Ok(()),
            }
        }
    }

    async fn start(&mut self, start: Start) -> Result<(), Gone> {
        for object in &start.objects {
            self.send("ADDED", object).await?;
        }
        if start.has_end {
            self.bookmark(start.version, true).await?;
        }
        Ok(())
    }

    /// A change as a client with these selectors sees it: what leaves the selection is deleted for him.
    async fn event(&mut self, event: &WatchEvent) -> Result<(), Gone> {
        if self.call.target.resource.class == Class::Workload {
            return Ok(());
        }
        let is_in = self.selection.matches(&event.object);
        let was_in = || event.previous.as_ref().is_some_and(|before| self.selection.matches(before));
        let kind = match event.kind {
            WatchEventKind::Added if is_in => "ADDED",
            WatchEventKind::Modified if is_in => {
                if was_in() {
                    "MODIFIED"
                } else {
                    "ADDED"
                }
            }
            WatchEventKind::Modified if was_in() => return self.left(event).await,
            WatchEventKind::Deleted if is_in || was_in() => "DELETED",
            WatchEventKind::Added | WatchEventKind::Modified | WatchEventKind::Deleted => return Ok(()),
        };
        self.send(kind, &event.object).await
    }

    /// A client with a selector is shown what he knows, of the version that took it from him.
    async fn left(&mut self, event: &WatchEvent) -> Result<(), Gone> {
        let Some(previous) = &event.previous else { return Ok(()) };
        self.send("DELETED", &at_version(previous, event.object.version)).await
    }

    async fn send(&mut self, kind: &str, object: &Object) -> Result<(), Gone> {
        let shown = match self.call.accept.form {
            Form::Plain => return self.send_text(kind, show_text(&self.call, object)).await,
            Form::Partial => shape::partial(&self.call, &object.value()).to_string(),
            Form::Table => self.row(&viewed(&self.call, &object.value())).to_string(),
        };
        self.writer.write(format!("{{\"type\":\"{kind}\",\"object\":{shown}}}\n")).await
    }

    /// Thousands of watches of one large object share its text: who does not read holds a reference and no copy.
    async fn send_text(&self, kind: &str, text: Arc<str>) -> Result<(), Gone> {
        if text.len() < SHARED_FROM {
            return self.writer.write(format!("{{\"type\":\"{kind}\",\"object\":{text}}}\n")).await;
        }
        self.writer.write(format!("{{\"type\":\"{kind}\",\"object\":")).await?;
        self.writer.write(Bytes::from_owner(Shared(text))).await?;
        self.writer.write(Bytes::from_static(b"}\n")).await
    }

    fn row(&mut self, value: &Value) -> Value {
        self.call.now = jiff::Timestamp::now();
        shape::row(&self.call, value, std::mem::take(&mut self.is_first))
    }

    async fn bookmark(&mut self, version: Version, is_end_of_start: bool) -> Result<(), Gone> {
        let resource = self.call.target.resource;
        let mut object = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        if is_end_of_start {
            fields::metadata(&mut object)
                .insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let object = match self.call.accept.form {
            Form::Plain => object,
            Form::Partial => shape::partial(&self.call, &object),
            Form::Table => self.row(&object),
        };
        self.writer.write(format!("{}\n", json!({"type": "BOOKMARK", "object": object}))).await
    }

    async fn error(&self, status: &Status) -> Result<(), Gone> {
        self.writer.write(format!("{}\n", json!({"type": "ERROR", "object": status.to_value()}))).await
    }
}

/// An object as if it had been written later.
fn at_version(object: &Object, version: Version) -> Object {
    let mut value = object.value();
    fields::metadata(&mut value).insert("resourceVersion".to_owned(), version.to_string().into());
    Object { key: object.key.clone(), version, text: value.to_string().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Key;

    #[test]
    fn what_left_is_shown_as_it_was_at_the_version_that_took_it() {
        let text = json!({"metadata": {"resourceVersion": "3", "labels": {"app": "x"}}}).to_string();
        let before = Object { key: Key::new("pods", "d", "p"), version: Version(3), text: text.into() };
        let shown = at_version(&before, Version(7));
        let expected = json!({"metadata": {"resourceVersion": "7", "labels": {"app": "x"}}});
        assert_eq!((shown.version, shown.value()), (Version(7), expected));
    }
}
