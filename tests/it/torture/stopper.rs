//! One life of the daemon, ended by SIGKILL: after a while, or at a chosen system call by ptrace(2).
//!
//! Threads of the daemon are traced, processes that it starts are not: a monitor lives as it always does.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::random::Random;

/// Calls at which a death could matter: what changes files, what talks to monitors and clients, what starts them.
const CALLS: &[(&str, libc::c_long)] = &[
    ("fsync", libc::SYS_fsync),
    ("openat", libc::SYS_openat),
    ("mkdirat", libc::SYS_mkdirat),
    ("unlinkat", libc::SYS_unlinkat),
    ("renameat2", libc::SYS_renameat2),
    ("connect", libc::SYS_connect),
    ("accept4", libc::SYS_accept4),
    ("sendmsg", libc::SYS_sendmsg),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendto", libc::SYS_sendto),
    ("recvfrom", libc::SYS_recvfrom),
    ("write", libc::SYS_write),
    ("clone3", libc::SYS_clone3),
    ("mount", libc::SYS_mount),
    ("flock", libc::SYS_flock),
    #[cfg(target_arch = "x86_64")]
    ("mkdir", libc::SYS_mkdir),
    #[cfg(target_arch = "x86_64")]
    ("rename", libc::SYS_rename),
    #[cfg(target_arch = "x86_64")]
    ("unlink", libc::SYS_unlink),
];

/// linux/ptrace.h: what a stop at a system call is.
const PTRACE_SYSCALL_INFO_ENTRY: u8 = 1;
const PTRACE_SYSCALL_INFO_EXIT: u8 = 2;

/// When a life ends.
#[derive(Debug, Clone, Copy)]
pub enum Kill {
    After(Duration),
    /// Before or after the call of this number, counted from the start; after `patience` in any case.
    At {
        call: (&'static str, libc::c_long),
        number: u64,
        done: bool,
        patience: Duration,
    },
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(span) => write!(f, "after {} ms", span.as_millis()),
            Self::At { call, number, done, patience } => {
                let side = if *done { "after" } else { "before" };
                write!(f, "{side} {} {number}, or after {} ms", call.0, patience.as_millis())
            }
        }
    }
}

impl Kill {
    /// The longest life between two deaths; pods need some time to get anywhere.
    const LONGEST_MILLISECONDS: u64 = 400;
    /// `2^` this is the highest number of a call.
    const NUMBER_BITS: u64 = 8;

    pub fn plan(random: &mut Random) -> Self {
        let span = Duration::from_millis(random.below(Self::LONGEST_MILLISECONDS));
        match random.pick(CALLS) {
            Some(call) if random.below(5) < 3 => Self::At {
                call,
                number: random.skewed(Self::NUMBER_BITS),
                done: random.below(2) == 0,
                patience: Duration::from_millis(Self::LONGEST_MILLISECONDS),
            },
            _ => Self::After(span),
        }
    }

    fn at_most(&self) -> Duration {
        match self {
            Self::After(span) => *span,
            Self::At { patience, .. } => *patience,
        }
    }
}

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At the chosen call.
    AtCall,
    /// By time.
    InTime,
    /// By itself: a crash, or a refusal to start.
    ByItself,
}

/// Starts the daemon and kills it as planned; it is gone afterwards.
/// (ptrace(2) has to wait for every thread itself, so the standard library's handle goes.)
pub fn live(mut command: Command, plan: Kill) -> Result<End> {
    let pid = Pid::from_raw(command.spawn().context("start monopod serve")?.id().cast_signed());
    std::thread::scope(|scope| {
        let (over, wait) = channel::<()>();
        let timer = scope.spawn(move || {
            let late = wait.recv_timeout(plan.at_most()) == Err(RecvTimeoutError::Timeout);
            // It is not reaped before this thread has ended, or has said so.
            late && kill(pid, Signal::SIGKILL).is_ok()
        });
        let mut life = Life { pid, plan, seen: 0, inside: BTreeMap::new(), struck: false };
        if matches!(plan, Kill::At { .. }) {
            life.seize()?;
        }
        let end = life.follow()?;
        // Fails when the timer has run out.
        let _ended = over.send(());
        let timed = timer.join().unwrap_or_default();
        Ok(match end {
            End::ByItself => End::ByItself,
            End::AtCall | End::InTime if life.struck => End::AtCall,
            End::AtCall | End::InTime if timed => End::InTime,
            End::AtCall | End::InTime => End::ByItself,
        })
    })
}

struct Life {
    pid: Pid,
    plan: Kill,
    /// Chosen calls so far.
    seen: u64,
    /// Threads inside of a chosen call, and its number.
    inside: BTreeMap<Pid, u64>,
    struck: bool,
}

impl Life {
    fn seize(&self) -> Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(self.pid, options).context("ptrace(PTRACE_SEIZE)")?;
        ptrace::interrupt(self.pid).context("ptrace(PTRACE_INTERRUPT)")
    }

    /// Until the process is gone.
    fn follow(&mut self) -> Result<End> {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = match waitpid(None, Some(flags)) {
                Err(Errno::EINTR) => continue,
                status => status.context("waitpid(-1)")?,
            };
            match status {
                WaitStatus::Exited(pid, _) if pid == self.pid => return Ok(End::ByItself),
                WaitStatus::Signaled(pid, Signal::SIGKILL, _) if pid == self.pid => return Ok(End::InTime),
                WaitStatus::Signaled(pid, ..) if pid == self.pid => return Ok(End::ByItself),
                WaitStatus::PtraceSyscall(thread) => {
                    self.at_call(thread);
                    go_on(thread, None);
                }
                WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
                WaitStatus::PtraceEvent(thread, ..) => go_on(thread, None),
                WaitStatus::Exited(..)
                | WaitStatus::Signaled(..)
                | WaitStatus::Continued(_)
                | WaitStatus::StillAlive => {}
            }
        }
    }

    fn at_call(&mut self, thread: Pid) {
        let Kill::At { call, number, done, .. } = self.plan else { return };
        let Ok(stop) = ptrace::syscall_info(thread) else { return };
        let strike = match stop.op {
            PTRACE_SYSCALL_INFO_ENTRY if system_call(thread) == Some(call.1) => {
                self.seen += 1;
                self.inside.insert(thread, self.seen);
                !done && self.seen == number
            }
            PTRACE_SYSCALL_INFO_EXIT => self.inside.remove(&thread).is_some_and(|seen| done && seen == number),
            _ => false,
        };
        if strike {
            self.struck = kill(self.pid, Signal::SIGKILL).is_ok();
        }
    }
}

/// It may be dead.
fn go_on(thread: Pid, signal: Option<Signal>) {
    let _dead = ptrace::syscall(thread, signal);
}

/// proc_pid_syscall(5)
fn system_call(thread: Pid) -> Option<libc::c_long> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    text.split(' ').next()?.parse().ok()
}
