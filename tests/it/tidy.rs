//! The architecture's rules as tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: deciding_modules_do_no_io, unsafe_stands_only_in_sys, crates_depend_as_drawn,
        every_path_in_the_architecture_exists, manifests_of_crates_take_versions_from_the_workspace]
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Directories and files of `supervisor/src` that decide and never act.
const PURE: &[&str] = &["supervisor/src/pod", "supervisor/src/convert", "supervisor/src/admission"];

/// What a deciding module never names.
const IO: &[&str] =
    &["std::fs", "std::net::Tcp", "std::process::", "std::time::Instant", "SystemTime", "tokio::", "rustix::"];

fn deciding_modules_do_no_io() -> Result<()> {
    let mut found = Vec::new();
    for file in PURE.iter().flat_map(|dir| rust_files(&root().join(dir))) {
        for (number, line) in code_lines(&file)? {
            if let Some(word) = IO.iter().find(|word| line.contains(*word)) {
                found.push(format!("{}:{number} names {word}", file.display()));
            }
        }
    }
    ensure!(found.is_empty(), "modules that decide must not act:\n{}", found.join("\n"));
    Ok(())
}

fn unsafe_stands_only_in_sys() -> Result<()> {
    let allowed =
        |path: &Path| path.ends_with("pause/src/sys.rs") || path.to_string_lossy().contains("supervisor/src/sys/");
    let mut found = Vec::new();
    for file in rust_files(&root()).into_iter().filter(|file| !allowed(file)) {
        for (number, line) in code_lines(&file)? {
            // Reasons and messages may speak of it.
            let code: String = line.split('"').step_by(2).collect();
            let words: Vec<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            if words.contains(&concat!("un", "safe")) && !line.contains("#[unsafe(") {
                found.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    ensure!(found.is_empty(), "outside of the sys modules:\n{}", found.join("\n"));
    Ok(())
}

/// Which of our crates each of them may use.
const DEPENDENCIES: &[(&str, &[&str])] =
    &[("pause", &[]), ("cgroupd", &[]), ("netsetup", &[]), ("supervisor", &["cgroupd", "netsetup"])];

fn crates_depend_as_drawn() -> Result<()> {
    let ours: BTreeSet<&str> = ["pause", "cgroupd", "netsetup", "supervisor", "tests", "xtask"].into();
    for (name, allowed) in DEPENDENCIES {
        let text = read(&root().join(name).join("Cargo.toml"))?;
        let used =
            text.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|word| ours.contains(word));
        for word in used.filter(|word| word != name) {
            ensure!(allowed.contains(&word), "{name} must not depend on {word}");
        }
    }
    Ok(())
}

fn every_path_in_the_architecture_exists() -> Result<()> {
    let text = read(&root().join("docs/architecture.md"))?;
    let quoted = text.split('`').skip(1).step_by(2);
    let paths = quoted
        .filter(|word| word.contains('/') && !word.starts_with(['/', '$', '<']) && !word.contains([' ', '<', '*']));
    let missing: Vec<_> = paths.filter(|path| !root().join(path).exists()).collect();
    ensure!(missing.is_empty(), "docs/architecture.md names what does not exist: {missing:?}");
    Ok(())
}

fn manifests_of_crates_take_versions_from_the_workspace() -> Result<()> {
    for name in ["pause", "cgroupd", "netsetup", "supervisor", "tests", "xtask"] {
        let text = read(&root().join(name).join("Cargo.toml"))?;
        let own = text.lines().find(|line| line.contains("version = \""));
        ensure!(own.is_none(), "{name}/Cargo.toml: {}", own.unwrap_or_default());
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Lines with code outside of `mod tests`, with their numbers; comments are cut off.
fn code_lines(file: &Path) -> Result<Vec<(usize, String)>> {
    let text = read(file)?;
    let code = text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    Ok(code.map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default().to_owned())).collect())
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if path.is_dir() && !hidden && entry.file_name() != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
