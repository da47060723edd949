//! The file that `KUBECONFIG` names.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::issue::Pair;
use super::{PkiError, files};

/// Cluster, user and context in it.
const NAME: &str = "monopod";

pub(super) fn write(path: &Path, server: &str, ca: &str, admin: &Pair) -> Result<(), PkiError> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": NAME,
        "preferences": {},
        "clusters": [{"name": NAME, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": NAME, "user": {
            "client-certificate-data": STANDARD.encode(&admin.certificate),
            "client-key-data": STANDARD.encode(&admin.key),
        }}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
    });
    let text = serde_saphyr::to_string(&config)
        .map_err(|error| PkiError::Unreadable { path: path.to_owned(), cause: error.to_string() })?;
    files::write(path, &text)
}
