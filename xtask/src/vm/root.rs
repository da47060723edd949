//! A small Debian with systemd as an image, built without root and kept as long as what it is made of stays.

use std::path::PathBuf;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// What the root holds beyond Debian's essential packages.
const PACKAGES: &[&str] =
    &["systemd", "systemd-sysv", "dbus", "iproute2", "nftables", "busybox-static", "procps", "umoci"];

/// What nobody reads inside.
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// The image; whether it had to be built.
pub fn image(sh: &Shell) -> Result<(PathBuf, bool)> {
    let suite = suite()?;
    let path = super::dir().join("root.squashfs");
    let key_file = path.with_extension("key");
    let key = format!("{suite} {PACKAGES:?} {LEFT_OUT:?}");
    if path.exists() && std::fs::read_to_string(&key_file).is_ok_and(|known| known == key) {
        return Ok((path, false));
    }
    eprintln!("building a Debian {suite} with systemd (about a minute)");
    sh.remove_path(&path)?;
    let tar = super::dir().join("root.tar");
    let include = format!("--include={}", PACKAGES.join(","));
    let left_out = LEFT_OUT.iter().map(|paths| format!("--dpkgopt=path-exclude={paths}"));
    cmd!(sh, "mmdebstrap --quiet --variant=minbase {include} {left_out...} {suite} {tar}").quiet().run()?;
    // Not compressed: emulated processors read faster than they unpack.
    let options = ["-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX"];
    let input = std::fs::read(&tar).with_context(|| format!("read {}", tar.display()))?;
    cmd!(sh, "sqfstar {options...} {path}").stdin(input).quiet().ignore_stderr().run()?;
    sh.remove_path(&tar)?;
    sh.write_file(&key_file, key)?;
    Ok((path, true))
}

/// The machine's own release.
fn suite() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_owned())
}
