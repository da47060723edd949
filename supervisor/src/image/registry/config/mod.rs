//! What administrators and users have written about registries, in the files that other tools read, too.

pub mod auth;
mod certs;
mod helper;
mod policy;
mod registries;

use std::path::PathBuf;

use super::{Credential, Endpoint, Job};
use crate::image::reference::Reference;

pub use auth::{PullSecret, Source};

/// Docker's default registry has this name in references and another in the network.
const DOCKER: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";

/// Why nothing is asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("registry {registry} is blocked in {}", .path.display())]
    Blocked { registry: String, path: PathBuf },
    #[error("image {image} needs {requirement} by {}, and signatures are not checked here", .path.display())]
    Policy { image: String, path: PathBuf, requirement: String },
    #[error("{call} {}: {cause}", .path.display())]
    Io { call: &'static str, path: PathBuf, cause: std::io::Error },
    #[error("{}: {cause}", .path.display())]
    Syntax { path: PathBuf, cause: String },
    #[error("{}: location {location:?} for {name} is no repository: {cause}", .path.display())]
    Location { path: PathBuf, location: String, name: String, cause: String },
}

/// Where these files are; other places in tests.
#[derive(Debug, Clone)]
pub struct Paths {
    pub registries_conf: PathBuf,
    pub registries_conf_d: PathBuf,
    pub certs_d: Vec<PathBuf>,
    pub policy: PathBuf,
    /// Files with logins, the most specific first; those that are missing are skipped.
    pub auth: Vec<PathBuf>,
}

impl Paths {
    /// containers-registries.conf(5), containers-certs.d(5), containers-auth.json(5), docker-login(1).
    pub fn of_this_machine() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = variable("HOME").unwrap_or_else(|| "/root".into());
        let runtime = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| "/run".into());
        let own = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let docker = variable("DOCKER_CONFIG").unwrap_or_else(|| home.join(".docker"));
        let auth = variable("REGISTRY_AUTH_FILE").into_iter().chain([
            runtime.join("containers/auth.json"),
            "/run/containers/0/auth.json".into(),
            own.join("containers/auth.json"),
            docker.join("config.json"),
            home.join(".dockercfg"),
        ]);
        Self {
            registries_conf: variable("CONTAINERS_REGISTRIES_CONF")
                .unwrap_or_else(|| "/etc/containers/registries.conf".into()),
            registries_conf_d: "/etc/containers/registries.conf.d".into(),
            certs_d: vec!["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()],
            policy: "/etc/containers/policy.json".into(),
            auth: auth.collect(),
        }
    }
}

/// What the fetcher gets, and whose logins are in it: [`Credential::source`] is a place in the list.
#[derive(Debug)]
pub struct Plan {
    pub job: Job,
    pub sources: Vec<Source>,
}

/// Decides where an image may come from, and as whom to ask. `name` is what the user wrote, `secrets` are the pod's.
pub fn plan(name: &str, reference: &Reference, secrets: &[PullSecret], paths: &Paths) -> Result<Plan, ConfigError> {
    policy::check(reference, &paths.policy)?;
    let registries = registries::read(paths)?;
    let places = registries.places(name, reference)?;
    let mut sources = Vec::new();
    let mut endpoints = Vec::new();
    for place in places {
        let logins = auth::find(&place.host, &place.repository, secrets, paths)?;
        let mut credentials = Vec::new();
        for (login, source) in logins {
            let known = sources.iter().position(|known| *known == source);
            let source = known.unwrap_or_else(|| {
                sources.push(source);
                sources.len() - 1
            });
            credentials.push(Credential { login, source });
        }
        let (authorities, identity) = certs::find(&place.host, &paths.certs_d)?;
        let host = if place.host == DOCKER { DOCKER_HOST.to_owned() } else { place.host };
        let insecure = place.insecure || is_loopback(&host);
        let repository = place.repository;
        endpoints.push(Endpoint {
            host,
            repository,
            insecure,
            digests_only: place.digests_only,
            authorities,
            identity,
            credentials,
        });
    }
    Ok(Plan { job: Job { endpoints }, sources })
}

/// Registries on this machine need no TLS, as docker has it: nobody can listen in between.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The content of a file, or none when it is not there.
fn read_if_there(path: &std::path::Path) -> Result<Option<String>, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(cause) => Err(ConfigError::Io { call: "read", path: path.to_owned(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_registries_may_do_without_tls_unasked() {
        for (host, loopback) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }
}
