//! The key of the node's tokens: ECDSA P-256, for root alone.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};

use super::IdentityError;

const FILE: &str = "service-account.p8";
/// A key larger than this is none of ours.
const MAX_BYTES: usize = 4096;
/// A point is one byte, then both coordinates.
const COORDINATE: usize = 32;

pub(super) struct Key {
    pub private: EncodingKey,
    pub public: DecodingKey,
    /// `kid`: base64 of the SHA-256 of the public key's DER, as API servers name keys.
    pub id: String,
    /// The coordinates of the public key, as JWKs write them.
    pub x: String,
    pub y: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Key {
    pub(super) fn open(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let document = match std::fs::read(&path) {
            Ok(document) => document,
            Err(error) if error.kind() == ErrorKind::NotFound => make(dir, &path)?,
            Err(source) => return Err(IdentityError::Io { call: "read", path, source }),
        };
        if let Some(key) = parse(&document) {
            return Ok(key);
        }
        let error = IdentityError::NotAKey { path: path.clone() };
        let aside = path.with_extension("p8.damaged");
        tracing::error!("{error}; put aside as {}, and a new key made: earlier tokens are refused", aside.display());
        std::fs::rename(&path, &aside).map_err(io("rename", &path))?;
        parse(&make(dir, &path)?).ok_or(IdentityError::NotAKey { path })
    }
}

fn parse(document: &[u8]) -> Option<Key> {
    if document.len() > MAX_BYTES {
        return None;
    }
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document).ok()?;
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
    let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der.as_ref()));
    let point = pair.public_key().as_ref();
    let x = URL_SAFE_NO_PAD.encode(point.get(1..=COORDINATE)?);
    let y = URL_SAFE_NO_PAD.encode(point.get(1 + COORDINATE..=2 * COORDINATE)?);
    let public = DecodingKey::from_ec_components(&x, &y).ok()?;
    Some(Key { private: EncodingKey::from_ec_der(document), public, id, x, y })
}

/// Whole or not at all, and on the disk before the first token is signed.
fn make(dir: &Path, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| IdentityError::Random)?;
    crate::engine::dirs::create_private(dir).map_err(io("mkdir", dir))?;
    let temporary = dir.join(format!(".{FILE}.{}", uuid::Uuid::new_v4().simple()));
    write(&temporary, document.as_ref()).map_err(io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(io("rename", path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("fsync", dir))?;
    Ok(document.as_ref().to_vec())
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn io(call: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path: PathBuf = path.to_owned();
    move |source| IdentityError::Io { call, path, source }
}
