//! Service account tokens for the API server: the issuer signs, the store says whether what they are bound to exists.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use crate::api::{IssuedToken, TokenOrder, TokenOwner, Tokens};
use crate::identity::{self, Bound, Issuer, ObjectClaim, TokenRequest};
use crate::store::{Key, Store};

/// See the module's documentation.
#[derive(Debug)]
pub struct StoreTokens {
    issuer: Rc<Issuer>,
    store: Store,
}

impl StoreTokens {
    pub fn new(issuer: Rc<Issuer>, store: Store) -> Self {
        Self { issuer, store }
    }

    fn exists(&self, bound: &Bound<'_>) -> bool {
        let (resource, namespace, name, uid) = match bound {
            Bound::ServiceAccount { namespace, name, uid } => ("serviceaccounts", *namespace, name, uid),
            Bound::Pod { namespace, name, uid } => ("pods", *namespace, name, uid),
            Bound::Secret { namespace, name, uid } => ("secrets", *namespace, name, uid),
            Bound::Node { name, uid } => ("nodes", "", name, uid),
        };
        let found = self.store.get(&Key::new(resource, namespace, name));
        found.is_some_and(|object| super::pods::uid_of(&object).as_deref() == Some(uid))
    }
}

impl Tokens for StoreTokens {
    fn issue(&self, order: &TokenOrder) -> Result<IssuedToken, String> {
        let bound = |kind: &str| {
            let own = order.bound_to.as_ref().filter(|(own, ..)| own == kind);
            own.map(|(_, name, uid)| ObjectClaim { name: name.clone(), uid: uid.clone() })
        };
        let request = TokenRequest {
            namespace: order.namespace.clone(),
            service_account: ObjectClaim { name: order.account.clone(), uid: order.account_uid.clone() },
            audiences: order.audiences.clone(),
            life: Duration::from_secs(u64::try_from(order.seconds).unwrap_or(0)),
            pod: bound("Pod"),
            secret: bound("Secret"),
            node: bound("Node"),
        };
        let token = self.issuer.mint(&request, identity::now()).map_err(|error| error.to_string())?;
        let expires = i64::try_from(token.expires).unwrap_or(i64::MAX);
        Ok(IssuedToken { token: token.text, expires })
    }

    /// Pods reach this server under the issuer's name, and find the keys there.
    fn configuration(&self) -> Value {
        self.issuer.openid_configuration(self.issuer.url())
    }

    fn keys(&self) -> Value {
        self.issuer.jwks()
    }

    fn verify(&self, token: &str, audiences: &[String]) -> Option<TokenOwner> {
        let verified = self.issuer.verify(token, audiences, identity::now(), |bound| self.exists(bound));
        let verified = verified.inspect_err(|error| tracing::debug!("token: {error}")).ok()?;
        let own = verified.claims.kubernetes;
        Some(TokenOwner {
            namespace: own.namespace,
            account: own.serviceaccount.name,
            account_uid: own.serviceaccount.uid,
            audiences: verified.audiences,
            pod: own.pod.map(|pod| (pod.name, pod.uid)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Change, Durability};
    use serde_json::json;

    #[tokio::test(flavor = "current_thread")]
    async fn a_token_dies_with_its_account() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("objects")).unwrap();
        let issuer = Rc::new(Issuer::open(&dir.path().join("identity"), identity::DEFAULT_ISSUER).unwrap());
        let tokens = StoreTokens::new(issuer, store.clone());
        let key = Key::new("serviceaccounts", "ns", "robot");
        let value = json!({"metadata": {"name": "robot", "namespace": "ns", "uid": "u"}});
        store.commit(Change::Create { key: key.clone(), value }, Durability::Kernel).await.unwrap();
        let order = TokenOrder {
            namespace: "ns".into(),
            account: "robot".into(),
            account_uid: "u".into(),
            audiences: Vec::new(),
            seconds: 3600,
            bound_to: None,
        };
        let issued = tokens.issue(&order).unwrap();
        let owner = tokens.verify(&issued.token, &[]).unwrap();
        assert_eq!((owner.namespace.as_str(), owner.account.as_str()), ("ns", "robot"));
        assert!(tokens.verify("x", &[]).is_none());
        store.commit(Change::Delete { key, expected: None }, Durability::Kernel).await.unwrap();
        assert!(tokens.verify(&issued.token, &[]).is_none());
    }
}
