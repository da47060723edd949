//! `cargo xtask image`: the pause image as an OCI archive, for the engines of others.
//!
//! The bytes depend on the binaries alone: no time, no owner, no map order. So the same binaries give the same digest.
//! Formats: OCI image-spec 1.1 `image-layout.md`, `manifest.md`, `config.md`, `layer.md`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use crate::build;
use crate::images::digest;

/// What the compressed layer may weigh.
const LAYER_BYTES_MAX: usize = 700;

/// The user of upstream's image: nobody, without a name.
const USER: &str = "65535:65535";

/// The name under which engines that read `index.json` list the image.
const REFERENCE: &str = concat!("monopod.io/pause:", env!("CARGO_PKG_VERSION"));

const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The platforms of the image, by OCI's name and Rust's. arm64 joins with a toolchain that has its libcore.
pub(crate) const PLATFORMS: &[Platform] = &[Platform { architecture: "amd64", target: "x86_64-unknown-linux-gnu" }];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write the archive [default: pause.tar in the target directory]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Builds it in two clones of the last commit instead and compares their digests
    #[arg(long, conflicts_with = "output")]
    twice: bool,
}

#[derive(Debug)]
pub(crate) struct Platform {
    architecture: &'static str,
    pub(crate) target: &'static str,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = build::shell()?;
    if args.twice {
        return same_from_two_clones(&sh);
    }
    let image = of_checkout(&sh, &build::root())?;
    let archive = image.archive()?;
    let output = args.output.clone().unwrap_or_else(|| build::root().join("target/pause.tar"));
    fs::write(&output, &archive).with_context(|| output.display().to_string())?;
    for (architecture, layer) in &image.layers {
        println!("{architecture}: layer of {layer} bytes");
    }
    println!("{}: {} bytes, {REFERENCE}", output.display(), archive.len());
    println!("{}", image.index.digest);
    Ok(())
}

/// Builds the image in two clones of the last commit that share nothing but cargo's downloads; it has to have one digest.
pub(crate) fn same_from_two_clones(sh: &Shell) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut digests = Vec::new();
    // A path that leaked into the binary would have another length, too.
    for name in ["one", "the/other/clone"] {
        let (from, clone) = (build::root(), dir.path().join(name));
        cmd!(sh, "git clone --quiet {from} {clone}").quiet().run()?;
        digests.push(of_checkout(sh, &clone)?.index.digest);
    }
    ensure!(digests.windows(2).all(|pair| pair[0] == pair[1]), "the pause image has several digests: {digests:?}");
    println!("the pause image from two clones: {}", digests[0]);
    Ok(())
}

/// The image of what a checkout's sources give.
fn of_checkout(sh: &Shell, checkout: &Path) -> Result<Image> {
    let mut binaries = Vec::new();
    for platform in PLATFORMS {
        let path = build(sh, checkout, platform.target)?;
        let binary = fs::read(&path).with_context(|| path.display().to_string())?;
        binaries.push((platform.architecture, binary));
    }
    Image::new(&binaries)
}

/// Builds pause as it is shipped; where it lies.
pub(crate) fn build(sh: &Shell, checkout: &Path, target: &str) -> Result<PathBuf> {
    let _in = sh.push_dir(checkout);
    let target_dir = checkout.join("target");
    cmd!(sh, "cargo build --quiet --locked --release --package pause --target {target} --target-dir {target_dir}")
        .quiet()
        .run()?;
    Ok(target_dir.join(target).join("release/pause"))
}

/// An image in memory: every blob by its digest, and the index on top.
#[derive(Debug)]
struct Image {
    blobs: BTreeMap<String, Vec<u8>>,
    index: Blob,
    /// Architecture and size of its compressed layer.
    layers: Vec<(&'static str, usize)>,
}

#[derive(Debug)]
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

impl Image {
    fn new(binaries: &[(&'static str, Vec<u8>)]) -> Result<Self> {
        let empty = Blob { digest: String::new(), size: 0 };
        let mut image = Self { blobs: BTreeMap::new(), index: empty, layers: Vec::new() };
        let mut manifests = Vec::new();
        for (architecture, binary) in binaries {
            manifests.push(image.add_platform(architecture, binary)?);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests });
        image.index = image.add(serde_json::to_vec(&index)?)?;
        Ok(image)
    }

    /// Layer, config and manifest of one platform; its entry in the index.
    fn add_platform(&mut self, architecture: &'static str, binary: &[u8]) -> Result<Value> {
        let tar = layer(binary)?;
        let compressed = gzip(&tar)?;
        if compressed.len() > LAYER_BYTES_MAX {
            bail!("the layer for {architecture} has {} bytes, more than {LAYER_BYTES_MAX}", compressed.len());
        }
        self.layers.push((architecture, compressed.len()));
        let layer = self.add(compressed)?;
        let config = self.add(serde_json::to_vec(&config(architecture, &digest(&tar)?))?)?;
        let manifest = self.add(serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": config.descriptor(MEDIA_CONFIG),
            "layers": [layer.descriptor(MEDIA_LAYER)],
        }))?)?;
        let mut entry = manifest.descriptor(MEDIA_MANIFEST);
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        Ok(entry)
    }

    fn add(&mut self, bytes: Vec<u8>) -> Result<Blob> {
        let blob = Blob { digest: digest(&bytes)?, size: bytes.len() };
        self.blobs.insert(blob.digest.clone(), bytes);
        Ok(blob)
    }

    /// An OCI layout as a tar, directories first, then blobs by digest.
    fn archive(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for dir in ["blobs/", "blobs/sha256/"] {
            append(&mut tar, dir, 0o755, &[])?;
        }
        for (digest, bytes) in &self.blobs {
            append(&mut tar, &format!("blobs/{}", digest.replace(':', "/")), 0o644, bytes)?;
        }
        append(&mut tar, "index.json", 0o644, &serde_json::to_vec(&self.layout_index())?)?;
        append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(tar.into_inner()?)
    }

    fn layout_index(&self) -> Value {
        let mut entry = self.index.descriptor(MEDIA_INDEX);
        entry["annotations"] = json!({
            // Docker and containerd look for the first, skopeo and podman for the second.
            "io.containerd.image.name": REFERENCE,
            "org.opencontainers.image.ref.name": REFERENCE,
        });
        json!({ "schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [entry] })
    }
}

fn config(architecture: &str, diff_id: &str) -> Value {
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/pause"],
            "User": USER,
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
                "org.opencontainers.image.title": "pause",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    })
}

/// The one layer: `/pause`, executable by all.
fn layer(binary: &[u8]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "pause", 0o755, binary)?;
    Ok(tar.into_inner()?)
}

/// A file, or a directory if the name ends with a slash, of root at the epoch.
fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).with_context(|| name.to_owned())
}

/// With a header that names no file, no time and no system.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    const SYSTEM_UNKNOWN: u8 = 255;
    let mut gzip = GzBuilder::new().mtime(0).operating_system(SYSTEM_UNKNOWN).write(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binaries_give_the_same_bytes() {
        let binaries = [("amd64", b"a".to_vec()), ("arm64", b"b".to_vec())];
        let (one, two) = (Image::new(&binaries).unwrap(), Image::new(&binaries).unwrap());
        assert_eq!(one.index.digest, two.index.digest);
        assert_eq!(one.archive().unwrap(), two.archive().unwrap());
    }

    #[test]
    fn the_index_names_every_platform() {
        let image = Image::new(&[("amd64", b"a".to_vec()), ("arm64", b"b".to_vec())]).unwrap();
        let index: Value = serde_json::from_slice(&image.blobs[&image.index.digest]).unwrap();
        let manifests = index["manifests"].as_array().unwrap();
        let architectures: Vec<&Value> = manifests.iter().map(|entry| &entry["platform"]["architecture"]).collect();
        assert_eq!(architectures, ["amd64", "arm64"]);
    }

    #[test]
    fn a_layer_above_the_limit_is_refused() {
        // Bytes that don't compress.
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        let error = Image::new(&[("amd64", noise.take(1024).collect())]).unwrap_err();
        assert!(error.to_string().contains("more than 700"), "{error}");
    }

    #[test]
    fn the_compressed_layer_names_no_time_and_no_system() {
        let bytes = gzip(b"x").unwrap();
        assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
    }
}
