//! The daemon's own log in journald's native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): each field of a line stays a field.

use std::fmt::Write as _;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const SOCKET: &str = "/run/systemd/journal/socket";

/// Writes every event as one datagram.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// None when standard error is not the journal (systemd.exec(5), `JOURNAL_STREAM`), or it does not answer.
    pub fn when_connected() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let (device, inode) = stream.split_once(':')?;
        let own = std::fs::metadata("/proc/self/fd/2").ok()?;
        let same = device.parse() == Ok(own.st_dev()) && inode.parse() == Ok(own.st_ino());
        same.then(|| Self::open(SOCKET).ok()).flatten()
    }

    fn open(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // The journal may lose a line; nobody waits for it.
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut entry = Entry { message: String::new(), fields: Vec::new() };
        event.record(&mut entry);
        let bytes = entry.render(*event.metadata().level());
        let _lost = self.socket.send(&bytes);
    }
}

/// One line with its fields.
struct Entry {
    message: String,
    fields: Vec<(String, String)>,
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        // A Debug that fails leaves what it wrote.
        let _incomplete = write!(text, "{value:?}");
        self.put(field, text);
    }
}

impl Entry {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" { self.message = value } else { self.fields.push((name(field.name()), value)) }
    }

    fn render(&self, level: Level) -> Vec<u8> {
        let mut bytes = Vec::new();
        // People who read without fields see them all the same.
        let shown = self.fields.iter().map(|(name, value)| format!(" {}={value}", name.to_lowercase()));
        let message = self.message.clone() + &shown.collect::<String>();
        put(&mut bytes, "PRIORITY", priority(level));
        put(&mut bytes, "SYSLOG_IDENTIFIER", "monopod");
        put(&mut bytes, "MESSAGE", &message);
        for (name, value) in &self.fields {
            put(&mut bytes, &format!("MONOPOD_{name}"), value);
        }
        bytes
    }
}

/// A value of several lines has its length in front.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

/// Field names are capitals, digits and underscores.
fn name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// sd-daemon(3)
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn fields_stay_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let server = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(path.to_str().unwrap()).unwrap();
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, || tracing::warn!(pod = "web", "it\nfailed"));
        let mut buffer = [0; 512];
        let length = server.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(text.starts_with("PRIORITY=4\nSYSLOG_IDENTIFIER=monopod\nMESSAGE\n"), "{text:?}");
        assert!(text.contains("it\nfailed pod=web\n") && text.ends_with("MONOPOD_POD=web\n"), "{text:?}");
    }
}
