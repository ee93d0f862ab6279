//! Sizes and durations as people write them: `1MiB`, `64KiB`, `30s`, `10m`.

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);
