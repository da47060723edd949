//! The kernel's side of `pause`: its entry point, its ten system calls, and all of its `unsafe`.
//!
//! Signal numbers, flags and structures are the same on x86_64 and aarch64; what differs stands in `arch` at the end.

#![allow(unsafe_code, reason = "system calls without a C library")]

use arch::{nr, syscall};

/// Signals that end the process. The numbers are those of signal(7).
#[derive(Clone, Copy)]
pub(crate) enum Signal {
    Int = 2,
    Term = 15,
}

pub(crate) const STDOUT: usize = 1;
pub(crate) const STDERR: usize = 2;

const SIGCHLD: usize = 17;
const SIG_SETMASK: usize = 2;
const SIG_IGN: usize = 1;
const WNOHANG: usize = 1;
const WALL: usize = 0x4000_0000;

/// Bytes of the kernel's signal set, which the calls want to be told.
const SIGSET_SIZE: usize = 8;

/// The unit in which the stack is given back. Where the kernel's pages are larger it refuses, and nothing is lost but
/// memory.
const PAGE: usize = 4096;

/// How far below the first stack pointer `start` can have written: far more than it does, and less than the 128 KiB
/// that execve reserves.
const STACK_USED: usize = 4 * PAGE;

/// The kernel's `sigset_t`: bit n-1 stands for signal n.
const fn sigset(signals: [Signal; 2]) -> u64 {
    1 << (signals[0] as u64 - 1) | 1 << (signals[1] as u64 - 1)
}

/// The kernel's `struct sigaction`, the same on both architectures.
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

/// The arguments as execve left them on the stack: argc, argv, NULL.
#[derive(Clone, Copy)]
pub(crate) struct Args {
    stack: *const usize,
}

impl Args {
    /// Whether an argument after the first is `wanted`, which includes the final NUL.
    pub(crate) fn contain(self, wanted: &[u8; 3]) -> bool {
        let mut index = 1;
        loop {
            let Some(arg) = self.get(index) else {
                return false;
            };
            if equal(arg, wanted) {
                return true;
            }
            index += 1;
        }
    }

    /// Argument `index`, or `None` at the end. `index` grows by one from a valid one, so it never passes the NULL.
    #[inline(always)]
    fn get(self, index: usize) -> Option<*const u8> {
        // SAFETY: argc is followed by argv and its NULL, and `contain` stops there. argv[1] can be read even if argc is
        // 0 (before Linux 5.18): then it is the first of the environment, or its NULL.
        let arg = unsafe { *self.stack.wrapping_add(1 + index) } as *const u8;
        if arg.is_null() { None } else { Some(arg) }
    }

    /// The address of the argument strings, in the topmost page of the stack: what `ps` reads.
    #[inline(always)]
    fn strings(self) -> usize {
        // SAFETY: the word after argc is argv[0] or its NULL.
        unsafe { *self.stack.wrapping_add(1) }
    }
}

/// Compares by hand: a loop that LLVM recognises as `memcmp` would need a library.
#[inline(always)]
fn equal(arg: *const u8, wanted: &[u8; 3]) -> bool {
    for (index, byte) in wanted.iter().enumerate() {
        // SAFETY: the bytes before this one are equal to `wanted`, whose only NUL is its last: this one is still inside
        // the argument or its NUL.
        if unsafe { *arg.wrapping_add(index) } != *byte {
            return false;
        }
    }
    true
}

/// Writes what fits; nobody could be told of a failure.
pub(crate) fn write(fd: usize, bytes: &[u8]) {
    // SAFETY: the kernel reads `bytes` alone.
    unsafe { syscall(nr::WRITE, fd, bytes.as_ptr() as usize, bytes.len(), 0) };
}

/// Ends the one thread there is, by the call that strict seccomp allows (`exit_group` it does not).
pub(crate) fn exit(code: usize) -> ! {
    loop {
        // SAFETY: takes no memory, does not return.
        unsafe { syscall(nr::EXIT, code, 0, 0, 0) };
    }
}

pub(crate) fn getpid() -> isize {
    // SAFETY: takes no memory.
    unsafe { syscall(nr::GETPID, 0, 0, 0, 0) }
}

/// Blocks these signals and no others, whatever mask was inherited.
pub(crate) fn block_only(signals: [Signal; 2]) {
    let set = sigset(signals);
    // SAFETY: the kernel reads SIGSET_SIZE bytes of `set`.
    unsafe { syscall(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const set as usize, 0, SIGSET_SIZE) };
}

/// From here on the kernel reaps: children and orphans leave no zombie, and no SIGCHLD comes.
pub(crate) fn ignore_sigchld() {
    let action = KernelSigaction { handler: SIG_IGN, flags: 0, restorer: 0, mask: 0 };
    // SAFETY: the kernel reads `action` alone.
    unsafe { syscall(nr::RT_SIGACTION, SIGCHLD, &raw const action as usize, 0, SIGSET_SIZE) };
}

/// Reaps a child that is dead already; false when there is none. Never waits.
pub(crate) fn reap_one() -> bool {
    // SAFETY: no status and no usage are asked for, so no memory is written. -1 means any child.
    unsafe { syscall(nr::WAIT4, usize::MAX, 0, WNOHANG | WALL, 0) > 0 }
}

/// A descriptor from which `signals`, blocked before, are read; `None` if the kernel gives none.
pub(crate) fn signalfd(signals: [Signal; 2]) -> Option<usize> {
    let set = sigset(signals);
    // SAFETY: the kernel reads SIGSET_SIZE bytes of `set`. -1 means a new descriptor.
    let fd = unsafe { syscall(nr::SIGNALFD4, usize::MAX, &raw const set as usize, SIGSET_SIZE, 0) };
    usize::try_from(fd).ok()
}

/// Gives back the stack below the argument strings, enters strict seccomp and waits for a signal, on which
/// `crate::shut_down` is called. Every step may be refused; the wait comes all the same.
pub(crate) fn wait_confined(args: Args, signals: usize) -> ! {
    let low = (args.stack as usize & !(PAGE - 1)) - STACK_USED;
    let high = args.strings() & !(PAGE - 1);
    // SAFETY: `low..high` is unused stack and what `start` has put there, and nothing of it is read again:
    // `arch::confine_and_read` keeps everything in registers and calls `shut_down` with the signal alone.
    unsafe { arch::confine_and_read(low, high.wrapping_sub(low), signals) }
}

/// Called by the entry point with the stack as execve left it.
extern "C" fn enter(stack: *const usize) -> ! {
    crate::start(Args { stack })
}

/// Called when a signal has been read.
extern "C" fn leave(signal: u32) -> ! {
    crate::shut_down(signal)
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use core::arch::{asm, naked_asm};

    /// System call numbers.
    pub(super) mod nr {
        pub(crate) const READ: usize = 0;
        pub(crate) const WRITE: usize = 1;
        pub(crate) const RT_SIGACTION: usize = 13;
        pub(crate) const RT_SIGPROCMASK: usize = 14;
        pub(crate) const MADVISE: usize = 28;
        pub(crate) const GETPID: usize = 39;
        pub(crate) const EXIT: usize = 60;
        pub(crate) const WAIT4: usize = 61;
        pub(crate) const PRCTL: usize = 157;
        pub(crate) const SIGNALFD4: usize = 289;
    }

    /// One system call. The answer is the result, or an errno negated.
    ///
    /// # Safety
    /// What call `nr` does with these arguments must be sound.
    #[inline(always)]
    pub(super) unsafe fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
        let result;
        // SAFETY: the kernel changes rax, rcx and r11, and memory only as the caller has vouched for.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") nr => result,
                in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
                lateout("rcx") _, lateout("r11") _,
                options(nostack),
            );
        }
        result
    }

    /// Where the kernel jumps to. The frame of nobody: rsp points at argc.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        naked_asm!("mov rdi, rsp", "call {enter}", enter = sym super::enter)
    }

    /// madvise(low, length, MADV_DONTNEED), prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), read(signals) until a signal
    /// is there. The buffer lies below the stack pointer and costs no memory until the kernel fills it.
    ///
    /// # Safety
    /// Nothing in `low..low + length` may be needed any more.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn confine_and_read(low: usize, length: usize, signals: usize) -> ! {
        naked_asm!(
            "mov r8d, edx",                  // signals: out of the way of the arguments
            "mov edx, 4",                    // MADV_DONTNEED
            "mov eax, {madvise}",
            "syscall",
            "mov edi, 22",                   // PR_SET_SECCOMP
            "mov esi, 1",                    // SECCOMP_MODE_STRICT
            "mov eax, {prctl}",
            "syscall",
            "2:",
            "mov edi, r8d",
            "lea rsi, [rsp - 128]",          // struct signalfd_siginfo
            "mov edx, 128",
            "mov eax, {read}",
            "syscall",
            "cmp eax, 128",
            "jne 2b",
            "mov edi, [rsp - 128]",          // ssi_signo
            "call {leave}",
            madvise = const nr::MADVISE,
            prctl = const nr::PRCTL,
            read = const nr::READ,
            leave = sym super::leave,
        )
    }
}

/// Not run yet: the toolchain in use has no libcore for this target.
#[cfg(target_arch = "aarch64")]
mod arch {
    use core::arch::{asm, naked_asm};

    /// System call numbers.
    pub(super) mod nr {
        pub(crate) const READ: usize = 63;
        pub(crate) const WRITE: usize = 64;
        pub(crate) const SIGNALFD4: usize = 74;
        pub(crate) const EXIT: usize = 93;
        pub(crate) const RT_SIGACTION: usize = 134;
        pub(crate) const RT_SIGPROCMASK: usize = 135;
        pub(crate) const PRCTL: usize = 167;
        pub(crate) const GETPID: usize = 172;
        pub(crate) const MADVISE: usize = 233;
        pub(crate) const WAIT4: usize = 260;
    }

    /// One system call. The answer is the result, or an errno negated.
    ///
    /// # Safety
    /// What call `nr` does with these arguments must be sound.
    #[inline(always)]
    pub(super) unsafe fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
        let result;
        // SAFETY: the kernel changes x0, and memory only as the caller has vouched for.
        unsafe {
            asm!(
                "svc #0",
                in("x8") nr,
                inlateout("x0") a => result,
                in("x1") b, in("x2") c, in("x3") d,
                options(nostack),
            );
        }
        result
    }

    /// Where the kernel jumps to. The frame of nobody: sp points at argc.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        naked_asm!("mov x0, sp", "bl {enter}", enter = sym super::enter)
    }

    /// As on x86_64.
    ///
    /// # Safety
    /// Nothing in `low..low + length` may be needed any more.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn confine_and_read(low: usize, length: usize, signals: usize) -> ! {
        naked_asm!(
            "mov x4, x2",                    // signals: out of the way of the arguments
            "mov x2, #4",                    // MADV_DONTNEED
            "mov x8, #{madvise}",
            "svc #0",
            "mov x0, #22",                   // PR_SET_SECCOMP
            "mov x1, #1",                    // SECCOMP_MODE_STRICT
            "mov x8, #{prctl}",
            "svc #0",
            "sub sp, sp, #128",              // struct signalfd_siginfo
            "2:",
            "mov x0, x4",
            "mov x1, sp",
            "mov x2, #128",
            "mov x8, #{read}",
            "svc #0",
            "cmp x0, #128",
            "b.ne 2b",
            "ldr w0, [sp]",                  // ssi_signo
            "bl {leave}",
            madvise = const nr::MADVISE,
            prctl = const nr::PRCTL,
            read = const nr::READ,
            leave = sym super::leave,
        )
    }
}
