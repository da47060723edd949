//! Who asks, and what they may.

mod authn;
mod authz;

pub use authn::{Peer, authenticate, local_peer, of_token};
pub use authz::{Ask, Groups, allows, denied};

use std::collections::BTreeMap;

/// Members may do everything.
pub const MASTERS: &str = "system:masters";
/// Members may read everything but secrets.
pub const READERS: &str = "monopod:readers";
/// Everybody with a credential.
pub const AUTHENTICATED: &str = "system:authenticated";
/// What user names of service accounts start with.
pub const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

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

    /// The namespace of a service account.
    pub fn account_namespace(&self) -> Option<&str> {
        self.name.strip_prefix(ACCOUNT_PREFIX)?.split_once(':').map(|(namespace, _)| namespace)
    }
}
