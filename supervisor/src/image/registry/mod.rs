//! Talking to registries (OCI distribution protocol), in a process that can do nothing else (D26, D29).
//!
//! The puller, who is root, reads what administrators wrote ([`config`]) and makes a [`Job`] of it. The fetcher ([`fetch`]) reads
//! the system's trust and names, gives up every right but that of opening connections ([`jail`]), and answers what the
//! puller asks over a few sockets ([`wire`]). All of HTTP, TLS, DNS and the token dance is parsed there and nowhere else.

mod challenge;
mod client;
pub mod config;
mod connect;
pub mod fetch;
mod http;
mod jail;
mod names;
mod process;
mod tls;
pub mod wire;

pub use fetch::fetch_main;
pub use process::{AskError, Fetcher};

use serde::{Deserialize, Serialize};

/// Where and as whom to ask, and for what: everything that the fetcher may know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Mirrors first, the registry itself last; each is asked when those before it did not answer.
    pub endpoints: Vec<Endpoint>,
}

/// One registry, or a mirror of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// `HOST[:PORT]` as it goes into URLs.
    pub host: String,
    pub repository: String,
    /// Certificates need not be right, and without TLS plain HTTP will do.
    pub insecure: bool,
    /// Names of the user's own tags mean nothing at a mirror that serves digests only.
    pub digests_only: bool,
    /// PEM of certificate authorities for this host alone, beside the system's.
    pub authorities: Vec<String>,
    /// PEM of certificate and key that show who we are.
    pub identity: Option<(String, Secret)>,
    /// Tried in this order; none at all is anonymous.
    pub credentials: Vec<Credential>,
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub login: Login,
    /// Given back with what was fetched, so that the puller knows whose rights were used.
    pub source: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Login {
    Password {
        user: String,
        password: Secret,
    },
    /// A refresh token of the registry's own (docker's `identitytoken`).
    IdentityToken(Secret),
    /// Used as it is (docker's `registrytoken`).
    RegistryToken(Secret),
}

/// A text that no log, event or panic shows (D35).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whoever calls this sends it to whom it is for, or nowhere.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a registry gave nothing. What the user must do differs, so each is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    #[error("{host} has no repository {repository}: check the name")]
    NoRepository { host: String, repository: String },
    #[error("{host} has no {tag} in repository {repository}: check the tag")]
    NoTag { host: String, repository: String, tag: String },
    #[error("{host} does not have blob {digest}, which the image's manifest names")]
    NoBlob { host: String, digest: String },
    #[error("{host} refuses the user name or password{detail}")]
    BadLogin { host: String, detail: String },
    #[error(
        "{host} wants a login for {repository}, and there is none for it (imagePullSecrets, auth.json, config.json){detail}"
    )]
    NoLogin { host: String, repository: String, detail: String },
    #[error("{host} denies access to {repository}, or it does not exist{detail}")]
    Denied { host: String, repository: String, detail: String },
    /// Nobody answers, or not in time, or the answer is that it is broken.
    #[error("{host}: {detail}")]
    Unavailable { host: String, detail: String },
    #[error("{host}: {detail}")]
    Untrusted { host: String, detail: String },
    #[error("{host}: {detail}")]
    Protocol { host: String, detail: String },
    #[error("the fetcher: {0}")]
    Fetcher(String),
}

impl Failure {
    /// May another endpoint, or the same one later, do better?
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::NoRepository { .. }
            | Self::NoTag { .. }
            | Self::NoBlob { .. }
            | Self::BadLogin { .. }
            | Self::NoLogin { .. }
            | Self::Denied { .. }
            | Self::Untrusted { .. }
            | Self::Protocol { .. }
            | Self::Fetcher(_) => false,
        }
    }
}
