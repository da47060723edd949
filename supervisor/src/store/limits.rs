//! How much the store takes (D40). What is at a limit is refused with a named error; what is stored stays usable.

use std::time::Duration;

const MIB: usize = 1 << 20;

/// Bytes of one object's JSON, without its `resourceVersion`: etcd's request limit (`--max-request-bytes`), so that what a
/// cluster takes fits here, too.
pub const MAX_OBJECT_BYTES: usize = 3 * MIB / 2;
/// Objects of one resource. A node has some hundred pods; events are the most numerous.
pub const MAX_OBJECTS_PER_RESOURCE: usize = 10_000;
/// Objects of all resources together.
pub const MAX_OBJECTS: usize = 20_000;
/// Bytes of all objects' JSON together. All of it is also in memory.
pub const MAX_TOTAL_BYTES: usize = 128 * MIB;

/// Changes of one resource that are remembered for watches that start in the past or lag behind.
pub const HISTORY_EVENTS: usize = 1024;
/// Bytes of the remembered changes of one resource, each with the object before and after it.
pub const HISTORY_BYTES: usize = 4 * MIB;

/// Changes that are written together. Each holds a descriptor open until its batch is on the disk.
pub const BATCH_CHANGES: usize = 32;
/// Versions that are reserved on the disk at once. A start loses what is left of them; changes that need no disk wait for one
/// sync in each half of them.
pub const VERSION_BLOCK: u64 = 4096;
/// What a start skips when nobody knows any more how far the versions had come: more than a node ever hands out.
pub const VERSION_LEAP: u64 = 1 << 32;

/// Files in `quarantine/` from which on the leftovers of unfinished changes are removed and not kept.
pub const MAX_QUARANTINED: u64 = 1000;
/// Bytes of a file that is read at the start; nothing larger was ever written.
pub(super) const MAX_FILE_BYTES: u64 = (MAX_OBJECT_BYTES + 64 * 1024) as u64;
/// How long the writing thread waits for more before it ends: an idle node has none.
pub(super) const WRITER_LINGERS: Duration = Duration::from_secs(10);
/// Stack of the writing thread; it recurses nowhere but into JSON, whose depth serde_json bounds at 128.
pub(super) const WRITER_STACK_BYTES: usize = 512 * 1024;
