//! What a token says, in the words of the API server.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TokenRequest;

/// The payload of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: u64,
    pub iat: u64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: PrivateClaims,
    pub nbf: u64,
    pub sub: String,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateClaims {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectClaim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectClaim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectClaim>,
    pub serviceaccount: ObjectClaim,
}

/// An object by name and uid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectClaim {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What has to exist for a token to be worth something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<'a> {
    ServiceAccount { namespace: &'a str, name: &'a str, uid: &'a str },
    Pod { namespace: &'a str, name: &'a str, uid: &'a str },
    Secret { namespace: &'a str, name: &'a str, uid: &'a str },
    Node { name: &'a str, uid: &'a str },
}

impl fmt::Display for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount { namespace, name, .. } => write!(f, "service account {namespace}/{name}"),
            Self::Pod { namespace, name, .. } => write!(f, "pod {namespace}/{name}"),
            Self::Secret { namespace, name, .. } => write!(f, "secret {namespace}/{name}"),
            Self::Node { name, .. } => write!(f, "node {name}"),
        }
    }
}

impl Claims {
    /// A pod stands for its node: the node alone matters when the token is bound to nothing else.
    pub(super) fn bound(&self) -> Vec<Bound<'_>> {
        let own = &self.kubernetes;
        let namespace = own.namespace.as_str();
        let account = &own.serviceaccount;
        let mut all = vec![Bound::ServiceAccount { namespace, name: &account.name, uid: &account.uid }];
        match (&own.pod, &own.secret, &own.node) {
            (Some(pod), _, _) => all.push(Bound::Pod { namespace, name: &pod.name, uid: &pod.uid }),
            (None, Some(secret), _) => all.push(Bound::Secret { namespace, name: &secret.name, uid: &secret.uid }),
            (None, None, Some(node)) => all.push(Bound::Node { name: &node.name, uid: &node.uid }),
            (None, None, None) => {}
        }
        all
    }
}

pub(super) fn of(request: &TokenRequest, issuer: &str, now: u64) -> Claims {
    let aud = if request.audiences.is_empty() { vec![issuer.to_owned()] } else { request.audiences.clone() };
    Claims {
        aud,
        exp: now.saturating_add(request.life.as_secs()),
        iat: now,
        iss: issuer.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: PrivateClaims {
            namespace: request.namespace.clone(),
            node: request.node.clone(),
            pod: request.pod.clone(),
            secret: request.secret.clone(),
            serviceaccount: request.service_account.clone(),
        },
        nbf: now,
        sub: format!("system:serviceaccount:{}:{}", request.namespace, request.service_account.name),
    }
}
