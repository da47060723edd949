//! Changes of all resources that the daemon follows, in one queue.

use tokio::sync::mpsc;

use crate::store::{Store, StoreError, Watch, WatchEvent};

/// What comes out of the queue.
#[derive(Debug)]
pub enum Fed {
    Changed(Box<WatchEvent>),
    /// Some changes of this resource were missed: everything has to be looked at.
    Missed(&'static str),
}

/// Follows each of the resources from now on.
///
/// # Errors
/// The store refuses a watch.
pub fn follow(store: &Store, resources: &[&'static str]) -> Result<mpsc::UnboundedReceiver<Fed>, StoreError> {
    let (out, receiver) = mpsc::unbounded_channel();
    for resource in resources {
        let watch = store.watch(resource, None, store.version())?;
        tokio::task::spawn_local(forward(store.clone(), resource, watch, out.clone()));
    }
    Ok(receiver)
}

async fn forward(store: Store, resource: &'static str, mut watch: Watch, out: mpsc::UnboundedSender<Fed>) {
    loop {
        while let Some(event) = watch.next().await {
            if out.send(Fed::Changed(Box::new(event))).is_err() {
                return;
            }
        }
        // Cut off: it fell too far behind.
        watch = match store.watch(resource, None, store.version()) {
            Ok(watch) => watch,
            Err(error) => return tracing::error!("follow {resource}: {error}"),
        };
        if out.send(Fed::Missed(resource)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Change, Durability, Key};
    use serde_json::json;

    #[tokio::test(flavor = "current_thread")]
    async fn changes_of_every_resource_come() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("objects")).unwrap();
        let followed = async {
            let mut fed = follow(&store, &["pods", "nodes"]).unwrap();
            for resource in ["nodes", "secrets", "pods"] {
                let change = Change::Create { key: Key::new(resource, "", "x"), value: json!({"metadata": {}}) };
                store.commit(change, Durability::Kernel).await.unwrap();
            }
            let mut seen = Vec::new();
            while seen.len() < 2 {
                if let Some(Fed::Changed(event)) = fed.recv().await {
                    seen.push(event.object.key.resource.to_string());
                }
            }
            seen.sort();
            seen
        };
        let seen = tokio::task::LocalSet::new().run_until(followed).await;
        assert_eq!(seen, ["nodes", "pods"]);
    }
}
