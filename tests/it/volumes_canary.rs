//! The witness of tests against who means harm: a directory of the host that must stay as it was.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// A directory of the host that no container mounts.
pub struct Canary(tempfile::TempDir);

impl Canary {
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("b"))?;
        std::fs::write(dir.path().join("b/who"), "outside\n")?;
        std::fs::write(dir.path().join("who"), "outside\n")?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn sings(&self) -> Result<()> {
        let mut found: Vec<String> = Vec::new();
        for dir in [self.path().to_owned(), self.path().join("b")] {
            let entries = std::fs::read_dir(&dir)?.flatten();
            found.extend(entries.map(|entry| entry.path().display().to_string().replace(&self.text(), "")));
        }
        found.sort();
        ensure!(found == ["/b", "/b/who", "/who"], "the canary changed: {found:?}");
        for name in ["who", "b/who"] {
            let text = std::fs::read_to_string(self.path().join(name))?;
            ensure!(text == "outside\n", "{name} was written: {text:?}");
        }
        Ok(())
    }

    pub fn text(&self) -> String {
        self.path().display().to_string()
    }
}

/// Nothing of ours is ever among them.
pub fn mounts_of_the_host() -> Result<String> {
    std::fs::read_to_string("/proc/thread-self/mountinfo").context("mountinfo")
}
