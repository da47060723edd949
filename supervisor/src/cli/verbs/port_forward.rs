//! `monopod port-forward`

mod listen;
mod ports;

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::client::error::VerbError;
use super::client::{Call, Client, segment};
use super::logs::pod_path;
use super::remote::upgrade_headers;
use super::targets::pod_name;
use super::{Place, say};
use crate::stream::port_forward::TUNNEL_PROTOCOL;
use crate::stream::spdy::{self, Headers, Stream};
use crate::stream::{IDLE_TIMEOUT, websocket};
use listen::{Accepted, Listeners};
use ports::{Pair, Wanted};

/// Listens on ports of this machine and passes connections on to a pod
///
/// `monopod port-forward POD 8080:80`, `port-forward POD :http` (any free port), `port-forward service/NAME 8080:80`
#[derive(Debug, clap::Args)]
pub struct PortForwardCommand {
    #[command(flatten)]
    place: Place,
    /// NAME, pod/NAME, or service/NAME for a pod behind it
    #[arg(value_name = "POD")]
    target: String,
    /// Ports: the same at both ends, or that of this machine before that of the pod; by number or name
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    ports: Vec<Wanted>,
    /// Where to listen: localhost, or addresses of this machine
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

/// Runs `monopod port-forward ...` until it is interrupted.
///
/// # Errors
/// There is no such pod, no port could be listened on, or the connection broke.
pub async fn run(command: &PortForwardCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    let (pod, service) = find(command, &client).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Running" {
        return Err(VerbError::usage(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let resolve = |wanted: &Wanted| wanted.resolve(&pod, service.as_ref()).map_err(VerbError::Usage);
    let pairs: Vec<Pair> = command.ports.iter().map(resolve).collect::<Result<_, _>>()?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let path = pod_path(command.place.namespace(), name);
    Box::pin(LocalSet::new().run_until(forward(command, &client, &path, &pairs))).await
}

async fn forward(
    command: &PortForwardCommand,
    client: &Client,
    pod: &str,
    pairs: &[Pair],
) -> Result<ExitCode, VerbError> {
    let call = Call::get(format!("{pod}/portforward"));
    let io = TokioIo::new(client.upgrade(call, &upgrade_headers(TUNNEL_PROTOCOL)).await?);
    let socket = WebSocketStream::from_raw_socket(io, Role::Client, Some(websocket::config())).await;
    let session = spdy::Session::start(websocket::Tunnel::new(socket), spdy::Role::Client, IDLE_TIMEOUT);
    // Before anybody is told that there is something to interrupt.
    let mut interrupted = signal(SignalKind::interrupt()).map_err(VerbError::Stream)?;
    let mut listeners = Listeners::open(&command.address, pairs)?;
    for line in listeners.lines() {
        say(&line)?;
    }
    let mut connections = JoinSet::new();
    let requests = Rc::new(Cell::new(0_u64));
    loop {
        tokio::select! {
            accepted = listeners.accept() => {
                let accepted = accepted.map_err(VerbError::Stream)?;
                say(&format!("Handling connection for {}\n", accepted.pair.local))?;
                connections.spawn_local(connect(session.clone(), accepted, requests.replace(requests.get() + 1)));
            }
            // A port that nobody listens at yet is no reason to give up, a pod that has gone is one.
            Some(Ok(Outcome::Failed)) = connections.join_next() => if !is_running(client, pod).await? {
                return Err(lost());
            },
            () = session.ended() => return Err(lost()),
            Some(()) = interrupted.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
}

fn lost() -> VerbError {
    VerbError::usage("lost connection to pod")
}

async fn is_running(client: &Client, pod: &str) -> Result<bool, VerbError> {
    let found = client.find(Call::get(pod)).await?;
    Ok(found.is_some_and(|pod| pod["status"]["phase"] == "Running"))
}

/// One connection: a stream for what goes wrong, and one for the data.
async fn connect(session: spdy::Session, accepted: Accepted, request: u64) -> Outcome {
    let Pair { local, remote } = accepted.pair;
    let open = |kind: &str| {
        let pairs = [("streamtype", kind.to_owned()), ("port", remote.to_string()), ("requestid", request.to_string())];
        session.open(&Headers(pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()))
    };
    let (mut error, data) = (open("error"), open("data"));
    // Nothing is ever said in this direction.
    drop(error.shutdown().await);
    pass(accepted.socket, data).await;
    let mut text = String::new();
    match error.read_to_string(&mut text).await {
        Ok(_) if text.is_empty() => return Outcome::Passed,
        Ok(_) => eprintln!("an error occurred forwarding {local} -> {remote}: {text}"),
        Err(error) => eprintln!("error reading from error stream for port {local} -> {remote}: {error}"),
    }
    Outcome::Failed
}

/// Copies both ways until the pod has said all.
async fn pass(socket: TcpStream, data: Stream) {
    let (mut from_here, mut to_here) = socket.into_split();
    let (mut from_pod, mut to_pod) = tokio::io::split(data);
    let upload = async {
        let copied = tokio::io::copy(&mut from_here, &mut to_pod).await;
        // The pod may still answer what came, unless this side broke off.
        if copied.is_ok() && to_pod.shutdown().await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _over = tokio::io::copy(&mut from_pod, &mut to_here) => {}
        () = upload => {}
    }
    // A client that has left needs no end.
    drop(to_here.shutdown().await);
}

/// The pod that is meant, and the service that led to it.
async fn find(command: &PortForwardCommand, client: &Client) -> Result<(Value, Option<Value>), VerbError> {
    let namespace = command.place.namespace();
    let Some(("service" | "services" | "svc", name)) = command.target.split_once('/') else {
        return Ok((client.json(Call::get(pod_path(namespace, pod_name(&command.target)?))).await?, None));
    };
    let in_namespace = format!("/api/v1/namespaces/{}", segment(namespace));
    let service = client.json(Call::get(format!("{in_namespace}/services/{}", segment(name)))).await?;
    let selector = service["spec"]["selector"].as_object().filter(|selector| !selector.is_empty());
    let selector = selector
        .ok_or_else(|| VerbError::usage(format!("invalid service '{name}': Service is defined without a selector")))?;
    let labels: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let list = Call::get(format!("{in_namespace}/pods")).query("labelSelector", labels.join(","));
    let pods = client.json(list).await?;
    let pods = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
    let best = pods.iter().max_by_key(|pod| eagerness(pod));
    let best = best.ok_or_else(|| VerbError::usage(format!("no pod belongs to service '{name}'")))?;
    Ok((best.clone(), Some(service)))
}

/// How likely a pod is to answer: running and ready ones first.
fn eagerness(pod: &Value) -> (bool, bool, bool) {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let is_ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    (pod["status"]["phase"] == "Running", is_ready, pod["metadata"]["deletionTimestamp"].is_null())
}
