//! What the API needs from the node beside the store: streams into containers, usage, tokens. Others implement these.

use std::future::Future;
use std::pin::Pin;

use http::Response;
use hyper::Request;
use serde_json::Value;

use super::body::Body;
use super::status::Status;
use crate::store::Object;
use crate::stream::PodPort;
use crate::stream::received::Received;

/// A future that stays on the thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The subresources of a pod that are streams. The caller is allowed to use them; the pod is as it is stored.
///
/// `request` is what came, its `OnUpgrade` and its query included. An `Err` is answered as a Status object.
pub trait Streams {
    /// `pods/log`.
    fn log(&self, pod: Object, request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>>;
    /// `pods/exec`.
    fn exec(&self, pod: Object, request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>>;
    /// `pods/attach`.
    fn attach(&self, pod: Object, request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>>;
    /// `pods/portforward`.
    fn port_forward(&self, pod: Object, request: Request<Received>) -> Local<'_, Result<Response<Body>, Status>>;
    /// `pods/[SCHEME:]NAME[:PORT]/proxy/PATH`: the path has its leading slash.
    fn proxy(
        &self,
        pod: Object,
        port: PodPort,
        path: String,
        request: Request<Received>,
    ) -> Local<'_, Result<Response<Body>, Status>>;
}

/// Usage over a short window, for `metrics.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Thousand-millionths of a CPU.
    pub cpu_nanos: u64,
    /// Microseconds of CPU time so far.
    pub cpu_usec: u64,
    /// Bytes of the working set.
    pub memory_bytes: u64,
}

/// Usage of a pod's containers, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    pub namespace: String,
    pub name: String,
    pub containers: Vec<(String, Usage)>,
}

/// What `kubectl top` shows.
pub trait Metrics {
    /// The node as a whole.
    fn node(&self) -> Local<'_, Option<Usage>>;
    /// Running pods.
    fn pods(&self) -> Local<'_, Vec<PodUsage>>;
}

/// What a token is asked for, by `serviceaccounts/token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOrder {
    pub namespace: String,
    pub account: String,
    pub account_uid: String,
    /// Empty for the API server's own.
    pub audiences: Vec<String>,
    pub seconds: i64,
    /// Kind, name and uid of the object with which the token dies.
    pub bound_to: Option<(String, String, String)>,
}

/// A token and the second (since 1970) at which it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    pub token: String,
    pub expires: i64,
}

/// Who a verified token speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenOwner {
    pub namespace: String,
    pub account: String,
    pub account_uid: String,
    /// Those of the token that were asked for.
    pub audiences: Vec<String>,
    /// Name and uid of the pod that it is bound to.
    pub pod: Option<(String, String)>,
}

/// Bearer tokens of service accounts.
pub trait Tokens {
    /// Signs a token.
    ///
    /// # Errors
    /// In words, for the client.
    fn issue(&self, order: &TokenOrder) -> Result<IssuedToken, String>;
    /// What an OpenID provider says of itself: who issues, and where the keys are (`/.well-known/openid-configuration`).
    fn configuration(&self) -> Value;
    /// The public keys, as a JSON Web Key Set.
    fn keys(&self) -> Value;
    /// None for what is forged, expired, revoked, or for another audience than these (empty: the API server's own).
    fn verify(&self, token: &str, audiences: &[String]) -> Option<TokenOwner>;
}
