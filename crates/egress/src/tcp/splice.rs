//! Bytes passed through between two sockets, moved inside the kernel.
//!
//! Counted before they are passed on; cut when a quota is used up, when the policy no longer allows the connection,
//! when nothing moves for too long, and at the end of the boundary.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use crate::policy::{Exhausted, Meter, Way};
use crate::shared::Shared;

/// What one step moves at most. More of it at once is slower: it leaves the processor's cache before it is read.
const STEP: usize = 128 * 1024;
/// The size of the pipe between.
const PIPE: usize = 256 * 1024;

/// What a connection carried.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) bytes_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
}

/// How passing through ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides closed, or one broke.
    Closed,
    /// A quota is used up.
    Exhausted(Exhausted),
}

/// Passes bytes both ways until both sides are done.
pub(super) async fn relay(
    shared: &Shared,
    inside: &TcpStream,
    outside: &TcpStream,
    meter: &Meter,
    tally: &Tally,
) -> End {
    let (there, back) = (
        pump(shared, inside, outside, meter, Way::Out, &tally.bytes_out),
        pump(shared, outside, inside, meter, Way::In, &tally.bytes_in),
    );
    tokio::pin!(there, back);
    let (mut there_done, mut back_done) = (false, false);
    loop {
        let end = tokio::select! {
            end = &mut there, if !there_done => { there_done = true; end }
            end = &mut back, if !back_done => { back_done = true; end }
        };
        match end {
            Ok(()) if there_done && back_done => return End::Closed,
            Ok(()) => {}
            Err(Stop::Broken) => return End::Closed,
            Err(Stop::Exhausted(exhausted)) => return End::Exhausted(exhausted),
        }
    }
}

enum Stop {
    Broken,
    Exhausted(Exhausted),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Stop {
        Stop::Broken
    }
}

async fn pump(
    shared: &Shared,
    from: &TcpStream,
    to: &TcpStream,
    meter: &Meter,
    way: Way,
    tally: &AtomicU64,
) -> Result<(), Stop> {
    let mut pipe: Option<(OwnedFd, OwnedFd)> = None;
    loop {
        from.readable().await?;
        let (read, write) = match &pipe {
            Some(ends) => ends,
            // Only a direction that carries something has a pipe.
            None => pipe.insert(make_pipe()?),
        };
        let mut held = match from.try_io(Interest::READABLE, || move_bytes(from, write, STEP)) {
            Ok(0) => {
                // The other direction goes on.
                let _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
                return Ok(());
            }
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let bytes = held as u64;
        meter.count(way, bytes).map_err(Stop::Exhausted)?;
        shared.stats.bytes(way, bytes);
        tally.fetch_add(bytes, Relaxed);
        while held > 0 {
            match to.try_io(Interest::WRITABLE, || move_bytes(read, to, held)) {
                Ok(0) => return Err(Stop::Broken),
                Ok(moved) => held -= moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready: Ready = to.ready(Interest::WRITABLE).await?;
                    if ready.is_write_closed() {
                        return Err(Stop::Broken);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn make_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    // A user may be out of room for large pipes; a small one works too.
    let _ = fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

fn move_bytes(from: impl rustix::fd::AsFd, to: impl rustix::fd::AsFd, length: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match splice(&from, None, &to, None, length, flags) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Closes a connection so that its client sees an error at once, not an orderly end.
pub(super) fn reset(stream: TcpStream) {
    // Without lingering, closing sends a reset.
    let _ = stream.set_zero_linger();
    drop(stream);
}
