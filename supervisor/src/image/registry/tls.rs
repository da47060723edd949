//! Whom a registry's certificate must convince.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::Endpoint;

/// The system's own trust (`SSL_CERT_FILE`, `SSL_CERT_DIR`, else where distributions keep it).
pub(super) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A broken file among hundreds must not make all registries unreachable.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// TLS for one endpoint: the system's trust and the endpoint's own authorities.
pub(super) fn config(endpoint: &Endpoint, system: &RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let text = |error: rustls::Error| error.to_string();
    let builder = if endpoint.insecure {
        crate::tls::unverified().map_err(text)?
    } else {
        let mut roots = system.clone();
        for pem in &endpoint.authorities {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("certificate authority: {error}"))?;
                roots.add(certificate).map_err(|error| format!("certificate authority: {error}"))?;
            }
        }
        crate::tls::client().map_err(text)?.with_root_certificates(roots)
    };
    let Some((certificates, key)) = &endpoint.identity else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("client certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).map_err(|error| format!("client key: {error}"))?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|error| format!("client certificate: {error}"))?;
    Ok(Arc::new(config))
}
