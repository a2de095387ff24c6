//! Reads tar archives entry by entry: ustar, pax, GNU long names, old GNU sparse files.
//!
//! The fields of a header are read by the `tar` crate; the walk over the records is here, because what describes an entry
//! (long names, pax records) must be bounded before it is read, and the position of an entry must be known.
//!
//! Refuses: a wrong checksum, an archive that ends inside an entry, descriptions over 1 MiB, global pax records that
//! change entries, pax sparse files, unknown entry types. An archive without end marker is accepted, as by everybody.

use std::io::Read;

use tar::{EntryType, GnuExtSparseHeader, Header};

use crate::error::{Error, Result, shown};
use crate::local::Blob;

const BLOCK: u64 = 512;
/// Bytes of one description: a long name, or the pax records of one entry.
const DESCRIPTION_BYTES: u64 = 1 << 20;
/// Pieces of one sparse file.
const PIECES: usize = 100_000;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File,
    /// A file with holes: pieces of data as offset and length, and the whole size.
    Sparse(Vec<(u64, u64)>, u64),
    Dir,
    Link,
    HardLink,
    /// Devices and pipes.
    Special,
}

/// One entry; its content is read from the archive before the next one.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) what: What,
    pub(crate) path: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) mtime: i64,
    /// Bytes of content in the archive.
    pub(crate) size: u64,
    /// Where the content begins.
    pub(crate) offset: u64,
}

/// An archive being read.
pub(crate) struct Archive<R> {
    reader: R,
    label: String,
    position: u64,
    content: u64,
    padding: u64,
    /// Goes over content without reading it, where the reader can.
    seek: Option<fn(&mut R, u64) -> bool>,
}

/// What pax records or GNU long names say about the next entry.
#[derive(Default)]
struct Described {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
}

impl Archive<&mut Blob> {
    /// Over a blob on disk: content is not read at all.
    pub(crate) fn seeking<'a>(blob: &'a mut Blob, label: &str) -> Archive<&'a mut Blob> {
        let mut archive = Archive::new(blob, label);
        archive.seek = Some(|blob, bytes| blob.advance(bytes));
        archive
    }
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R, label: impl Into<String>) -> Self {
        Self {
            reader,
            label: label.into(),
            position: 0,
            content: 0,
            padding: 0,
            seek: None,
        }
    }

    /// The next entry, or nothing at the end marker.
    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        let mut described = Described::default();
        loop {
            self.skip(self.content.saturating_add(self.padding))?;
            (self.content, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = header.entry_size().map_err(|error| self.damaged(error))?;
            match kind {
                EntryType::XHeader => {
                    let records = self.description(size)?;
                    self.pax(&records, &mut described)?;
                }
                EntryType::XGlobalHeader => {
                    let records = self.description(size)?;
                    let mut global = Described::default();
                    self.pax(&records, &mut global)?;
                    if global.path.is_some() || global.target.is_some() || global.size.is_some() {
                        return Err(self.damaged("a global pax record changes names or sizes, which is not supported"));
                    }
                }
                EntryType::GNULongName => described.path = Some(without_nul(self.description(size)?)),
                EntryType::GNULongLink => described.target = Some(without_nul(self.description(size)?)),
                _ => return self.item(&header, kind, described).map(Some),
            }
        }
    }

    /// Content of the entry that `next` gave last.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = self.content.min(buffer.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        self.exactly(&mut buffer[..most])?;
        self.content -= most as u64;
        Ok(most)
    }

    /// The reader, when no entry is wanted any more.
    pub(crate) fn into_reader(self) -> R {
        self.reader
    }

    fn item(&mut self, header: &Header, kind: EntryType, described: Described) -> Result<Item> {
        let own = header.entry_size().map_err(|error| self.damaged(error))?;
        let mut size = described.size.unwrap_or(own);
        let path = described.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let what = match kind {
            // A name that ends in `/` is a folder in archives from before the type for folders.
            EntryType::Regular if path.ends_with(b"/") => What::Dir,
            EntryType::Regular | EntryType::Continuous => What::File,
            EntryType::GNUSparse => {
                let (pieces, whole) = self.sparse(header, size)?;
                What::Sparse(pieces, whole)
            }
            EntryType::Directory => What::Dir,
            EntryType::Symlink => What::Link,
            EntryType::Link => What::HardLink,
            EntryType::Char | EntryType::Block | EntryType::Fifo => What::Special,
            other => {
                let kind = other.as_byte().escape_ascii();
                return Err(self.damaged(format!("entry `{}` is of the unknown type `{kind}`", shown(&path))));
            }
        };
        // These have a header only, whatever their size field says.
        if !matches!(what, What::File | What::Sparse(..)) && kind != EntryType::Regular {
            size = 0;
        }
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let target = described
            .target
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        Ok(Item {
            what,
            path,
            target: target.unwrap_or_default(),
            mode: header.mode().unwrap_or(0o644),
            mtime: described
                .mtime
                .unwrap_or_else(|| header.mtime().unwrap_or(0).try_into().unwrap_or(0)),
            size,
            offset: self.position,
        })
    }

    /// The map of an old GNU sparse file. It must go upwards and fit the sizes, or pieces could overlap.
    fn sparse(&mut self, header: &Header, size: u64) -> Result<(Vec<(u64, u64)>, u64)> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| self.damaged("a sparse file without GNU header"))?;
        let whole = gnu.real_size().map_err(|error| self.damaged(error))?;
        let mut pieces = Vec::new();
        let mut add = |piece: &tar::GnuSparseHeader| -> std::io::Result<()> {
            if !piece.is_empty() {
                pieces.push((piece.offset()?, piece.length()?));
            }
            Ok(())
        };
        gnu.sparse
            .iter()
            .try_for_each(&mut add)
            .map_err(|error| self.damaged(error))?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            blocks += 1;
            if blocks * 21 > PIECES {
                return Err(self.damaged("a sparse file has too many pieces"));
            }
            let mut extended = GnuExtSparseHeader::new();
            self.exactly(extended.as_mut_bytes())?;
            extended
                .sparse()
                .iter()
                .try_for_each(&mut add)
                .map_err(|error| self.damaged(error))?;
            more = extended.is_extended();
        }
        let (mut end, mut data) = (0u64, 0u64);
        for (offset, length) in &pieces {
            let fits = *offset >= end && offset.checked_add(*length).is_some_and(|next| next <= whole);
            if !fits {
                return Err(self.damaged("the pieces of a sparse file overlap or pass its end"));
            }
            end = offset + length;
            data += length;
        }
        if data != size {
            return Err(self.damaged("the pieces of a sparse file do not add up to its size"));
        }
        Ok((pieces, whole))
    }

    /// `LENGTH KEY=VALUE\n` again and again; the length counts itself.
    fn pax(&self, mut records: &[u8], described: &mut Described) -> Result<()> {
        let wrong = || self.damaged("a pax record is malformed");
        while !records.is_empty() {
            let space = records
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or_else(wrong)?;
            let length: usize = number(&records[..space])
                .ok_or_else(wrong)?
                .try_into()
                .map_err(|_| wrong())?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(wrong());
            }
            let record = &records[space + 1..length - 1];
            records = &records[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => described.path = Some(value.to_vec()),
                b"linkpath" => described.target = Some(value.to_vec()),
                b"size" => described.size = Some(number(value).ok_or_else(wrong)?),
                b"mtime" => {
                    let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                    let (sign, digits) = match whole.strip_prefix(b"-") {
                        Some(digits) => (-1, digits),
                        None => (1, whole),
                    };
                    let seconds = number(digits).and_then(|seconds| i64::try_from(seconds).ok());
                    described.mtime = Some(sign * seconds.ok_or_else(wrong)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.damaged("sparse files in pax form are not supported; pack without `--sparse`"));
                }
                // Owners and extended attributes are dropped; comments and access times mean nothing here.
                _ => {}
            }
        }
        Ok(())
    }

    fn description(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > DESCRIPTION_BYTES {
            return Err(self.damaged(format!(
                "the name or attributes of an entry have more than {DESCRIPTION_BYTES} bytes"
            )));
        }
        let mut bytes = vec![0; size as usize];
        self.exactly(&mut bytes)?;
        self.skip(size.wrapping_neg() % BLOCK)?;
        Ok(bytes)
    }

    /// The next header; nothing at the end marker (two blocks of zeros, or no more bytes).
    fn header(&mut self) -> Result<Option<Header>> {
        let mut zeros = 0;
        loop {
            let mut header = Header::new_old();
            if !self.block(header.as_mut_bytes())? {
                return Ok(None);
            }
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                zeros += 1;
                if zeros == 2 {
                    return Ok(None);
                }
                continue;
            }
            if zeros > 0 {
                return Err(self.damaged("there are entries after half an end marker"));
            }
            let bytes = header.as_bytes();
            // The field of the checksum itself counts as eight spaces.
            let sum = bytes[..148]
                .iter()
                .chain(&bytes[156..])
                .map(|byte| u32::from(*byte))
                .sum::<u32>()
                + 8 * 32;
            let stated = header.cksum().map_err(|_| self.damaged("not a tar archive"))?;
            if sum != stated {
                return Err(self.damaged("not a tar archive, or damaged: the checksum of a header is wrong"));
            }
            return Ok(Some(header));
        }
    }

    /// Reads a whole block; false at a clean end.
    fn block(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.damaged("it ends inside an entry")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::reading(&self.label, error)),
            }
        }
        self.position += filled as u64;
        Ok(true)
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<()> {
        if buffer.is_empty() || self.block(buffer)? {
            return Ok(());
        }
        Err(self.damaged("it ends inside an entry"))
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        if let Some(seek) = self.seek
            && bytes > 0
        {
            self.position = self.position.saturating_add(bytes);
            return if seek(&mut self.reader, bytes) {
                Ok(())
            } else {
                Err(self.damaged("it ends inside an entry"))
            };
        }
        let mut buffer = [0; 8192];
        while bytes > 0 {
            let part = bytes.min(buffer.len() as u64);
            self.exactly(&mut buffer[..part as usize])?;
            bytes -= part;
        }
        Ok(())
    }

    fn damaged(&self, problem: impl ToString) -> Error {
        Error::Layer {
            layer: self.label.clone(),
            problem: problem.to_string(),
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

/// What was used to pack bytes, told by how they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub(crate) fn of(beginning: &[u8]) -> Self {
        match beginning {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Unpacks a stream, whichever way it was packed. Several members of gzip and frames of zstd follow one another.
pub(crate) fn unpacked<'a>(reader: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    use std::io::BufRead;
    // Large enough to see the beginning in one piece: a short read is filled up first.
    let mut head = Vec::with_capacity(4);
    let mut reader = reader;
    while head.len() < 4 {
        let mut byte = [0];
        match reader.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let packing = Packing::of(&head);
    let reader = std::io::BufReader::with_capacity(128 * 1024, std::io::Cursor::new(head).chain(reader));
    fn boxed<'a>(reader: impl BufRead + 'a, packing: Packing) -> std::io::Result<Box<dyn Read + 'a>> {
        Ok(match packing {
            Packing::Plain => Box::new(reader),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(reader)?;
                // 128 MiB, the bound of the format's own tools: what a frame may make us set aside.
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
        })
    }
    boxed(reader, packing)
}
