//! `monopod logs`

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::client::discovery::Kinds;
use super::client::error::VerbError;
use super::client::{Call, Client, segment};
use super::get::Selection;
use super::targets::pod_name;
use super::{Failures, Place, say_bytes, span};

/// Of each pod, when pods are chosen by their labels.
const TAIL_OF_MANY: i64 = 10;

/// Shows what containers wrote
#[derive(Debug, clap::Args)]
pub struct LogsCommand {
    #[command(flatten)]
    place: Place,
    /// Pod: NAME or pod/NAME
    #[arg(value_name = "POD", required_unless_present = "selector")]
    pod: Option<String>,
    /// Container; the first one by default
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    second: Option<String>,
    /// Container; the first one by default
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pods with these labels instead of one by its name
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "pod")]
    selector: Option<String>,
    /// All containers of the pod
    #[arg(long)]
    all_containers: bool,
    /// Goes on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// The instance before the last restart
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines; -1 is all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what is newer than a span such as 5s, 2m, 3h
    #[arg(long, value_name = "TIME", value_parser = span::parse, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Only what is newer than a moment (RFC 3339)
    #[arg(long, value_name = "MOMENT")]
    since_time: Option<String>,
    /// Puts the time before each line
    #[arg(long)]
    timestamps: bool,
    /// Stops after so many bytes
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// Puts pod and container before each line
    #[arg(long)]
    prefix: bool,
}

/// A container whose log is wanted.
#[derive(Debug)]
struct Source {
    pod: String,
    container: String,
}

/// Runs `monopod logs ...`.
///
/// # Errors
/// There is no such pod, or no log.
pub async fn run(command: &LogsCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    let pods = command.pods(&client).await?;
    let sources: Vec<Source> = pods.iter().flat_map(|pod| command.sources(pod)).collect();
    let mut failures = Failures::default();
    if command.follow {
        let mut all: FuturesUnordered<_> = sources.iter().map(|source| command.show(&client, source)).collect();
        while let Some(done) = all.next().await {
            failures.note(done)?;
        }
    } else {
        for source in &sources {
            failures.note(command.show(&client, source).await)?;
        }
    }
    Ok(failures.code())
}

impl LogsCommand {
    async fn pods(&self, client: &Client) -> Result<Vec<Value>, VerbError> {
        let namespace = self.place.namespace();
        if let Some(pod) = &self.pod {
            return Ok(vec![client.json(Call::get(pod_path(namespace, pod_name(pod)?))).await?]);
        }
        let kinds = Kinds::ask(client).await?;
        let selection = Selection { selector: self.selector.clone(), ..Selection::default() };
        let kind = kinds.named("pods")?;
        let pods = super::get::items(kind, client.json(selection.list(kind, &self.place)).await?);
        if pods.is_empty() {
            eprintln!("No resources found in {namespace} namespace.");
        }
        Ok(pods)
    }

    fn sources(&self, pod: &Value) -> Vec<Source> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let source = |container: &str| Source { pod: name.to_owned(), container: container.to_owned() };
        if self.all_containers {
            let lists = ["initContainers", "containers", "ephemeralContainers"];
            return lists.iter().flat_map(|list| names(pod, list)).map(|container| source(&container)).collect();
        }
        match self.container.as_ref().or(self.second.as_ref()) {
            Some(container) => vec![source(container)],
            None => vec![source(&default_container(pod))],
        }
    }

    async fn show(&self, client: &Client, source: &Source) -> Result<(), VerbError> {
        let prefix = self.prefix.then(|| format!("[pod/{}/{}] ", source.pod, source.container));
        let mut body = client.send(self.call(source)).await?.into_body();
        let mut is_line_start = true;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(VerbError::Http)?;
            let bytes = frame.data_ref().map_or(&[][..], Bytes::as_ref);
            match &prefix {
                None => say_bytes(bytes)?,
                Some(prefix) => say_bytes(&prefixed(bytes, prefix, &mut is_line_start))?,
            }
        }
        Ok(())
    }

    fn call(&self, source: &Source) -> Call {
        let flag = |wanted: bool| wanted.then_some("true");
        let tail = self.tail.or_else(|| self.selector.is_some().then_some(TAIL_OF_MANY)).filter(|lines| *lines >= 0);
        // Whole seconds, and not less than one: zero would mean nothing.
        let since = self.since.map(|span| span.as_secs_f64().ceil().max(1.0).to_string());
        Call::get(format!("{}/log", pod_path(self.place.namespace(), &source.pod)))
            .accept("*/*")
            .query("container", source.container.as_str())
            .query_some("follow", flag(self.follow))
            .query_some("previous", flag(self.previous))
            .query_some("timestamps", flag(self.timestamps))
            .query_some("tailLines", tail.map(|lines| lines.to_string()))
            .query_some("sinceSeconds", since)
            .query_some("sinceTime", self.since_time.clone())
            .query_some("limitBytes", self.limit_bytes.map(|bytes| bytes.to_string()))
    }
}

pub fn pod_path(namespace: &str, pod: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", segment(namespace), segment(pod))
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().map_or(&[][..], Vec::as_slice);
    containers.iter().filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
}

/// The container that is meant when none is named; says so where there are others.
pub fn default_container(pod: &Value) -> String {
    const CHOSEN: &str = "kubectl.kubernetes.io/default-container";
    let main = names(pod, "containers");
    let chosen = pod["metadata"]["annotations"][CHOSEN].as_str().filter(|name| main.iter().any(|known| known == name));
    if let Some(chosen) = chosen {
        return chosen.to_owned();
    }
    let first = main.first().cloned().unwrap_or_default();
    let mut all: Vec<String> = main;
    all.extend(names(pod, "ephemeralContainers").into_iter().map(|name| format!("{name} (ephem)")));
    all.extend(names(pod, "initContainers").into_iter().map(|name| format!("{name} (init)")));
    if all.len() > 1 {
        eprintln!("Defaulted container {first:?} out of: {}", all.join(", "));
    }
    first
}

/// Puts a prefix at the start of every line of a text that comes in parts.
fn prefixed(bytes: &[u8], prefix: &str, is_line_start: &mut bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + prefix.len());
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if *is_line_start {
            out.extend_from_slice(prefix.as_bytes());
        }
        out.extend_from_slice(line);
        *is_line_start = line.ends_with(b"\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_line_has_its_prefix_once() {
        let mut start = true;
        let mut text = prefixed(b"a\nb", "> ", &mut start);
        text.extend(prefixed(b"c\n", "> ", &mut start));
        assert_eq!(String::from_utf8_lossy(&text), "> a\n> bc\n");
    }

    #[test]
    fn the_first_container_is_meant_unless_the_pod_says_otherwise() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(default_container(&pod), "a");
        pod["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(default_container(&pod), "b");
    }
}
