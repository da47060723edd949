//! Debian's cloud kernel and the modules that the tests need, fetched and never installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::Shell;

use crate::apt::Apt;
use crate::build;

/// What a test may need; each brings the modules that it depends on. What is built in is passed over.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "overlay",
    "squashfs",
    "loop",
    "ext4",
    "quota_v2",
    "veth",
    "bridge",
    "dummy",
    "tun",
    "nf_tables",
    "nf_conntrack",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_netdev",
    "nft_fib_inet",
    "nft_limit",
    "nft_meta_bridge",
    "nf_conntrack_bridge",
    "fuse",
    "dm_mod",
];

/// A kernel to boot.
#[derive(Debug)]
pub struct Kernel {
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Files of what the tests need, in the order in which they can be loaded.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        in_loading_order(&find_modules(&self.modules)?)
    }
}

/// The kernel of this package, or Debian's newest cloud kernel at the time of the first run.
pub fn fetch(sh: &Shell, package: Option<&str>) -> Result<Kernel> {
    let package = match package {
        Some(package) => package.to_owned(),
        None => newest(sh)?,
    };
    let dir = super::dir().join(&package);
    if !dir.join("complete").exists() {
        eprintln!("fetching {package}");
        sh.remove_path(&dir)?;
        Apt::open(sh)?.extract(&package, &dir)?;
        sh.write_file(dir.join("complete"), "")?;
    }
    Ok(Kernel { image: only(&dir.join("boot"), "vmlinuz-")?, modules: only(&lib_modules(&dir), "")? })
}

/// The name that a first run found; without `target/vm` it is looked for again.
fn newest(sh: &Shell) -> Result<String> {
    let known = super::dir().join("kernel");
    if let Ok(name) = std::fs::read_to_string(&known) {
        return Ok(name);
    }
    let depends = Apt::open(sh)?.depends("linux-image-cloud-amd64")?;
    let name =
        depends.into_iter().find(|name| name.starts_with("linux-image-")).context("Debian has no cloud kernel")?;
    sh.write_file(&known, &name)?;
    Ok(name)
}

/// Newer packages follow the merged `/usr`.
fn lib_modules(dir: &Path) -> PathBuf {
    let merged = dir.join("usr/lib/modules");
    if merged.exists() { merged } else { dir.join("lib/modules") }
}

fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut paths = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(paths.next().with_context(|| format!("{}/{prefix}* is missing", dir.display()))?.path())
}

/// Every module file by the module's name.
fn find_modules(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.join("kernel")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Some(name) = module_name(&path) {
                found.insert(name, path);
            }
        }
    }
    Ok(found)
}

fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    Some(name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))?.replace('-', "_"))
}

fn in_loading_order(modules: &BTreeMap<String, PathBuf>) -> Result<Vec<PathBuf>> {
    let mut order = Vec::new();
    for module in MODULES {
        visit(module, modules, &mut order)?;
    }
    Ok(order)
}

fn visit(name: &str, modules: &BTreeMap<String, PathBuf>, order: &mut Vec<PathBuf>) -> Result<()> {
    let Some(path) = modules.get(name) else { return Ok(()) };
    if order.contains(path) {
        return Ok(());
    }
    for needed in dependencies(path)? {
        visit(&needed, modules, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// The `depends=` entry that every module carries; `depmod` would need to be installed.
fn dependencies(path: &Path) -> Result<Vec<String>> {
    let bytes = content(path)?;
    let key = b"\0depends=";
    let Some(at) = bytes.windows(key.len()).position(|part| part == key) else { return Ok(Vec::new()) };
    let value = bytes[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).into_owned();
    Ok(names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

/// A module as the kernel takes it.
pub fn content(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let sh = build::shell()?;
        let output = xshell::cmd!(sh, "xz --decompress --stdout {path}").quiet().output()?;
        if !output.status.success() {
            bail!("xz --decompress {} failed", path.display());
        }
        return Ok(output.stdout);
    }
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}
