//! The first process of every Pod. It holds the namespaces that the containers share, sees to it that the orphans of a
//! shared PID namespace are reaped, and ends when it is told to. It behaves as the pause process of Kubernetes does.
//!
//! Two ideas make it small:
//! - SIGCHLD is *ignored*, so the kernel itself reaps every child and every orphan, without waking anybody.
//! - INT and TERM are *blocked* and read from a signalfd: no handlers, no races, and a signal that came before the
//!   execve of this program is kept if whoever starts it has blocked both. Reading, writing and ending are then all that
//!   is left to do, which is what strict seccomp allows.
//!
//! What a process costs beyond the kernel's own share is the memory it touched: one page of this file, shared by all
//! Pods, and the page of the stack with the command line, which `ps` shows.

#![no_std]
#![no_main]

mod sys;

use sys::{Args, STDERR, STDOUT, Signal};

const VERSION: &[u8] = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
const NOT_FIRST: &[u8] = b"Warning: pause should be the first process\n";
const INTERRUPTED: &[u8] = b"Shutting down, got signal: Interrupt\n";
const TERMINATED: &[u8] = b"Shutting down, got signal: Terminated\n";

/// From the first instruction to the long wait. Failures are not looked at where going on is the best answer.
fn start(args: Args) -> ! {
    if args.contain(b"-v\0") || args.contain(b"-V\0") {
        sys::write(STDOUT, VERSION);
        sys::exit(0);
    }
    sys::block_only([Signal::Int, Signal::Term]);
    sys::ignore_sigchld();
    // Children that were dead before the line above, if somebody executed us with any.
    while sys::reap_one() {}
    if sys::getpid() != 1 {
        sys::write(STDERR, NOT_FIRST);
    }
    match sys::signalfd([Signal::Int, Signal::Term]) {
        Some(signals) => sys::wait_confined(args, signals),
        // No descriptor is left: nothing could ever end this process, so it says so by ending now.
        None => sys::exit(1),
    }
}

/// What comes after the wait, under strict seccomp: only `write` and `exit` may be called.
fn shut_down(signal: u32) -> ! {
    let message = if signal == Signal::Int as u32 { INTERRUPTED } else { TERMINATED };
    sys::write(STDERR, message);
    sys::exit(0)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(101)
}
