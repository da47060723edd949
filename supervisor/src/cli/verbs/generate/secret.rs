//! `monopod create secret`

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use x509_parser::pem::Pem;

use super::super::client::error::VerbError;
use super::object;
use super::source::{Sources, encoded, read};

/// Whose credentials they are when nobody says: Docker Hub's, by its old name.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What nobody else may read
#[derive(Debug, clap::Subcommand)]
pub(in super::super) enum Secret {
    Generic(Generic),
    DockerRegistry(DockerRegistry),
    Tls(Tls),
}

/// Texts and files: `create secret generic NAME --from-literal KEY=VALUE --from-file FILE`
#[derive(Debug, clap::Args)]
pub(in super::super) struct Generic {
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    sources: Sources,
    /// Type, which says which keys there are
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

/// Credentials for a registry of images
#[derive(Debug, clap::Args)]
pub(in super::super) struct DockerRegistry {
    #[arg(value_name = "NAME")]
    name: String,
    #[arg(long, value_name = "USER")]
    docker_username: Option<String>,
    #[arg(long, value_name = "PASSWORD")]
    docker_password: Option<String>,
    #[arg(long, value_name = "EMAIL")]
    docker_email: Option<String>,
    /// Registry
    #[arg(long, value_name = "SERVER", default_value = DOCKER_HUB)]
    docker_server: String,
    /// A file that `docker login` wrote, instead
    #[arg(long, value_name = "[.dockerconfigjson=]PATH")]
    from_file: Option<String>,
}

/// A certificate with its key
#[derive(Debug, clap::Args)]
pub(in super::super) struct Tls {
    #[arg(value_name = "NAME")]
    name: String,
    /// Certificate, PEM
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Private key, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Secret {
    pub(super) fn object(&self) -> Result<Value, VerbError> {
        match self {
            Self::Generic(command) => command.object(),
            Self::DockerRegistry(command) => command.object(),
            Self::Tls(command) => command.object(),
        }
        .map_err(VerbError::Usage)
    }
}

fn secret<'d>(name: &str, kind: Option<&str>, data: impl IntoIterator<Item = (&'d str, &'d [u8])>) -> Value {
    let mut secret = object("v1", "Secret", name);
    if let Some(kind) = kind {
        secret["type"] = kind.into();
    }
    for (key, value) in data {
        secret["data"][key] = encoded(value).into();
    }
    secret
}

impl Generic {
    fn object(&self) -> Result<Value, String> {
        let data = self.sources.read("Secret", &self.name)?;
        Ok(secret(&self.name, self.kind.as_deref(), data.iter().map(|(key, value)| (key.as_str(), value.as_slice()))))
    }
}

impl DockerRegistry {
    fn object(&self) -> Result<Value, String> {
        const KEY: &str = ".dockerconfigjson";
        let config = match (&self.from_file, &self.docker_username, &self.docker_password) {
            (Some(file), None, None) => {
                let bytes = read(Path::new(file.strip_prefix(".dockerconfigjson=").unwrap_or(file)))?;
                serde_json::from_slice::<Map<String, Value>>(&bytes).map_err(|error| format!("{file}: {error}"))?;
                bytes
            }
            (None, Some(user), Some(password)) => self.config(user, password).to_string().into_bytes(),
            _ => {
                return Err("either --from-file or the combination of --docker-username, --docker-password and \
                            --docker-server is required"
                    .to_owned());
            }
        };
        Ok(secret(&self.name, Some("kubernetes.io/dockerconfigjson"), [(KEY, config.as_slice())]))
    }

    fn config(&self, user: &str, password: &str) -> Value {
        let auth = encoded(format!("{user}:{password}").as_bytes());
        let mut entry = json!({"username": user, "password": password, "auth": auth});
        if let Some(email) = &self.docker_email {
            entry["email"] = email.as_str().into();
        }
        json!({"auths": {self.docker_server.as_str(): entry}})
    }
}

impl Tls {
    fn object(&self) -> Result<Value, String> {
        let (cert, key) = (pem(&self.cert, "certificate")?, pem(&self.key, "key")?);
        Ok(secret(&self.name, Some("kubernetes.io/tls"), [("tls.crt", cert.as_slice()), ("tls.key", key.as_slice())]))
    }
}

fn pem(path: &Path, what: &str) -> Result<Vec<u8>, String> {
    let bytes = read(path)?;
    match Pem::iter_from_buffer(&bytes).next() {
        Some(Ok(_)) => Ok(bytes),
        Some(Err(_)) | None => Err(format!("tls: failed to find any PEM data in {what} input")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::made;
    use super::*;

    #[test]
    fn secrets_hold_encoded_bytes() {
        let generic = made(&["secret", "generic", "s", "--from-literal=a=b"]).unwrap();
        let expected = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "Yg=="}});
        assert_eq!(generic, expected);
        assert_eq!(made(&["secret", "generic", "s", "--type=x/y"]).unwrap()["type"], "x/y");
    }

    #[test]
    fn credentials_are_written_as_docker_writes_them() {
        let arguments = ["secret", "docker-registry", "r", "--docker-username=u", "--docker-password=p"];
        let made_of = made(&arguments).unwrap();
        assert_eq!(made_of["type"], "kubernetes.io/dockerconfigjson");
        use base64::Engine as _;
        let text = made_of["data"][".dockerconfigjson"].as_str().unwrap();
        let config: Value =
            serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap();
        assert_eq!(config, json!({"auths": {DOCKER_HUB: {"username": "u", "password": "p", "auth": "dTpw"}}}));
        let error = made(&arguments[..4]).unwrap_err();
        assert!(error.contains("either --from-file or the combination"), "{error}");
    }

    #[test]
    fn a_key_pair_is_pem() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
        std::fs::write(&good, "-----BEGIN X-----\nAAAA\n-----END X-----\n").unwrap();
        std::fs::write(&bad, "text").unwrap();
        let tls = |cert: &Path, key: &Path| {
            made(&["secret", "tls", "t", &format!("--cert={}", cert.display()), &format!("--key={}", key.display())])
        };
        assert_eq!(tls(&good, &good).unwrap()["type"], "kubernetes.io/tls");
        assert_eq!(tls(&bad, &good), Err("error: tls: failed to find any PEM data in certificate input".to_owned()));
        assert_eq!(tls(&good, &bad), Err("error: tls: failed to find any PEM data in key input".to_owned()));
    }
}
