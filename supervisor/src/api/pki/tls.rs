//! TLS with certificates that may change while the server runs, and users out of client certificates.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::PkiError;
use super::issue::Pair;
use crate::api::auth::User;

/// The certificate that the next connection sees.
#[derive(Debug, Default)]
pub struct Served(RwLock<Option<Arc<CertifiedKey>>>);

impl Served {
    pub(super) fn set(&self, pair: &Pair) -> Result<(), PkiError> {
        let failed = |error: &dyn std::fmt::Display| PkiError::Tls(error.to_string());
        let chain = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(|e| failed(&e))?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| failed(&e))?;
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|e| failed(&e))?;
        let key = Arc::new(CertifiedKey::new(vec![chain], key));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(())
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// TLS 1.2 and 1.3; a client certificate may be shown, and must then be of our CA.
pub fn acceptor(ca: &str, served: Arc<Served>) -> Result<TlsAcceptor, PkiError> {
    let failed = |error: &dyn std::fmt::Display| PkiError::Tls(error.to_string());
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(served);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The user that a (verified) client certificate names: its common name, and its organizations as groups.
pub fn user_of(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
    Some(User::new(name, groups))
}
