//! `monopod top`

use std::process::ExitCode;

use cgroupd::Quantity as Amount;
use serde_json::Value;

use super::align::{self, align};
use super::client::error::VerbError;
use super::client::{Call, segment};
use super::get::Selection;
use super::{Place, say};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// Shows what pods or the node use of CPU and memory
#[derive(Debug, clap::Args)]
pub struct TopCommand {
    #[command(flatten)]
    place: Place,
    /// What to show
    #[arg(value_name = "KIND")]
    what: What,
    /// One of them
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// Each container of the pods
    #[arg(long)]
    containers: bool,
    /// Leaves out the names of the columns
    #[arg(long)]
    no_headers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    #[value(aliases = ["pods", "po"])]
    Pod,
    #[value(aliases = ["nodes", "no"])]
    Node,
}

/// Runs `monopod top ...`.
///
/// # Errors
/// The server refuses, or has no figures.
pub async fn run(command: &TopCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    let all = match command.what {
        What::Node => format!("{METRICS}/nodes"),
        What::Pod if command.selection.all_namespaces => format!("{METRICS}/pods"),
        What::Pod => format!("{METRICS}/namespaces/{}/pods", segment(command.place.namespace())),
    };
    let metrics = match &command.name {
        Some(name) => vec![client.json(Call::get(format!("{all}/{}", segment(name)))).await?],
        None => {
            let mut list = client.json(command.selection.apply(Call::get(all))).await?;
            list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
        }
    };
    if metrics.is_empty() {
        eprintln!("No resources found in {} namespace.", command.place.namespace());
        return Ok(ExitCode::SUCCESS);
    }
    let text = match command.what {
        What::Pod => pods(command, &metrics),
        What::Node => nodes(command, &metrics, &client.json(Call::get("/api/v1/nodes")).await?),
    };
    say(&align(&text, align::TABLE))?;
    Ok(ExitCode::SUCCESS)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn amount(usage: &Value, resource: &str) -> Amount {
    usage[resource].as_str().and_then(|text| text.parse::<Amount>().ok()).unwrap_or(Amount::ZERO)
}

/// `12m` and `34Mi`.
fn shown(cpu: Amount, memory: Amount) -> (String, String) {
    let unit = |text: &str| text.parse::<Amount>().unwrap_or(Amount::ZERO);
    // Hundredths of a hundred of the unit are units.
    (format!("{}m", cpu.percent_of(unit("100m"))), format!("{}Mi", memory.percent_of(unit("100Mi"))))
}

fn pods(command: &TopCommand, metrics: &[Value]) -> String {
    let namespace = |name: &str| if command.selection.all_namespaces { format!("{name}\t") } else { String::new() };
    let mut lines = String::new();
    if !command.no_headers {
        let name = if command.containers { "POD\tNAME" } else { "NAME" };
        lines = format!("{}{name}\tCPU(cores)\tMEMORY(bytes)\n", namespace("NAMESPACE"));
    }
    for pod in metrics {
        let start = format!("{}{}", namespace(text(pod, "/metadata/namespace")), text(pod, "/metadata/name"));
        let mut total = (Amount::ZERO, Amount::ZERO);
        for container in list(pod, "containers") {
            let own = (amount(&container["usage"], "cpu"), amount(&container["usage"], "memory"));
            total = (own.0.plus(total.0), own.1.plus(total.1));
            if command.containers {
                let (cpu, memory) = shown(own.0, own.1);
                lines += &format!("{start}\t{}\t{cpu}\t{memory}\n", text(container, "/name"));
            }
        }
        if !command.containers {
            let (cpu, memory) = shown(total.0, total.1);
            lines += &format!("{start}\t{cpu}\t{memory}\n");
        }
    }
    lines
}

fn nodes(command: &TopCommand, metrics: &[Value], nodes: &Value) -> String {
    let mut lines = String::new();
    if !command.no_headers {
        lines += "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\n";
    }
    for metric in metrics {
        let name = text(metric, "/metadata/name");
        let node = list(nodes, "items").iter().find(|node| text(node, "/metadata/name") == name);
        let has = |resource| node.map_or(Amount::ZERO, |node| amount(&node["status"]["allocatable"], resource));
        let (cpu, memory) = (amount(&metric["usage"], "cpu"), amount(&metric["usage"], "memory"));
        let texts = shown(cpu, memory);
        let shares = (cpu.percent_of(has("cpu")), memory.percent_of(has("memory")));
        lines += &format!("{name}\t{}\t{}%\t{}\t{}%\n", texts.0, shares.0, texts.1, shares.1);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_shown_in_milli_cores_and_mebibytes() {
        let parse = |text: &str| text.parse::<Amount>().unwrap();
        assert_eq!(shown(parse("12345678n"), parse("35651584")), ("12m".to_owned(), "34Mi".to_owned()));
        assert_eq!(shown(parse("2"), parse("3Gi")), ("2000m".to_owned(), "3072Mi".to_owned()));
    }
}
