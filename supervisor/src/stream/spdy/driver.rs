//! A connection over a socket, on one thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Connection, Event, Headers, Read, ResetStatus, Role, StreamId};
use crate::stream::idle::{Idle, Side};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// A connection that a task of its own moves; ends with [`Session::close`] or when its peer leaves.
#[derive(Debug, Clone)]
pub struct Session(Rc<RefCell<Shared>>);

#[derive(Debug)]
struct Shared {
    connection: Connection,
    opened: VecDeque<(StreamId, Headers)>,
    /// No byte comes or goes any more.
    dead: bool,
    closing: bool,
    driver: Option<Waker>,
    accepting: Option<Waker>,
    ended: Vec<Waker>,
    readers: BTreeMap<StreamId, Waker>,
    writers: BTreeMap<StreamId, Waker>,
}

impl Shared {
    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Tells everybody what came.
    fn dispatch(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Opened { id, headers } => {
                    self.opened.push_back((id, headers));
                    self.accepting.take().into_iter().for_each(Waker::wake);
                }
                Event::Readable(id) => self.readers.remove(&id).into_iter().for_each(Waker::wake),
                Event::Writable(id) => self.writers.remove(&id).into_iter().for_each(Waker::wake),
                Event::GoneAway => self.accepting.take().into_iter().for_each(Waker::wake),
            }
        }
    }

    fn wake_writers(&mut self) {
        std::mem::take(&mut self.writers).into_values().for_each(Waker::wake);
    }

    fn die(&mut self) {
        self.dead = true;
        self.wake_writers();
        std::mem::take(&mut self.readers).into_values().for_each(Waker::wake);
        self.accepting.take().into_iter().for_each(Waker::wake);
        std::mem::take(&mut self.ended).into_iter().for_each(Waker::wake);
    }
}

impl Session {
    /// Begins to move bytes; must run inside a `LocalSet`. The connection ends when it was idle for `idle`.
    pub fn start(io: impl AsyncRead + AsyncWrite + Unpin + 'static, role: Role, idle: Duration) -> Self {
        let shared = Shared {
            connection: Connection::new(role),
            opened: VecDeque::new(),
            dead: false,
            closing: false,
            driver: None,
            accepting: None,
            ended: Vec::new(),
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
        };
        let session = Self(Rc::new(RefCell::new(shared)));
        let shared = session.0.clone();
        tokio::task::spawn_local(async move {
            drive(io, &shared, idle).await;
            shared.borrow_mut().die();
        });
        session
    }

    /// The next stream that the peer opens; it is answered already. None when no more will come.
    pub async fn accept(&self) -> Option<(Headers, Stream)> {
        poll_fn(|context| {
            let mut shared = self.0.borrow_mut();
            if let Some((id, headers)) = shared.opened.pop_front() {
                shared.connection.reply(id);
                shared.wake_driver();
                return Poll::Ready(Some((headers, Stream { session: self.clone(), id })));
            }
            if shared.dead || shared.closing {
                return Poll::Ready(None);
            }
            shared.accepting = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Opens a stream.
    pub fn open(&self, headers: &Headers) -> Stream {
        let mut shared = self.0.borrow_mut();
        let id = shared.connection.open(headers);
        shared.wake_driver();
        Stream { session: self.clone(), id }
    }

    /// Sends what is written and ends the connection once the peer has had time to read it.
    pub fn close(&self) {
        let mut shared = self.0.borrow_mut();
        shared.closing = true;
        shared.accepting.take().into_iter().for_each(Waker::wake);
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

/// Where a driver is with one socket.
struct Driver<T> {
    io: T,
    buffer: Vec<u8>,
    /// Written but perhaps still in a buffer below.
    dirty: bool,
    side: Side,
    last: Instant,
}

async fn drive(io: impl AsyncRead + AsyncWrite + Unpin, shared: &Rc<RefCell<Shared>>, idle: Duration) {
    let mut driver = Driver { io, buffer: vec![0; READ_BYTES], dirty: false, side: Side::Open, last: Instant::now() };
    let mut timer = Idle::new(idle);
    poll_fn(|context| {
        let over = driver.turn(shared, context);
        if over.is_ready() {
            return Poll::Ready(());
        }
        timer.poll(driver.last, driver.side, context)
    })
    .await;
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Moves everything that can be moved. Ready when the connection is over.
    fn turn(&mut self, shared: &Rc<RefCell<Shared>>, context: &mut Context<'_>) -> Poll<()> {
        let mut shared = shared.borrow_mut();
        shared.driver = Some(context.waker().clone());
        loop {
            let wrote = self.write(&mut shared, context);
            let read = self.read(&mut shared, context);
            match (wrote, read) {
                (Err(_), _) | (_, Err(_)) => return Poll::Ready(()),
                (Ok(false), Ok(false)) => return Poll::Pending,
                (Ok(_), Ok(_)) => {}
            }
        }
    }

    /// Whether something moved.
    fn write(&mut self, shared: &mut Shared, context: &mut Context<'_>) -> io::Result<bool> {
        if self.side == Side::Shut {
            return Ok(false);
        }
        let mut moved = false;
        while !shared.connection.output().is_empty() {
            match Pin::new(&mut self.io).poll_write(context, shared.connection.output()) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => shared.connection.advance_output(written?),
                Poll::Pending => return Ok(moved),
            }
            (moved, self.dirty, self.last) = (true, true, Instant::now());
            if shared.connection.output().is_empty() {
                shared.wake_writers();
            }
        }
        if self.dirty {
            match Pin::new(&mut self.io).poll_flush(context) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Ok(moved),
            }
            self.dirty = false;
        }
        if shared.closing
            && let Poll::Ready(shut) = Pin::new(&mut self.io).poll_shutdown(context)
        {
            shut?;
            (self.side, moved, self.last) = (Side::Shut, true, Instant::now());
        }
        Ok(moved)
    }

    /// Whether something moved; an error is the end, too.
    fn read(&mut self, shared: &mut Shared, context: &mut Context<'_>) -> io::Result<bool> {
        if self.side == Side::Open && !shared.connection.wants_input() {
            return Ok(false);
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match Pin::new(&mut self.io).poll_read(context, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(read) => read?,
        }
        if buffer.filled().is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.side == Side::Shut {
            // Whatever it says now comes too late.
            return Ok(true);
        }
        self.last = Instant::now();
        let handled = shared.connection.handle_input(buffer.filled());
        shared.dispatch();
        if let Err(error) = handled {
            tracing::debug!("SPDY: {error}");
            shared.closing = true;
            shared.accepting.take().into_iter().for_each(Waker::wake);
        }
        Ok(true)
    }
}

/// One stream. Dropping it without `shutdown` resets it.
#[derive(Debug)]
pub struct Stream {
    session: Session,
    id: StreamId,
}

impl Stream {
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Refuses the stream.
    pub fn reset(self, status: ResetStatus) {
        let mut shared = self.session.0.borrow_mut();
        shared.connection.reset(self.id, status);
        shared.wake_driver();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(mut shared) = self.session.0.try_borrow_mut() {
            shared.connection.release(self.id);
            shared.readers.remove(&self.id);
            shared.writers.remove(&self.id);
            shared.wake_driver();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.session.0.borrow_mut();
        match shared.connection.read(self.id, into.initialize_unfilled()) {
            Read::Bytes(count) => {
                into.advance(count);
                shared.wake_driver();
                Poll::Ready(Ok(()))
            }
            Read::End => Poll::Ready(Ok(())),
            Read::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Read::Nothing if shared.dead => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Read::Nothing => {
                shared.readers.insert(self.id, context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.session.0.borrow_mut();
        if shared.dead {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match shared.connection.write(self.id, bytes) {
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(0) if !bytes.is_empty() => {
                shared.writers.insert(self.id, context.waker().clone());
                Poll::Pending
            }
            Some(count) => {
                shared.wake_driver();
                Poll::Ready(Ok(count))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Half-closes.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.session.0.borrow_mut();
        shared.connection.finish(self.id);
        shared.wake_driver();
        Poll::Ready(Ok(()))
    }
}
