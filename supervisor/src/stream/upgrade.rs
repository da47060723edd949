//! From an HTTP request to a connection: what the client speaks, and the answer that switches to it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::header::{SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, Response, StatusCode};

use super::body::Body;

/// Names the protocol inside of SPDY.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What a server would have accepted.
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// As in the `Upgrade` header.
const SPDY: &str = "SPDY/3.1";
/// RFC 6455, section 1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client wants to switch to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    Spdy { protocols: Vec<String> },
    WebSocket { key: String, protocols: Vec<String> },
}

/// Why a connection is not switched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    #[error("Upgrade request required")]
    Required,
    #[error("WebSocket version is not 13, or the key is missing")]
    WebSocket,
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {accepted:?}"
    )]
    NoProtocol { offered: Vec<String>, accepted: Vec<&'static str>, spdy: bool },
}

impl UpgradeError {
    /// The answer in plain text, as a kubelet's.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::text(self.to_string()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        if let Self::NoProtocol { accepted, spdy: true, .. } = self {
            *response.status_mut() = StatusCode::FORBIDDEN;
            for name in accepted {
                response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
            }
        }
        response
    }
}

impl Offer {
    /// Reads the headers of a request.
    pub fn of(headers: &HeaderMap) -> Result<Self, UpgradeError> {
        if !values(headers, &CONNECTION).any(|value| value.eq_ignore_ascii_case("upgrade")) {
            return Err(UpgradeError::Required);
        }
        let wants = |what: &str| values(headers, &UPGRADE).any(|value| value.eq_ignore_ascii_case(what));
        if wants("websocket") {
            let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
            let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).filter(|_| version);
            let key = key.ok_or(UpgradeError::WebSocket)?.to_owned();
            return Ok(Self::WebSocket { key, protocols: list(headers, &SEC_WEBSOCKET_PROTOCOL) });
        }
        if wants(SPDY) {
            return Ok(Self::Spdy { protocols: list(headers, &STREAM_PROTOCOL) });
        }
        Err(UpgradeError::Required)
    }

    /// The first protocol of the client that is one of `ours`; the name with which each stands for itself. A client that
    /// names none gets `unnamed`.
    pub fn choose<T: Copy>(&self, ours: &[(&'static str, T)], unnamed: T) -> Result<Chosen<T>, UpgradeError> {
        let (Self::Spdy { protocols } | Self::WebSocket { protocols, .. }) = self;
        if protocols.is_empty() {
            return Ok(Chosen { name: None, protocol: unnamed });
        }
        let found = protocols.iter().find_map(|name| ours.iter().find(|(own, _)| own == name));
        match found {
            Some((name, protocol)) => Ok(Chosen { name: Some(name), protocol: *protocol }),
            None => Err(UpgradeError::NoProtocol {
                offered: protocols.clone(),
                accepted: ours.iter().map(|(name, _)| *name).collect(),
                spdy: matches!(self, Self::Spdy { .. }),
            }),
        }
    }

    /// 101 Switching Protocols.
    pub fn accept(&self, protocol: Option<&'static str>) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let name = match self {
            Self::Spdy { .. } => {
                headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
                STREAM_PROTOCOL
            }
            Self::WebSocket { key, .. } => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                if let Ok(accept) = HeaderValue::from_str(&accept_key(key)) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
                SEC_WEBSOCKET_PROTOCOL
            }
        };
        if let Some(protocol) = protocol {
            headers.insert(name, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// What both sides speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen<T> {
    pub name: Option<&'static str>,
    pub protocol: T,
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    values(headers, name).map(str::to_owned).collect()
}

/// SHA-1 is what the RFC asks for; nothing rests on it.
fn accept_key(key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{WEBSOCKET_GUID}").as_bytes(),
    );
    STANDARD.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    /// The example of RFC 6455.
    #[test]
    fn the_key_is_answered_as_the_rfc_says() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_offer_is_read_and_the_client_s_first_choice_wins() {
        let spdy = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5"),
            ("x-stream-protocol-version", "v4"),
        ]);
        let offer = Offer::of(&spdy).unwrap();
        let chosen = offer.choose(&[("v3", 3), ("v4", 4)], 1).unwrap();
        assert_eq!(chosen, Chosen { name: Some("v4"), protocol: 4 });
        let response = offer.accept(chosen.name);
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["x-stream-protocol-version"], "v4");
        assert_eq!(offer.choose(&[("v3", 3)], 1).unwrap_err().response().status(), 403);
    }

    #[test]
    fn a_client_without_a_protocol_gets_the_oldest_and_one_with_foreign_ones_is_refused() {
        let base = [
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "x"),
        ];
        let unnamed = Offer::of(&headers(&base)).unwrap().choose(&[("a", 1)], 0).unwrap();
        assert_eq!(unnamed, Chosen { name: None, protocol: 0 });
        let foreign = [&base[..], &[("sec-websocket-protocol", "x, y")]].concat();
        let refused = Offer::of(&headers(&foreign)).unwrap().choose(&[("a", 1)], 0).unwrap_err();
        assert_eq!(refused.response().status(), 400);
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        for pairs in [
            &[][..],
            &[("connection", "upgrade")],
            &[("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
        ] {
            assert!(Offer::of(&headers(pairs)).is_err(), "{pairs:?}");
        }
    }
}
