//! What is generated and kept in the tree: the same content from the same versions of our dependencies.

mod definitions;
mod literal;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use xshell::{Shell, cmd};

use crate::{build, setup};

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

fn openapi() -> Result<()> {
    let lines = definitions(Path::new("."))?;
    let sh = build::shell()?;
    setup::packages(&sh, setup::CODEGEN)?;
    // Slow and small: this runs once, the result is read often.
    let packed = cmd!(sh, "zstd --ultra -22 --no-check --stdout -").quiet().stdin(&lines).output()?.stdout;
    let path = format!("{OPENAPI}/definitions.zst");
    std::fs::write(&path, &packed).with_context(|| format!("write {path}"))?;
    println!("{path}: {} definitions, {} bytes, {} compressed", lines.lines().count(), lines.len(), packed.len());
    Ok(())
}

/// The definitions, from the tree at a path.
fn definitions(root: &Path) -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"));
    let resources = read(&format!("{OPENAPI}/resources.txt"))?;
    let enums = read(&format!("{OPENAPI}/enums.txt"))?;
    let merge = definitions::MergeTable::read(&read(MERGE_TABLE)?).with_enums(&enums);
    definitions::all(&sources(root)?, &resources, &merge)
}

/// The sources of the API version that the workspace uses.
fn sources(root: &Path) -> Result<PathBuf> {
    let sh = Shell::new()?;
    sh.change_dir(root);
    let metadata =
        cmd!(sh, "cargo metadata --format-version 1 --filter-platform x86_64-unknown-linux-gnu").quiet().read()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == "k8s-openapi").context("no k8s-openapi")?;
    let manifest = package["manifest_path"].as_str().context("k8s-openapi lies nowhere")?;
    let feature = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let version = feature.split("\"v1_").nth(1).and_then(|rest| rest.split('"').next()).context("no API version")?;
    Ok(Path::new(manifest).with_file_name("src").join(format!("v1_{version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes a table or the crate's version runs the generator.
    #[test]
    fn the_tree_has_what_the_generator_makes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let packed = root.join(OPENAPI).join("definitions.zst");
        let sh = build::shell().unwrap();
        let kept = cmd!(sh, "zstd --decompress --stdout {packed}").quiet().ignore_stderr().read().unwrap();
        let made = definitions(&root).unwrap();
        let differs = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
        assert_eq!(differs, None, "run `cargo xtask codegen openapi`");
        assert_eq!(kept.len(), made.trim_end().len());
    }
}
