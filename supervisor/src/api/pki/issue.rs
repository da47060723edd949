//! Signs certificates, and tells which ones still serve.

use std::path::Path;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CA_DAYS, LEAF_DAYS, PkiError, RENEWAL_DAYS, files};
use crate::api::auth::MASTERS;

/// What the administrator's certificate calls him.
const ADMINISTRATOR: &str = "kubernetes-admin";

/// The CA, ready to sign.
pub(super) struct Authority {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What a directory holds of a certificate and its key.
enum Stored {
    Missing,
    Whole(Pair),
    /// With the path of what is wrong.
    Damaged(PkiError),
}

/// The CA of the directory, made if it isn't there.
///
/// # Errors
/// [`PkiError::Damaged`] leaves the files as they are.
pub(super) fn authority(dir: &Path, now: Timestamp) -> Result<Authority, PkiError> {
    let subject = "the CA";
    let pair = match stored(dir, "ca")? {
        Stored::Whole(pair) => pair,
        Stored::Damaged(error) => return Err(error),
        Stored::Missing => {
            let mut params = params("monopod-ca", now, CA_DAYS);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages =
                vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate().map_err(|cause| PkiError::Sign { subject, cause })?;
            let certificate = params.self_signed(&key).map_err(|cause| PkiError::Sign { subject, cause })?;
            store(dir, "ca", Pair { certificate: certificate.pem(), key: key.serialize_pem() })?
        }
    };
    let own = with_certificate(&pair.certificate, |ca| ca.verify_signature(None).is_ok());
    if own != Some(true) {
        return Err(PkiError::Damaged { path: dir.join("ca.crt"), cause: "it is not signed by itself" });
    }
    let issuer = KeyPair::from_pem(&pair.key).and_then(|key| Issuer::from_ca_cert_pem(&pair.certificate, key));
    let issuer = issuer.map_err(|cause| PkiError::Sign { subject, cause })?;
    Ok(Authority { pem: pair.certificate, issuer })
}

/// Keeps a CA that can't be used for whoever wants to mend it, and makes way for a new one.
pub(super) fn put_aside(dir: &Path) -> Result<(), PkiError> {
    ["ca.crt", "ca.key"].iter().try_for_each(|name| files::put_aside(&dir.join(name)))
}

/// The server's certificate: the stored one if it is of this CA, for these names, and does not end soon.
pub(super) fn server(dir: &Path, ca: &Authority, names: &[String], now: Timestamp) -> Result<Pair, PkiError> {
    if let Some(pair) = usable(dir, "server")? {
        let other_names = || names_of(&pair.certificate) != Some(names.to_vec());
        match stale(&pair, ca, now).or_else(|| other_names().then_some("it has other names")) {
            None => return Ok(pair),
            Some(why) => tracing::warn!("{}: {why}; made anew", dir.join("server.crt").display()),
        }
    }
    let mut params = params("monopod", now, LEAF_DAYS);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = CertificateParams::new(names.to_vec())
        .map_err(|cause| PkiError::Sign { subject: "the server", cause })?
        .subject_alt_names;
    store(dir, "server", sign(params, ca, "the server")?)
}

/// The administrator's client certificate.
pub(super) fn administrator(dir: &Path, ca: &Authority, now: Timestamp) -> Result<Pair, PkiError> {
    if let Some(pair) = usable(dir, "admin")? {
        match stale(&pair, ca, now) {
            None => return Ok(pair),
            Some(why) => tracing::warn!("{}: {why}; made anew", dir.join("admin.crt").display()),
        }
    }
    let mut params = params(ADMINISTRATOR, now, LEAF_DAYS);
    params.distinguished_name.push(DnType::OrganizationName, MASTERS);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    store(dir, "admin", sign(params, ca, "the administrator")?)
}

fn params(name: &str, now: Timestamp, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A day back, for clocks that are not set yet.
    let (year, month, date) = day(now, -1);
    params.not_before = rcgen::date_time_ymd(year, month, date);
    let (year, month, date) = day(now, days);
    params.not_after = rcgen::date_time_ymd(year, month, date);
    params
}

/// Year, month and day of the day so many days from now.
fn day(now: Timestamp, days: i64) -> (i32, u8, u8) {
    let moved = now.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(now);
    let date = moved.to_zoned(TimeZone::UTC).date();
    (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
}

fn sign(params: CertificateParams, ca: &Authority, subject: &'static str) -> Result<Pair, PkiError> {
    let failed = |cause| PkiError::Sign { subject, cause };
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &ca.issuer).map_err(failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn stored(dir: &Path, name: &str) -> Result<Stored, PkiError> {
    let (path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    // The key comes first when they are stored: one alone is of a start that was cut off.
    let Some(certificate) = files::read(&path)? else { return Ok(Stored::Missing) };
    let damaged = |path: std::path::PathBuf, cause| Ok(Stored::Damaged(PkiError::Damaged { path, cause }));
    let Some(key) = files::read(&key_path)? else { return damaged(key_path, "it is missing") };
    let Ok(read) = KeyPair::from_pem(&key) else { return damaged(key_path, "it is not a private key") };
    match with_certificate(&certificate, |leaf| {
        leaf.public_key().subject_public_key.data.as_ref() == read.public_key_raw()
    }) {
        None => damaged(path, "it is not a certificate"),
        Some(false) => damaged(path, "it is not of the key beside it"),
        Some(true) => Ok(Stored::Whole(Pair { certificate, key })),
    }
}

/// A pair that the CA can make again at any time.
fn usable(dir: &Path, name: &str) -> Result<Option<Pair>, PkiError> {
    Ok(match stored(dir, name)? {
        Stored::Whole(pair) => Some(pair),
        Stored::Missing => None,
        Stored::Damaged(error) => {
            tracing::error!("{error}; made anew");
            None
        }
    })
}

fn store(dir: &Path, name: &str, pair: Pair) -> Result<Pair, PkiError> {
    files::write(&dir.join(format!("{name}.key")), &pair.key)?;
    files::write(&dir.join(format!("{name}.crt")), &pair.certificate)?;
    Ok(pair)
}

/// Why a certificate has to be replaced: it is not of this CA, or ends soon.
fn stale(pair: &Pair, ca: &Authority, now: Timestamp) -> Option<&'static str> {
    let verdict = with_certificate(&pair.certificate, |leaf| {
        let end = leaf.validity().not_after.timestamp();
        let lasts = end - now.as_second() > RENEWAL_DAYS * 24 * 3600;
        let is_ours = with_certificate(&ca.pem, |ca| leaf.verify_signature(Some(ca.public_key())).is_ok());
        match (is_ours, lasts) {
            (Some(true), true) => None,
            (Some(true), false) => Some("it ends soon"),
            (Some(false) | None, _) => Some("it is not signed by this CA"),
        }
    });
    verdict.unwrap_or(Some("it is not a certificate"))
}

/// The names in a certificate, sorted.
fn names_of(pem: &str) -> Option<Vec<String>> {
    with_certificate(pem, |certificate| {
        let names = certificate.subject_alternative_name().ok()??;
        let mut names: Vec<String> = names.value.general_names.iter().filter_map(name_text).collect();
        names.sort();
        Some(names)
    })?
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(text) = name {
        return Some((*text).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string())).ok()
}

fn with_certificate<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(look(&certificate))
}
