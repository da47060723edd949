//! Names of images, as docker and Kubernetes read them.
//!
//! `[DOMAIN[:PORT]/]PATH[:TAG][@DIGEST]`. The first component is a domain when it holds a dot or a colon, is `localhost`, or has
//! an upper-case letter; otherwise the image is docker.io's, and a name of one component is in its `library/`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::{BadDigest, Digest};

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_DOMAIN_OLD: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Bytes of domain and path together (the distribution specification's own limit).
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A complete name: the domain and the path are always there, and a tag or a digest is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    #[error("image reference is empty")]
    Empty,
    #[error("image reference {0:?}: repository name must be lowercase")]
    UpperCase(String),
    #[error("image reference {0:?}: {1:?} is not a registry host with an optional port")]
    Domain(String, String),
    #[error(
        "image reference {0:?}: {1:?} is not a repository name: parts of a-z and 0-9, joined by '.', '_', '__' or '-', separated by '/'"
    )]
    Path(String, String),
    #[error("image reference {0:?}: repository name is longer than {MAX_NAME_BYTES} bytes")]
    TooLong(String),
    #[error(
        "image reference {0:?}: {1:?} is not a tag: up to 128 of A-Z, a-z, 0-9, '_', '.', '-', not starting with '.' or '-'"
    )]
    Tag(String, String),
    #[error("image reference {0:?}: {1}")]
    Digest(String, BadDigest),
    #[error("image reference {0:?}: 64 hexadecimal digits are an image id, not a name")]
    ImageId(String),
}

impl Reference {
    /// Registry host and port, such as `docker.io` or `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository without the domain, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: what stands before `@sha256:...` in a container's `imageID`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name of exactly this manifest in this repository: `imageID` of a container's status.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.repository())
    }

    /// The name that an image gets which was asked for by digest: a tag beside it decided nothing.
    pub fn decided(&self) -> Self {
        let tag = if self.digest.is_some() { None } else { self.tag.clone() };
        Self { tag, ..self.clone() }
    }

    /// As people write it: without what is the default.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix(OFFICIAL).unwrap_or(short).to_owned()
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        if text.is_empty() {
            return Err(BadReference::Empty);
        }
        let (rest, digest) = split_digest(text)?;
        let (name, tag) = split_tag(text, rest)?;
        if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadReference::ImageId(clip(text)));
        }
        let (domain, path) = split_domain(name);
        check_name(text, &domain, &path)?;
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { domain, path, tag, digest })
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), BadReference> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((rest, digest)) => match digest.parse() {
            Ok(digest) => Ok((rest, Some(digest))),
            Err(err) => Err(BadReference::Digest(clip(text), err)),
        },
    }
}

/// A colon after the last slash starts a tag; before it, a port.
fn split_tag<'a>(text: &str, rest: &'a str) -> Result<(&'a str, Option<String>), BadReference> {
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    match rest.get(last..).and_then(|part| part.find(':')) {
        None => Ok((rest, None)),
        Some(colon) => {
            let (name, tag) = rest.split_at(last + colon);
            let tag = tag.strip_prefix(':').unwrap_or(tag);
            if is_tag(tag) { Ok((name, Some(tag.to_owned()))) } else { Err(BadReference::Tag(clip(text), clip(tag))) }
        }
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_domain(first) => (first, rest.to_owned()),
        Some(_) | None => (DEFAULT_DOMAIN, name.to_owned()),
    };
    let domain = if domain == DEFAULT_DOMAIN_OLD { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL}{path}"));
    }
    (domain.to_owned(), path)
}

fn looks_like_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_name(text: &str, domain: &str, path: &str) -> Result<(), BadReference> {
    if !is_domain(domain) {
        return Err(BadReference::Domain(clip(text), clip(domain)));
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(BadReference::UpperCase(clip(text)));
    }
    if !path.split('/').all(is_path_component) {
        return Err(BadReference::Path(clip(text), clip(path)));
    }
    if domain.len() + 1 + path.len() > MAX_NAME_BYTES {
        return Err(BadReference::TooLong(clip(text)));
    }
    Ok(())
}

fn is_domain(domain: &str) -> bool {
    if let Some(v6) = domain.strip_prefix('[') {
        let Some((address, port)) = v6.split_once(']') else {
            return false;
        };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
    is_port(port) && host.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Alternating runs of `[a-z0-9]+` and one separator: `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let words = component.as_bytes().split(|b| is_word(*b));
    let separators = words.filter(|gap| !gap.is_empty());
    let ends = [component.bytes().next(), component.bytes().last()];
    ends.iter().all(|end| end.is_some_and(is_word))
        && separators.into_iter().all(|gap| matches!(gap, b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG_BYTES).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// Bounds what a hostile name can put into a message.
fn clip(text: &str) -> String {
    text.chars().take(300).collect()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Reference {
    type Error = BadReference;

    fn try_from(text: String) -> Result<Self, BadReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_resolve_as_docker_does() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:y", "localhost:5000/x:y"),
            ("registry:5000/x", "registry:5000/x:latest"),
            ("quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("Registry/x", "Registry/x:latest"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_may_have_one() {
        let pinned: Reference = format!("busybox@sha256:{HEX}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest().unwrap().hex()), (None, HEX));
        let both: Reference = format!("busybox:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.with_digest(both.digest().unwrap()), format!("docker.io/library/busybox@sha256:{HEX}"));
    }

    #[test]
    fn bad_names_are_refused_with_the_part_that_is_bad() {
        let long = format!("a/{}", "b".repeat(300));
        for (text, part) in [
            ("", "empty"),
            ("Busybox", "must be lowercase"),
            ("a/B", "must be lowercase"),
            ("busybox:", "not a tag"),
            ("busybox:-x", "not a tag"),
            ("busybox:a b", "not a tag"),
            ("busybox@sha256:../../x", "not a digest"),
            ("busybox@md5:00", "not a digest"),
            ("../../etc/passwd", "not a registry host"),
            ("a/../b", "not a repository name"),
            ("a//b", "not a repository name"),
            ("/a", "not a repository name"),
            ("a/", "not a repository name"),
            ("a._b", "not a repository name"),
            ("a___b", "not a repository name"),
            ("-a", "not a repository name"),
            ("host:99999/x", "not a registry host"),
            ("ho_st.x/x", "not a registry host"),
            ("a\n", "not a repository name"),
            ("a:1:2", "not a tag"),
            (HEX, "image id"),
            (&long, "longer than 255"),
        ] {
            let err = text.parse::<Reference>().unwrap_err().to_string();
            assert!(err.contains(part), "{text}: {err}");
        }
    }

    #[test]
    fn the_familiar_form_leaves_the_defaults_out() {
        for (text, familiar) in [("busybox", "busybox:latest"), ("a/b:1", "a/b:1"), ("quay.io/a", "quay.io/a:latest")] {
            assert_eq!(text.parse::<Reference>().unwrap().familiar(), familiar);
        }
    }
}
