//! `registries.conf`, version 2: mirrors, other locations, blocked and insecure registries, aliases of short names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, Paths, read_if_there};
use crate::image::reference::Reference;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Version 1 is told from version 2 by this table.
    registries: Option<toml::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFrom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// All files together.
#[derive(Debug, Default)]
pub(super) struct Registries {
    registries: Vec<Registry>,
    aliases: BTreeMap<String, String>,
}

/// A repository of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) repository: String,
    pub(super) insecure: bool,
    pub(super) digests_only: bool,
}

pub(super) fn read(paths: &Paths) -> Result<Registries, ConfigError> {
    let mut all = Registries::default();
    let mut files = vec![paths.registries_conf.clone()];
    files.extend(drop_ins(&paths.registries_conf_d)?);
    for path in files {
        if let Some(text) = read_if_there(&path)? {
            all.add(&text, &path)?;
        }
    }
    Ok(all)
}

fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(ConfigError::Io { call: "readdir", path: dir.to_owned(), cause }),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|ext| ext == "conf")).collect();
    paths.sort();
    Ok(paths)
}

impl Registries {
    /// A later file replaces entries of the same prefix.
    fn add(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let syntax = |cause: String| ConfigError::Syntax { path: path.to_owned(), cause };
        let file: File = toml::from_str(text).map_err(|error| syntax(error.to_string()))?;
        if file.registries.is_some() {
            return Err(syntax("version 1 of the format, which is not read: write [[registry]] tables".to_owned()));
        }
        for mut registry in file.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            if registry.location.is_empty() && !registry.prefix.starts_with("*.") {
                registry.location.clone_from(&registry.prefix);
            }
            if registry.prefix.is_empty() {
                return Err(syntax("a [[registry]] has neither prefix nor location".to_owned()));
            }
            path.clone_into(&mut registry.path);
            self.registries.retain(|known| known.prefix != registry.prefix);
            self.registries.push(registry);
        }
        self.aliases.extend(file.aliases);
        Ok(())
    }

    /// Where to ask for an image, in order.
    pub(super) fn places(&self, name: &str, reference: &Reference) -> Result<Vec<Place>, ConfigError> {
        let reference = self.aliased(name, reference)?;
        let full = reference.repository();
        let plain = Place {
            host: reference.domain().to_owned(),
            repository: reference.path().to_owned(),
            insecure: false,
            digests_only: false,
        };
        let Some(registry) = self.matching(&full) else {
            return Ok(vec![plain]);
        };
        if registry.blocked {
            return Err(ConfigError::Blocked { registry: registry.prefix.clone(), path: registry.path.clone() });
        }
        let by_digest = reference.digest().is_some();
        let mut places = Vec::new();
        for mirror in &registry.mirror {
            let fits = match mirror.pull_from_mirror {
                PullFrom::All => by_digest || !registry.mirror_by_digest_only,
                PullFrom::DigestOnly => by_digest,
                PullFrom::TagOnly => !by_digest,
            };
            if fits {
                places.push(registry.place(&full, &mirror.location, mirror.insecure)?);
            }
        }
        places.push(registry.place(&full, &registry.location, registry.insecure)?);
        Ok(places)
    }

    fn aliased(&self, name: &str, reference: &Reference) -> Result<Reference, ConfigError> {
        let short = name.split(['@', ':']).next().unwrap_or_default();
        let target = self.aliases.get(short).filter(|target| !short.contains('/') && !target.is_empty());
        let Some(target) = target else { return Ok(reference.clone()) };
        let rest = name.get(short.len()..).unwrap_or_default();
        format!("{target}{rest}").parse().map_err(|error: crate::image::reference::BadReference| {
            ConfigError::Location {
                path: "registries.conf".into(),
                location: target.clone(),
                name: name.to_owned(),
                cause: error.to_string(),
            }
        })
    }

    /// The longest prefix that fits.
    fn matching(&self, full: &str) -> Option<&Registry> {
        let fitting = self.registries.iter().filter(|registry| matched(&registry.prefix, full).is_some());
        fitting.max_by_key(|registry| registry.prefix.len())
    }
}

/// How many bytes of a repository's full name a prefix covers.
fn matched(prefix: &str, full: &str) -> Option<usize> {
    if let Some(suffix) = prefix.strip_prefix('*') {
        let host = full.split('/').next().unwrap_or_default();
        return host.strip_suffix(suffix).is_some_and(|label| !label.is_empty()).then_some(host.len());
    }
    let rest = full.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

impl Registry {
    /// The part of the name that the prefix covers is replaced by a location.
    fn place(&self, full: &str, location: &str, insecure: bool) -> Result<Place, ConfigError> {
        let covered = matched(&self.prefix, full).unwrap_or_default();
        let rest = full.get(covered..).unwrap_or_default();
        let name = if location.is_empty() { full.to_owned() } else { format!("{location}{rest}") };
        let split = name.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty());
        let Some((host, repository)) = split else {
            return Err(ConfigError::Location {
                path: self.path.clone(),
                location: location.to_owned(),
                name: full.to_owned(),
                cause: "want HOST/PATH".to_owned(),
            });
        };
        let digests_only = false;
        Ok(Place { host: host.to_owned(), repository: repository.to_owned(), insecure, digests_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(conf: &str, name: &str) -> Result<Vec<String>, String> {
        let mut all = Registries::default();
        all.add(conf, Path::new("registries.conf")).map_err(|error| error.to_string())?;
        let found = all.places(name, &name.parse().unwrap()).map_err(|error| error.to_string())?;
        let show = |place: &Place| {
            format!("{}/{}{}", place.host, place.repository, if place.insecure { " insecure" } else { "" })
        };
        Ok(found.iter().map(show).collect())
    }

    const CONF: &str = r#"
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.lan:5000/hub"
        insecure = true
        [[registry.mirror]]
        location = "second.lan/hub"
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "example.com/foo"
        location = "internal.lan/bar"
        [[registry]]
        prefix = "*.bad.com"
        blocked = true
        [[registry]]
        prefix = "*.lab.net"
        insecure = true
        [aliases]
        "tool" = "quay.io/team/tool"
    "#;

    #[test]
    fn mirrors_locations_and_aliases_as_containers_tools_read_them() {
        for (name, expected) in [
            ("nginx", vec!["mirror.lan:5000/hub/library/nginx insecure", "docker.io/library/nginx"]),
            ("example.com/foo/x:1", vec!["internal.lan/bar/x"]),
            ("example.com/foobar/x", vec!["example.com/foobar/x"]),
            ("tool:2", vec!["quay.io/team/tool"]),
            ("r.lab.net/x", vec!["r.lab.net/x insecure"]),
            ("elsewhere.com/x", vec!["elsewhere.com/x"]),
        ] {
            assert_eq!(places(CONF, name).unwrap(), expected, "{name}");
        }
        let digest = format!("nginx@sha256:{}", "0".repeat(64));
        assert_eq!(places(CONF, &digest).unwrap().len(), 3);
    }

    #[test]
    fn a_blocked_registry_is_named_with_its_file() {
        let error = places(CONF, "r.bad.com/x").unwrap_err();
        assert_eq!(error, "registry *.bad.com is blocked in registries.conf");
        assert!(places(CONF, "bad.com/x").is_ok());
    }

    #[test]
    fn what_is_not_version_2_is_refused() {
        for conf in ["[registries.search]\nregistries = []", "[[registry]]\ninsecure = true", "[[registry"] {
            assert!(places(conf, "x").is_err(), "{conf}");
        }
    }
}
