//! An API server alone, for trying clients on: `cargo run --example api -- DIR`.

use std::path::PathBuf;

use supervisor::api::{Backends, Config, Server};
use supervisor::store::Store;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir: PathBuf = std::env::args_os().nth(1).ok_or("which directory?")?.into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (store, _) = Store::open(&dir.join("store"))?;
        let mut config = Config::new(dir.clone(), "node1".to_owned());
        config.socket = Some(dir.join("api.sock"));
        config.addresses = vec![std::net::IpAddr::from([10, 11, 0, 1])];
        let server = Server::new(config, store, Backends::default())?;
        server.run(std::future::pending()).await?;
        Ok(())
    })
}
