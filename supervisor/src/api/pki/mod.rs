//! The server's own certificates: a CA, a server certificate, the administrator's client certificate and the kubeconfig
//! that carries it. Made at the first start, renewed before they end, without a restart.

mod files;
mod issue;
mod kubeconfig;
mod tls;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use tls::{Served, acceptor, user_of};

/// What is wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{operation} {path}: {cause}")]
    Io { operation: &'static str, path: PathBuf, cause: std::io::Error },
    #[error("sign the certificate of {subject}: {cause}")]
    Sign { subject: &'static str, cause: rcgen::Error },
    #[error("{path} is damaged: {cause}")]
    Damaged { path: PathBuf, cause: &'static str },
    #[error("{path}: {cause}")]
    Unreadable { path: PathBuf, cause: String },
    #[error("set up TLS: {0}")]
    Tls(String),
}

/// Days that a server or client certificate is valid.
const LEAF_DAYS: i64 = 365;
/// Days before its end at which it is replaced.
const RENEWAL_DAYS: i64 = 60;
/// Days that the CA is valid: longer than machines live.
const CA_DAYS: i64 = 20 * 365;

/// Where the server is reached, and where its files are.
#[derive(Debug, Clone)]
pub struct Names {
    /// Beside `localhost` and the names of the service `kubernetes`.
    pub hosts: Vec<String>,
    /// Beside loopback.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// All names that the certificate holds.
    fn all(&self) -> Vec<String> {
        let mut all: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
            "::1",
        ]
        .map(str::to_owned)
        .into();
        all.extend(self.hosts.iter().cloned());
        all.extend(self.addresses.iter().map(ToString::to_string));
        all.sort();
        all.dedup();
        all
    }
}

/// The certificates on the disk.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    kubeconfig: PathBuf,
    names: Names,
    /// The port that the kubeconfig points at.
    server: String,
    /// The CA's certificate, PEM: what clients trust, and `ca.crt` in pods.
    pub ca: String,
    served: std::sync::Arc<Served>,
}

impl Pki {
    /// Opens what is in `<config>/pki`, makes what is missing and writes `<config>/kubeconfig` for `server` (a URL).
    ///
    /// # Errors
    /// Files can't be read or written, or are not what they should be.
    pub fn open(config: &Path, names: Names, server: String, now: Timestamp) -> Result<Self, PkiError> {
        let dir = config.join("pki");
        files::make_dir(&dir)?;
        let ca = match issue::authority(&dir, now) {
            Err(error @ (PkiError::Damaged { .. } | PkiError::Sign { .. })) => {
                // A node without its API can't be mended over it.
                tracing::error!("{error}; put aside, and a new CA made: clients need the new kubeconfig");
                issue::put_aside(&dir)?;
                issue::authority(&dir, now)?
            }
            other => other?,
        };
        let mut pki = Self {
            kubeconfig: config.join("kubeconfig"),
            dir,
            names,
            server,
            ca: ca.pem.clone(),
            served: std::sync::Arc::default(),
        };
        pki.renew_with(&ca, now)?;
        pki.ca = ca.pem;
        Ok(pki)
    }

    /// Replaces what ends soon. Connections that begin afterwards see the new certificate.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn renew(&self, now: Timestamp) -> Result<(), PkiError> {
        let ca = issue::authority(&self.dir, now)?;
        self.renew_with(&ca, now)
    }

    fn renew_with(&self, ca: &issue::Authority, now: Timestamp) -> Result<(), PkiError> {
        let server = issue::server(&self.dir, ca, &self.names.all(), now)?;
        self.served.set(&server)?;
        let admin = issue::administrator(&self.dir, ca, now)?;
        kubeconfig::write(&self.kubeconfig, &self.server, &ca.pem, &admin)
    }

    /// What the TLS listener uses.
    ///
    /// # Errors
    /// The CA's certificate is refused.
    pub fn acceptor(&self) -> Result<tokio_rustls::TlsAcceptor, PkiError> {
        acceptor(&self.ca, std::sync::Arc::clone(&self.served))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names() -> Names {
        Names { hosts: vec!["node1".to_owned()], addresses: vec!["10.0.0.7".parse().unwrap()] }
    }

    fn open(dir: &Path, names: Names, now: Timestamp) -> Pki {
        Pki::open(dir, names, "https://127.0.0.1:6443".to_owned(), now).unwrap()
    }

    fn read(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn a_second_start_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let ca = open(dir.path(), names(), now).ca;
        let files = ["pki/ca.crt", "pki/server.crt", "pki/admin.crt", "kubeconfig"];
        let before = files.map(|name| read(dir.path(), name));
        assert_eq!(open(dir.path(), names(), now).ca, ca);
        assert_eq!(files.map(|name| read(dir.path(), name)), before);
    }

    #[test]
    fn certificates_that_end_soon_are_replaced_and_the_ca_stays() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = open(dir.path(), names(), now);
        let files = ["pki/ca.crt", "pki/server.crt", "pki/admin.crt", "kubeconfig"];
        let before = files.map(|name| read(dir.path(), name));
        let day = jiff::SignedDuration::from_hours(24);
        let later = |days: i32| now + day * days;
        pki.renew(later(i32::try_from(LEAF_DAYS - RENEWAL_DAYS).unwrap() - 2)).unwrap();
        assert_eq!(files.map(|name| read(dir.path(), name)), before);
        pki.renew(later(i32::try_from(LEAF_DAYS - RENEWAL_DAYS).unwrap() + 2)).unwrap();
        let after = files.map(|name| read(dir.path(), name));
        assert_eq!(after[0], before[0]);
        assert!((1..4).all(|index| after[index] != before[index]));
    }

    /// F15: whatever happened to a file, the node comes up, and only a damaged CA is another afterwards.
    #[test]
    fn a_damaged_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        for name in ["ca.crt", "ca.key", "server.crt", "server.key", "admin.crt", "admin.key"] {
            let path = dir.path().join("pki").join(name);
            let ca = open(dir.path(), names(), now).ca;
            let good = std::fs::read(&path).unwrap();
            // In the middle of what Base64 stands for.
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 0x03;
            for bad in [Vec::new(), good[..good.len() / 2].to_vec(), vec![0xff; good.len()], flipped] {
                let ca_before = read(dir.path(), "pki/ca.crt");
                std::fs::write(&path, &bad).unwrap();
                let new = open(dir.path(), names(), now);
                assert_ne!(std::fs::read(&path).unwrap(), bad, "{name}");
                assert_eq!(new.ca == ca_before, !name.starts_with("ca"), "{name}");
                assert_eq!(open(dir.path(), names(), now).ca, new.ca, "{name}: and stays");
            }
            assert_eq!(std::fs::exists(path.with_extension("crt.damaged")).unwrap(), name.starts_with("ca"), "{ca}");
        }
    }

    #[test]
    fn a_new_name_of_the_machine_makes_a_new_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        open(dir.path(), names(), now);
        let before = read(dir.path(), "pki/server.crt");
        open(dir.path(), Names { hosts: vec!["node2".to_owned()], ..names() }, now);
        assert_ne!(read(dir.path(), "pki/server.crt"), before);
    }

    #[test]
    fn keys_and_the_kubeconfig_are_for_root_alone() {
        // D30
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), names(), Timestamp::now());
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("pki"), 0o700);
        for name in ["pki/ca.key", "pki/server.key", "pki/admin.key", "kubeconfig"] {
            assert_eq!(mode(name), 0o600, "{name}");
        }
    }
}
