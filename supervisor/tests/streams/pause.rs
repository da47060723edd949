//! A program that calls pause(2) for ever, for a sandbox.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// `mov eax, 34; syscall; jmp`. As PID 1 it ignores every signal but KILL. The real pause has tests of its own.
#[cfg(target_arch = "x86_64")]
const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];

pub(crate) fn write(path: &Path) {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let base = 0x40_0000u64;
    let headers = 64 + 56;
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend((base + headers).to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    let size = headers + CODE.len() as u64;
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, base, base, size, size, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE);
    std::fs::write(path, file).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
