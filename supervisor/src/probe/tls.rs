//! TLS towards whoever answers: private from others, but not knowing to whom (HG5).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::Socket;
use super::tap::Tap;

/// Content types of TLS records (RFC 8446, B.1): what else begins an answer is no TLS.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// A TLS connection that takes a peer's leaving without `close_notify` for the end, as most HTTP clients do.
pub(super) struct Secured(TlsStream<Tap<Socket>>);

/// Does the handshake. `host` goes into SNI unless it is an address (HG5), as `peer` is, which stands in for a host that is
/// no DNS name.
pub(super) async fn handshake(host: &str, stream: Tap<Socket>, peer: ServerName<'static>) -> io::Result<Secured> {
    let name = ServerName::try_from(host.to_owned()).unwrap_or(peer);
    let config = client_config().map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(Secured)
}

fn client_config() -> Result<ClientConfig, rustls::Error> {
    let mut config = crate::tls::unverified()?.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The text of a TLS error after `received` came from the peer.
pub(super) fn text(error: &rustls::Error, received: &[u8]) -> String {
    match (error, received.first()) {
        (rustls::Error::AlertReceived(alert), _) => format!("remote error: tls: {}", alert_text(*alert)),
        (_, Some(first)) if !RECORD_TYPES.contains(first) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        _ => format!("tls: {error}"),
    }
}

/// Go's words for the alerts that servers send.
fn alert_text(alert: AlertDescription) -> String {
    let text = match u8::from(alert) {
        10 => "unexpected message",
        20 => "bad record MAC",
        22 => "record overflow",
        40 => "handshake failure",
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "revoked certificate",
        45 => "expired certificate",
        46 => "unknown certificate",
        47 => "illegal parameter",
        48 => "unknown certificate authority",
        49 => "access denied",
        50 => "error decoding message",
        51 => "error decrypting message",
        70 => "protocol version not supported",
        71 => "insufficient security level",
        80 => "internal error",
        86 => "inappropriate fallback",
        90 => "user canceled",
        109 => "missing extension",
        110 => "unsupported extension",
        112 => "unrecognized name",
        116 => "certificate required",
        120 => "no application protocol",
        number => return format!("alert({number})"),
    };
    text.to_owned()
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map(|read| match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            read => read,
        })
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_errors_have_gos_words() {
        let alert = |number: u8| rustls::Error::AlertReceived(AlertDescription::from(number));
        for (error, received, shown) in [
            (alert(40), &b"\x15"[..], "remote error: tls: handshake failure"),
            (alert(70), b"\x15", "remote error: tls: protocol version not supported"),
            (alert(200), b"\x15", "remote error: tls: alert(200)"),
            (rustls::Error::DecryptError, b"SSH-", "tls: first record does not look like a TLS handshake"),
            (rustls::Error::DecryptError, b"\x16", "tls: cannot decrypt peer's message"),
        ] {
            assert_eq!(text(&error, received), shown);
        }
    }
}
