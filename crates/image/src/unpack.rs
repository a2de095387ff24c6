//! Unpacks one layer of an image: a tar archive, packed or not, into a [`Builder`].
//!
//! Whiteouts (`.wh.NAME`, `.wh..wh..opq`) are those of the OCI image specification. A whiteout that names no file, `.` or
//! `..` is refused. The digest of the unpacked archive is compared after the last byte; the caller keeps nothing if it
//! differs.

use std::io::Read;

use tokio_util::sync::CancellationToken;

use crate::archive::{Archive, Item, What, unpacked};
use crate::build::{Builder, Built};
use crate::digest::{Digest, Measured};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::tree::Meta;

/// A reader that ends with an error when somebody asks to stop.
struct Stoppable<'a, R> {
    inner: R,
    cancel: &'a CancellationToken,
}

#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Stopped;

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(std::io::Error::other(Stopped));
        }
        self.inner.read(buffer)
    }
}

/// Unpacks a blob whose own digest has been verified; `diff` is the digest of what it unpacks to.
pub(crate) fn layer(
    blob: impl Read,
    mut builder: Builder<'_>,
    diff: &Digest,
    label: &str,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Built> {
    let result = (|| {
        let blob = Stoppable { inner: blob, cancel };
        let stream = unpacked(blob).map_err(|error| Error::reading(label, error))?;
        let mut archive = Archive::new(Measured::new(stream, limits.layer_bytes), label);
        entries(&mut archive, &mut builder)?;
        // What follows the end marker counts for the digest.
        archive
            .into_reader()
            .drain()
            .map_err(|error| Error::reading(label, error))
    })();
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let (_, found) = result?;
    if found != *diff {
        return Err(Error::Mismatch {
            what: format!("the unpacked content of layer {label}"),
            expected: *diff,
            found,
        });
    }
    builder.finish()
}

/// Gives every entry of an archive to the builder.
pub(crate) fn entries<R: Read>(archive: &mut Archive<R>, builder: &mut Builder<'_>) -> Result<()> {
    while let Some(item) = archive.next()? {
        entry(archive, builder, &item)?;
    }
    Ok(())
}

fn entry<R: Read>(archive: &mut Archive<R>, builder: &mut Builder<'_>, item: &Item) -> Result<()> {
    let path = item.path.as_slice();
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let name = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if let Some(hidden) = name.strip_prefix(b".wh.") {
        let folder = &trimmed[..trimmed.len() - name.len()];
        return match hidden {
            b".wh..opq" => builder.opaque(folder),
            // Bookkeeping of a file system that is no longer: left out, as the specification's reference does.
            hidden if hidden.starts_with(b".wh.") => builder.leave_out(path),
            b"" | b"." | b".." => Err(builder.refuse(path, "is a whiteout of nothing, `.` or `..`")),
            hidden => builder.whiteout(&[folder, hidden].concat()),
        };
    }
    match &item.what {
        What::Dir => builder.dir(path, Meta::dir(item.mode, item.mtime)),
        What::Link => builder.link(path, &item.target, item.mtime),
        What::HardLink => builder.hard_link(path, &item.target),
        What::Special => builder.leave_out(path),
        What::File => builder.file(path, Meta::file(item.mode, item.mtime), |sink| {
            content(archive, item.size, |bytes| sink.write(bytes))
        }),
        What::Sparse(pieces, whole) => builder.file(path, Meta::file(item.mode, item.mtime), |sink| {
            for (offset, length) in pieces {
                sink.hole(offset - sink.size())?;
                content(archive, *length, |bytes| sink.write(bytes))?;
            }
            sink.hole(whole - sink.size())
        }),
    }
}

fn content<R: Read>(
    archive: &mut Archive<R>,
    mut length: u64,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; (64 * 1024).min(length as usize).max(1)];
    while length > 0 {
        let most = (buffer.len() as u64).min(length) as usize;
        let read = archive.read(&mut buffer[..most])?;
        if read == 0 {
            break;
        }
        take(&buffer[..read])?;
        length -= read as u64;
    }
    Ok(())
}
