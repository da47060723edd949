//! Kubernetes' channels over WebSocket: each message begins with the number of its channel.
//!
//! `v5.channel.k8s.io` adds a half-close (message 255 with the channel that ends); the base64 variants carry text whose
//! first character is the channel's digit.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::idle::{Idle, Side};
use super::{CHUNK_BYTES, STREAM_BUFFER_BYTES, websocket};

/// The channel that says that another one ends.
const CLOSE: u8 = 255;
/// Messages that wait for the socket; beyond, channels take nothing.
const OUTPUT_BYTES: usize = 128 * 1024;
/// A client whose messages can't be read now gets no answer to its pings either; this tells it that we live.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How bytes are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Binary,
    Base64,
}

/// A protocol of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    pub encoding: Encoding,
    /// Half-close (v5).
    pub closes: bool,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Data {
        channel: u8,
        bytes: Bytes,
    },
    /// Nothing more comes on the channel.
    Close {
        channel: u8,
    },
    /// The client leaves.
    Leave,
    /// Pings and what is not understood.
    Nothing,
}

impl Codec {
    pub fn decode(self, message: Message) -> Said {
        let payload = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return Said::Leave,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Said::Nothing,
        };
        let Some((&first, rest)) = payload.split_first() else { return Said::Nothing };
        match self.encoding {
            Encoding::Binary if first == CLOSE && self.closes => {
                rest.first().map_or(Said::Nothing, |&channel| Said::Close { channel })
            }
            Encoding::Binary => Said::Data { channel: first, bytes: payload.slice(1..) },
            Encoding::Base64 => match (first, STANDARD.decode(rest)) {
                (b'0'..=b'9', Ok(bytes)) => Said::Data { channel: first - b'0', bytes: bytes.into() },
                _ => Said::Nothing,
            },
        }
    }

    pub fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self.encoding {
            Encoding::Binary => {
                let mut message = BytesMut::with_capacity(bytes.len() + 1);
                message.put_u8(channel);
                message.put_slice(bytes);
                Message::Binary(message.freeze())
            }
            Encoding::Base64 => {
                let mut text = String::from(char::from(b'0' + channel % 10));
                STANDARD.encode_string(bytes, &mut text);
                Message::Text(text.into())
            }
        }
    }
}

/// The channels of one connection, moved by a task of its own.
#[derive(Debug, Clone)]
pub struct Session(Rc<RefCell<Shared>>);

#[derive(Debug, Default)]
struct Incoming {
    received: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    /// Nobody reads: what comes is dropped.
    discard: bool,
    reader: Option<Waker>,
}

#[derive(Debug)]
struct Shared {
    codec: Codec,
    channels: Vec<Incoming>,
    output: VecDeque<Message>,
    output_bytes: usize,
    closing: bool,
    dead: bool,
    driver: Option<Waker>,
    writers: Vec<Waker>,
    ended: Vec<Waker>,
}

impl Shared {
    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    fn wants_input(&self) -> bool {
        self.channels.iter().all(|channel| channel.bytes < STREAM_BUFFER_BYTES)
    }

    fn take(&mut self, said: Said) {
        let channel = match &said {
            Said::Data { channel, .. } | Said::Close { channel } => *channel,
            Said::Leave | Said::Nothing => return,
        };
        let Some(incoming) = self.channels.get_mut(usize::from(channel)).filter(|incoming| !incoming.ended) else {
            return;
        };
        match said {
            Said::Data { bytes, .. } if !bytes.is_empty() && !incoming.discard => {
                incoming.bytes += bytes.len();
                incoming.received.push_back(bytes);
            }
            Said::Close { .. } => incoming.ended = true,
            Said::Data { .. } | Said::Leave | Said::Nothing => return,
        }
        incoming.reader.take().into_iter().for_each(Waker::wake);
    }

    fn push(&mut self, message: Message) {
        self.output_bytes += message.len();
        self.output.push_back(message);
        self.wake_driver();
    }

    fn die(&mut self) {
        self.dead = true;
        let readers = self.channels.iter_mut().filter_map(|channel| channel.reader.take());
        readers.for_each(Waker::wake);
        std::mem::take(&mut self.writers).into_iter().for_each(Waker::wake);
        std::mem::take(&mut self.ended).into_iter().for_each(Waker::wake);
    }
}

impl Session {
    /// Begins to move messages of `count` channels; must run inside a `LocalSet`. The connection ends when it was idle for
    /// `idle`.
    pub fn start<T>(socket: WebSocketStream<T>, codec: Codec, count: u8, idle: Duration) -> (Self, Vec<Channel>)
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let shared = Shared {
            codec,
            channels: (0..count).map(|_| Incoming::default()).collect(),
            output: VecDeque::new(),
            output_bytes: 0,
            closing: false,
            dead: false,
            driver: None,
            writers: Vec::new(),
            ended: Vec::new(),
        };
        let session = Self(Rc::new(RefCell::new(shared)));
        let shared = session.0.clone();
        tokio::task::spawn_local(async move {
            drive(socket, &shared, idle).await;
            shared.borrow_mut().die();
        });
        let channels = (0..count).map(|number| Channel { session: session.clone(), number }).collect();
        (session, channels)
    }

    /// Sends what is written, says goodbye, and ends.
    pub fn close(&self) {
        let mut shared = self.0.borrow_mut();
        shared.closing = true;
        shared.wake_driver();
    }

    /// Returns when the connection has ended.
    pub async fn ended(&self) {
        poll_fn(|context| {
            let mut shared = self.0.borrow_mut();
            if shared.dead {
                return Poll::Ready(());
            }
            shared.ended.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Driver<T> {
    socket: WebSocketStream<T>,
    /// Handed down but perhaps not sent.
    dirty: bool,
    side: Side,
    goodbye_said: bool,
    last: Instant,
    keepalive: Option<Pin<Box<Sleep>>>,
}

async fn drive<T>(socket: WebSocketStream<T>, shared: &Rc<RefCell<Shared>>, idle: Duration)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let last = Instant::now();
    let mut driver = Driver { socket, dirty: false, side: Side::Open, goodbye_said: false, last, keepalive: None };
    let mut timer = Idle::new(idle);
    poll_fn(|context| {
        if driver.turn(&mut shared.borrow_mut(), context).is_ready() {
            return Poll::Ready(());
        }
        timer.poll(driver.last, driver.side, context)
    })
    .await;
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    fn turn(&mut self, shared: &mut Shared, context: &mut Context<'_>) -> Poll<()> {
        shared.driver = Some(context.waker().clone());
        loop {
            let wrote = self.write(shared, context);
            let read = self.read(shared, context);
            match (wrote, read) {
                (Err(_), _) | (_, Err(_)) => return Poll::Ready(()),
                (Ok(false), Ok(false)) => return Poll::Pending,
                (Ok(_), Ok(_)) => {}
            }
        }
    }

    fn write(&mut self, shared: &mut Shared, context: &mut Context<'_>) -> io::Result<bool> {
        if self.side == Side::Shut {
            return Ok(false);
        }
        let mut moved = false;
        while !shared.output.is_empty() {
            match Pin::new(&mut self.socket).poll_ready(context) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(ready) => ready.map_err(io::Error::other)?,
            }
            let Some(message) = shared.output.pop_front() else { break };
            shared.output_bytes -= message.len();
            Pin::new(&mut self.socket).start_send(message).map_err(io::Error::other)?;
            (moved, self.dirty, self.last) = (true, true, Instant::now());
            std::mem::take(&mut shared.writers).into_iter().for_each(Waker::wake);
        }
        if self.dirty {
            match Pin::new(&mut self.socket).poll_flush(context) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(flushed) => flushed.map_err(io::Error::other)?,
            }
            self.dirty = false;
        }
        if shared.closing
            && let Poll::Ready(closed) = websocket::say_goodbye(&mut self.socket, &mut self.goodbye_said, context)
        {
            closed?;
            (self.side, moved, self.last) = (Side::Shut, true, Instant::now());
        }
        Ok(moved)
    }

    fn read(&mut self, shared: &mut Shared, context: &mut Context<'_>) -> io::Result<bool> {
        if self.side == Side::Open && !shared.wants_input() {
            return Ok(self.keep_alive(shared, context));
        }
        self.keepalive = None;
        let message = match Pin::new(&mut self.socket).poll_next(context) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Some(Ok(message))) => message,
            Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
            Poll::Ready(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        if self.side == Side::Shut {
            return Ok(true);
        }
        self.last = Instant::now();
        match shared.codec.decode(message) {
            // The answer to it is sent while reading on.
            Said::Leave => shared.closing = true,
            said @ (Said::Data { .. } | Said::Close { .. } | Said::Nothing) => shared.take(said),
        }
        Ok(true)
    }

    fn keep_alive(&mut self, shared: &mut Shared, context: &mut Context<'_>) -> bool {
        let timer = self.keepalive.get_or_insert_with(|| Box::pin(tokio::time::sleep(KEEPALIVE)));
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        self.keepalive = None;
        shared.push(Message::Pong(Bytes::new()));
        true
    }
}

/// One channel, in both directions.
#[derive(Debug)]
pub struct Channel {
    session: Session,
    number: u8,
}

impl Channel {
    /// An empty message: the client learns that the channel is there.
    pub fn announce(&self) {
        let mut shared = self.session.0.borrow_mut();
        let message = shared.codec.encode(self.number, &[]);
        shared.push(message);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Ok(mut shared) = self.session.0.try_borrow_mut() {
            if let Some(incoming) = shared.channels.get_mut(usize::from(self.number)) {
                *incoming = Incoming { discard: true, ended: incoming.ended, ..Incoming::default() };
            }
            shared.wake_driver();
        }
    }
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.session.0.borrow_mut();
        let (dead, full) = (shared.dead || shared.closing, !shared.wants_input());
        let Some(incoming) = shared.channels.get_mut(usize::from(self.number)) else { return Poll::Ready(Ok(())) };
        if let Some(front) = incoming.received.front_mut() {
            let count = front.len().min(into.remaining());
            into.put_slice(&front.split_to(count));
            if front.is_empty() {
                incoming.received.pop_front();
            }
            incoming.bytes -= count;
            if full {
                shared.wake_driver();
            }
            return Poll::Ready(Ok(()));
        }
        match (incoming.ended, dead) {
            (true, _) => Poll::Ready(Ok(())),
            (false, true) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            (false, false) => {
                incoming.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.session.0.borrow_mut();
        if shared.dead || shared.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if shared.output_bytes >= OUTPUT_BYTES {
            shared.writers.push(context.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(CHUNK_BYTES);
        let message = shared.codec.encode(self.number, bytes.get(..count).unwrap_or_default());
        shared.push(message);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Half-closes, where the protocol can.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Codec = Codec { encoding: Encoding::Binary, closes: false };
    const V5: Codec = Codec { encoding: Encoding::Binary, closes: true };
    const TEXT: Codec = Codec { encoding: Encoding::Base64, closes: false };

    #[test]
    fn messages_are_read_as_they_were_written() {
        for codec in [V4, V5, TEXT] {
            for bytes in [&b""[..], b"x", b"\xff\x00hello"] {
                let said = codec.decode(codec.encode(3, bytes));
                assert_eq!(said, Said::Data { channel: 3, bytes: Bytes::copy_from_slice(bytes) });
            }
        }
    }

    #[test]
    fn only_v5_closes_a_channel() {
        let message = || Message::Binary(Bytes::from_static(&[255, 0]));
        assert_eq!(V5.decode(message()), Said::Close { channel: 0 });
        assert_eq!(V4.decode(message()), Said::Data { channel: 255, bytes: Bytes::from_static(&[0]) });
        assert_eq!(V5.decode(Message::Binary(Bytes::from_static(&[255]))), Said::Nothing);
    }

    #[test]
    fn what_is_not_understood_is_nothing() {
        for message in [
            Message::Binary(Bytes::new()),
            Message::Text("".into()),
            Message::Text("x".into()),
            Message::Text("0***".into()),
            Message::Ping(Bytes::new()),
        ] {
            assert_eq!(TEXT.decode(message), Said::Nothing);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_survived(bytes: Vec<u8>, text: String, closes: bool) {
            for codec in [V4, Codec { closes, ..V5 }, TEXT] {
                let _said = codec.decode(Message::Binary(bytes.clone().into()));
                let _said = codec.decode(Message::Text(text.clone().into()));
            }
        }
    }
}
