//! `policy.json` (containers-policy.json(5)): which images need a signature, and which are refused outright.
//!
//! Signatures are not checked here. So an image that must be signed is refused, and never taken on trust.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{ConfigError, read_if_there};
use crate::image::reference::Reference;

#[derive(Debug, Deserialize)]
struct File {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

/// Refuses an image that the machine's policy does not let in as it is. Without the file everything may come, as with docker.
pub(super) fn check(reference: &Reference, path: &Path) -> Result<(), ConfigError> {
    let Some(text) = read_if_there(path)? else { return Ok(()) };
    let syntax = |error: serde_json::Error| ConfigError::Syntax { path: path.to_owned(), cause: error.to_string() };
    let file: File = serde_json::from_str(&text).map_err(syntax)?;
    let bad = file.requirements(reference).iter().find(|requirement| requirement.kind != "insecureAcceptAnything");
    match bad {
        None => Ok(()),
        Some(requirement) => Err(ConfigError::Policy {
            image: reference.familiar(),
            path: path.to_owned(),
            requirement: requirement.kind.clone(),
        }),
    }
}

impl File {
    /// Of the most specific scope: the whole name, the repository and what is above it, `*.` domains, all of the transport.
    fn requirements(&self, reference: &Reference) -> &[Requirement] {
        let scopes = self.transports.get("docker");
        let found = candidates(reference).into_iter().find_map(|scope| scopes?.get(&scope));
        found.unwrap_or(&self.default)
    }
}

fn candidates(reference: &Reference) -> Vec<String> {
    let repository = reference.repository();
    let mut all = vec![reference.to_string(), repository.clone()];
    let mut rest = repository.as_str();
    while let Some((above, _)) = rest.rsplit_once('/') {
        all.push(above.to_owned());
        rest = above;
    }
    let mut host = rest.split(':').next().unwrap_or_default();
    while let Some((_, domain)) = host.split_once('.') {
        all.push(format!("*.{domain}"));
        host = domain;
    }
    all.push(String::new());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {
            "r.test": [{"type": "reject"}],
            "r.test/open": [{"type": "insecureAcceptAnything"}],
            "*.signed.test": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]
        }}
    }"#;

    #[test]
    fn the_most_specific_scope_decides_and_unchecked_signatures_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        let check = |name: &str| check(&name.parse().unwrap(), &path).map_err(|error| error.to_string());
        assert_eq!(check("r.test/x"), Ok(()), "no file");
        std::fs::write(&path, POLICY).unwrap();
        for (name, refused) in [
            ("nginx", None),
            ("r.test/x", Some("reject")),
            ("r.test/open/x:1", None),
            ("r.test/opener", Some("reject")),
            ("a.b.signed.test:5000/x", Some("signedBy")),
            ("signed.test/x", None),
        ] {
            let said = check(name).err();
            assert_eq!(said.is_some(), refused.is_some(), "{name}: {said:?}");
            assert!(said.unwrap_or_default().contains(refused.unwrap_or_default()), "{name}");
        }
        std::fs::write(&path, "{").unwrap();
        assert!(check("nginx").is_err(), "a policy that nobody can read lets nothing in");
    }
}
