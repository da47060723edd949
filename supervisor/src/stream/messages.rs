//! An answer's body as WebSocket messages, for clients that read a log or a watch this way.
//!
//! As the API server does for what only flows to the client: nothing that the client says is read but its goodbye.

use std::future::poll_fn;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Response;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::body::Body;
use super::channels::Encoding;
use super::upgrade::{Offer, UpgradeError};
use super::{LINGER, websocket};

const PROTOCOLS: &[(&str, Encoding)] =
    &[("", Encoding::Binary), ("binary.k8s.io", Encoding::Binary), ("base64.binary.k8s.io", Encoding::Base64)];

/// How bytes are put into messages, and the answer that says so. A client that names no protocol gets bytes.
pub fn agree(offer: &Offer) -> Result<(Encoding, Response<Body>), UpgradeError> {
    let chosen = offer.choose(PROTOCOLS, Encoding::Binary)?;
    Ok((chosen.protocol, offer.accept(chosen.name.filter(|name| !name.is_empty()))))
}

/// Sends a body, piece by piece, until it ends or the client leaves.
pub async fn send<T: AsyncRead + AsyncWrite + Unpin>(io: T, encoding: Encoding, body: Body) {
    forward(io, body, |bytes| Some(message(encoding, bytes))).await;
}

/// Sends a body's lines, each as a text: the events of a watch.
pub async fn send_lines<T, B>(io: T, body: B)
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut line = Vec::new();
    let whole = |bytes: Bytes| {
        line.extend_from_slice(&bytes);
        let is_whole = line.ends_with(b"\n");
        is_whole.then(|| Message::text(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned()))
    };
    forward(io, body, whole).await;
}

async fn forward<T, B>(io: T, mut body: B, mut message: impl FnMut(Bytes) -> Option<Message>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut socket = websocket::server(io).await;
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                Some(Ok(frame)) => {
                    let Some(message) = frame.into_data().ok().and_then(&mut message) else { continue };
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Err(_)) | None => break,
            },
            said = socket.next() => if has_left(said.as_ref()) { return },
        }
    }
    let mut said = false;
    if poll_fn(|context| websocket::say_goodbye(&mut socket, &mut said, context)).await.is_ok() {
        // A client that was told everything closes its side.
        let _late = tokio::time::timeout(LINGER, answered(&mut socket)).await;
    }
}

async fn answered<T: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<T>) {
    while !has_left(socket.next().await.as_ref()) {}
}

fn message(encoding: Encoding, bytes: Bytes) -> Message {
    match encoding {
        Encoding::Binary => Message::Binary(bytes),
        Encoding::Base64 => Message::text(STANDARD.encode(bytes)),
    }
}

fn has_left<E>(said: Option<&Result<Message, E>>) -> bool {
    !matches!(said, Some(Ok(message)) if !message.is_close())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::websocket::config;
    use tokio_tungstenite::tungstenite::protocol::Role;

    fn offer(protocols: &[&str]) -> Offer {
        let protocols = protocols.iter().map(|name| (*name).to_owned()).collect();
        Offer::WebSocket { key: "dGhlIHNhbXBsZSBub25jZQ==".to_owned(), protocols }
    }

    async fn received(encoding: Encoding, pieces: &'static [&'static str]) -> Vec<Message> {
        let (client, server) = tokio::io::duplex(64);
        let (out, body) = Body::pieces();
        let write = async move {
            for piece in pieces {
                out.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
            }
        };
        let read = async {
            let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, Some(config())).await;
            let mut all = Vec::new();
            while let Some(Ok(message)) = socket.next().await {
                all.push(message);
            }
            all
        };
        tokio::join!(send(server, encoding, body), write, read).2
    }

    #[tokio::test]
    async fn a_body_comes_in_messages_and_ends_with_a_goodbye() {
        let all = received(Encoding::Binary, &["one\n", "two\n"]).await;
        let bytes: Vec<u8> = all.iter().filter(|one| one.is_binary()).flat_map(|one| one.clone().into_data()).collect();
        assert_eq!(bytes, b"one\ntwo\n");
        assert!(all.last().is_some_and(Message::is_close), "{all:?}");
    }

    #[tokio::test]
    async fn text_is_base64() {
        let all = received(Encoding::Base64, &["one\n"]).await;
        assert_eq!(all.first(), Some(&Message::text("b25lCg==")));
    }

    #[tokio::test]
    async fn a_line_is_a_text_however_it_comes() {
        let (client, server) = tokio::io::duplex(64);
        let (out, body) = Body::pieces();
        let write = async move {
            for piece in ["{\"a\":", "1}", "\n", "{}\n"] {
                out.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
            }
        };
        let read = async {
            let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, Some(config())).await;
            let mut texts = Vec::new();
            while let Some(Ok(message)) = socket.next().await {
                texts.extend(message.is_text().then(|| message.into_text().unwrap().to_string()));
            }
            texts
        };
        let texts = tokio::join!(send_lines(server, body), write, read).2;
        assert_eq!(texts, ["{\"a\":1}\n", "{}\n"]);
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_it() {
        let (client, server) = tokio::io::duplex(64);
        let (out, body) = Body::pieces();
        drop(client);
        send(server, Encoding::Binary, body).await;
        assert!(out.is_closed());
    }

    #[test]
    fn protocols_are_the_api_server_s() {
        assert_eq!(agree(&offer(&[])).unwrap().0, Encoding::Binary);
        assert_eq!(agree(&offer(&["base64.binary.k8s.io", "binary.k8s.io"])).unwrap().0, Encoding::Base64);
        assert!(agree(&offer(&["v4.channel.k8s.io"])).is_err());
    }
}
