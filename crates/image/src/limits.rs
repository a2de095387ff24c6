//! The bounds that keep a hostile image from filling disk or memory. Every one has a default that real images meet.

/// Bounds of what is read, fetched and unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one manifest or index.
    pub manifest_bytes: u64,
    /// Bytes of one image configuration.
    pub config_bytes: u64,
    /// Bytes of one compressed layer, or of a whole image archive.
    pub blob_bytes: u64,
    /// Bytes of one uncompressed layer; holes of sparse files count.
    pub layer_bytes: u64,
    /// Bytes of one file; holes count.
    pub file_bytes: u64,
    /// Entries of one layer, and files of a whole image.
    pub entries: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// Folders above one entry.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 8 << 20,
            blob_bytes: 16 * GIB,
            layer_bytes: 24 * GIB,
            file_bytes: 8 * GIB,
            entries: 1_000_000,
            layers: 127,
            path_bytes: 4095,
            depth: 128,
        }
    }
}

/// Bytes of one name in a path, as Linux has it.
pub(crate) const NAME_BYTES: usize = 255;
/// Links followed for one path, as Linux has it.
pub(crate) const LINKS: usize = 40;
