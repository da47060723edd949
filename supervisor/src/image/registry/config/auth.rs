//! Logins: pull secrets of a pod, `auth.json`, docker's `config.json` with its helpers.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Paths, helper, read_if_there};
use crate::image::digest::Digest;
use crate::image::registry::{Login, Secret};

/// A secret of a pod or of its service account: `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSecret {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `.dockercfg` has no `auths` around the hosts.
    pub legacy: bool,
    pub content: Secret,
}

/// Whose rights a login is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The node's own files: every pod may have what they open.
    Node,
    Secret {
        namespace: String,
        name: String,
        uid: String,
        /// Digest of the secret's content: another secret with the same logins has the same rights.
        hash: Digest,
    },
}

impl PullSecret {
    pub fn source(&self) -> Source {
        Source::Secret {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            hash: Digest::of(self.content.reveal().as_bytes()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(..)")
    }
}

impl Entry {
    fn login(&self) -> Option<Login> {
        let some = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Secret::new);
        if let Some(token) = some(&self.registrytoken) {
            return Some(Login::RegistryToken(token));
        }
        if let Some(token) = some(&self.identitytoken) {
            return Some(Login::IdentityToken(token));
        }
        if let (Some(user), Some(password)) = (&self.username, some(&self.password)) {
            return Some(Login::Password { user: user.clone(), password });
        }
        let decoded = STANDARD.decode(self.auth.as_deref()?.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        // docker wrote NUL bytes behind passwords once.
        Some(Login::Password { user: user.to_owned(), password: Secret::new(password.trim_end_matches('\0')) })
    }
}

/// Every login that fits a repository: the pod's first, then the node's, the most specific first among each.
pub(super) fn find(
    host: &str,
    repository: &str,
    secrets: &[PullSecret],
    paths: &Paths,
) -> Result<Vec<(Login, Source)>, ConfigError> {
    let mut found = Vec::new();
    for secret in secrets {
        // A secret that nobody can read is as good as none: the pull says what is missing.
        let file = secret_file(secret).unwrap_or_default();
        found.extend(fitting(&file.auths, host, repository).map(|login| (login, secret.source())));
    }
    for path in &paths.auth {
        let Some(text) = read_if_there(path)? else { continue };
        let syntax = |cause: serde_json::Error| ConfigError::Syntax { path: path.clone(), cause: cause.to_string() };
        let legacy = path.file_name().is_some_and(|name| name == ".dockercfg");
        let file = parse(&text, legacy).map_err(syntax)?;
        let helper = fitting_helper(&file, host);
        if let Some(login) = helper.and_then(|(helper, server)| helper::ask(helper, &server)) {
            found.push((login, Source::Node));
        }
        found.extend(fitting(&file.auths, host, repository).map(|login| (login, Source::Node)));
    }
    Ok(found)
}

fn secret_file(secret: &PullSecret) -> Result<File, serde_json::Error> {
    parse(secret.content.reveal(), secret.legacy)
}

fn parse(text: &str, legacy: bool) -> Result<File, serde_json::Error> {
    if legacy {
        return Ok(File { auths: serde_json::from_str(text)?, ..File::default() });
    }
    serde_json::from_str(text)
}

fn fitting(auths: &BTreeMap<String, Entry>, host: &str, repository: &str) -> impl Iterator<Item = Login> {
    let mut keys: Vec<(String, Login)> = auths
        .iter()
        .filter(|(key, _)| fits(key, host, repository))
        .filter_map(|(key, entry)| Some((normal(key), entry.login()?)))
        .collect();
    // The longest path first; after that the order is fixed and means nothing.
    keys.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| b.cmp(a)));
    keys.into_iter().map(|(_, login)| login)
}

/// `https://index.docker.io/v1/` is what docker calls `docker.io`.
fn normal(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    match path {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

/// As the kubelet matches: globs within each label of the host, equal ports, a path that begins the repository (IP8).
fn fits(key: &str, host: &str, repository: &str) -> bool {
    let key = normal(key);
    let (key_host, path) = key.split_once('/').unwrap_or((&key, ""));
    let (key_name, key_port) = split_port(key_host);
    let (name, port) = split_port(host);
    let (globs, labels): (Vec<_>, Vec<_>) = (key_name.split('.').collect(), name.split('.').collect());
    key_port == port
        && globs.len() == labels.len()
        && globs.iter().zip(&labels).all(|(glob, label)| glob_fits(glob.as_bytes(), label.as_bytes()))
        && repository.starts_with(path)
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        Some(_) | None => (host, ""),
    }
}

/// `*` and `?` within one label.
fn glob_fits(glob: &[u8], text: &[u8]) -> bool {
    match (glob, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            glob_fits(rest, text) || text.split_first().is_some_and(|(_, text)| glob_fits(glob, text))
        }
        ([b'?', glob @ ..], [_, text @ ..]) => glob_fits(glob, text),
        ([a, glob @ ..], [b, text @ ..]) if a == b => glob_fits(glob, text),
        _ => false,
    }
}

/// Which program keeps the logins for a host, and what it calls the host.
fn fitting_helper<'a>(file: &'a File, host: &str) -> Option<(&'a str, String)> {
    let named = file.cred_helpers.iter().find(|(key, _)| normal(key) == host);
    if let Some((key, helper)) = named {
        return Some((helper, key.clone()));
    }
    let store = file.creds_store.as_deref().filter(|store| !store.is_empty())?;
    let known = file.auths.keys().find(|key| normal(key) == host).cloned();
    let docker = (host == super::DOCKER).then(|| "https://index.docker.io/v1/".to_owned());
    Some((store, known.or(docker).unwrap_or_else(|| host.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    // IP8
    #[test]
    fn keys_match_by_label_port_and_path() {
        for (key, host, repository, expected) in [
            ("https://index.docker.io/v1/", "docker.io", "library/nginx", true),
            ("docker.io", "docker.io", "library/nginx", true),
            ("quay.io/team", "quay.io", "team/x", true),
            ("quay.io/team", "quay.io", "other/x", false),
            ("*.example.com", "r.example.com", "x", true),
            ("*.example.com", "a.r.example.com", "x", false),
            ("*.example.com", "example.com", "x", false),
            ("r.example.com", "r.example.com:5000", "x", false),
            ("r*.example.com:5000", "r12.example.com:5000", "x", true),
            ("http://127.0.0.1:5000", "127.0.0.1:5000", "x", true),
        ] {
            assert_eq!(fits(key, host, repository), expected, "{key} {host}/{repository}");
        }
    }

    fn secret(content: &str, legacy: bool) -> PullSecret {
        PullSecret {
            namespace: "ns".to_owned(),
            name: "s".to_owned(),
            uid: "u".to_owned(),
            legacy,
            content: Secret::new(content),
        }
    }

    #[test]
    fn pods_secrets_come_before_the_nodes_files_and_long_paths_before_short_ones() {
        let dir = tempfile::tempdir().unwrap();
        let auth = dir.path().join("auth.json");
        // dTpub2Rl is u:node
        std::fs::write(&auth, r#"{"auths":{"r.lan":{"auth":"dTpub2Rl"}}}"#).unwrap();
        let paths = Paths {
            registries_conf: dir.path().join("none"),
            registries_conf_d: dir.path().join("none"),
            certs_d: Vec::new(),
            policy: dir.path().join("none"),
            auth: vec![dir.path().join("missing"), auth],
        };
        let secrets = [
            secret(
                r#"{"auths":{"r.lan":{"username":"u","password":"short"},"r.lan/a":{"username":"u","password":"long"}}}"#,
                false,
            ),
            secret(r#"{"r.lan":{"username":"u","password":"old","email":"e"}}"#, true),
            secret("nonsense", false),
        ];
        let found = find("r.lan", "a/b", &secrets, &paths).unwrap();
        let passwords: Vec<&str> = found
            .iter()
            .map(|(login, _)| match login {
                Login::Password { password, .. } => password.reveal(),
                Login::IdentityToken(_) | Login::RegistryToken(_) => "",
            })
            .collect();
        assert_eq!(passwords, ["long", "short", "old", "node"]);
        assert_eq!(found.last().unwrap().1, Source::Node);
    }

    #[test]
    fn docker_entries_of_every_kind_are_logins() {
        let login = |json: &str| serde_json::from_str::<Entry>(json).unwrap().login();
        let password = Login::Password { user: "u".to_owned(), password: Secret::new("p:q") };
        assert_eq!(login(r#"{"auth":"dTpwOnE="}"#), Some(password));
        assert_eq!(login(r#"{"identitytoken":"t"}"#), Some(Login::IdentityToken(Secret::new("t"))));
        assert_eq!(login(r#"{"registrytoken":"t"}"#), Some(Login::RegistryToken(Secret::new("t"))));
        for none in ["{}", r#"{"auth":"%%"}"#, r#"{"auth":""}"#, r#"{"username":"u"}"#] {
            assert_eq!(login(none), None, "{none}");
        }
    }
}
