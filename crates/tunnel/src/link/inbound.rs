//! A stream that the edge opened and the handler admitted.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use tokio_util::sync::CancellationToken;

use super::Origin;
use crate::frame::StreamKind;
use crate::stream::Stream;

/// An admitted stream.
#[derive(Debug)]
pub struct Inbound {
    /// The host that the caller wants.
    pub host: String,
    /// What the stream is for.
    pub kind: StreamKind,
    /// The payload, both ways.
    pub stream: Stream,
    /// Where it came from.
    pub origin: Origin,
    /// Cancelled when the connection drains: a handler that keeps the stream between requests ends it then.
    pub draining: CancellationToken,
}

/// The most that a probe sends.
const PROBE_LIMIT: u64 = 4096;

/// Sends back what the stream sends, up to 4 KiB, and ends: the answer to a probe.
pub async fn echo(stream: &mut Stream) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(64);
    (&mut *stream).take(PROBE_LIMIT).read_to_end(&mut bytes).await?;
    stream.write_all(&bytes).await?;
    stream.shutdown().await
}
