//! Debian packages without root: apt with directories of its own below `target/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::build;

/// apt as an ordinary user. It reads the machine's sources and trusts the machine's keys, and writes nowhere but here.
#[derive(Debug)]
pub struct Apt<'a> {
    sh: &'a Shell,
    dir: PathBuf,
    options: Vec<String>,
}

impl<'a> Apt<'a> {
    pub fn open(sh: &'a Shell) -> Result<Self> {
        let dir = build::root().join("target/apt");
        for sub in ["state/lists/partial", "cache/archives/partial", "packages"] {
            sh.create_dir(dir.join(sub))?;
        }
        let set = |key: &str, value: &str| format!("--option={key}={value}");
        let below = |sub: &str| dir.join(sub).display().to_string();
        let options = vec![
            set("Dir::State", &below("state")),
            set("Dir::Cache", &below("cache")),
            set("Dir::State::status", "/var/lib/dpkg/status"),
            set("Debug::NoLocking", "1"),
            set("APT::Sandbox::User", ""),
        ];
        let apt = Self { sh, dir, options };
        apt.update_once()?;
        Ok(apt)
    }

    /// The packages that `package` depends on directly.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let options = &self.options;
        let text = cmd!(self.sh, "apt-cache {options...} depends --important {package}").quiet().read()?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// The package's file, downloaded once per version.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        let options = &self.options;
        let text = cmd!(self.sh, "apt-get {options...} --print-uris download {package}").quiet().read()?;
        let name = text.split_whitespace().nth(1).with_context(|| format!("apt knows no package {package}"))?;
        let packages = self.dir.join("packages");
        let file = packages.join(name);
        if !file.exists() {
            let _in = self.sh.push_dir(&packages);
            cmd!(self.sh, "apt-get {options...} --quiet download {package}").quiet().ignore_stdout().run()?;
        }
        ensure!(file.exists(), "apt-get download {package} left no {}", file.display());
        Ok(file)
    }

    /// The package's content below `into`.
    pub fn extract(&self, package: &str, into: &Path) -> Result<()> {
        let file = self.download(package)?;
        self.sh.create_dir(into)?;
        cmd!(self.sh, "dpkg-deb --extract {file} {into}").quiet().run()?;
        Ok(())
    }

    fn update_once(&self) -> Result<()> {
        let lists = self.dir.join("state/lists");
        // They may be compressed.
        let have = self.sh.read_dir(&lists)?.iter().any(|path| path.to_string_lossy().contains("_Packages"));
        if have {
            return Ok(());
        }
        eprintln!("fetching Debian's package lists");
        let options = &self.options;
        cmd!(self.sh, "apt-get {options...} --quiet update").quiet().ignore_stdout().run()?;
        Ok(())
    }
}
