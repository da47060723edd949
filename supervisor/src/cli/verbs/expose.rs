//! `monopod expose`: a service for a pod, or another one for a service's pods.

use std::process::ExitCode;

use http::Method;
use serde_json::{Map, Value, json};

use super::Place;
use super::apply::{DryRun, Way, tell};
use super::client::discovery::Kinds;
use super::client::error::VerbError;
use super::client::{Call, JSON};
use super::generate::pairs;
use super::targets::targets;

/// Makes a service for a pod, or a second one for a service
///
/// `monopod expose pod NAME --port 80 --target-port 8080`
#[derive(Debug, clap::Args)]
pub struct ExposeCommand {
    #[command(flatten)]
    place: Place,
    /// pod NAME, pod/NAME or service NAME
    #[arg(value_name = "KIND|KIND/NAME", required = true)]
    arguments: Vec<String>,
    #[command(flatten)]
    way: Way,
    /// Ports of the service; those of what is exposed by default
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    port: Vec<u16>,
    /// Port in the pod, by number or name; the same by default
    #[arg(long, value_name = "PORT")]
    target_port: Option<String>,
    /// Name of the service; that of what is exposed by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Labels of the pods behind it; those of what is exposed by default
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    selector: Vec<String>,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// TCP, UDP or SCTP
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Labels of the service; those of what is exposed by default
    #[arg(short, long, value_name = "LABELS", value_delimiter = ',')]
    labels: Vec<String>,
    /// Address of the service; None for none
    #[arg(long, value_name = "ADDRESS")]
    cluster_ip: Option<String>,
}

/// Runs `monopod expose ...`.
///
/// # Errors
/// There is no such pod, or the server refuses.
pub async fn run(command: &ExposeCommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    for target in targets(&kinds, &command.arguments)? {
        if !matches!(target.kind.qualified().as_str(), "pods" | "services") {
            return Err(VerbError::usage(format!("cannot expose a {}", target.kind.kind)));
        }
        if target.names.is_empty() {
            return Err(VerbError::usage("resource(s) were provided, but no name was specified"));
        }
        for name in &target.names {
            let path = target.kind.path(Some(command.place.namespace()), Some(name));
            let service = command.service(&client.json(Call::get(path)).await?).map_err(VerbError::Usage)?;
            command.create(&client, &kinds, service).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl ExposeCommand {
    async fn create(&self, client: &super::client::Client, kinds: &Kinds, mut service: Value) -> Result<(), VerbError> {
        let kind = kinds.named("services")?;
        if self.way.dry_run != DryRun::Client {
            let call = Call::new(Method::POST, kind.path(Some(self.place.namespace()), None))
                .query("fieldManager", "monopod-expose")
                .query_some("dryRun", self.way.dry_run.query())
                .body(JSON, &service);
            service = client.json(call).await?;
        }
        tell(kind, &service, "exposed", &self.way)
    }

    /// The service for a pod or a service.
    fn service(&self, exposed: &Value) -> Result<Value, String> {
        let name = self.name.as_deref().or(exposed["metadata"]["name"].as_str()).unwrap_or_default();
        let mut spec = json!({"selector": self.selector(exposed)?, "ports": self.ports(exposed)?});
        for (key, value) in [("type", &self.kind), ("clusterIP", &self.cluster_ip)] {
            if let Some(value) = value {
                spec[key] = value.as_str().into();
            }
        }
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
        let labels = match self.labels.as_slice() {
            [] => exposed["metadata"]["labels"].clone(),
            labels => pairs(labels, "label").map_err(|error| error.to_string())?,
        };
        if labels.is_object() {
            service["metadata"]["labels"] = labels;
        }
        Ok(service)
    }

    fn selector(&self, exposed: &Value) -> Result<Value, String> {
        if !self.selector.is_empty() {
            return pairs(&self.selector, "selector").map_err(|error| error.to_string());
        }
        let is_pod = exposed["kind"] == "Pod";
        let own = if is_pod { &exposed["metadata"]["labels"] } else { &exposed["spec"]["selector"] };
        let why =
            if is_pod { "the pod has no labels and cannot be exposed" } else { "the service has no pod selector set" };
        let found: Option<&Map<String, Value>> = own.as_object().filter(|labels| !labels.is_empty());
        let found =
            found.ok_or_else(|| format!("couldn't retrieve selectors via --selector flag or introspection: {why}"))?;
        Ok(Value::Object(found.clone()))
    }

    fn ports(&self, exposed: &Value) -> Result<Value, String> {
        let known = known_ports(exposed);
        let protocol_of =
            |port: u16| known.iter().find(|(known, _)| *known == port).map(|(_, protocol)| protocol.clone());
        let wanted: Vec<u16> =
            if self.port.is_empty() { known.iter().map(|(port, _)| *port).collect() } else { self.port.clone() };
        if wanted.is_empty() {
            return Err("couldn't find port via --port flag or introspection".to_owned());
        }
        let port = |(index, port): (usize, &u16)| {
            let protocol = self.protocol.clone().or_else(|| protocol_of(*port)).unwrap_or_else(|| "TCP".to_owned());
            let mut entry = json!({"port": port, "protocol": protocol, "targetPort": self.target(*port)});
            if wanted.len() > 1 {
                entry["name"] = format!("port-{}", index + 1).into();
            }
            entry
        };
        Ok(wanted.iter().enumerate().map(port).collect())
    }

    fn target(&self, port: u16) -> Value {
        match &self.target_port {
            None => port.into(),
            Some(text) => text.parse::<u16>().map_or_else(|_| text.as_str().into(), Value::from),
        }
    }
}

/// Ports with their protocols.
fn known_ports(exposed: &Value) -> Vec<(u16, String)> {
    let read = |port: &Value, key: &str| {
        let number = port[key].as_u64().and_then(|number| u16::try_from(number).ok())?;
        Some((number, port["protocol"].as_str().unwrap_or("TCP").to_owned()))
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of_service = list(&exposed["spec"]["ports"]).iter().filter_map(|port| read(port, "port")).collect::<Vec<_>>();
    let containers = list(&exposed["spec"]["containers"]);
    let of_pod = containers.iter().flat_map(|container| list(&container["ports"]));
    of_service.into_iter().chain(of_pod.filter_map(|port| read(&port, "containerPort"))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        command: ExposeCommand,
    }

    fn service(exposed: &Value, arguments: &[&str]) -> Result<Value, String> {
        Line::parse_from([&["x", "pod/p"], arguments].concat()).command.service(exposed)
    }

    #[test]
    fn a_pod_is_exposed_by_its_labels_and_ports() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [
            {"ports": [{"containerPort": 53, "protocol": "UDP"}]}]}});
        let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"selector": {"a": "b"}, "ports": [{"port": 53, "protocol": "UDP", "targetPort": 53}]}});
        assert_eq!(service(&pod, &[]).unwrap(), expected);
        let arguments =
            ["--port=80,81", "--target-port=http", "--name=w", "--type=NodePort", "--selector=x=y", "-l", "q=r"];
        let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "w", "labels": {"q": "r"}},
            "spec": {"selector": {"x": "y"}, "type": "NodePort", "ports": [
                {"name": "port-1", "port": 80, "protocol": "TCP", "targetPort": "http"},
                {"name": "port-2", "port": 81, "protocol": "TCP", "targetPort": "http"}]}});
        assert_eq!(service(&pod, &arguments).unwrap(), expected);
    }

    #[test]
    fn what_has_no_labels_or_ports_needs_them_said() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{}]}});
        assert!(service(&pod, &["--port=1"]).unwrap_err().ends_with("the pod has no labels and cannot be exposed"));
        let error = service(&pod, &["--selector=a=b"]).unwrap_err();
        assert_eq!(error, "couldn't find port via --port flag or introspection");
        let of = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 1}]}});
        assert_eq!(service(&of, &["--target-port=9"]).unwrap()["spec"]["ports"][0]["targetPort"], 9);
    }
}
