//! Debian packages without root: apt with directories of its own below `target/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::build;

/// What the machine's configuration wants done after downloads, for directories that are not ours.
const CONFIG: &str =
    "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n";

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
        sh.write_file(dir.join("state/status"), "")?;
        sh.write_file(dir.join("apt.conf"), CONFIG)?;
        let set = |key: &str, value: &str| format!("--option={key}={value}");
        let below = |sub: &str| dir.join(sub).display().to_string();
        let options = vec![
            format!("--config-file={}", below("apt.conf")),
            set("Dir::State", &below("state")),
            set("Dir::Cache", &below("cache")),
            // Without it, apt takes the machine's installed packages for granted.
            set("Dir::State::status", &below("state/status")),
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
        let files = self.files(&[package.to_owned()])?;
        files.into_iter().next().with_context(|| format!("apt knows no package {package}"))
    }

    /// The packages' files, each downloaded once per version, in the order of their names.
    fn files(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let options = &self.options;
        let text = cmd!(self.sh, "apt-get {options...} --print-uris download {packages...}").quiet().read()?;
        let directory = self.dir.join("packages");
        let names = text.lines().filter_map(|line| line.split_whitespace().nth(1));
        let mut files: Vec<PathBuf> = names.map(|name| directory.join(name)).collect();
        files.sort();
        ensure!(files.len() == packages.len(), "apt knows not all of {packages:?}:\n{text}");
        if files.iter().any(|file| !file.exists()) {
            let _in = self.sh.push_dir(&directory);
            cmd!(self.sh, "apt-get {options...} --quiet download {packages...}").quiet().ignore_stdout().run()?;
        }
        let missing = files.iter().find(|file| !file.exists());
        ensure!(missing.is_none(), "apt-get download left no {missing:?}");
        Ok(files)
    }

    /// The files of these packages, and of all that a machine with nothing installed would get with them.
    pub fn closure(&self, packages: &[&str], left_out: &[&str]) -> Result<Vec<PathBuf>> {
        let options = &self.options;
        let plan = cmd!(self.sh, "apt-get {options...} --simulate --no-install-recommends install {packages...}")
            .quiet()
            .ignore_stderr()
            .read()?;
        let all = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        let all: BTreeSet<&str> = all.filter(|name| !left_out.iter().any(|prefix| name.starts_with(prefix))).collect();
        ensure!(!all.is_empty(), "apt-get plans nothing for {packages:?}:\n{plan}");
        self.files(&all.into_iter().map(str::to_owned).collect::<Vec<_>>())
    }

    /// Which lists there are, of which size: the same as long as nobody runs `apt-get update` here.
    pub fn lists_stamp(&self) -> Result<String> {
        let lists = self.sh.read_dir(self.dir.join("state/lists"))?;
        let lists = lists.into_iter().filter(|path| path.to_string_lossy().contains("_Packages"));
        let mut lines: Vec<String> = lists
            .map(|path| Ok(format!("{} {}", path.display(), std::fs::metadata(&path)?.len())))
            .collect::<std::io::Result<_>>()?;
        lines.sort();
        Ok(lines.join("\n"))
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
