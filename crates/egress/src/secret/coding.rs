//! Content codings: gzip, deflate, br and zstd, read and written piece by piece, bounded in what they may grow to.

use std::io::{self, Write};

use flate2::{Compression, Decompress, FlushDecompress, Status};
use zstd::stream::raw::{InBuffer, Operation, OutBuffer};

use super::outcome::{Limits, ScrubError};

/// A coding that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Codings that are nested, at most.
const MAX_CODINGS: usize = 3;
/// Bytes of coded input that are decoded at a time, and the most that may come out of them at once.
const SLICE: usize = 4096;
const MAX_BURST: usize = 16 << 20;

/// Reads a `Content-Encoding`: the codings in the order in which they were applied. The error is the unknown one.
pub(super) fn parse(header: &str) -> Result<Vec<Coding>, String> {
    let mut codings = Vec::new();
    for token in header.split(',') {
        codings.push(match token.trim().to_ascii_lowercase().as_str() {
            // What S3 clients write for bodies that are signed in chunks; it is undone before.
            "" | "identity" | "aws-chunked" => continue,
            "gzip" | "x-gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            "br" => Coding::Brotli,
            "zstd" => Coding::Zstd,
            _ => return Err(token.trim().to_owned()),
        });
    }
    if codings.len() > MAX_CODINGS {
        return Err(header.to_owned());
    }
    Ok(codings)
}

/// Collects output up to a bound.
#[derive(Default)]
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BURST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Reader {
    Gzip(Box<flate2::write::MultiGzDecoder<Sink>>),
    /// Which of its two forms it is shows in the first bytes.
    DeflateStart(Vec<u8>),
    Deflate {
        state: Decompress,
        whole: bool,
    },
    Brotli(Box<brotli::DecompressorWriter<Sink>>),
    Zstd {
        decoder: zstd::stream::raw::Decoder<'static>,
        whole: bool,
    },
}

fn write_to(writer: &mut impl Write, bytes: &[u8]) -> Result<(), ScrubError> {
    // Flushed too: what can be decoded is wanted now.
    writer.write_all(bytes).and_then(|()| writer.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::FileTooLarge {
            ScrubError::Bomb
        } else {
            ScrubError::Broken("compressed")
        }
    })
}

impl Reader {
    fn new(coding: Coding) -> Result<Self, ScrubError> {
        Ok(match coding {
            Coding::Gzip => Reader::Gzip(Box::new(flate2::write::MultiGzDecoder::new(Sink::default()))),
            Coding::Deflate => Reader::DeflateStart(Vec::new()),
            Coding::Brotli => Reader::Brotli(Box::new(brotli::DecompressorWriter::new(Sink::default(), SLICE))),
            Coding::Zstd => Reader::Zstd {
                decoder: zstd::stream::raw::Decoder::new().map_err(|_| ScrubError::Broken("zstd"))?,
                whole: true,
            },
        })
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ScrubError> {
        match self {
            Reader::Gzip(writer) => {
                write_to(writer, bytes)?;
                out.append(&mut writer.get_mut().0);
            }
            Reader::DeflateStart(start) => {
                start.extend_from_slice(bytes);
                if let [first, second, ..] = start[..] {
                    let zlib = first & 15 == 8 && (u16::from(first) << 8 | u16::from(second)) % 31 == 0;
                    let start = std::mem::take(start);
                    *self = Reader::Deflate {
                        state: Decompress::new(zlib),
                        whole: false,
                    };
                    return self.push(&start, out);
                }
            }
            Reader::Deflate { state, whole } => {
                let mut buffer = vec![0; 64 << 10];
                let (mut used, before) = (0, out.len());
                while !*whole {
                    let (read, written) = (state.total_in(), state.total_out());
                    let status = state
                        .decompress(&bytes[used..], &mut buffer, FlushDecompress::None)
                        .map_err(|_| ScrubError::Broken("deflate"))?;
                    used += (state.total_in() - read) as usize;
                    let written = (state.total_out() - written) as usize;
                    out.extend_from_slice(&buffer[..written]);
                    if out.len() - before > MAX_BURST {
                        return Err(ScrubError::Bomb);
                    }
                    *whole = status == Status::StreamEnd;
                    if used == bytes.len() && written < buffer.len() {
                        break;
                    }
                }
            }
            Reader::Brotli(writer) => {
                write_to(writer, bytes)?;
                out.append(&mut writer.get_mut().0);
            }
            Reader::Zstd { decoder, whole } => {
                let mut input = InBuffer::around(bytes);
                let mut buffer = vec![0; 64 << 10];
                let before = out.len();
                loop {
                    let mut output = OutBuffer::around(&mut buffer[..]);
                    let left = decoder
                        .run(&mut input, &mut output)
                        .map_err(|_| ScrubError::Broken("zstd"))?;
                    let written = output.pos();
                    if written > 0 || input.pos() > 0 {
                        *whole = left == 0;
                    }
                    out.extend_from_slice(&buffer[..written]);
                    if out.len() - before > MAX_BURST {
                        return Err(ScrubError::Bomb);
                    }
                    if input.pos() == bytes.len() && written < buffer.len() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The end of the input: an error if the coded body was cut short.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ScrubError> {
        let broken = |name| move |_: io::Error| ScrubError::Broken(name);
        match self {
            Reader::Gzip(writer) => {
                writer.try_finish().map_err(broken("gzip"))?;
                out.append(&mut writer.get_mut().0);
            }
            Reader::DeflateStart(start) if start.is_empty() => {}
            Reader::DeflateStart(_) => return Err(ScrubError::Broken("deflate")),
            Reader::Deflate { whole: true, .. } => {}
            Reader::Deflate { .. } => return Err(ScrubError::Broken("deflate")),
            Reader::Brotli(writer) => {
                writer.close().map_err(broken("br"))?;
                out.append(&mut writer.get_mut().0);
            }
            Reader::Zstd { whole, .. } => {
                if !*whole {
                    return Err(ScrubError::Broken("zstd"));
                }
            }
        }
        Ok(())
    }
}

/// Undoes codings.
pub(super) struct Decoder {
    /// The coding that was applied last comes first.
    readers: Vec<Reader>,
    fed: u64,
    decoded: u64,
    limits: Limits,
}

impl Decoder {
    pub(super) fn new(codings: &[Coding], limits: &Limits) -> Result<Self, ScrubError> {
        let readers = codings.iter().rev().map(|c| Reader::new(*c));
        Ok(Decoder {
            readers: readers.collect::<Result<_, _>>()?,
            fed: 0,
            decoded: 0,
            limits: *limits,
        })
    }

    /// Decodes, and gives what comes out to `sink` in pieces.
    pub(super) fn push<E: From<ScrubError>>(
        &mut self,
        chunk: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for slice in chunk.chunks(SLICE) {
            self.fed += slice.len() as u64;
            let decoded = self.through(0, slice.to_vec())?;
            sink(&decoded)?;
        }
        Ok(())
    }

    fn through(&mut self, from: usize, mut bytes: Vec<u8>) -> Result<Vec<u8>, ScrubError> {
        for reader in &mut self.readers[from..] {
            let mut out = Vec::new();
            reader.push(&bytes, &mut out)?;
            bytes = out;
        }
        self.count(bytes.len())?;
        Ok(bytes)
    }

    fn count(&mut self, decoded: usize) -> Result<(), ScrubError> {
        self.decoded += decoded as u64;
        let allowed = self
            .fed
            .saturating_mul(u64::from(self.limits.ratio))
            .max(Limits::RATIO_FREE);
        if self.decoded > allowed.min(self.limits.decoded) {
            return Err(ScrubError::Bomb);
        }
        Ok(())
    }

    /// The end of the input. Nothing at all is fine: an empty body has no coding.
    pub(super) fn finish<E: From<ScrubError>>(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.fed == 0 {
            return Ok(());
        }
        for index in 0..self.readers.len() {
            let mut out = Vec::new();
            self.readers[index].finish(&mut out)?;
            let decoded = self.through(index + 1, out)?;
            sink(&decoded)?;
        }
        Ok(())
    }
}

enum Writer {
    Gzip(flate2::write::GzEncoder<Sink>),
    Zlib(flate2::write::ZlibEncoder<Sink>),
    Brotli(Box<brotli::CompressorWriter<Sink>>),
    Zstd(zstd::stream::raw::Encoder<'static>),
}

/// Applies codings. Fast rather than small: the bytes live for one hop.
pub(super) struct Encoder {
    /// In the order of application.
    writers: Vec<Writer>,
    started: bool,
}

/// How much of the output must be given now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Flushed,
    Finished,
}

impl Encoder {
    pub(super) fn new(codings: &[Coding]) -> Result<Self, ScrubError> {
        let writer = |coding: &Coding| {
            Ok(match coding {
                Coding::Gzip => Writer::Gzip(flate2::write::GzEncoder::new(Sink::default(), Compression::fast())),
                Coding::Deflate => Writer::Zlib(flate2::write::ZlibEncoder::new(Sink::default(), Compression::fast())),
                Coding::Brotli => {
                    let (quality, window) = (2, 20);
                    Writer::Brotli(Box::new(brotli::CompressorWriter::new(
                        Sink::default(),
                        SLICE,
                        quality,
                        window,
                    )))
                }
                Coding::Zstd => {
                    Writer::Zstd(zstd::stream::raw::Encoder::new(1).map_err(|_| ScrubError::Broken("zstd"))?)
                }
            })
        };
        Ok(Encoder {
            writers: codings.iter().map(writer).collect::<Result<_, ScrubError>>()?,
            started: false,
        })
    }

    /// Encodes; all of the input can be decoded from what has been given then.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, ScrubError> {
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        self.started = true;
        self.through(bytes, Until::Flushed)
    }

    /// The end. Nothing in, nothing out.
    pub(super) fn finish(&mut self) -> Result<Vec<u8>, ScrubError> {
        if !self.started {
            return Ok(Vec::new());
        }
        self.through(&[], Until::Finished)
    }

    fn through(&mut self, bytes: &[u8], until: Until) -> Result<Vec<u8>, ScrubError> {
        let mut bytes = bytes.to_vec();
        for writer in &mut self.writers {
            let mut out = Vec::new();
            // Incompressible input grows a little; slices keep every burst below the bound.
            for slice in bytes.chunks(MAX_BURST / 4) {
                writer.write(slice, &mut out)?;
            }
            writer.end(until, &mut out)?;
            bytes = out;
        }
        Ok(bytes)
    }
}

const NOT_WRITTEN: ScrubError = ScrubError::Broken("re-encoded");

impl Writer {
    fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ScrubError> {
        match self {
            Writer::Gzip(writer) => {
                writer.write_all(bytes).map_err(|_| NOT_WRITTEN)?;
                out.append(&mut writer.get_mut().0);
            }
            Writer::Zlib(writer) => {
                writer.write_all(bytes).map_err(|_| NOT_WRITTEN)?;
                out.append(&mut writer.get_mut().0);
            }
            Writer::Brotli(writer) => {
                writer.write_all(bytes).map_err(|_| NOT_WRITTEN)?;
                out.append(&mut writer.get_mut().0);
            }
            Writer::Zstd(encoder) => {
                let mut input = InBuffer::around(bytes);
                let mut buffer = vec![0; 64 << 10];
                while input.pos() < bytes.len() {
                    let mut output = OutBuffer::around(&mut buffer[..]);
                    encoder.run(&mut input, &mut output).map_err(|_| NOT_WRITTEN)?;
                    let written = output.pos();
                    out.extend_from_slice(&buffer[..written]);
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, until: Until, out: &mut Vec<u8>) -> Result<(), ScrubError> {
        let finished = until == Until::Finished;
        match self {
            Writer::Gzip(writer) => {
                if finished { writer.try_finish() } else { writer.flush() }.map_err(|_| NOT_WRITTEN)?;
                out.append(&mut writer.get_mut().0);
            }
            Writer::Zlib(writer) => {
                if finished { writer.try_finish() } else { writer.flush() }.map_err(|_| NOT_WRITTEN)?;
                out.append(&mut writer.get_mut().0);
            }
            Writer::Brotli(writer) => {
                if finished {
                    let next = brotli::CompressorWriter::new(Sink::default(), SLICE, 2, 20);
                    let done = std::mem::replace(&mut **writer, next);
                    out.append(&mut done.into_inner().0);
                } else {
                    writer.flush().map_err(|_| NOT_WRITTEN)?;
                    out.append(&mut writer.get_mut().0);
                }
            }
            Writer::Zstd(encoder) => {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let mut output = OutBuffer::around(&mut buffer[..]);
                    let left = if finished {
                        encoder.finish(&mut output, true)
                    } else {
                        encoder.flush(&mut output)
                    }
                    .map_err(|_| NOT_WRITTEN)?;
                    let written = output.pos();
                    out.extend_from_slice(&buffer[..written]);
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}
