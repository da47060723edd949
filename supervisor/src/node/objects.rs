//! What pods refer to, from the object store.
//!
//! Whoever watches the store tells the node of every change: `node.object_changed(&key)` for `configmaps`, `secrets`,
//! `serviceaccounts`, `persistentvolumeclaims` and `persistentvolumes` (added, modified or deleted, all alike), and
//! `node.pod_changed(pod)` when labels or annotations of a pod changed. The node reads the store itself.

use std::rc::Rc;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde::de::DeserializeOwned;

use crate::convert::facts::{Objects, PodToken};
use crate::identity::{self, Issuer, ObjectClaim, Token, TokenRequest};
use crate::store::{Key, Store};

/// The objects of a store, read when they are asked for.
#[derive(Debug)]
pub struct StoreObjects {
    store: Store,
    issuer: Rc<Issuer>,
    node: String,
}

impl StoreObjects {
    /// `node` is the name of the node's own object.
    pub fn new(store: Store, issuer: Rc<Issuer>, node: &str) -> Self {
        Self { store, issuer, node: node.to_owned() }
    }

    /// What is stored as something else is as good as not there.
    fn read<T: DeserializeOwned>(&self, resource: &str, namespace: &str, name: &str) -> Option<Rc<T>> {
        self.store.get(&Key::new(resource, namespace, name))?.read().ok().map(Rc::new)
    }

    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        let object = self.store.get(&Key::new(resource, namespace, name))?;
        object.value()["metadata"]["uid"].as_str().map(str::to_owned)
    }
}

impl Objects for StoreObjects {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Rc<ConfigMap>> {
        self.read("configmaps", namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Rc<Secret>> {
        self.read("secrets", namespace, name)
    }

    fn services(&self, namespace: &str) -> Vec<Rc<Service>> {
        let (own, _) = self.store.list("services", Some(namespace));
        let api = (namespace != "default").then(|| self.read("services", "default", "kubernetes")).flatten();
        own.iter().filter_map(|object| object.read().ok().map(Rc::new)).chain(api).collect()
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<Rc<PersistentVolumeClaim>> {
        self.read("persistentvolumeclaims", namespace, name)
    }

    fn persistent_volume(&self, name: &str) -> Option<Rc<PersistentVolume>> {
        self.read("persistentvolumes", "", name)
    }

    fn runtime_handler(&self, class: &str) -> Option<String> {
        let class = self.read::<RuntimeClass>("runtimeclasses.node.k8s.io", "", class)?;
        Some(class.handler.clone())
    }

    fn token(&self, request: &PodToken<'_>) -> Result<Token, String> {
        let meta = &request.pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let account = request.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let uid = self.uid("serviceaccounts", namespace, account);
        let uid = uid.ok_or_else(|| format!("serviceaccounts {account:?} not found"))?;
        let node = self.uid("nodes", "", &self.node);
        let wanted = TokenRequest {
            namespace: namespace.to_owned(),
            service_account: ObjectClaim { name: account.to_owned(), uid },
            audiences: request.audience.map(str::to_owned).into_iter().collect(),
            life: request.life,
            pod: Some(ObjectClaim {
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
            }),
            secret: None,
            node: node.map(|uid| ObjectClaim { name: self.node.clone(), uid }),
        };
        self.issuer.mint(&wanted, identity::now()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Change, Durability};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[tokio::test(flavor = "current_thread")]
    async fn objects_come_from_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("store")).unwrap();
        let issuer = Rc::new(Issuer::open(&dir.path().join("identity"), identity::DEFAULT_ISSUER).unwrap());
        let objects = StoreObjects::new(store.clone(), issuer.clone(), "node1");
        assert!(objects.config_map("ns", "m").is_none());
        for (resource, namespace, name) in [
            ("configmaps", "ns", "m"),
            ("services", "ns", "s"),
            ("services", "default", "kubernetes"),
            ("services", "other", "o"),
            ("serviceaccounts", "ns", "default"),
            ("nodes", "", "node1"),
        ] {
            let value = json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}")}});
            let key = Key::new(resource, namespace, name);
            store.commit(Change::Create { key, value }, Durability::Kernel).await.unwrap();
        }
        assert!(objects.config_map("ns", "m").is_some());
        let names = |namespace| -> Vec<String> {
            objects.services(namespace).iter().map(|service| service.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(names("ns"), ["s", "kubernetes"]);
        assert_eq!(names("default"), ["kubernetes"]);
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}})).unwrap();
        let request = PodToken { pod: &pod, audience: None, life: identity::DEFAULT_LIFE };
        let token = objects.token(&request).unwrap();
        let claims = issuer.verify(&token.text, &[], identity::now(), |_| true).unwrap().claims;
        let own = claims.kubernetes;
        assert_eq!((own.serviceaccount.uid, own.pod.unwrap().uid), ("uid-default".into(), "u".into()));
        assert_eq!(own.node.unwrap().uid, "uid-node1");
    }
}
