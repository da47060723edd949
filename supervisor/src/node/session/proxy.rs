//! `pods/NAME/proxy`: HTTP to what listens inside a pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Sessions;
use super::http::{Answer, Refusal};
use crate::convert::machine;
use crate::stream::body::Body;
use crate::stream::received::Received;
use crate::stream::{PodPort, ProxyScheme};

/// Of one connection alone (RFC 9110, section 7.6.1).
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::PROXY_AUTHENTICATE,
    http::header::PROXY_AUTHORIZATION,
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    UPGRADE,
];

impl Sessions {
    /// Passes a request on; `path` with its slash.
    pub async fn proxy(&self, pod: &Pod, port: &PodPort, path: &str, mut request: Request<Received>) -> Answer {
        let address = target(pod, port.port.as_deref())?;
        let uid = machine::uid(pod);
        let unreachable = |error: &dyn std::fmt::Display| Refusal {
            code: StatusCode::SERVICE_UNAVAILABLE,
            reason: "ServiceUnavailable",
            message: format!("error trying to reach service: dial tcp {address}: {error}"),
        };
        let socket = self.dial(uid, address).await.map_err(|error| unreachable(&error))?;
        let mut sender = match port.scheme {
            ProxyScheme::Http => speak(socket).await,
            ProxyScheme::Https => speak(secured(address, socket).await.map_err(|error| unreachable(&error))?).await,
        }
        .map_err(|error| unreachable(&error))?;
        let upgrades = request.headers().contains_key(UPGRADE);
        let client = upgrades.then(|| hyper::upgrade::on(&mut request));
        let mut response =
            sender.send_request(passed_on(request, path, address)?).await.map_err(|e| unreachable(&e))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let server = hyper::upgrade::on(&mut response);
            if let Some(client) = client {
                tokio::task::spawn_local(join(client, server));
            }
        } else {
            strip(response.headers_mut());
        }
        Ok(response.map(|body| Body::Passed(Box::new(body))))
    }
}

/// TLS to whoever answers, as the API server's proxy does: nobody vouches for a pod's certificate.
async fn secured(address: SocketAddr, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let config = crate::tls::unverified().map_err(std::io::Error::other)?.with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), socket).await
}

async fn speak<T>(socket: T) -> hyper::Result<http1::SendRequest<Received>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::task::spawn_local(connection.with_upgrades());
    Ok(sender)
}

/// Bytes in both directions, once both sides have switched.
async fn join(client: hyper::upgrade::OnUpgrade, server: hyper::upgrade::OnUpgrade) {
    if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        // Whoever breaks it off knows that.
        let _broken = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The request as the pod sees it. The caller's credential is not for the pod.
fn passed_on(request: Request<Received>, path: &str, address: SocketAddr) -> Result<Request<Received>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.headers.get(UPGRADE).cloned();
    strip(&mut parts.headers);
    parts.headers.remove(AUTHORIZATION);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(UPGRADE, upgrade);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let uri = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    parts.uri = uri.parse().map_err(|error: http::uri::InvalidUri| Refusal::bad_request(error.to_string()))?;
    parts.version = http::Version::HTTP_11;
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        parts.headers.insert(HOST, host);
    }
    Ok(Request::from_parts(parts, body))
}

/// Without a port the first of the pod's; without any, 80.
fn target(pod: &Pod, port: Option<&str>) -> Result<SocketAddr, Refusal> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let ip: IpAddr = ip.and_then(|ip| ip.parse().ok()).ok_or_else(|| Refusal {
        code: StatusCode::SERVICE_UNAVAILABLE,
        reason: "ServiceUnavailable",
        message: format!("address not allowed: pod {name} has no address"),
    })?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let wanted = match port.filter(|port| !port.is_empty()) {
        None => ports.next().map_or(Some(80), |port| u16::try_from(port.container_port).ok()),
        Some(text) => text.parse().ok().or_else(|| {
            let named = ports.find(|port| port.name.as_deref() == Some(text))?;
            u16::try_from(named.container_port).ok()
        }),
    };
    let wanted = wanted.filter(|port| *port > 0);
    let port = wanted.ok_or_else(|| Refusal::bad_request(format!("invalid pod request {name:?}: no port {port:?}")))?;
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Nobody vouches for the certificate, and its name is not the pod's address.
    #[tokio::test]
    async fn tls_is_spoken_to_whoever_answers() {
        use rustls::crypto::aws_lc_rs;
        use rustls::pki_types::PrivateKeyDer;
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let made = rcgen::generate_simple_self_signed(["elsewhere".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(socket).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let ask = async {
            let mut stream = secured(address, TcpStream::connect(address).await.unwrap()).await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            said
        };
        assert_eq!(tokio::join!(serve, ask).1, "hello");
    }

    #[test]
    fn the_port_is_a_number_a_name_or_the_first() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "y"}, "status": {"podIP": "10.0.0.2"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 8080, "name": "web"}]}]},
        }))
        .unwrap();
        let port = |port| target(&pod, port).ok().map(|address| address.to_string());
        assert_eq!(port(None).as_deref(), Some("10.0.0.2:8080"));
        assert_eq!(port(Some("web")).as_deref(), Some("10.0.0.2:8080"));
        assert_eq!(port(Some("81")).as_deref(), Some("10.0.0.2:81"));
        assert_eq!((port(Some("0")), port(Some("no"))), (None, None));
        assert_eq!(target(&Pod::default(), Some("80")).unwrap_err().code, 503);
    }
}
