//! Bounds on what an image may grow to, so that hostile archives cannot use up the memory.

/// The most nodes of an image: some ten times what the largest servers have below `/sys`.
pub const MAX_NODES: usize = 1 << 20;

/// The longest name in bytes (`NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// The longest path and the longest text of a link in bytes, with the NUL that C wants
/// (`PATH_MAX`).
pub const MAX_PATH: usize = 4096;

/// The most directories above a node: the deepest of `/sys` have less than thirty, and a recording
/// holds a descriptor for each.
pub const MAX_DEPTH: usize = 200;

/// The largest content of one file in bytes: firmware tables have a few MiB.
pub const MAX_FILE: usize = 16 << 20;

/// The most bytes of all distinct contents together.
pub const MAX_CONTENT: u64 = 512 << 20;

/// The most bytes that an archive may have when it is decompressed: all contents, and a header
/// with padding for each node.
pub const MAX_UNPACKED: u64 = 2 << 30;

/// The largest window of zstd that is accepted, as a power of two: the 128 MiB that the `zstd`
/// command accepts, too.
pub const MAX_WINDOW_LOG: u32 = 27;

/// The largest manifest in bytes, which is held in memory while an archive is read.
pub const MAX_MANIFEST: usize = 64 << 20;

/// The longest line of the text formats in bytes: a property list with all a device may tell.
pub const MAX_LINE: usize = MAX_FILE * 2 + MAX_PATH;
