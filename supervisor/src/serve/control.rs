//! What only the machine's root may ask of the daemon itself, over a socket beside the API's: one word per connection.
//!
//! `drain` is answered with a line whenever the number of pods that are left changes, and with `done` at its end.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::ServeError;

/// Name of the socket in the run-time directory.
pub const SOCKET: &str = "control.sock";
/// The longest word.
const WORD_BYTES: u64 = 64;

/// What is asked.
#[derive(Debug)]
pub enum Order {
    /// End all pods; lines for who asked.
    Drain(mpsc::UnboundedSender<String>),
}

/// The daemon's end.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// # Errors
    /// The socket can't be made.
    pub fn listen(dir: &Path) -> Result<Self, ServeError> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join(SOCKET);
        // A daemon that was killed left it; there is no other one.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ServeError::io("remove", &path)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(ServeError::io("bind", &path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .map_err(ServeError::io("chmod", &path))?;
        Ok(Self { listener, path })
    }

    /// The next connection that is understood goes into `orders`.
    pub async fn accept(&self, orders: &mpsc::UnboundedSender<Order>) {
        let stream = match self.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return tracing::warn!("accept({}): {error}", self.path.display()),
        };
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) {
            return;
        }
        let orders = orders.clone();
        tokio::task::spawn_local(async move {
            // Whoever asked has gone.
            let _gone = serve(stream, &orders).await;
        });
    }
}

async fn serve(stream: UnixStream, orders: &mpsc::UnboundedSender<Order>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut word = String::new();
    let mut reader = BufReader::new(tokio::io::AsyncReadExt::take(reader, WORD_BYTES));
    reader.read_line(&mut word).await?;
    if word.trim() != "drain" {
        return writer.write_all(b"error: what is asked is not understood\n").await;
    }
    let (lines, mut out) = mpsc::unbounded_channel();
    let _ending = orders.send(Order::Drain(lines));
    while let Some(line) = out.recv().await {
        writer.write_all(format!("{line}\n").as_bytes()).await?;
    }
    Ok(())
}
