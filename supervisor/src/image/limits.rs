//! How large anything in an image may be (D28).

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bytes of one blob as it is stored, compressed or not.
pub const MAX_BLOB_BYTES: u64 = 10 * GIB;
/// Bytes of one layer after decompression; also the largest file (`RLIMIT_FSIZE`).
pub const MAX_LAYER_BYTES: u64 = 20 * GIB;
/// Decompressed bytes per compressed byte, looked at once [`RATIO_FREE_BYTES`] have come out.
pub const MAX_RATIO: u64 = 200;
/// What may come out of a decompressor before the ratio counts: small files of zeros are legal.
pub const RATIO_FREE_BYTES: u64 = 100 * MIB;
/// Entries of one layer.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Layers of one image (overlayfs and docker stop near here, too).
pub const MAX_LAYERS: usize = 127;
/// Bytes of a path in a layer (`PATH_MAX`).
pub const MAX_PATH_BYTES: usize = 4096;
/// Components of a path in a layer.
pub const MAX_PATH_COMPONENTS: usize = 256;
/// Bytes of one PAX header.
pub const MAX_PAX_BYTES: u64 = MIB;
/// Bytes of a manifest, an index or docker's `manifest.json`.
pub const MAX_MANIFEST_BYTES: u64 = 4 * MIB;
/// Bytes of an image configuration.
pub const MAX_CONFIG_BYTES: u64 = 8 * MIB;
/// Members of an archive that carries images, and descriptors that one index may name.
pub const MAX_MEMBERS: usize = 10_000;
/// How deep an index may name another.
pub const MAX_INDEX_DEPTH: usize = 4;
/// Bytes of the file system that unpacking leaves free.
pub const MIN_FREE_BYTES: u64 = 256 * MIB;
/// Address space of the unpacker: a zstd window of 128 MiB and the program fit.
pub const UNPACKER_ADDRESS_SPACE_BYTES: u64 = 256 * MIB;
/// Processor time that one layer may take.
pub const UNPACKER_CPU_SECONDS: u64 = 900;
/// The largest zstd window, as a power of two: what `zstd --ultra` without `--long=31` makes.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Symbolic links that are followed while missing parents are made (`MAXSYMLINKS`).
pub const MAX_SYMLINKS: usize = 40;

/// The limits that an administrator may change; the rest are formats' and the kernel's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    pub blob_bytes: u64,
    pub layer_bytes: u64,
    pub ratio: u64,
    pub ratio_free_bytes: u64,
    pub entries: u64,
    pub layers: usize,
    pub min_free_bytes: u64,
    pub cpu_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob_bytes: MAX_BLOB_BYTES,
            layer_bytes: MAX_LAYER_BYTES,
            ratio: MAX_RATIO,
            ratio_free_bytes: RATIO_FREE_BYTES,
            entries: MAX_ENTRIES,
            layers: MAX_LAYERS,
            min_free_bytes: MIN_FREE_BYTES,
            cpu_seconds: UNPACKER_CPU_SECONDS,
        }
    }
}
