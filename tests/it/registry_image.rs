//! Images of a test's own, byte by byte: no builder would make what some of them hold.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::registry::Registry;

/// Blocks of an archive.
const BLOCK: usize = 512;

/// One tar entry, with any name and content whatever.
pub fn entry(flag: u8, path: &str, link: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(flag, path, link, mode, content.len() as u64);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// The header of an entry whose content may never come.
pub fn header(flag: u8, path: &str, link: &str, mode: u32, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    old.linkflag = [flag];
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub fn file(path: &str, content: &[u8]) -> Vec<u8> {
    entry(b'0', path, "", 0o644, content)
}

pub fn program(path: &str, content: &str) -> Vec<u8> {
    entry(b'0', path, "", 0o755, content.as_bytes())
}

pub fn link(path: &str, target: &str) -> Vec<u8> {
    entry(b'2', path, target, 0o777, b"")
}

pub fn hard(path: &str, target: &str) -> Vec<u8> {
    entry(b'1', path, target, 0o644, b"")
}

/// A PAX header with one record.
pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length = length.to_string().len() + body.len();
    }
    entry(b'x', "pax", "", 0o644, format!("{length}{body}").as_bytes())
}

pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

/// As in a name.
pub fn digest(bytes: &[u8]) -> Result<String> {
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    sum.stdin.take().context("stdin")?.write_all(bytes)?;
    let output = sum.wait_with_output()?;
    ensure!(output.status.success(), "sha256sum: {}", output.status);
    let hex = String::from_utf8(output.stdout)?;
    Ok(format!("sha256:{}", hex.split(' ').next().unwrap_or_default()))
}

/// A layer as a registry stores it.
#[derive(Debug, Clone)]
pub struct Layer {
    pub stored: Vec<u8>,
    pub diff_id: String,
}

impl Layer {
    pub fn of(entries: &[Vec<u8>]) -> Result<Self> {
        let plain = [entries.concat(), vec![0; 2 * BLOCK]].concat();
        Ok(Self { stored: gzip(&plain)?, diff_id: digest(&plain)? })
    }

    /// Something compressed whose content nobody has seen whole.
    pub fn stored(stored: Vec<u8>) -> Result<Self> {
        Ok(Self { stored, diff_id: digest(b"")? })
    }

    /// The one layer of the busybox image.
    pub fn busybox() -> Result<Self> {
        let path = crate::run::image("busybox")?;
        let index: Value = serde_json::from_slice(&member(&path, "index.json")?)?;
        let manifest: Value = serde_json::from_slice(&blob(&path, &index["manifests"][0])?)?;
        let config: Value = serde_json::from_slice(&blob(&path, &manifest["config"])?)?;
        let diff_id = config["rootfs"]["diff_ids"][0].as_str().context("diff id")?.to_owned();
        Ok(Self { stored: blob(&path, &manifest["layers"][0])?, diff_id })
    }
}

fn blob(archive: &Path, descriptor: &Value) -> Result<Vec<u8>> {
    let digest = descriptor["digest"].as_str().context("digest")?;
    member(archive, &format!("blobs/{}", digest.replace(':', "/")))
}

fn member(archive: &Path, name: &str) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.to_str() == Some(name) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    anyhow::bail!("no {name} in the archive")
}

/// Layers and what the configuration says of them.
#[derive(Debug, Clone)]
pub struct Image {
    pub layers: Vec<Layer>,
    pub config: Value,
}

/// The digests of an image's blobs.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub manifest: String,
    pub config: String,
    pub layers: Vec<String>,
}

impl Image {
    /// These entries above busybox.
    pub fn above_busybox(entries: &[Vec<u8>], config: Value) -> Result<Self> {
        let mut layers = vec![Layer::busybox()?];
        if !entries.is_empty() {
            layers.push(Layer::of(entries)?);
        }
        Ok(Self { layers, config })
    }

    pub fn push(&self, registry: &Registry, name: &str) -> Result<Pushed> {
        let layout = tempfile::tempdir()?;
        let add = |media_type: &str, bytes: &[u8]| -> Result<(String, Value)> {
            let digest = digest(bytes)?;
            let path = layout.path().join("blobs").join(digest.replace(':', "/"));
            std::fs::create_dir_all(path.parent().context("parent")?)?;
            std::fs::write(path, bytes)?;
            let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
            Ok((digest, descriptor))
        };
        let layers = self.layers.iter().map(|layer| add("application/vnd.oci.image.layer.v1.tar+gzip", &layer.stored));
        let (layers, described): (Vec<String>, Vec<Value>) = layers.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let text = json!({
            "architecture": arch, "os": "linux", "config": self.config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let (config, descriptor) = add("application/vnd.oci.image.config.v1+json", text.to_string().as_bytes())?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let text = json!({ "schemaVersion": 2, "mediaType": media_type, "config": descriptor, "layers": described })
            .to_string();
        let (manifest, mut descriptor) = add(media_type, text.as_bytes())?;
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "x" });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string();
        std::fs::write(layout.path().join("index.json"), index)?;
        std::fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        registry.push_from(&format!("oci:{}:x", layout.path().display()), name, &[])?;
        Ok(Pushed { manifest, config, layers })
    }
}
