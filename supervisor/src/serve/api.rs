//! The API server beside the loop: started and ended here, it speaks with the store alone, and with the node for streams.

use std::rc::Rc;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::ServeError;
use super::host::Host;
use crate::api::{self, Backends, Server};
use crate::config::Config;
use crate::store::Store;

/// How pods reach the server: by the address of the service `kubernetes`, and not by any other of the host's. An API that
/// is not served over TCP is not served to pods either.
pub fn service(config: &Config) -> Option<netsetup::Service> {
    let listen = config.api.listen?;
    Some(netsetup::Service { address: api::SERVICE_ADDRESS, port: api::SERVICE_PORT, listens_at: listen.port() })
}

/// A server that runs; it ends with [`Api::stop`].
#[derive(Debug)]
pub struct Api {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    ended: Rc<Notify>,
}

impl Api {
    /// Listens, and serves from now on.
    ///
    /// # Errors
    /// A certificate can't be made, or an address is taken.
    pub fn start(config: &Config, host: &Host, store: &Store, backends: Backends) -> Result<Self, ServeError> {
        let own = api::Config {
            listen: config.api.listen,
            socket: Some(config.socket()),
            addresses: host.ips.clone(),
            listen_for_pods: service(config).map(|own| (own.address, own.listens_at).into()),
            ..api::Config::new(config.api.dir.clone(), host.name.clone())
        };
        let server = Server::new(own, store.clone(), backends)?;
        let ended = server.ended();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::task::spawn_local(async move {
            // Dropping the other side means the same.
            if let Err(error) = server.run(async move { drop(stopped.await) }).await {
                tracing::error!("the API server has ended: {error}");
            }
        });
        Ok(Self { stop, task, ended })
    }

    /// A connection has ended, or several.
    pub async fn connection_ended(&self) {
        self.ended.notified().await;
    }

    /// Ends watches, and waits for answers that are under way.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!("the API server: {error}");
        }
    }
}
