//! `cargo xtask dist`: what users install. A Debian package, a tarball, a list of what is inside (CycloneDX), checksums.
//!
//! The same commit gives the same bytes: times are the commit's, owners are root, names are sorted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use crate::build::{self, Profile};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Builds in seconds instead of minutes, larger and slower: for tests
    #[arg(long)]
    quick: bool,
}

/// Where a file of the tree goes in an installation: from, to, mode.
const FILES: &[(&str, &str, u32)] = &[
    ("packaging/monopod.service", "usr/lib/systemd/system/monopod.service", 0o644),
    ("packaging/monopod-shutdown.service", "usr/lib/systemd/system/monopod-shutdown.service", 0o644),
    ("packaging/config.yaml", "etc/monopod/config.yaml", 0o644),
    ("packaging/debian/copyright", "usr/share/doc/monopod/copyright", 0o644),
    ("README.md", "usr/share/doc/monopod/README.md", 0o644),
];

/// Where the completions of a shell are looked for.
const COMPLETIONS: &[(&str, &str)] = &[
    ("monopod.bash", "usr/share/bash-completion/completions/monopod"),
    ("_monopod", "usr/share/zsh/vendor-completions/_monopod"),
    ("monopod.fish", "usr/share/fish/vendor_completions.d/monopod.fish"),
];

/// Version of the upgrade that tests install.
const HIGHER_THAN_ANY: &str = "99.0.0";

/// Directories that are there from the start.
const DIRECTORIES: &[&str] = &["etc/monopod/manifests"];

/// How much time goes into making a package small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Small,
    Fast,
}

impl Packing {
    /// An option of dpkg-deb(1).
    fn option(self) -> &'static str {
        match self {
            Self::Small => "-Zxz",
            Self::Fast => "-Znone",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let profile = if args.quick { Profile::Ci } else { Profile::Release };
    let sh = &build::shell()?;
    let bin = build::binaries(sh, profile)?;
    let dir = build::root().join("target/dist");
    let stage = stage(sh, &bin, &dir)?;
    manual(sh, profile, &dir, &stage)?;
    let epoch = epoch(sh);
    let _epoch = sh.push_env("SOURCE_DATE_EPOCH", &epoch);
    let version = version(sh)?;
    let deb = debian(sh, &dir, &version, Packing::Small)?;
    let tarball = tarball(sh, &dir, &version, &epoch)?;
    let sbom = dir.join(format!("monopod-{version}.cdx.json"));
    fs::write(&sbom, sbom_text(sh, &version)?)?;
    checksums(sh, &dir, &[&deb, &tarball, &sbom])
}

/// The package of binaries that are built already, without manual pages and completions, which would be a second build.
/// Twice: to be installed, and as an upgrade.
pub(crate) fn for_machine(sh: &Shell, bin: &Path, dir: &Path) -> Result<[PathBuf; 2]> {
    stage(sh, bin, dir)?;
    let _epoch = sh.push_env("SOURCE_DATE_EPOCH", epoch(sh));
    let package = |version: &str| debian(sh, dir, version, Packing::Fast);
    Ok([package(&version(sh)?)?, package(HIGHER_THAN_ANY)?])
}

/// What an installation holds, below `root`.
fn stage(sh: &Shell, bin: &Path, dir: &Path) -> Result<PathBuf> {
    sh.remove_path(dir)?;
    let stage = dir.join("root");
    install_programs(sh, bin, &stage)?;
    for (from, to, mode) in FILES {
        install(&build::root().join(from), &stage.join(to), *mode)?;
    }
    for sub in DIRECTORIES {
        sh.create_dir(stage.join(sub))?;
    }
    Ok(stage)
}

/// When the commit was made, in seconds since 1970.
fn epoch(sh: &Shell) -> String {
    cmd!(sh, "git log -1 --format=%ct").quiet().read().unwrap_or_else(|_| "0".to_owned())
}

fn tarball(sh: &Shell, dir: &Path, version: &str, epoch: &str) -> Result<PathBuf> {
    let name = format!("monopod-{version}-linux-{}.tar.gz", std::env::consts::ARCH);
    let (stage, tarball, mtime) = (dir.join("root"), dir.join(&name), format!("--mtime=@{epoch}"));
    // gzip -n: no time of its own.
    cmd!(sh, "tar --sort=name {mtime} --mode=go-w --owner=0 --group=0 --numeric-owner -C {stage} -I 'gzip -9n' -cf {tarball} .")
        .quiet()
        .run()?;
    Ok(tarball)
}

fn install_programs(sh: &Shell, bin: &Path, stage: &Path) -> Result<()> {
    for (name, to) in [("monopod", "usr/bin"), ("monitor", "usr/lib/monopod"), ("pause", "usr/lib/monopod")] {
        let to = stage.join(to).join(name);
        install(&bin.join(name), &to, 0o755)?;
        if name != "pause" {
            // The quick build keeps symbols that nobody needs on a node.
            cmd!(sh, "strip {to}").quiet().run()?;
        }
    }
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let parent = to.parent().context("a file's directory")?;
    fs::create_dir_all(parent)?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(|| format!("chmod {}", to.display()))
}

/// Manual pages and completions, from the command line's own definition.
fn manual(sh: &Shell, profile: Profile, dir: &Path, stage: &Path) -> Result<()> {
    let (name, made) = (profile.name(), dir.join("manual"));
    cmd!(sh, "cargo build --locked --profile {name} --package supervisor --example manual").run()?;
    let program = build::output_dir(sh, profile)?.join("examples/manual");
    cmd!(sh, "{program} {made}").quiet().run()?;
    for page in sh.read_dir(made.join("man"))? {
        let file = page.file_name().context("a page's name")?;
        let to = stage.join("usr/share/man/man1").join(file);
        install(&page, &to, 0o644)?;
        cmd!(sh, "gzip -9n {to}").quiet().run()?;
    }
    for (file, to) in COMPLETIONS {
        install(&made.join("completions").join(file), &stage.join(to), 0o644)?;
    }
    sh.remove_path(made)?;
    Ok(())
}

fn version(sh: &Shell) -> Result<String> {
    let metadata = cmd!(sh, "cargo metadata --format-version 1 --no-deps --offline").quiet().read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let found =
        packages.filter(|package| package["name"] == "supervisor").find_map(|package| package["version"].as_str());
    Ok(found.context("the version of supervisor")?.to_owned())
}

/// With `dpkg-deb`, which every Debian has.
fn debian(sh: &Shell, dir: &Path, version: &str, packing: Packing) -> Result<PathBuf> {
    let (stage, root, control) = (&dir.join("root"), dir.join("deb"), dir.join("deb/DEBIAN"));
    cmd!(sh, "cp -a {stage} {root}").quiet().run()?;
    fs::create_dir_all(&control)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let size = installed_kib(stage)?.to_string();
    let values = [("@VERSION@", version), ("@ARCHITECTURE@", architecture), ("@SIZE@", &size)];
    let source = build::root().join("packaging/debian");
    let text = fs::read_to_string(source.join("control"))?;
    let text = values.iter().fold(text, |text, (name, value)| text.replace(name, value));
    ensure!(!text.contains('@') || text.contains("@localhost"), "packaging/debian/control: a value is missing");
    fs::write(control.join("control"), text)?;
    for (name, mode) in [("conffiles", 0o644), ("postinst", 0o755), ("prerm", 0o755), ("postrm", 0o755)] {
        install(&source.join(name), &control.join(name), mode)?;
    }
    let deb = dir.join(format!("monopod_{version}_{architecture}.deb"));
    let packing = packing.option();
    cmd!(sh, "dpkg-deb --root-owner-group {packing} --build {root} {deb}").quiet().ignore_stdout().run()?;
    sh.remove_path(root)?;
    Ok(deb)
}

fn installed_kib(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { installed_kib(&entry.path())? * 1024 } else { metadata.len() };
    }
    Ok(bytes.div_ceil(1024))
}

/// CycloneDX 1.5: every crate that is linked into what is shipped.
fn sbom_text(sh: &Shell, version: &str) -> Result<String> {
    let tree = ["--package", "supervisor", "--package", "pause", "--edges", "normal", "--prefix", "none"];
    let format = "{p}|{l}";
    let tree = cmd!(sh, "cargo tree --locked {tree...} --format {format}").quiet().read()?;
    let components: BTreeSet<(String, String, String)> = tree.lines().filter_map(component).collect();
    let components: Vec<Value> = components
        .into_iter()
        .map(|(name, version, licence)| {
            json!({"type": "library", "name": name, "version": version, "purl": format!("pkg:cargo/{name}@{version}"),
                "licenses": [{"expression": licence.replace('/', " OR ")}]})
        })
        .collect();
    let subject = json!({"type": "application", "name": "monopod", "version": version});
    let text = json!({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": subject}, "components": components});
    Ok(serde_json::to_string_pretty(&text)?)
}

/// `serde v1.0.1 (proc-macro)|MIT OR Apache-2.0`
fn component(line: &str) -> Option<(String, String, String)> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((name.to_owned(), version.to_owned(), licence.trim_end_matches(" (*)").to_owned()))
}

fn checksums(sh: &Shell, dir: &Path, files: &[&PathBuf]) -> Result<()> {
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).collect();
    let _dir = sh.push_dir(dir);
    let sums = cmd!(sh, "sha256sum {names...}").quiet().read()?;
    fs::write(dir.join("SHA256SUMS"), format!("{sums}\n"))?;
    println!("{sums}\n\nin {}", dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_from_cargos_tree() {
        let expected = ("serde".to_owned(), "1.0.1".to_owned(), "MIT OR Apache-2.0".to_owned());
        assert_eq!(component("serde v1.0.1|MIT OR Apache-2.0 (*)"), Some(expected.clone()));
        assert_eq!(component("serde v1.0.1 (proc-macro)|MIT OR Apache-2.0"), Some(expected));
        assert_eq!(component(""), None);
    }
}
