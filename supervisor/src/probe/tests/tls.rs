use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::server::{HASTY, LOOPBACK, PATIENT, Server, get, read_head, until_gone};
use crate::pod::event::{HookSuccess, ProbeOutcome};
use crate::pod::spec::HttpGet;
use crate::probe::{http, http_hook};

/// A certificate of nobody for nothing, signed by itself, and its key.
const CERTIFICATE: &str = "\
    MIIBbjCCARWgAwIBAgIUWWRWdf9L4YpRHMC8IhM/mtmXtMowCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBdDAgFw0yNjExMjEwNTUx\
    NTFaGA8yMTI2MTAyODA1NTE1MVowDDEKMAgGA1UEAwwBdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLtexkEMRFBx3+xmGr7x\
    aRI7Gx5Alr1STiZi053579TWeE5OBYEWoq+h2+Gl2T4hMCs4yimfDCsLATjA1sXLW96jUzBRMB0GA1UdDgQWBBQtRuQ6Uz6vr4tE\
    p90rASrLVcxw+TAfBgNVHSMEGDAWgBQtRuQ6Uz6vr4tEp90rASrLVcxw+TAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cA\
    MEQCIHvOZWSPmfoKwQbprg0DkLSb5OLsoy17zl2C/rlqBVGUAiBhLX7ycVMO8MIrTkz6ETi+HGAcPbT3YCLGVDpIaJbM8A==";
const KEY: &str = "\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2MBPqIB2v/WjtVEGnB8rfusIz91tMG4JvnEfvud6u/KhRANCAAS7\
    XsZBDERQcd/sZhq+8WkSOxseQJa9Uk4mYtOd+e/U1nhOTgWBFqKvodvhpdk+ITArOMopnwwrCwE4wNbFy1ve";

fn config() -> Arc<ServerConfig> {
    let certificate = CertificateDer::from(STANDARD.decode(CERTIFICATE).unwrap());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(STANDARD.decode(KEY).unwrap()));
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
}

/// Answers over TLS, leaves without a word of goodbye, and returns the SNI and the request.
fn secure(answer: &'static [u8]) -> Server<(Option<String>, String)> {
    let config = config();
    Server::start(1, move |stream: TcpStream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let head = read_head(&mut stream);
        stream.write_all(answer).unwrap();
        (stream.conn.server_name().map(str::to_owned), head)
    })
}

fn https<T: Send + 'static>(server: &Server<T>) -> HttpGet {
    HttpGet { https: true, ..get(server.port(), "/") }
}

/// HG5
#[tokio::test]
async fn a_certificate_of_nobody_is_accepted() {
    for (host, sni) in [(None, None), (Some("localhost"), Some("localhost"))] {
        let server = secure(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
        let asked = HttpGet { host: host.map(str::to_owned), ..https(&server) };
        assert_eq!(http(LOOPBACK, &asked, PATIENT).await, ProbeOutcome::Success);
        let (seen, head) = server.join().remove(0);
        assert_eq!(seen.as_deref(), sni);
        assert!(head.starts_with("GET / HTTP/1.1\r\n"));
    }
}

#[tokio::test]
async fn what_is_no_tls_is_named() {
    for (answer, text) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "http: server gave HTTP response to HTTPS client"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "tls: first record does not look like a TLS handshake"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "remote error: tls: handshake failure"),
        (b"", "EOF"),
    ] {
        let server = Server::start(1, move |mut stream| {
            read_record(&mut stream);
            stream.write_all(answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            until_gone(stream);
        });
        let text = format!(r#"Get "https://{}/": {text}"#, server.addr);
        assert_eq!(http(LOOPBACK, &https(&server), PATIENT).await, ProbeOutcome::Failure(text));
        server.join();
    }
}

/// F10, HG6
#[tokio::test]
async fn the_deadline_covers_the_handshake() {
    let server = Server::start(1, until_gone);
    let text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    let text = format!(r#"Get "https://{}/": {text}"#, server.addr);
    assert_eq!(http(LOOPBACK, &https(&server), HASTY).await, ProbeOutcome::Failure(text));
    server.join();
}

/// LC3
#[tokio::test]
async fn a_hook_falls_back_to_http_without_credentials() {
    let mut connections = 0;
    let server = Server::start(2, move |mut stream| {
        connections += 1;
        let head = if connections == 1 { read_record(&mut stream) } else { read_head(&mut stream) };
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        until_gone(stream);
        head
    });
    let headers = vec![("Authorization".to_owned(), "Basic c2VjcmV0".to_owned()), ("X-A".to_owned(), "1".to_owned())];
    let hooked = http_hook(LOOPBACK, &HttpGet { headers, ..https(&server) }, Some(PATIENT)).await;
    assert_eq!(hooked, Ok(HookSuccess { http_fallback: Some(server.addr.to_string()) }));
    let head = server.join().remove(1);
    assert!(head.contains("\r\nX-A: 1\r\n") && !head.to_ascii_lowercase().contains("authorization"), "{head}");
}

/// The client's first record, so that closing doesn't reset the connection.
fn read_record(stream: &mut TcpStream) -> String {
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut record).unwrap();
    String::new()
}
