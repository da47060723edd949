//! The grpc probe (GR1, GR2).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::codegen::Service;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::dial::{self, Socket};
use super::tap::{Seen, Tap};
use super::text::{self, DEADLINE_EXCEEDED};
use super::{Target, VERSION};
use crate::pod::event::ProbeOutcome;

/// The wait before a server that refused is tried again; it grows by [`BACK_OFF_GROWTH`] each time. gRPC's own figures.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
/// See [`FIRST_BACK_OFF`].
const BACK_OFF_GROWTH: f64 = 1.6;
/// Bytes of an answer: a status has three.
const ANSWER_BYTES: usize = 4096;
/// Bytes of an answer's headers.
const HEADER_BYTES: u32 = 16 * 1024;
/// What a stream and the connection may send before we have read it; the least that HTTP/2 begins with.
const WINDOW_BYTES: u32 = 65_535;
/// Where a frame's type is written, and the type that every connection begins with (RFC 9113, 4.1 and 3.4).
const FRAME_TYPE: usize = 3;
const SETTINGS: u8 = 4;

/// Asks the health service at the Pod's `port` about `service`, all within `timeout`. Every problem is a failure (GR2).
pub async fn grpc(target: Target, port: u16, service: &str, timeout: Duration) -> ProbeOutcome {
    let addr = SocketAddr::new(target.pod_ip, port);
    let deadline = Instant::now() + timeout;
    let mut back_off = FIRST_BACK_OFF;
    loop {
        let answer = match ask(addr, service, deadline).await {
            Attempt::Answered(answer) => answer,
            Attempt::NotConnected => {
                let next = Instant::now() + back_off;
                back_off = back_off.mul_f64(BACK_OFF_GROWTH);
                sleep_until(next.min(deadline)).await;
                if next < deadline {
                    continue;
                }
                return ProbeOutcome::Failure(not_connected(addr, timeout));
            }
        };
        return verdict(&answer, timeout);
    }
}

fn not_connected(addr: SocketAddr, timeout: Duration) -> String {
    let (addr, timeout) = (text::quote(addr.to_string().as_bytes()), text::duration(timeout));
    format!("timeout: failed to connect service {addr} within {timeout}: {DEADLINE_EXCEEDED}")
}

/// What became of one connection.
enum Attempt {
    /// It never became one: refused, closed, silent, or not HTTP/2. gRPC tries again until the deadline.
    NotConnected,
    /// The number of a status, or why the call failed.
    Answered(Result<i32, Status>),
}

async fn ask(addr: SocketAddr, service: &str, deadline: Instant) -> Attempt {
    let Ok(Ok(socket)) = timeout_at(deadline, dial::dial(&addr.ip().to_string(), addr.port())).await else {
        return Attempt::NotConnected;
    };
    let (stream, seen) = Tap::new(socket);
    let late = Err(Status::deadline_exceeded(""));
    let tasks = EndTasks(Tasks::default());
    let check = Box::pin(check(addr, stream, service, tasks.0.clone()));
    let answer = timeout_at(deadline, check).await.unwrap_or(late);
    tasks.ended().await;
    match answer {
        Err(_) if !is_http2(&seen) => Attempt::NotConnected,
        answer => Attempt::Answered(answer),
    }
}

/// A connection is one when the server's settings have come.
fn is_http2(seen: &Seen) -> bool {
    seen.bytes().get(FRAME_TYPE) == Some(&SETTINGS)
}

async fn check(addr: SocketAddr, stream: Tap<Socket>, service: &str, tasks: Tasks) -> Result<i32, Status> {
    let unknown = |error: tonic::transport::Error| Status::unknown(error.to_string());
    let channel = Endpoint::from_shared(format!("http://{addr}"))
        .and_then(|endpoint| endpoint.user_agent(format!("kube-probe/{VERSION}")))
        .map_err(unknown)?
        .http2_max_header_list_size(HEADER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .executor(tasks)
        .connect_with_connector(Connected(Some(stream)))
        .await
        .map_err(unknown)?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(ANSWER_BYTES);
    let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await?;
    Ok(answer.into_inner().status)
}

/// GR2
fn verdict(answer: &Result<i32, Status>, timeout: Duration) -> ProbeOutcome {
    let status = match answer {
        Ok(number) if *number == ServingStatus::Serving as i32 => return ProbeOutcome::Success,
        Ok(number) => status_name(*number),
        Err(status) => return ProbeOutcome::Failure(call_text(status, timeout)),
    };
    ProbeOutcome::Failure(format!("service unhealthy (responded with {})", text::quote(status.as_bytes())))
}

fn status_name(number: i32) -> String {
    ServingStatus::try_from(number).map_or_else(|_| number.to_string(), |status| status.as_str_name().to_owned())
}

fn call_text(status: &Status, timeout: Duration) -> String {
    let (code, message) = (status.code(), status.message());
    if code == Code::Unimplemented {
        format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}")
    } else if code == Code::DeadlineExceeded {
        format!("timeout: health rpc did not complete within {}", text::duration(timeout))
    } else {
        format!("error: health rpc probe failed: rpc error: code = {} desc = {message}", code_name(code))
    }
}

/// Go spells one of them otherwise.
fn code_name(code: Code) -> String {
    if code == Code::Cancelled { "Canceled".to_owned() } else { format!("{code:?}") }
}

/// Gives out the one connection that there is.
struct Connected(Option<Tap<Socket>>);

impl Service<Uri> for Connected {
    type Response = TokioIo<Tap<Socket>>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// What the client starts beside the call.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.all().spawn(task);
    }
}

impl Tasks {
    fn all(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the tasks with the call, whatever the server would still like to say.
struct EndTasks(Tasks);

impl EndTasks {
    /// The connection is closed when this returns.
    async fn ended(self) {
        let mut tasks = std::mem::take(&mut *self.0.all());
        tasks.shutdown().await;
    }
}

impl Drop for EndTasks {
    fn drop(&mut self) {
        self.0.all().abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// GR2
    #[test]
    fn only_serving_is_success() {
        for (answer, text) in [
            (Ok(0), r#"service unhealthy (responded with "UNKNOWN")"#),
            (Ok(2), r#"service unhealthy (responded with "NOT_SERVING")"#),
            (Ok(3), r#"service unhealthy (responded with "SERVICE_UNKNOWN")"#),
            (Ok(7), r#"service unhealthy (responded with "7")"#),
            (
                Err(Status::unimplemented("unknown service grpc.health.v1.Health")),
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): \
                 unknown service grpc.health.v1.Health",
            ),
            (Err(Status::deadline_exceeded("")), "timeout: health rpc did not complete within 1s"),
            (
                Err(Status::not_found("unknown service")),
                "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
            ),
            (Err(Status::cancelled("x")), "error: health rpc probe failed: rpc error: code = Canceled desc = x"),
        ] {
            assert_eq!(verdict(&answer, SECOND), ProbeOutcome::Failure(text.to_owned()));
        }
        assert_eq!(verdict(&Ok(1), SECOND), ProbeOutcome::Success);
    }

    /// GR2
    #[test]
    fn a_server_that_is_not_there_is_named() {
        let text = not_connected(SocketAddr::from(([10, 0, 0, 5], 9000)), SECOND);
        let expected = r#"timeout: failed to connect service "10.0.0.5:9000" within 1s: context deadline exceeded"#;
        assert_eq!(text, expected);
    }
}
