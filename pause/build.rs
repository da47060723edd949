//! Links `pause` without a C runtime and with `link.ld`, so that plain `cargo build` makes the binary we ship.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
    for arg in [
        // No startup files, no libraries: `_start` is ours.
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        // One segment, nothing in the file that the kernel does not read. `-n` leaves out padding to page boundaries.
        &format!("-Wl,-T,{dir}/link.ld"),
        &format!("-Wl,--defsym=image_base={}", image_base(&arch)),
        "-Wl,-n",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,norelro",
        "-Wl,-z,nosectionheader",
        // Sections that only a debugger reads, which the script cannot name for every profile.
        "-Wl,--strip-all",
    ] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}

/// Where the one segment is mapped. On x86_64 the address shares its upper page tables with the stack, which saves a
/// page of kernel memory per Pod; the stack starts at least 480 GiB above. An arm64 address space may be as small as
/// 39 bits, so there the usual low address stays.
fn image_base(arch: &str) -> &'static str {
    match arch {
        "x86_64" => "0x7f8000000000",
        _ => "0x400000",
    }
}
