//! `seccomp(2)` without the `no_new_privs` that the libraries force on (a container with
//! `allowPrivilegeEscalation: true` must keep its set-user-ID programs).
#![allow(unsafe_code, reason = "a call that neither rustix nor nix wraps")]

use std::io;

/// Bytes of one `struct sock_filter`.
pub const INSTRUCTION_BYTES: usize = 8;
/// `BPF_MAXINSNS`: the kernel takes no longer program.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// A program as the kernel takes it; not empty and not too long (D21: never unconfined by accident).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<libc::sock_filter>);

impl Program {
    /// From the bytes of an array of `struct sock_filter` in native byte order.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (instructions, rest) = bytes.as_chunks::<INSTRUCTION_BYTES>();
        let fits = (1..=MAX_INSTRUCTIONS).contains(&instructions.len());
        (rest.is_empty() && fits).then(|| Self(instructions.iter().map(instruction).collect()))
    }
}

fn instruction(bytes: &[u8; INSTRUCTION_BYTES]) -> libc::sock_filter {
    let [code_low, code_high, jt, jf, k0, k1, k2, k3] = *bytes;
    libc::sock_filter {
        code: u16::from_ne_bytes([code_low, code_high]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    }
}

/// Filters the calling thread from now on. Needs `no_new_privs` or CAP_SYS_ADMIN.
pub fn load(program: &Program) -> io::Result<()> {
    let raw = libc::sock_fprog {
        len: u16::try_from(program.0.len()).map_err(io::Error::other)?,
        filter: program.0.as_ptr().cast_mut(),
    };
    // SAFETY: `raw` points to `len` instructions that live in `program`; the kernel copies them and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const raw) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_programs_are_taken() {
        for (bytes, taken) in [
            (0, false),
            (7, false),
            (INSTRUCTION_BYTES, true),
            (INSTRUCTION_BYTES + 1, false),
            (MAX_INSTRUCTIONS * INSTRUCTION_BYTES, true),
            ((MAX_INSTRUCTIONS + 1) * INSTRUCTION_BYTES, false),
        ] {
            assert_eq!(Program::from_bytes(&vec![0; bytes]).is_some(), taken, "{bytes} bytes");
        }
    }
}
