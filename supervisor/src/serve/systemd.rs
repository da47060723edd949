//! What systemd hears from the daemon: `sd_notify(3)`, without a library, since it is one datagram.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

/// The way to the service manager; mute when there is none.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(OwnedFd, SocketAddrUnix)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Takes `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` from the environment.
    pub fn from_environment() -> Self {
        let text = |name| std::env::var(name).ok();
        let socket = text("NOTIFY_SOCKET").and_then(|path| open(&path).ok());
        let mine = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = text("WATCHDOG_USEC").filter(|_| mine && socket.is_some());
        Self { socket, watchdog: watchdog.and_then(|usec| usec.parse().ok()).map(Duration::from_micros) }
    }

    /// How often [`Notifier::alive`] has to be called: half of what systemd waits (sd_watchdog_enabled(3)).
    pub fn pace(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// `READY=1` ends it; the time tells systemd which reload it was (`Type=notify-reload`).
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = rustix::net::sendto(socket, text.as_bytes(), SendFlags::NOSIGNAL, address) {
            tracing::warn!("tell systemd: sendto(NOTIFY_SOCKET): {error}");
        }
    }
}

/// A leading `@` stands for the abstract namespace (sd_notify(3)).
fn open(path: &str) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(path)?,
    };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok((socket, address))
}

fn one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_status_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { socket: open(path.to_str().unwrap()).ok(), watchdog: None };
        notifier.ready("2 pods\nREADY=0");
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=2 pods; READY=0");
        assert_eq!(notifier.pace(), None);
    }
}
