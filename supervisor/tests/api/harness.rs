//! A server in a directory of its own, on a socket and on a free port of loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use supervisor::api::{Backends, Config, Server};
use supervisor::store::Store;

/// A server that runs in a thread of its own until it is dropped.
pub(crate) struct Api {
    dir: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub(crate) address: std::net::SocketAddr,
}

impl Api {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (started, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let (store, _) = Store::open(&path.join("store")).unwrap();
                let mut config = Config::new(path.clone(), "node1".to_owned());
                config.listen = Some("127.0.0.1:0".parse().unwrap());
                config.socket = Some(path.join("api.sock"));
                config.addresses = vec!["10.11.0.1".parse().unwrap()];
                let server = Server::new(config, store, Backends::default()).unwrap();
                started.send(server.address().unwrap()).unwrap();
                server.run(async { drop(stopped.await) }).await.unwrap();
            });
        });
        let address = address.recv_timeout(Duration::from_secs(10)).unwrap();
        Self { dir, stop: Some(stop), thread: Some(thread), address }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
