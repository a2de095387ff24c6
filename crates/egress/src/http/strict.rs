//! The bytes of HTTP/1 requests, looked at before they are parsed.
//!
//! What two parsers could read as different requests ends the connection with a 400: a length and a transfer coding,
//! two lengths, another coding than `chunked`, folded fields, lines that do not end in CR LF, chunk extensions. The
//! request is written anew for the server in any case; this refuses instead of choosing a reading.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest trailer section of a chunked body.
const TRAILERS: usize = 8 * 1024;
/// What is read at once.
const STEP: usize = 16 * 1024;
const TOO_LONG: &str = "the head of the request is too long";
/// What no parser takes for a request.
const NONSENSE: &[u8] = b"\0\r\n\r\n";

pub(crate) struct Strict<S> {
    inner: S,
    /// Read and not looked at to the end.
    raw: BytesMut,
    /// Looked at.
    good: BytesMut,
    state: State,
    longest: usize,
    upgraded: Arc<AtomicBool>,
    violation: Arc<OnceLock<&'static str>>,
    checks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a head; `usize` bytes of it were looked at, the last line begins at the second.
    Head { seen: usize, line: usize },
    /// In a body of so many bytes.
    Body(u64),
    /// In the line of a chunk's size.
    Size,
    /// In a chunk, its CR LF included.
    Chunk(u64),
    /// In the lines after the last chunk, so many bytes of them.
    Trailers(usize),
    /// No more to look at.
    Through,
    /// Nothing more comes.
    Ended,
}

const START: State = State::Head { seen: 0, line: 0 };

impl<S> Strict<S> {
    pub(crate) fn new(inner: S, longest: usize, upgraded: Arc<AtomicBool>, checks: bool) -> Strict<S> {
        Strict {
            inner,
            raw: BytesMut::new(),
            good: BytesMut::new(),
            state: if checks { START } else { State::Through },
            longest,
            upgraded,
            violation: Arc::default(),
            checks,
        }
    }

    /// Set when something was refused.
    pub(super) fn violation(&self) -> Arc<OnceLock<&'static str>> {
        self.violation.clone()
    }

    /// Moves what is good from `raw` to `good`, as far as it goes.
    fn look(&mut self) -> io::Result<()> {
        while !self.raw.is_empty() {
            let step = match self.state {
                State::Head { seen, line } => self.head(seen, line),
                State::Body(left) => Ok(self.body(left, |left| if left == 0 { START } else { State::Body(left) })),
                State::Chunk(left) => self.chunk(left),
                State::Size => self.size(),
                State::Trailers(seen) => self.trailers(seen),
                State::Through => {
                    let all = self.raw.split();
                    self.pass(all);
                    Ok(true)
                }
                State::Ended => return Ok(()),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(reason) => {
                    let _ = self.violation.set(reason);
                    let in_head = matches!(self.state, State::Head { .. });
                    self.state = State::Ended;
                    self.raw.clear();
                    if in_head {
                        self.good.extend_from_slice(NONSENSE);
                        return Ok(());
                    }
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
            }
        }
        Ok(())
    }

    fn pass(&mut self, bytes: BytesMut) {
        if self.good.is_empty() {
            self.good = bytes;
        } else {
            self.good.unsplit(bytes);
        }
    }

    fn take(&mut self, length: usize) {
        let bytes = self.raw.split_to(length);
        self.pass(bytes);
    }

    fn head(&mut self, mut seen: usize, mut line: usize) -> Result<bool, &'static str> {
        if self.upgraded.load(Acquire) {
            self.state = State::Through;
            return Ok(true);
        }
        // An empty line before a request is allowed, and dropped.
        if line == 0 && self.raw.starts_with(b"\r\n") {
            self.raw.advance(2);
            self.state = START;
            return Ok(true);
        }
        while seen < self.raw.len() {
            let byte = self.raw[seen];
            let ended_well = seen > line && self.raw[seen - 1] == b'\r';
            match byte {
                b'\n' if !ended_well => return Err("a line of the request does not end in CR LF"),
                b'\n' if seen - 1 == line => {
                    let end = seen + 1;
                    if end > self.longest {
                        return Err(TOO_LONG);
                    }
                    let framing = framing(&self.raw[..end])?;
                    self.take(end);
                    self.state = framing;
                    return Ok(true);
                }
                b'\n' => line = seen + 1,
                _ if ended_well => return Err("a CR stands alone in the request"),
                b' ' | b'\t' if seen == line => return Err("a field of the request is folded"),
                0 => return Err("a zero byte in the request"),
                _ => {}
            }
            seen += 1;
        }
        if self.raw.len() > self.longest {
            return Err(TOO_LONG);
        }
        self.state = State::Head { seen, line };
        Ok(false)
    }

    fn body(&mut self, left: u64, next: impl Fn(u64) -> State) -> bool {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.raw.len());
        self.take(take);
        self.state = next(left - take as u64);
        true
    }

    fn size(&mut self) -> Result<bool, &'static str> {
        let digits = self.raw.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits > 15 {
            return Err("the size of a chunk is too large");
        }
        match self.raw.get(digits..) {
            None | Some([]) => return Ok(false),
            Some([b'\r']) => return Ok(false),
            Some([b'\r', b'\n', ..]) if digits > 0 => {}
            Some(_) => return Err("the size of a chunk is malformed, or has an extension"),
        }
        let text = std::str::from_utf8(&self.raw[..digits]).map_err(|_| "the size of a chunk is malformed")?;
        let size = u64::from_str_radix(text, 16).map_err(|_| "the size of a chunk is malformed")?;
        self.take(digits + 2);
        self.state = if size == 0 {
            State::Trailers(0)
        } else {
            State::Chunk(size + 2)
        };
        Ok(true)
    }

    fn chunk(&mut self, left: u64) -> Result<bool, &'static str> {
        if left > 2 {
            let take = usize::try_from(left - 2).unwrap_or(usize::MAX).min(self.raw.len());
            self.take(take);
            self.state = State::Chunk(left - take as u64);
            return Ok(true);
        }
        let wanted = if left == 2 { b'\r' } else { b'\n' };
        if self.raw[0] != wanted {
            return Err("a chunk is longer than its size says");
        }
        self.take(1);
        self.state = if left == 2 { State::Chunk(1) } else { State::Size };
        Ok(true)
    }

    fn trailers(&mut self, seen: usize) -> Result<bool, &'static str> {
        let Some(end) = self.raw.iter().position(|b| *b == b'\n') else {
            return if self.raw.len() > TRAILERS {
                Err("the trailers are too long")
            } else {
                Ok(false)
            };
        };
        let line = &self.raw[..=end];
        if line.len() < 2 || line[line.len() - 2] != b'\r' {
            return Err("a line of the trailers does not end in CR LF");
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err("a field of the trailers is folded");
        }
        let (last, seen) = (line.len() == 2, seen + line.len());
        if seen > TRAILERS {
            return Err("the trailers are too long");
        }
        self.take(end + 1);
        self.state = if last { START } else { State::Trailers(seen) };
        Ok(true)
    }
}

/// How the body behind a head is framed. The head's lines end well and are not folded.
fn framing(head: &[u8]) -> Result<State, &'static str> {
    let mut lines = head
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or(b"");
    let old = first.ends_with(b"HTTP/1.0");
    if !old && !first.ends_with(b"HTTP/1.1") {
        return Err("the request has no version, or another one than HTTP/1.0 and HTTP/1.1");
    }
    if first.iter().filter(|b| **b == b' ').count() != 2 || first.contains(&b'\t') {
        return Err("the request line is not method, target and version");
    }
    let (mut length, mut chunked) = (None, false);
    for line in lines.filter(|line| !line.is_empty()) {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return Err("a line of the request is no field");
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) {
            return Err("the name of a field is malformed");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err("the request has several lengths");
            }
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(value).ok().filter(|_| digits);
            length = Some(
                text.and_then(|text| text.parse::<u64>().ok())
                    .ok_or("the length is malformed")?,
            );
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || old || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("the transfer coding is not `chunked`, once, in HTTP/1.1");
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err("the request has a length and a transfer coding"),
        (None, true) => Ok(State::Size),
        (None | Some(0), false) => Ok(START),
        (Some(length), false) => Ok(State::Body(length)),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.good.is_empty() {
                let length = this.good.len().min(out.remaining());
                out.put_slice(&this.good[..length]);
                this.good.advance(length);
                if this.good.is_empty() {
                    this.good = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.state == State::Ended {
                return Poll::Ready(Ok(()));
            }
            if this.raw.is_empty() && (!this.checks || this.upgraded.load(Acquire)) {
                return Pin::new(&mut this.inner).poll_read(cx, out);
            }
            if let (State::Body(left), true) = (this.state, this.raw.is_empty()) {
                // A body with a length needs no look.
                let room = usize::try_from(left).unwrap_or(usize::MAX).min(out.remaining());
                let read = {
                    let mut part = ReadBuf::new(out.initialize_unfilled_to(room));
                    ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
                    part.filled().len()
                };
                out.advance(read);
                this.state = if left == read as u64 {
                    START
                } else {
                    State::Body(left - read as u64)
                };
                return Poll::Ready(Ok(()));
            }
            let before = this.raw.len();
            this.raw.reserve(STEP);
            ready!(tokio_util::io::poll_read_buf(
                Pin::new(&mut this.inner),
                cx,
                &mut this.raw
            ))?;
            if this.raw.len() == before {
                // What is there is part of a request; the parser sees that it ends too early.
                this.state = State::Ended;
                this.good = this.raw.split();
                continue;
            }
            this.look()?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// What comes through, and what was refused, with the bytes arriving in pieces of `step`.
    async fn read(input: &[u8], step: usize) -> (Vec<u8>, Option<&'static str>) {
        let mut builder = tokio_test_pieces(input, step);
        let mut strict = Strict::new(&mut builder, 1024, Arc::default(), true);
        let mut out = Vec::new();
        let mut piece = [0; 64];
        while let Ok(read) = strict.read(&mut piece).await {
            if read == 0 {
                break;
            }
            out.extend_from_slice(&piece[..read]);
        }
        let violation = strict.violation().get().copied();
        (out, violation)
    }

    struct Pieces(Vec<u8>, usize);

    fn tokio_test_pieces(input: &[u8], step: usize) -> Pieces {
        Pieces(input.to_vec(), step)
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let length = self.1.min(self.0.len()).min(out.remaining());
            let piece: Vec<u8> = self.0.drain(..length).collect();
            out.put_slice(&piece);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn good_requests_pass_unchanged() {
        let all = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST / HTTP/1.1\r\nHost: a\r\n\
            Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.0\r\n\r\n";
        for step in [1, 2, 3, 7, 1000] {
            let (out, violation) = read(all, step).await;
            assert_eq!(violation, None, "{step}");
            assert_eq!(out, all, "{step}");
        }
    }

    #[tokio::test]
    async fn two_readings_are_refused() {
        for (input, part) in [
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                "length and a transfer",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
                "length and a transfer",
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
                "several lengths",
            ),
            ("POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", "length is malformed"),
            ("POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n", "length is malformed"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "not `chunked`",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
                "not `chunked`",
            ),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "not `chunked`"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
                "name of a field",
            ),
            ("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", "folded"),
            ("GET / HTTP/1.1\nHost: a\n\n", "CR LF"),
            ("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", "CR stands alone"),
            ("GET /\r\n\r\n", "no version"),
            ("GET /  HTTP/1.1\r\n\r\n", "request line"),
            ("GET / HTTP/1.1\r\nbad\r\n\r\n", "no field"),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n",
                "extension",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
                "longer than",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc",
                "extension",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\n",
                "extension",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                "too large",
            ),
        ] {
            for step in [1, 1000] {
                let (out, violation) = read(input.as_bytes(), step).await;
                assert!(
                    violation.is_some_and(|reason| reason.contains(part)),
                    "{input:?}: {violation:?}"
                );
                // Nothing of a refused head comes through.
                assert!(out.len() < input.len() || out == NONSENSE, "{input:?}");
            }
        }
    }
}
