//! Whether KVM really runs a guest. The device file says little: nested machines may have one that boots nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::qemu::{Accel, Console, Limits, Machine};

/// A boot with nothing to do; a working KVM needs less than a second.
const LIMIT: Duration = Duration::from_secs(3);
/// What the kernel gives each of its boots.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What to use for [`Accel::Auto`], with a note on standard error when it is emulation.
pub fn choose(machine: &Machine) -> Result<Accel> {
    let usable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        eprintln!("note: /dev/kvm can't be used here: emulating");
        return Ok(Accel::Tcg);
    }
    let known = Known::of_this_boot()?;
    let works = match known.read() {
        Some(works) => works,
        None => known.write(boots(machine))?,
    };
    if works {
        return Ok(Accel::Kvm);
    }
    eprintln!("note: /dev/kvm exists but boots no guest within {LIMIT:?}: emulating");
    Ok(Accel::Tcg)
}

fn boots(machine: &Machine) -> bool {
    let limits = Limits { boot: LIMIT, silence: LIMIT, whole: LIMIT };
    let probe = Machine {
        accel: Accel::Kvm,
        command_line: "monopod.mode=probe".to_owned(),
        limits,
        console: Console::Log,
        root: None,
        ..machine.clone()
    };
    probe.run(|_| {}).is_ok_and(|ended| ended.code == 0)
}

/// The answer does not change while the host runs.
#[derive(Debug)]
struct Known {
    file: PathBuf,
    boot: String,
}

impl Known {
    fn of_this_boot() -> Result<Self> {
        let boot = std::fs::read_to_string(BOOT_ID).with_context(|| format!("read {BOOT_ID}"))?;
        Ok(Self { file: super::dir().join("kvm"), boot })
    }

    fn read(&self) -> Option<bool> {
        answer(&std::fs::read_to_string(&self.file).ok()?, &self.boot)
    }

    fn write(&self, works: bool) -> Result<bool> {
        write(&self.file, &format!("{works} {}", self.boot))?;
        Ok(works)
    }
}

fn answer(known: &str, boot: &str) -> Option<bool> {
    let (works, of) = known.split_once(' ')?;
    (of == boot).then(|| works == "true")
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_one_boot_of_the_host() {
        assert_eq!(answer("true abc\n", "abc\n"), Some(true));
        assert_eq!(answer("false abc\n", "abc\n"), Some(false));
        assert_eq!(answer("true abc\n", "def\n"), None);
        assert_eq!(answer("", "def\n"), None);
    }
}
