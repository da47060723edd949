//! `pause`, the binary that is shipped, against the kernel: what it costs and how it behaves (goals of its design, and
//! IN8: a Pod without its pause is a Pod without its namespaces).
//!
//! Where a namespace is needed, util-linux's `unshare` and `nsenter` make it; masks come from coreutils' `env`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};

use crate::pause_tools::{
    Pause, binary, children_of, comm, command, field, finish, is_zombie, pid_of, until, until_some, wait,
};

/// What the file may weigh.
const FILE_BYTES_MAX: u64 = 1024;

/// Calls from execve to the long wait, both counted.
const SYSCALLS_TO_IDLE_MAX: usize = 11;

const TERMINATED: &str = "Shutting down, got signal: Terminated\n";
const INTERRUPTED: &str = "Shutting down, got signal: Interrupt\n";
const NOT_FIRST: &str = "Warning: pause should be the first process\n";

/// A test fails by its error.
pub(crate) type Test = fn() -> Result<()>;

/// The tests of this file, for the runner.
pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("the_file_is_small", the_file_is_small),
        ("one_segment_is_loaded_and_none_is_writable_and_executable", segments),
        ("term_and_int_end_it_with_a_message_and_code_0", term_and_int_end_it),
        ("term_and_int_from_inside_the_namespace_end_it", term_and_int_from_inside),
        ("other_signals_from_inside_and_outside_are_ignored", other_signals_are_ignored),
        ("stopped_and_continued_it_still_ends", stopped_and_continued),
        ("orphans_that_die_after_reparenting_leave_no_zombie", orphans_dead_after),
        ("orphans_dead_before_reparenting_leave_no_zombie", orphans_dead_before),
        ("children_dead_before_its_execve_are_reaped", children_dead_before_execve),
        ("version_is_printed_wherever_the_flag_stands", version_is_printed),
        ("not_first_warns_and_goes_on", not_first_warns),
        ("inherited_masks_change_nothing", inherited_masks_change_nothing),
        ("term_sent_before_execve_is_obeyed", term_before_execve),
        ("closed_descriptors_change_nothing", closed_descriptors),
        ("without_a_free_descriptor_it_ends", no_free_descriptor),
        ("it_runs_without_privileges", without_privileges),
        ("it_confines_itself_to_strict_seccomp", strict_seccomp),
        ("memory_is_two_pages_every_time", memory_is_two_pages),
        ("few_calls_lead_to_idle", few_calls_lead_to_idle),
    ]
}

// ---- what it costs

fn the_file_is_small() -> Result<()> {
    let size = fs::metadata(binary()?)?.len();
    ensure!(size <= FILE_BYTES_MAX, "{size} bytes");
    Ok(())
}

fn segments() -> Result<()> {
    const PT_LOAD: u32 = 1;
    const PT_INTERP: u32 = 3;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    const EXECUTE: u32 = 1;
    const WRITE: u32 = 2;
    let file = fs::read(binary()?)?;
    let headers = program_headers(&file).context("program headers")?;
    let flags_of =
        |wanted| -> Vec<u32> { headers.iter().filter(|(kind, _)| *kind == wanted).map(|(_, flags)| *flags).collect() };
    let loads = flags_of(PT_LOAD);
    ensure!(loads.len() == 1, "{} load segments", loads.len());
    ensure!(loads.iter().all(|flags| flags & WRITE == 0), "a writable segment");
    let stacks = flags_of(PT_GNU_STACK);
    ensure!(stacks.len() == 1 && stacks.iter().all(|flags| flags & EXECUTE == 0), "the stack is executable");
    ensure!(flags_of(PT_INTERP).is_empty(), "it wants an interpreter");
    Ok(())
}

/// (type, flags) of each program header of a little-endian ELF64 file (elf(5)).
fn program_headers(file: &[u8]) -> Option<Vec<(u32, u32)>> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let (first, size, count) = (u32_at(32)? as usize, u16_at(54)? as usize, u16_at(56)? as usize);
    (0..count).map(|n| Some((u32_at(first + n * size)?, u32_at(first + n * size + 4)?))).collect()
}

/// smaps_rollup, since VmRSS counts in batches and is off by more than all of it.
fn memory_is_two_pages() -> Result<()> {
    // A file that has just been built is dirty itself.
    fs::File::open(binary()?)?.sync_all()?;
    for _ in 0..32 {
        let pause = Pause::first()?;
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", pause.pid))?;
        let kib =
            |name| field(&rollup, name).and_then(|value| Ok(value.trim_end_matches(" kB").trim().parse::<u64>()?));
        let (rss, dirty) = (kib("Rss")?, kib("Private_Dirty")?);
        ensure!(rss == 8 && dirty == 4, "RSS {rss} KiB, dirty {dirty} KiB");
        let tables = field(&pause.status()?, "VmPTE")?;
        ensure!(["20 kB", "24 kB"].contains(&tables.as_str()), "page tables: {tables}");
        pause.signal(Signal::TERM)?;
        pause.ends_well(TERMINATED)?;
    }
    Ok(())
}

fn few_calls_lead_to_idle() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let trace = dir.path().join("trace");
    let mut command = command("strace");
    command.arg("-o").arg(&trace).arg(binary()?);
    let pause = Pause::start(command).context("strace (Debian package strace)")?;
    pause.signal(Signal::TERM)?;
    pause.ends_well(&format!("{NOT_FIRST}{TERMINATED}"))?;
    let trace = fs::read_to_string(trace)?;
    let calls: Vec<&str> = trace.lines().collect();
    let idle = calls.iter().position(|call| call.starts_with("read(")).context("no read in the trace")? + 1;
    // The warning is not written by a first process.
    ensure!(idle - 1 <= SYSCALLS_TO_IDLE_MAX, "{idle} calls with the warning:\n{trace}");
    Ok(())
}

// ---- signals

fn term_and_int_end_it() -> Result<()> {
    for (signal, message) in [(Signal::TERM, TERMINATED), (Signal::INT, INTERRUPTED)] {
        let pause = Pause::first()?;
        pause.signal(signal)?;
        pause.ends_well(message)?;
    }
    Ok(())
}

fn term_and_int_from_inside() -> Result<()> {
    for (signal, message) in [("TERM", TERMINATED), ("INT", INTERRUPTED)] {
        let pause = Pause::first()?;
        // The shell may be killed with its namespace before it ends by itself.
        wait(&mut pause.enter(&format!("kill -s {signal} 1")).spawn()?)?;
        pause.ends_well(message)?;
    }
    Ok(())
}

fn other_signals_are_ignored() -> Result<()> {
    let pause = Pause::first()?;
    pause.inside("for s in HUP QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TSTP TTIN TTOU IO WINCH; do kill -s $s 1 || exit 1; done")?;
    for signal in [Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::PIPE, Signal::ALARM, Signal::CHILD] {
        pause.signal(signal)?;
    }
    // Had one of them ended it, it would not end by this one.
    pause.signal(Signal::TERM)?;
    pause.ends_well(TERMINATED)
}

fn stopped_and_continued() -> Result<()> {
    let pause = Pause::first()?;
    pause.signal(Signal::STOP)?;
    until("it is stopped", || Ok(field(&pause.status()?, "State")?.starts_with('T')))?;
    pause.signal(Signal::CONT)?;
    until("it reads again", || pause.is_idle())?;
    pause.signal(Signal::TERM)?;
    pause.ends_well(TERMINATED)
}

fn inherited_masks_change_nothing() -> Result<()> {
    let blocked = ["--block-signal=INT,TERM,CHLD"];
    let ignored = ["--ignore-signal=INT,TERM,CHLD"];
    for mask in [&blocked, &ignored] {
        for (signal, message) in [(Signal::TERM, TERMINATED), (Signal::INT, INTERRUPTED)] {
            let mut command = command("unshare");
            command.args(["--pid", "--fork", "--kill-child", "env"]).args(mask).arg(binary()?);
            let pause = Pause::start(command)?;
            // SIGCHLD is bit 16, INT is bit 1, TERM is bit 14.
            let status = pause.status()?;
            ensure!(field(&status, "SigBlk")? == format!("{:016x}", 1 << 1 | 1 << 14), "{status}");
            ensure!(u64::from_str_radix(&field(&status, "SigIgn")?, 16)? & 1 << 16 != 0, "{status}");
            leave_orphans(&pause)?;
            pause.signal(signal)?;
            pause.ends_well(message)?;
        }
    }
    Ok(())
}

/// A supervisor that blocks TERM before it starts pause loses no TERM.
fn term_before_execve() -> Result<()> {
    let script = r#"kill -s TERM $$; exec "$0""#;
    for (namespace, message) in [(&["--pid"][..], TERMINATED.to_owned()), (&[], format!("{NOT_FIRST}{TERMINATED}"))] {
        let mut command = command("unshare");
        command
            .args(namespace)
            .args(["--fork", "--kill-child", "env", "--block-signal=TERM", "sh", "-c", script])
            .arg(binary()?);
        let (status, _, stderr) = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)?;
        ensure!(status.success() && stderr == message, "{status}: {stderr}");
    }
    Ok(())
}

// ---- reaping

fn orphans_dead_after() -> Result<()> {
    let pause = Pause::first()?;
    leave_orphans(&pause)?;
    pause.signal(Signal::TERM)?;
    pause.ends_well(TERMINATED)
}

/// Starts a thousand children that live until standard input is closed.
const THOUSAND_CHILDREN: &str = "exec 3<&0; i=0; while [ $i -lt 1000 ]; do read line <&3 & i=$((i+1)); done";

/// A thousand processes come to pause alive, die at once, and are gone.
fn leave_orphans(pause: &Pause) -> Result<()> {
    let mut shell = pause.enter(THOUSAND_CHILDREN).stdin(Stdio::piped()).spawn()?;
    let keeps_them_alive = shell.stdin.take();
    ensure!(wait(&mut shell)?.success(), "the shell");
    let orphans = children_of(pause.pid)?.len();
    ensure!(orphans == 1000, "{orphans} orphans");
    drop(keeps_them_alive);
    until("all orphans are gone", || Ok(children_of(pause.pid)?.is_empty()))
}

/// A thousand zombies come to pause when the parent that neglected them dies.
fn orphans_dead_before() -> Result<()> {
    let pause = Pause::first()?;
    let neglect = format!("{THOUSAND_CHILDREN}; exec sleep infinity");
    let mut nsenter = pause.enter(&neglect).stdin(Stdio::piped()).spawn()?;
    let keeps_them_alive = nsenter.stdin.take();
    let parent = until_some("the shell", || Ok(children_of(pid_of(&nsenter)?)?.first().copied()))?;
    until("it neglects its children", || Ok(comm(parent)? == "sleep"))?;
    drop(keeps_them_alive);
    until("they are dead", || all_are_zombies(parent))?;
    kill_process(parent, Signal::KILL)?;
    wait(&mut nsenter)?;
    until("all zombies are gone", || Ok(children_of(pause.pid)?.is_empty()))?;
    pause.signal(Signal::TERM)?;
    pause.ends_well(TERMINATED)
}

/// What SIG_IGN can't do is reap those that died before it was set.
fn children_dead_before_execve() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let gate = dir.path().join("gate");
    mkfifoat(CWD, &gate, Mode::RWXU)?;
    // The second shell, which waits at the gate, reaps when SIGCHLD comes: so it must not come.
    let script =
        format!(r#"{THOUSAND_CHILDREN}; exec env --block-signal=CHLD sh -c 'read line < "$1"; exec "$0"' "$0" "$1""#);
    let mut command = command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    command.arg(binary()?).arg(&gate);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut unshare = command.spawn()?;
    let keeps_them_alive = unshare.stdin.take();
    let shell = until_some("the shell", || Ok(children_of(pid_of(&unshare)?)?.first().copied()))?;
    // The first is not to reap them either.
    until("the second shell runs", || Ok(fs::read(format!("/proc/{shell}/cmdline"))?.starts_with(b"sh\0-c\0read")))?;
    drop(keeps_them_alive);
    until("they are dead", || all_are_zombies(shell))?;
    // Open for reading too, so that opening waits for nobody.
    let mut gate = OpenOptions::new().read(true).write(true).open(&gate)?;
    gate.write_all(b"\n")?;
    let pause = Pause::from_starter(unshare)?;
    ensure!(children_of(pause.pid)?.is_empty(), "zombies");
    pause.signal(Signal::TERM)?;
    pause.ends_well(TERMINATED)
}

/// The thousand children of `parent` have died, and nobody has asked for them.
fn all_are_zombies(parent: Pid) -> Result<bool> {
    let children = children_of(parent)?;
    let zombie = |pid: &Pid| is_zombie(*pid).is_ok_and(|dead| dead);
    Ok(children.len() == 1000 && children.iter().all(zombie))
}

// ---- the rest of its manners

fn version_is_printed() -> Result<()> {
    for args in [&["-v"][..], &["-V"], &["x", "", "-", "--", "-vv", "-v"]] {
        let mut command = command(binary()?);
        let (status, stdout, stderr) =
            finish(command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)?;
        ensure!(status.success() && stderr.is_empty(), "{args:?}: {status}, {stderr}");
        ensure!(stdout == concat!("pause ", env!("CARGO_PKG_VERSION"), "\n"), "{args:?}: {stdout}");
    }
    Ok(())
}

fn not_first_warns() -> Result<()> {
    let pause = Pause::start(command(binary()?))?;
    pause.signal(Signal::TERM)?;
    pause.ends_well(&format!("{NOT_FIRST}{TERMINATED}"))
}

fn closed_descriptors() -> Result<()> {
    let mut command = command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c", r#"exec "$0" <&- >&- 2>&-"#]).arg(binary()?);
    let pause = Pause::start(command)?;
    let target = |fd| fs::read_link(format!("/proc/{}/fd/{fd}", pause.pid));
    ensure!(target(0)?.ends_with("anon_inode:[signalfd]") && target(1).is_err() && target(2).is_err(), "descriptors");
    leave_orphans(&pause)?;
    pause.signal(Signal::TERM)?;
    pause.ends_well("")
}

fn no_free_descriptor() -> Result<()> {
    let mut command = command("sh");
    command.args(["-c", r#"ulimit -n 3; exec "$0""#]).arg(binary()?);
    let (status, _, _) = finish(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)?;
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}

/// As the monitor starts it: uid 65535, no capabilities, no_new_privs, and nothing to see.
fn without_privileges() -> Result<()> {
    let dir = tempfile::tempdir_in("/tmp")?;
    let copy = dir.path().join("pause");
    fs::copy(binary()?, &copy)?;
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut command = command("unshare");
    command.args([
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
        "setpriv",
        "--reuid=65535",
        "--regid=65535",
    ]);
    command.args(["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]).arg(&copy);
    let pause = Pause::start(command)?;
    let status = pause.status()?;
    ensure!(field(&status, "CapEff")? == "0000000000000000" && field(&status, "NoNewPrivs")? == "1", "{status}");
    leave_orphans(&pause)?;
    pause.signal(Signal::TERM)?;
    pause.ends_well(TERMINATED)
}

fn strict_seccomp() -> Result<()> {
    const SECCOMP_MODE_STRICT: &str = "1";
    let pause = Pause::first()?;
    let mode = field(&pause.status()?, "Seccomp")?;
    ensure!(mode == SECCOMP_MODE_STRICT, "mode {mode}");
    pause.signal(Signal::TERM)?;
    pause.ends_well(TERMINATED)
}
