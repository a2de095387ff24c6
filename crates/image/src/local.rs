//! Images that lie on this machine: OCI layouts, and archives (OCI, `docker save`; plain, gzip or zstd).
//!
//! An archive is read in place: a walk over its headers finds where every file lies. A packed one is unpacked first, into
//! the cache's staging folder. Links in a layout's folder are refused; in an archive they are followed by name, once,
//! because older versions of `docker save` write a layer that occurs twice as a link.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use tokio_util::sync::CancellationToken;

use crate::archive::{Archive, Packing, What, unpacked};
use crate::build::{CONFINED, open_root};
use crate::cache::Staging;
use crate::digest::{Digest, Measured};
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Bytes of one blob: a part of a file.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Blob {
    pub(crate) fn whole(file: File) -> io::Result<Self> {
        let end = file.metadata()?.len();
        let file = Arc::new(file);
        Ok(Self { file, at: 0, end })
    }

    pub(crate) fn len(&self) -> u64 {
        self.end - self.at
    }

    /// Goes on without reading; false if that is past the end.
    pub(crate) fn advance(&mut self, bytes: u64) -> bool {
        match self.at.checked_add(bytes).filter(|at| *at <= self.end) {
            Some(at) => {
                self.at = at;
                true
            }
            None => false,
        }
    }

    /// All bytes, if they are no more than the limit.
    pub(crate) fn bytes(mut self, what: &str, limit: u64) -> Result<Vec<u8>> {
        if self.len() > limit {
            return Err(Error::TooLarge {
                what: what.into(),
                limit,
                unit: "bytes",
            });
        }
        let mut bytes = Vec::with_capacity(self.len() as usize);
        self.read_to_end(&mut bytes).map_err(Error::io("read", what))?;
        Ok(bytes)
    }

    /// Reads everything once and compares size and digest.
    pub(crate) fn verified(self, digest: &Digest, size: u64) -> Result<Self> {
        let what = format!("layer {digest}");
        if self.len() != size {
            return Err(Error::Size {
                what,
                expected: size,
                found: self.len(),
            });
        }
        let (_, found) = Measured::new(self.clone(), size)
            .drain()
            .map_err(|error| Error::reading(&digest.to_string(), error))?;
        if found != *digest {
            return Err(Error::Mismatch {
                what,
                expected: *digest,
                found,
            });
        }
        Ok(self)
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = (self.end - self.at).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A place with files by name.
#[derive(Debug)]
pub(crate) enum Files {
    Layout { root: OwnedFd, path: PathBuf },
    Archive(Box<Packed>),
}

/// An archive whose headers were read.
#[derive(Debug)]
pub(crate) struct Packed {
    path: PathBuf,
    file: Arc<File>,
    names: HashMap<Vec<u8>, Spot>,
    /// Holds the unpacked archive, if it was packed.
    _staging: Option<Staging>,
}

#[derive(Debug)]
enum Spot {
    Data(u64, u64),
    Same(Vec<u8>),
}

impl Files {
    /// Opens a folder that has an `oci-layout` file.
    pub(crate) fn layout(path: &Path) -> Result<Self> {
        // The folder itself may be reached by links: whoever wrote the command line says where it is.
        let path = path.canonicalize().map_err(Error::io("find folder", path))?;
        let files = Self::Layout {
            root: open_root(&path)?,
            path,
        };
        let mark = files.small("oci-layout", 4096)?.unwrap_or_default();
        let version: serde_json::Value = serde_json::from_slice(&mark).unwrap_or_default();
        if version["imageLayoutVersion"].as_str() != Some("1.0.0") {
            return Err(Error::manifest("oci-layout", "is not of the layout version 1.0.0"));
        }
        Ok(files)
    }

    /// Opens an archive; `staging` gives a folder in case it is packed.
    pub(crate) fn archive(
        path: &Path,
        staging: impl FnOnce() -> Result<Staging>,
        limits: &Limits,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let shown = path.display().to_string();
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        if !file.metadata().map_err(Error::io("look at", path))?.is_file() {
            return Err(Error::Reference {
                text: shown,
                problem: "is neither a folder nor a file".into(),
            });
        }
        let mut head = [0; 4];
        let read = file.read(&mut head).map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        let mut kept = None;
        if Packing::of(&head[..read]) != Packing::Plain {
            let staging = staging()?;
            let mut plain = staging.file("archive")?;
            let stream = unpacked(&file).map_err(|error| Error::reading(&shown, error))?;
            let mut stream = Measured::new(stream, limits.blob_bytes);
            let mut buffer = vec![0; 128 * 1024];
            loop {
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                match stream
                    .read(&mut buffer)
                    .map_err(|error| Error::reading(&shown, error))?
                {
                    0 => break,
                    read => plain
                        .write_all(&buffer[..read])
                        .map_err(Error::io("write", staging.path()))?,
                }
            }
            drop(stream);
            file = plain;
            kept = Some(staging);
        }
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
        let file = Arc::new(file);
        let names = spots(&file, &shown, limits)?;
        Ok(Self::Archive(Box::new(Packed {
            path: path.to_owned(),
            file,
            names,
            _staging: kept,
        })))
    }

    /// A file by name, if there is one.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Blob>> {
        match self {
            Self::Layout { root, path } => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd = match rustix::fs::openat2(root, name, flags, Mode::empty(), CONFINED) {
                    Ok(fd) => fd,
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(errno) => return Err(Error::sys("open (links are refused)", path.join(name))(errno)),
                };
                let file = File::from(fd);
                let metadata = file.metadata().map_err(Error::io("look at", path.join(name)))?;
                if !metadata.is_file() {
                    return Err(Error::manifest(path.join(name).display().to_string(), "is not a file"));
                }
                Blob::whole(file)
                    .map(Some)
                    .map_err(Error::io("look at", path.join(name)))
            }
            Self::Archive(packed) => Ok(packed.find(name.as_bytes())),
        }
    }

    /// The bytes of a small file.
    pub(crate) fn small(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.file(name)?.map(|blob| blob.bytes(name, limit)).transpose()
    }

    /// A blob by digest.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Blob> {
        let name = format!("blobs/sha256/{}", digest.hex());
        self.file(&name)?
            .ok_or_else(|| Error::manifest(self.to_string(), format!("has no file `{name}`")))
    }
}

impl std::fmt::Display for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layout { path, .. } => write!(f, "{}", path.display()),
            Self::Archive(packed) => write!(f, "{}", packed.path.display()),
        }
    }
}

impl Packed {
    fn find(&self, name: &[u8]) -> Option<Blob> {
        let spot = match self.names.get(name)? {
            Spot::Same(other) => self.names.get(other)?,
            spot => spot,
        };
        match spot {
            Spot::Data(at, length) => Some(Blob {
                file: Arc::clone(&self.file),
                at: *at,
                end: at + length,
            }),
            Spot::Same(_) => None,
        }
    }
}

fn spots(file: &Arc<File>, label: &str, limits: &Limits) -> Result<HashMap<Vec<u8>, Spot>> {
    let mut blob =
        Blob::whole(file.try_clone().map_err(Error::io("open", label))?).map_err(Error::io("look at", label))?;
    let end = blob.end;
    let mut names = HashMap::new();
    let mut archive = Archive::seeking(&mut blob, label);
    while let Some(item) = archive.next()? {
        if names.len() as u64 >= limits.entries.min(100_000) {
            return Err(Error::TooLarge {
                what: label.into(),
                limit: limits.entries.min(100_000),
                unit: "files",
            });
        }
        let path = item.path.strip_prefix(b"./").unwrap_or(&item.path).to_vec();
        match item.what {
            What::File if item.offset.checked_add(item.size).is_some_and(|last| last <= end) => {
                names.insert(path, Spot::Data(item.offset, item.size));
            }
            What::File => return Err(Error::manifest(label, "ends inside a file")),
            What::HardLink => drop(names.insert(path, Spot::Same(item.target))),
            What::Link => {
                let target = beside(&path, &item.target);
                names.insert(path, Spot::Same(target));
            }
            What::Dir | What::Special | What::Sparse(..) => {}
        }
    }
    Ok(names)
}

/// What a link means by name alone. What leads out of the archive names nothing in it.
fn beside(link: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = link.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b".." => drop(parts.pop()),
            b"" | b"." => {}
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
