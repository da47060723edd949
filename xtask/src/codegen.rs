//! What is generated and kept in the tree: the same bytes from the same versions of our dependencies.

mod definitions;
mod literal;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use xshell::{Shell, cmd};

/// Writes generated files.
#[derive(Debug, Subcommand)]
pub(crate) enum Codegen {
    /// The definitions of the published OpenAPI schema, from k8s-openapi's sources
    Openapi,
}

impl Codegen {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Openapi => openapi(),
        }
    }
}

/// Where the definitions lie, and from what they are made beside k8s-openapi.
const OPENAPI: &str = "supervisor/src/api/openapi";
const MERGE_TABLE: &str = "supervisor/src/api/patch/schema.txt";
/// Slow and small: this runs once, the result is read often.
const ZSTD_LEVEL: i32 = 22;

fn openapi() -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
    let resources = read(&format!("{OPENAPI}/resources.txt"))?;
    let enums = read(&format!("{OPENAPI}/enums.txt"))?;
    let merge = definitions::MergeTable::read(&read(MERGE_TABLE)?).with_enums(&enums);
    let lines = definitions::all(&sources()?, &resources, &merge)?;
    let packed = zstd::encode_all(lines.as_bytes(), ZSTD_LEVEL).context("compress the definitions")?;
    let path = format!("{OPENAPI}/definitions.zst");
    std::fs::write(&path, &packed).with_context(|| format!("write {path}"))?;
    println!("{path}: {} definitions, {} bytes, {} compressed", lines.lines().count(), lines.len(), packed.len());
    Ok(())
}

/// The sources of the API version that the workspace uses.
fn sources() -> Result<PathBuf> {
    let sh = Shell::new()?;
    let metadata =
        cmd!(sh, "cargo metadata --format-version 1 --filter-platform x86_64-unknown-linux-gnu").quiet().read()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == "k8s-openapi").context("no k8s-openapi")?;
    let manifest = package["manifest_path"].as_str().context("k8s-openapi lies nowhere")?;
    let feature = std::fs::read_to_string("Cargo.toml")?;
    let version = feature.split("\"v1_").nth(1).and_then(|rest| rest.split('"').next()).context("no API version")?;
    Ok(Path::new(manifest).with_file_name("src").join(format!("v1_{version}")))
}
