//! Who may use an image that is here already (IP4; `imagePullCredentialsVerificationPolicy`).
//!
//! An image that was pulled with a pod's secret is not there for every pod. A record beside the image says with whose rights it
//! came, by repository; an image without a record was loaded, and is for everybody.
//!
//! ```text
//! ROOT/access/HEX     of the image with this id
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::registry::config::{PullSecret, Source};
use super::store::{At as _, StoreError, make_directory, read_bounded, write_file};

const ACCESS: &str = "access";
/// Bytes of a record.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Secrets of one repository that are remembered, the newest ones; others pull once more.
const MAX_SECRETS: usize = 200;

/// The kubelet's `imagePullCredentialsVerificationPolicy`: when a pod has to show that it could pull what is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Verification {
    /// What is here is for everybody.
    NeverVerify,
    /// What no pull brought is for everybody.
    #[default]
    NeverVerifyPreloadedImages,
    /// What `preloadedImagesVerificationAllowlist` names is for everybody.
    NeverVerifyAllowlistedImages,
    /// Everything is for those who could pull it.
    AlwaysVerify,
}

/// Both options of the kubelet that decide about what is here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessPolicy {
    pub verification: Verification,
    /// Repositories, or what they begin with and `/*`.
    pub allowlist: Vec<String>,
}

impl AccessPolicy {
    /// Whether an entry of the list stands for this repository; `/*` ends one that stands for all below.
    fn lists(&self, repository: &str) -> bool {
        let is_it = |entry: &String| match entry.strip_suffix("/*") {
            Some(above) => repository.strip_prefix(above).is_some_and(|below| below.starts_with('/')),
            None => entry == repository,
        };
        self.allowlist.iter().any(is_it)
    }

    /// Whether everybody may have the image under this name, by whatever it came.
    fn is_for_everybody(&self, repository: &str, loaded: bool) -> bool {
        match self.verification {
            Verification::NeverVerify => true,
            Verification::NeverVerifyPreloadedImages => loaded,
            Verification::NeverVerifyAllowlistedImages => self.lists(repository),
            Verification::AlwaysVerify => false,
        }
    }
}

/// Everything known of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    repositories: BTreeMap<String, Rights>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rights {
    /// Pulled by anybody, or with the node's own logins.
    everybody: bool,
    secrets: Vec<Source>,
}

impl Record {
    /// Adds a pull that worked.
    fn add(&mut self, repository: &str, rights: Option<&Source>) {
        let known = self.repositories.entry(repository.to_owned()).or_default();
        match rights {
            None | Some(Source::Node) => known.everybody = true,
            Some(secret @ Source::Secret { .. }) => {
                known.secrets.retain(|other| other != secret);
                known.secrets.push(secret.clone());
                let too_many = known.secrets.len().saturating_sub(MAX_SECRETS);
                known.secrets.drain(..too_many);
            }
        }
    }

    /// May a pod with these secrets have the image under this name without asking the registry?
    fn allows(&self, repository: &str, secrets: &[PullSecret]) -> bool {
        let Some(rights) = self.repositories.get(repository) else { return false };
        rights.everybody || secrets.iter().any(|secret| rights.secrets.iter().any(|known| is_same(known, secret)))
    }
}

/// The same secret, also after its content changed, or another one with the same content.
fn is_same(known: &Source, secret: &PullSecret) -> bool {
    match (known, secret.source()) {
        (
            Source::Secret { namespace, name, uid, hash },
            Source::Secret { namespace: own_namespace, name: own_name, uid: own_uid, hash: own_hash },
        ) => (namespace, name, uid) == (&own_namespace, &own_name, &own_uid) || *hash == own_hash,
        (Source::Node, _) | (_, Source::Node) => false,
    }
}

fn path(root: &Path, id: &Digest) -> PathBuf {
    root.join(ACCESS).join(id.hex())
}

fn read(root: &Path, id: &Digest) -> Option<Record> {
    match read_bounded(&path(root, id), MAX_RECORD_BYTES) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(StoreError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => None,
        // What cannot be read allows nothing: the next pull writes it anew.
        Err(_) => Some(Record::default()),
    }
}

/// Remembers with whose rights an image was pulled.
pub(super) fn remember(root: &Path, id: &Digest, repository: &str, rights: Option<&Source>) -> Result<(), StoreError> {
    let mut record = read(root, id).unwrap_or_default();
    record.add(repository, rights);
    make_directory(&root.join(ACCESS))?;
    let path = path(root, id);
    let bytes = serde_json::to_vec(&record).map_err(io::Error::other).at("write", &path)?;
    write_file(&path, &bytes)
}

/// Whether a pod with these secrets may have the image under this name.
pub(super) fn allows(
    root: &Path,
    id: &Digest,
    repository: &str,
    secrets: &[PullSecret],
    policy: &AccessPolicy,
) -> bool {
    let record = read(root, id);
    policy.is_for_everybody(repository, record.is_none())
        || record.is_some_and(|record| record.allows(repository, secrets))
}

/// Whether the image came by `image load`: no registry has given it.
pub(super) fn is_loaded(root: &Path, id: &Digest) -> bool {
    read(root, id).is_none()
}

/// The directory with a record for each image id.
pub(super) fn directory(root: &Path) -> PathBuf {
    root.join(ACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::registry::Secret;

    fn secret(name: &str, content: &str) -> PullSecret {
        let text = str::to_owned;
        PullSecret {
            namespace: text("ns"),
            name: text(name),
            uid: text(name),
            legacy: false,
            content: Secret::new(content),
        }
    }

    // IP4
    #[test]
    fn an_image_is_for_those_who_could_pull_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, id) = (dir.path(), Digest::of(b"image"));
        let (mine, other) = (secret("mine", "A"), secret("other", "B"));
        let may = |repository: &str, secrets: &[&PullSecret]| {
            let secrets: Vec<PullSecret> = secrets.iter().map(|secret| (*secret).clone()).collect();
            allows(root, &id, repository, &secrets, &AccessPolicy::default())
        };
        assert!(may("r/x", &[]), "loaded images are for everybody");
        remember(root, &id, "r/x", Some(&mine.source())).unwrap();
        assert!(may("r/x", &[&mine]));
        assert!(may("r/x", &[&secret("mine", "changed")]), "the same secret");
        assert!(may("r/x", &[&secret("copy", "A")]), "the same login");
        assert!(!may("r/x", &[&other]));
        assert!(!may("r/x", &[]));
        assert!(!may("r/y", &[&mine]), "another name was never pulled");
        remember(root, &id, "r/x", None).unwrap();
        assert!(may("r/x", &[]));
        std::fs::write(path(root, &id), "damaged").unwrap();
        assert!(!may("r/x", &[&mine]));
    }

    #[test]
    fn the_policy_says_what_needs_no_proof() {
        use Verification::{AlwaysVerify, NeverVerify, NeverVerifyAllowlistedImages, NeverVerifyPreloadedImages};
        let allowlist = vec!["r/team/*".to_owned(), "r/one".to_owned()];
        for (verification, repository, loaded, pulled) in [
            (NeverVerify, "r/x", true, true),
            (NeverVerifyPreloadedImages, "r/x", true, false),
            (NeverVerifyAllowlistedImages, "r/x", false, false),
            (NeverVerifyAllowlistedImages, "r/one", true, true),
            (NeverVerifyAllowlistedImages, "r/one/more", false, false),
            (NeverVerifyAllowlistedImages, "r/team/app/part", true, true),
            (NeverVerifyAllowlistedImages, "r/teams/app", false, false),
            (AlwaysVerify, "r/one", false, false),
        ] {
            let policy = AccessPolicy { verification, allowlist: allowlist.clone() };
            let found = [true, false].map(|loaded| policy.is_for_everybody(repository, loaded));
            assert_eq!(found, [loaded, pulled], "{verification:?} {repository}");
        }
    }
}
