//! Probes against real servers on loopback, friendly and hostile ones (F10).

mod grpc;
mod hostile;
mod http;
mod server;
mod tls;

use super::*;
use crate::pod::event::ProbeOutcome;

/// PR15, and the range of ports.
#[test]
fn a_port_that_cannot_be_asked_is_an_error() {
    assert_eq!(port_number(&Port::Number(80)), Ok(80));
    assert_eq!(port_number(&Port::Number(0)), Err("invalid port number: 0".to_owned()));
    let unknown = port_number(&Port::Unknown("web".to_owned()));
    assert_eq!(unknown, Err(r#"strconv.Atoi: parsing "web": invalid syntax"#.to_owned()));
}

/// HG1
#[test]
fn a_handler_without_host_means_the_pod() {
    let target = Target { pod_ip: IpAddr::from([10, 0, 0, 5]) };
    for (named, host) in [(None, "10.0.0.5"), (Some(""), "10.0.0.5"), (Some("localhost"), "localhost")] {
        assert_eq!(target.host(named), host);
    }
}

/// TS1
#[tokio::test]
async fn tcp_wants_a_connection_and_nothing_else() {
    let server = server::Server::start(1, server::until_gone);
    let outcome = tcp(server::LOOPBACK, None, &server.port(), server::PATIENT).await;
    assert_eq!(outcome, ProbeOutcome::Success);
    server.join();
}

/// TS1, PR15
#[tokio::test]
async fn tcp_failures_have_gos_words() {
    let port = server::closed_port();
    let refused = |host: &str| ProbeOutcome::Failure(format!("dial tcp {host}:{port}: connect: connection refused"));
    let nobody = "dial tcp: lookup no-such.invalid: no such host".to_owned();
    let unknown = Port::Unknown("web".to_owned());
    for (host, asked, outcome) in [
        (None, Port::Number(port), refused("127.0.0.1")),
        (Some("127.0.0.2"), Port::Number(port), refused("127.0.0.2")),
        (Some("no-such.invalid"), Port::Number(port), ProbeOutcome::Failure(nobody)),
        (None, unknown, ProbeOutcome::Error(r#"strconv.Atoi: parsing "web": invalid syntax"#.to_owned())),
    ] {
        assert_eq!(tcp(server::LOOPBACK, host, &asked, server::PATIENT).await, outcome);
    }
}

/// TS1: a full queue of connections leaves the next one without an answer.
#[tokio::test]
async fn tcp_gives_up_at_the_timeout() {
    let (listener, _waiting) = server::full_listener();
    let port = listener.local_addr().unwrap().port();
    let outcome = tcp(server::LOOPBACK, None, &Port::Number(port), server::HASTY).await;
    assert_eq!(outcome, ProbeOutcome::Failure(format!("dial tcp 127.0.0.1:{port}: i/o timeout")));
}
