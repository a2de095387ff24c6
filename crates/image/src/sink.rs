//! Takes the content of one file of a layer: counts it against the limits, digests it, keeps holes as holes.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// Takes the content of one file.
pub(crate) struct Sink {
    file: File,
    hasher: Hasher,
    size: u64,
    holes: bool,
    place: PathBuf,
    file_bytes: u64,
    layer_bytes: u64,
    label: String,
}

impl Sink {
    /// `layer_bytes` is what the layer may still grow by; `place` and `label` are named in errors.
    pub(crate) fn new(file: File, place: &Path, label: &str, file_bytes: u64, layer_bytes: u64) -> Self {
        Self {
            file,
            hasher: Hasher::default(),
            size: 0,
            holes: false,
            place: place.to_owned(),
            file_bytes,
            layer_bytes,
            label: label.to_owned(),
        }
    }

    /// Ends the file: its descriptor, size and digest.
    pub(crate) fn finish(self) -> Result<(File, u64, Digest)> {
        if self.holes {
            self.file
                .set_len(self.size)
                .map_err(Error::io("size file in", &self.place))?;
        }
        Ok((self.file, self.size, self.hasher.finish()))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.grow(bytes.len() as u64)?;
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(Error::io("write file in", &self.place))
    }

    /// Zeros that take no room on disk.
    pub(crate) fn hole(&mut self, mut length: u64) -> Result<()> {
        const ZEROS: &[u8] = &[0; 8192];
        self.grow(length)?;
        self.holes = true;
        self.file
            .seek(io::SeekFrom::Start(self.size))
            .map_err(Error::io("write file in", &self.place))?;
        while length > 0 {
            let part = length.min(ZEROS.len() as u64);
            self.hasher.update(&ZEROS[..part as usize]);
            length -= part;
        }
        Ok(())
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn copy(&mut self, from: &mut impl Read) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from
                .read(&mut buffer)
                .map_err(Error::io("read file for", &self.place))?
            {
                0 => return Ok(()),
                read => self.write(&buffer[..read])?,
            }
        }
    }

    fn grow(&mut self, by: u64) -> Result<()> {
        let size = self.size.saturating_add(by);
        for (what, limit) in [("a file of layer", self.file_bytes), ("layer", self.layer_bytes)] {
            if size > limit {
                return Err(Error::TooLarge {
                    what: format!("{what} {}", self.label),
                    limit,
                    unit: "bytes",
                });
            }
        }
        self.size = size;
        Ok(())
    }
}
