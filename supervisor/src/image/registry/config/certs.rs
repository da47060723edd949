//! `certs.d/HOST[:PORT]/`: authorities (`*.crt`) and our own certificate (`*.cert`, `*.key`) for one registry.

use std::path::{Path, PathBuf};

use super::{ConfigError, read_if_there};
use crate::image::registry::Secret;

type Found = (Vec<String>, Option<(String, Secret)>);

/// What all directories have for a host.
pub(super) fn find(host: &str, dirs: &[PathBuf]) -> Result<Found, ConfigError> {
    let mut authorities = Vec::new();
    let mut identity = None;
    for dir in dirs {
        for path in files(&dir.join(host))? {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension == Some("crt") {
                authorities.extend(read_if_there(&path)?);
            } else if extension == Some("cert")
                && identity.is_none()
                && let (Some(certificate), Some(key)) =
                    (read_if_there(&path)?, read_if_there(&path.with_extension("key"))?)
            {
                identity = Some((certificate, Secret::new(key)));
            }
        }
    }
    Ok((authorities, identity))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(ConfigError::Io { call: "readdir", path: dir.to_owned(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_directory_has_its_port_in_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("ca.crt", "A"), ("me.cert", "B"), ("me.key", "C"), ("readme", "D")] {
            let path = dir.path().join("r.lan:5000");
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(name), text).unwrap();
        }
        let (authorities, identity) = find("r.lan:5000", &[dir.path().to_owned()]).unwrap();
        assert_eq!(authorities, ["A"]);
        assert_eq!(identity.unwrap().0, "B");
        assert_eq!(find("r.lan", &[dir.path().to_owned()]).unwrap(), (Vec::new(), None));
    }
}
