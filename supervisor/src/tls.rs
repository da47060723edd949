//! TLS as a client: one provider, and a way for those who ask for no proof of who answers.

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, SignatureScheme, WantsVerifier};

/// The beginning of every client's configuration.
pub(crate) fn client() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions()
}

/// Private from others, but not knowing to whom: for probes and hooks (HG5), the proxy to a pod, and registries that the
/// administrator declared insecure, whose content is verified by its digest.
pub(crate) fn unverified() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let verifier = AcceptsAnyCertificate(aws_lc_rs::default_provider());
    Ok(client()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Accepts every certificate, of anybody, for any name, even a broken one.
#[derive(Debug)]
struct AcceptsAnyCertificate(CryptoProvider);

impl ServerCertVerifier for AcceptsAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
