//! The control stream of a connection: pings, and the word that a side drains.
//!
//! Every byte that arrives on a TCP connection counts as a sign of life, and every packet of a QUIC connection, so a bulk
//! transfer that delays a ping does not kill its connection. QUIC's own idle timer does not do: it begins anew with the
//! first packet that is sent into the silence.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::frame::{self, Frame, FrameError, HEADER_LEN, MAX_FRAME_LEN};
use crate::transport::Heartbeat;

/// When the other side was last heard.
#[derive(Debug)]
pub(crate) struct Activity {
    base: Instant,
    /// Milliseconds after `base`.
    last: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            base: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    pub(crate) fn idle(&self) -> Duration {
        self.base
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    /// Waits until nothing was heard for `limit`.
    pub(crate) async fn silent(&self, limit: Duration) {
        loop {
            let idle = self.idle();
            if idle >= limit {
                return;
            }
            // A millisecond more than needed, since the note is rounded down to one.
            tokio::time::sleep(limit - idle + Duration::from_millis(1)).await;
        }
    }
}

/// How often it is looked whether packets arrived: what a lost connection may be noticed late by.
const SAMPLE: Duration = Duration::from_millis(100);

/// Notes the packets of a QUIC connection as signs of life. Never ends.
pub(crate) async fn listen(connection: &quinn::Connection, activity: &Activity) -> Infallible {
    let mut tick = tokio::time::interval(SAMPLE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = connection.stats().udp_rx.datagrams;
    loop {
        tick.tick().await;
        let now = connection.stats().udp_rx.datagrams;
        if now != seen {
            seen = now;
            activity.touch();
        }
    }
}

/// Why frames could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the other side closed the connection")]
    Closed,
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("the other side broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the other side broke the protocol: it sent an unexpected frame")]
    Unexpected,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads exactly one frame and not a byte more.
pub(crate) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Frame, WireError> {
    let mut bytes = zeroize::Zeroizing::new([0u8; MAX_FRAME_LEN]);
    read_exact(from, &mut bytes[..HEADER_LEN]).await?;
    let len = frame::frame_len(&bytes[..HEADER_LEN])?.ok_or(WireError::Unexpected)?;
    read_exact(from, &mut bytes[HEADER_LEN..len]).await?;
    match frame::decode(&bytes[..len])? {
        Some((frame, _)) => Ok(frame),
        None => Err(WireError::Unexpected),
    }
}

async fn read_exact(from: &mut (impl AsyncRead + Unpin), into: &mut [u8]) -> Result<(), WireError> {
    match from.read_exact(into).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(WireError::Closed),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> Result<(), WireError> {
    // The bytes can hold a token.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(MAX_FRAME_LEN));
    frame.encode(&mut bytes)?;
    to.write_all(&bytes).await?;
    to.flush().await?;
    Ok(())
}

/// What the control stream tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// The other side drains.
    Drain,
    /// A ping was answered after this time.
    RoundTrip(Duration),
}

/// Exchanges pings until the connection is lost, which is the only way that it ends. Frames from `outgoing` are sent.
pub(crate) async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    heartbeat: Heartbeat,
    activity: &Activity,
    outgoing: &mut mpsc::Receiver<Frame>,
    tell: impl FnMut(Told),
) -> WireError {
    tokio::select! {
        Err(error) = exchange(stream, heartbeat.interval, activity, outgoing, tell) => error,
        () = activity.silent(heartbeat.silence) => WireError::Silent(heartbeat.silence),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite>(
    stream: S,
    interval: Duration,
    activity: &Activity,
    outgoing: &mut mpsc::Receiver<Frame>,
    mut tell: impl FnMut(Told),
) -> Result<Infallible, WireError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = BytesMut::with_capacity(256);
    let mut nonce = 0u64;
    let mut sent_at = Instant::now();
    let mut open = true;
    loop {
        while let Some((frame, len)) = frame::decode(&buffer)? {
            let _ = buffer.split_to(len);
            activity.touch();
            match frame {
                Frame::Ping(number) => write_frame(&mut writer, &Frame::Pong(number)).await?,
                Frame::Pong(number) if number == nonce => tell(Told::RoundTrip(sent_at.elapsed())),
                // The answer to an earlier ping that was delayed.
                Frame::Pong(number) if number < nonce => {}
                Frame::Drain => tell(Told::Drain),
                _ => return Err(WireError::Unexpected),
            }
        }
        tokio::select! {
            read = reader.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Err(WireError::Closed);
                }
            }
            _ = tick.tick() => {
                nonce += 1;
                sent_at = Instant::now();
                write_frame(&mut writer, &Frame::Ping(nonce)).await?;
            }
            frame = outgoing.recv(), if open => match frame {
                Some(frame) => write_frame(&mut writer, &frame).await?,
                None => open = false,
            },
        }
    }
}
