//! `monopod events`, and how an event is told.

use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::align::{self, align_on};
use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::client::{Call, Client};
use super::targets::targets;
use super::watch::{Change, Watch};
use super::{Place, say};
use crate::pod::columns::human_duration;

/// Shows what happened, the newest last
#[derive(Debug, clap::Args)]
pub struct EventsCommand {
    #[command(flatten)]
    place: Place,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only those of one object: pod/NAME
    #[arg(long = "for", value_name = "KIND/NAME")]
    about: Option<String>,
    /// Only those of a type: Normal, Warning
    #[arg(long, value_name = "TYPE", value_delimiter = ',', ignore_case = true)]
    types: Vec<String>,
    /// Also shows what happens, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Leaves out the names of the columns
    #[arg(long)]
    no_headers: bool,
}

/// Runs `monopod events ...`.
///
/// # Errors
/// The server refuses.
pub async fn run(command: &EventsCommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    let list = command.list(&kinds)?;
    let answer = client.json(list()).await?;
    let version = answer["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let events: Vec<Value> = sorted(&answer).into_iter().filter(|event| command.is_shown(event)).collect();
    let mut widths = Vec::new();
    if events.is_empty() && !command.watch {
        let of =
            if command.all_namespaces { String::new() } else { format!(" in {} namespace", command.place.namespace()) };
        eprintln!("No events found{of}.");
        return Ok(ExitCode::SUCCESS);
    }
    let header = if command.no_headers { String::new() } else { command.header() };
    let lines: String = events.iter().map(|event| command.line(event)).collect();
    say(&align_on(&(header + &lines), align::TABLE, &mut widths))?;
    if command.watch {
        let mut watch = Watch::start(&client, list(), &version).await?;
        while let Some((change, event)) = watch.next().await? {
            if change == Change::Changed && command.is_shown(&event) {
                say(&align_on(&command.line(&event), align::TABLE, &mut widths))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl EventsCommand {
    fn list(&self, kinds: &Kinds) -> Result<impl Fn() -> Call, VerbError> {
        let path = kinds.named("events")?.path((!self.all_namespaces).then(|| self.place.namespace()), None);
        let about = match &self.about {
            None => None,
            Some(about) => match targets(kinds, std::slice::from_ref(about))?.as_slice() {
                [target] if target.names.len() == 1 => Some(selector(target.kind, &target.names[0])),
                _ => return Err(VerbError::usage("--for must be in resource/name form")),
            },
        };
        Ok(move || Call::get(path.as_str()).query_some("fieldSelector", about.clone()))
    }

    fn is_shown(&self, event: &Value) -> bool {
        let kind = text(event, "/type");
        self.types.is_empty() || self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(kind))
    }

    fn header(&self) -> String {
        let namespace = if self.all_namespaces { "NAMESPACE\t" } else { "" };
        format!("{namespace}LAST SEEN\tTYPE\tREASON\tOBJECT\tMESSAGE\n")
    }

    fn line(&self, event: &Value) -> String {
        let namespace =
            if self.all_namespaces { format!("{}\t", text(event, "/metadata/namespace")) } else { String::new() };
        format!(
            "{namespace}{}\t{}\t{}\t{}/{}\t{}\n",
            age(event, Timestamp::now()),
            text(event, "/type"),
            text(event, "/reason"),
            text(event, "/involvedObject/kind"),
            text(event, "/involvedObject/name"),
            text(event, "/message").trim().replace('\n', " "),
        )
    }
}

fn selector(kind: &Kind, name: &str) -> String {
    format!("involvedObject.kind={},involvedObject.name={name}", kind.kind)
}

fn text<'v>(event: &'v Value, pointer: &str) -> &'v str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn moment(event: &Value, pointers: &[&str]) -> Option<Timestamp> {
    pointers.iter().find_map(|pointer| text(event, pointer).parse().ok())
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    moment(event, &["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp"])
}

fn sorted(list: &Value) -> Vec<Value> {
    let mut events = list["items"].as_array().cloned().unwrap_or_default();
    events.sort_by_key(last_seen);
    events
}

/// How long ago a moment was.
pub fn since(moment: Option<Timestamp>, now: Timestamp) -> String {
    let Some(moment) = moment else { return "<unknown>".to_owned() };
    let seconds = now.as_second() - moment.as_second();
    match u64::try_from(seconds) {
        Ok(seconds) => human_duration(Duration::from_secs(seconds)),
        // A clock that is a second behind is no news.
        Err(_) if seconds >= -1 => "0s".to_owned(),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// `5s`, or `3s (x2 over 41s)`.
fn age(event: &Value, now: Timestamp) -> String {
    let count = ["/series/count", "/count"].iter().find_map(|pointer| event.pointer(pointer)?.as_i64()).unwrap_or(1);
    let last = since(last_seen(event), now);
    if count <= 1 {
        return last;
    }
    let first = since(moment(event, &["/firstTimestamp", "/eventTime"]), now);
    format!("{last} (x{count} over {first})")
}

/// The last part of a description: what happened to an object.
///
/// # Errors
/// The server refuses.
pub async fn section(client: &Client, kinds: &Kinds, object: &Value) -> Result<String, VerbError> {
    let namespace = object["metadata"]["namespace"].as_str();
    let mut selector = format!("involvedObject.name={}", text(object, "/metadata/name"));
    // Events about the node name it by its name alone.
    if object["kind"] != "Node" {
        // Those of a static pod are the pod's, not its mirror's (ST3).
        let mirrored = text(object, "/metadata/annotations/kubernetes.io~1config.mirror");
        let uid = if mirrored.is_empty() { text(object, "/metadata/uid") } else { mirrored };
        selector += &format!(",involvedObject.uid={uid}");
    }
    let call = Call::get(kinds.named("events")?.path(namespace, None)).query("fieldSelector", selector);
    Ok(told(&sorted(&client.json(call).await?), Timestamp::now()))
}

fn told(events: &[Value], now: Timestamp) -> String {
    if events.is_empty() {
        return "Events:\t<none>\n".to_owned();
    }
    let mut out = "Events:\n  Type\tReason\tAge\tFrom\tMessage\n  ----\t------\t----\t----\t-------\n".to_owned();
    for event in events {
        let from = match text(event, "/source/component") {
            "" => text(event, "/reportingComponent"),
            component => component,
        };
        let (kind, reason) = (text(event, "/type"), text(event, "/reason"));
        let message = text(event, "/message").trim();
        out += &format!("  {kind}\t{reason}\t{}\t{from}\t{message}\n", age(event, now));
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::super::align::{DESCRIPTION, align};
    use super::*;

    #[test]
    fn events_are_told_with_their_count() {
        let event = |reason: &str, first: &str, last: &str, count: i64| {
            json!({"type": "Normal", "reason": reason, "firstTimestamp": first, "lastTimestamp": last, "count": count,
                "source": {"component": "kubelet"}, "message": "it happened\n"})
        };
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let list = json!({"items": [
            event("BackOff", "2026-01-01T00:00:00Z", "2026-01-01T00:00:57Z", 3),
            event("Started", "2026-01-01T00:00:30Z", "2026-01-01T00:00:30Z", 1)]});
        expect![[r#"
            Events:
              Type    Reason   Age               From     Message
              ----    ------   ----              ----     -------
              Normal  Started  30s               kubelet  it happened
              Normal  BackOff  3s (x3 over 60s)  kubelet  it happened
        "#]]
        .assert_eq(&align(&told(&sorted(&list), now), DESCRIPTION));
        assert_eq!(told(&[], now), "Events:\t<none>\n");
    }
}
