//! Whom a registry's certificate must convince.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

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
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if endpoint.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Insecure(provider)))
    } else {
        let mut roots = system.clone();
        for pem in &endpoint.authorities {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("certificate authority: {error}"))?;
                roots.add(certificate).map_err(|error| format!("certificate authority: {error}"))?;
            }
        }
        builder.with_root_certificates(roots)
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

/// For registries that the administrator declared insecure: any certificate will do. What comes is still verified, by digest.
#[derive(Debug)]
struct Insecure(Arc<CryptoProvider>);

impl ServerCertVerifier for Insecure {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
