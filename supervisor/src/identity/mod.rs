//! Service account tokens (rule VO29): signed by a key of this node, bound to the pod that has them, and refused as soon
//! as what they are bound to is gone.
//!
//! Whether an object exists is asked of the caller; the time is an argument. Only [`Issuer::open`] does I/O.

mod claims;
mod key;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation};
use serde_json::{Value, json};

pub use claims::{Bound, Claims, ObjectClaim, PrivateClaims};
use key::Key;

/// Who issues tokens unless configured otherwise, and the audience of tokens that name none: the API server.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Life of a token whose request does not say (VO29).
pub const DEFAULT_LIFE: Duration = Duration::from_secs(3600);
/// A shorter life is refused (VO29).
pub const MIN_LIFE: Duration = Duration::from_secs(600);
/// A longer life is refused (VO29): 2^32 seconds.
pub const MAX_LIFE: Duration = Duration::from_secs(1 << 32);
/// A token is replaced when this part of its life is over (VO29).
const REFRESH_PERCENT: u64 = 80;
/// However long it lives, a token is replaced after this time (VO29).
const REFRESH_MAX: Duration = Duration::from_secs(24 * 3600);
/// Clocks of clients may differ by this much.
const LEEWAY_SECONDS: u64 = 10;
/// Where the keys are served.
pub const JWKS_PATH: &str = "/openid/v1/jwks";

/// Why the node has no working key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{call} {path}: {source}")]
    Io { call: &'static str, path: PathBuf, source: std::io::Error },
    /// Damaged, or made by another program. Whoever removes it makes every token worthless.
    #[error("{path} does not hold an ECDSA P-256 key in PKCS #8")]
    NotAKey { path: PathBuf },
    #[error("make a key: the random source failed")]
    Random,
}

/// Why no token is issued.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    #[error("may not specify a duration less than 10 minutes")]
    TooShort,
    #[error("may not specify a duration larger than 2^32 seconds")]
    TooLong,
    #[error("sign the token: {0}")]
    Sign(String),
}

/// Why a token proves nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not a token of this issuer: format, algorithm, key or signature.
    #[error("invalid bearer token: {0}")]
    Invalid(String),
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {found:?} is invalid for the target audiences {wanted:?}")]
    Audience { found: Vec<String>, wanted: Vec<String> },
    /// Deleted, or another object of the same name.
    #[error("{0} is gone")]
    Gone(String),
}

/// Seconds since 1970, as tokens count.
pub fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

/// What a token is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub namespace: String,
    pub service_account: ObjectClaim,
    /// Empty means the API server.
    pub audiences: Vec<String>,
    pub life: Duration,
    pub pod: Option<ObjectClaim>,
    pub secret: Option<ObjectClaim>,
    pub node: Option<ObjectClaim>,
}

/// A signed token. Times are seconds since 1970.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub issued: u64,
    pub expires: u64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Token {
    /// When the file that holds it gets a new one.
    pub fn refresh_at(&self) -> u64 {
        let life = self.expires.saturating_sub(self.issued);
        self.issued + (life.saturating_mul(REFRESH_PERCENT) / 100).min(REFRESH_MAX.as_secs())
    }

    /// Issued before the clock was set back: nobody takes it until the clock is there again.
    pub fn is_not_yet_valid(&self, now: u64) -> bool {
        now.saturating_add(LEEWAY_SECONDS) < self.issued
    }
}

/// Who a valid token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub claims: Claims,
    /// The audiences that the token and the question have in common.
    pub audiences: Vec<String>,
}

impl Verified {
    /// `system:serviceaccount:NAMESPACE:NAME`
    pub fn username(&self) -> String {
        self.claims.sub.clone()
    }

    pub fn groups(&self) -> Vec<String> {
        let namespace = &self.claims.kubernetes.namespace;
        ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")].into()
    }

    /// The `extra` of a user info: credential, pod and node.
    pub fn extra(&self) -> Vec<(String, Vec<String>)> {
        let own = &self.claims.kubernetes;
        let mut all = vec![("credential-id".to_owned(), vec![format!("JTI={}", self.claims.jti)])];
        for (kind, object) in [("pod", &own.pod), ("node", &own.node)] {
            if let Some(object) = object {
                all.push((format!("{kind}-name"), vec![object.name.clone()]));
                all.push((format!("{kind}-uid"), vec![object.uid.clone()]));
            }
        }
        all.into_iter().map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), value)).collect()
    }
}

/// The node's token authority.
#[derive(Debug)]
pub struct Issuer {
    key: Key,
    url: String,
}

impl Issuer {
    /// Reads the key in `dir`, or makes it at the first start; it outlives everything else there, since tokens do.
    ///
    /// # Errors
    /// The directory can't be read or written, or holds something else under the key's name.
    pub fn open(dir: &Path, url: &str) -> Result<Self, IdentityError> {
        Ok(Self { key: Key::open(dir)?, url: url.to_owned() })
    }

    /// The issuer's name, which is the default audience, too.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Signs a token; `now` in seconds since 1970.
    ///
    /// # Errors
    /// Its life is outside the limits.
    pub fn mint(&self, request: &TokenRequest, now: u64) -> Result<Token, MintError> {
        if request.life < MIN_LIFE {
            return Err(MintError::TooShort);
        }
        if request.life > MAX_LIFE {
            return Err(MintError::TooLong);
        }
        let claims = claims::of(request, &self.url, now);
        let header = Header { kid: Some(self.key.id.clone()), typ: None, ..Header::new(Algorithm::ES256) };
        let text = jsonwebtoken::encode(&header, &claims, &self.key.private)
            .map_err(|error| MintError::Sign(error.to_string()))?;
        Ok(Token { text, issued: now, expires: claims.exp })
    }

    /// Checks signature, issuer, times and audience, then asks `exists` for everything that the token is bound to.
    /// Empty `audiences` mean the API server.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(
        &self,
        text: &str,
        audiences: &[String],
        now: u64,
        mut exists: impl FnMut(&Bound<'_>) -> bool,
    ) -> Result<Verified, VerifyError> {
        let mut validation = Validation::new(Algorithm::ES256);
        // Those two against the time that was given.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        validation.set_issuer(&[&self.url]);
        let decoded = jsonwebtoken::decode::<Claims>(text, &self.key.public, &validation)
            .map_err(|error| VerifyError::Invalid(error.to_string()))?;
        let claims = decoded.claims;
        if now >= claims.exp.saturating_add(LEEWAY_SECONDS) {
            return Err(VerifyError::Expired);
        }
        if now.saturating_add(LEEWAY_SECONDS) < claims.nbf {
            return Err(VerifyError::NotYet);
        }
        let audiences = common(&claims.aud, audiences, &self.url)?;
        match claims.bound().into_iter().find(|bound| !exists(bound)) {
            Some(gone) => Err(VerifyError::Gone(gone.to_string())),
            None => Ok(Verified { claims, audiences }),
        }
    }

    /// The public keys as a JSON Web Key Set (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key.id, "crv": "P-256", "alg": "ES256",
            "x": self.key.x, "y": self.key.y,
        }]})
    }

    /// `/.well-known/openid-configuration`; `base` is the address under which the keys are served.
    pub fn openid_configuration(&self, base: &str) -> Value {
        json!({
            "issuer": self.url,
            "jwks_uri": format!("{}{JWKS_PATH}", base.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn common(found: &[String], wanted: &[String], own: &str) -> Result<Vec<String>, VerifyError> {
    let wanted: Vec<String> = if wanted.is_empty() { vec![own.to_owned()] } else { wanted.to_vec() };
    let common: Vec<String> = wanted.iter().filter(|audience| found.contains(audience)).cloned().collect();
    if common.is_empty() { Err(VerifyError::Audience { found: found.to_vec(), wanted }) } else { Ok(common) }
}

#[cfg(test)]
mod tests;
