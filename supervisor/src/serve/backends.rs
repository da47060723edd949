//! What the API server needs of the node: streams into containers, and what they use. Tokens are in `tokens`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt as _;
use hyper::Request;
use k8s_openapi::api::core::v1::Pod;

use super::pods::PODS;
use crate::api::body::Body;
use crate::api::status::{Reason, Status};
use crate::api::streams::{Local, Metrics, PodUsage, Streams, Usage};
use crate::convert::machine;
use crate::node::Sessions;
use crate::node::session::http::{Answer, Refusal};
use crate::store::{Object, Store};
use crate::stream::PodPort;
use crate::stream::body::Body as StreamBody;
use crate::stream::received::Received;

/// Streams into the node's pods.
#[derive(Debug)]
pub(super) struct NodeStreams(pub(super) Sessions);

impl Streams for NodeStreams {
    fn log(&self, pod: Object, mut request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>> {
        Box::pin(async move { answer(self.0.log_request(&read(&pod)?, &mut request)) })
    }

    fn exec(&self, pod: Object, mut request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>> {
        Box::pin(async move { answer(self.0.exec_request(&read(&pod)?, &mut request)) })
    }

    fn attach(&self, pod: Object, mut request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>> {
        Box::pin(async move { answer(self.0.attach_request(&read(&pod)?, &mut request)) })
    }

    fn port_forward(&self, pod: Object, mut request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>> {
        Box::pin(async move { answer(self.0.port_forward_request(&read(&pod)?, &mut request)) })
    }

    fn proxy(
        &self,
        pod: Object,
        port: PodPort,
        path: String,
        request: Request<Received>,
    ) -> Local<'_, Result<Response<Body>, Status>> {
        Box::pin(async move { answer(self.0.proxy(&read(&pod)?, &port, &path, request).await) })
    }
}

fn read(pod: &Object) -> Result<Pod, Status> {
    pod.read().map_err(|error| Status::new(Reason::InternalError, format!("Internal error occurred: {error}")))
}

fn answer(given: Answer) -> Result<Response<Body>, Status> {
    given.map(|response| response.map(passed)).map_err(|refusal| status(&refusal))
}

fn status(refusal: &Refusal) -> Status {
    let reason = match refusal.code.as_u16() {
        400 => Reason::BadRequest,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        409 => Reason::Conflict,
        422 => Reason::Invalid,
        503 => Reason::ServiceUnavailable,
        _ => Reason::InternalError,
    };
    Status::new(reason, refusal.message.clone())
}

fn passed(body: StreamBody) -> Body {
    match body {
        StreamBody::Whole(bytes) => Body::whole(bytes.unwrap_or_default()),
        StreamBody::Pieces(pieces) => Body::received(pieces),
        StreamBody::Passed(incoming) => {
            let (writer, body) = Body::pieces();
            tokio::task::spawn_local(async move {
                let mut incoming = incoming;
                while let Some(Ok(frame)) = incoming.frame().await {
                    let Ok(bytes) = frame.into_data() else { continue };
                    if writer.write(bytes).await.is_err() {
                        return;
                    }
                }
            });
            body
        }
    }
}

/// What the pods on this node use.
#[derive(Debug)]
pub(super) struct NodeMetrics {
    pub(super) sessions: Sessions,
    pub(super) store: Store,
}

impl NodeMetrics {
    async fn running(&self) -> Vec<PodUsage> {
        let (objects, _) = self.store.list(PODS, None);
        let is_running = |pod: &Pod| {
            pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase == "Running")
        };
        let asked = objects.iter().filter_map(|object| object.read::<Pod>().ok()).filter(is_running).map(|pod| {
            let (sessions, uid, meta) = (self.sessions.clone(), machine::uid(&pod).to_owned(), pod.metadata);
            // Each is measured over a window of time, all over the same one.
            tokio::task::spawn_local(async move {
                let used = sessions.usage(&uid).await;
                let containers = used.into_iter().map(|own| {
                    let (cpu_nanos, cpu_usec, memory_bytes) = (own.cpu_nanos, own.cpu_usec, own.memory_bytes);
                    (own.container, Usage { cpu_nanos, cpu_usec, memory_bytes })
                });
                PodUsage {
                    namespace: meta.namespace.unwrap_or_default(),
                    name: meta.name.unwrap_or_default(),
                    containers: containers.collect(),
                }
            })
        });
        let mut all = Vec::new();
        for task in asked.collect::<Vec<_>>() {
            all.extend(task.await.ok());
        }
        all
    }
}

/// Over this time the node's own use of the CPU is measured.
const WINDOW: Duration = Duration::from_millis(100);

impl Metrics for NodeMetrics {
    fn node(&self) -> Local<'_, Option<Usage>> {
        Box::pin(async {
            let before = busy_nanos()?;
            let begin = tokio::time::Instant::now();
            tokio::time::sleep(WINDOW).await;
            let busy = busy_nanos()?;
            let used = busy.saturating_sub(before);
            let window = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
            let cpu_nanos = u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(window)).unwrap_or(u64::MAX);
            Some(Usage { cpu_nanos, cpu_usec: busy / 1000, memory_bytes: used_memory()? })
        })
    }

    fn pods(&self) -> Local<'_, Vec<PodUsage>> {
        Box::pin(self.running())
    }
}

/// Nanoseconds that all processors were not idle (proc_stat(5), in hundredths of a second).
fn busy_nanos() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let busy =
        numbers.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, ticks)| ticks).sum::<u64>();
    Some(busy.saturating_mul(10_000_000))
}

fn used_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name, value.trim().trim_end_matches(" kB").parse().ok()?))
        })
        .collect();
    Some(kib.get("MemTotal")?.saturating_sub(*kib.get("MemAvailable")?) * 1024)
}
