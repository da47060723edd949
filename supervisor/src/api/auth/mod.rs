//! Who asks, and what they may.

mod authn;
mod authz;
mod impersonate;

pub use authn::{Peer, authenticate, local_peer, of_token};
pub use authz::{Ask, Groups, LOOKING, OPEN_PATHS, SELF_REVIEWS, allows, denied, is_visible};
pub use impersonate::impersonate;

use std::collections::BTreeMap;

/// Members may do everything.
pub const MASTERS: &str = "system:masters";
/// Members may read everything but secrets.
pub const READERS: &str = "monopod:readers";
/// Everybody with a credential.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody without one.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// What user names of service accounts start with.
pub const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// The groups of the service accounts of a namespace.
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// Somebody with a credential.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Whether this is a service account of a namespace, or counts as one by its groups.
    pub fn is_account_of(&self, namespace: &str) -> bool {
        let is_member = || self.is_in(&format!("system:serviceaccounts:{namespace}"));
        !namespace.is_empty() && (self.account_namespace() == Some(namespace) || is_member())
    }

    /// The namespace of a service account.
    pub fn account_namespace(&self) -> Option<&str> {
        self.name.strip_prefix(ACCOUNT_PREFIX)?.split_once(':').map(|(namespace, _)| namespace)
    }
}
