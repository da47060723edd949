//! Hickory on our one thread. Its own support for tokio switches on tokio's runtime of many threads; these few lines are
//! what it does, without.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// How long a connection to a server may take when nobody says otherwise.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What hickory calls a runtime: the tasks of one resolver, which end with it.
#[derive(Clone, Default)]
pub(super) struct OneThread {
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl RuntimeProvider for OneThread {
    type Handle = Self;
    type Timer = Clock;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Self {
        self.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        wait: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Tcp>>>> {
        Box::pin(async move {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(bind) = bind {
                socket.bind(bind)?;
            }
            let connecting = tokio::time::timeout(wait.unwrap_or(CONNECT_WITHIN), socket.connect(server));
            connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(Tcp)
        })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        _server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Udp>>>> {
        Box::pin(async move { UdpSocket::bind(local).await.map(Udp) })
    }
}

impl Spawn for OneThread {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        // One thread: nobody was interrupted half-way.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(future);
        while tasks.try_join_next().is_some() {}
    }
}

pub(super) struct Clock;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What `async_trait` would write.
impl Time for Clock {
    fn delay_for<'a>(duration: Duration) -> Boxed<'a, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn timeout<'a, F>(duration: Duration, future: F) -> Boxed<'a, io::Result<F::Output>>
    where
        F: Future + Send + 'static + 'a,
    {
        Box::pin(async move {
            tokio::time::timeout(duration, future).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
        })
    }
}

pub(super) struct Udp(UdpSocket);

impl DnsUdpSocket for Udp {
    type Time = Clock;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buf = ReadBuf::new(buf);
        self.0.poll_recv_from(cx, &mut buf).map_ok(|from| (buf.filled().len(), from))
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, buf, target)
    }
}

pub(super) struct Tcp(TcpStream);

impl DnsTcpStream for Tcp {
    type Time = Clock;
}

impl futures_io::AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        Pin::new(&mut self.0).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
    }
}

impl futures_io::AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
