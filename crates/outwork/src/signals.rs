//! SIGINT and SIGTERM: the first asks, the second insists.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// The signals that ask this process to end.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on these signals no longer end the process by themselves.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal. May be dropped and called again.
    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A token that the first signal cancels. A second signal ends the process at once.
pub(crate) fn drain_token() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupts = Interrupts::install()?;
    let asked = token.clone();
    tokio::spawn(async move {
        interrupts.recv().await;
        tracing::info!("draining; a second signal ends at once");
        asked.cancel();
        interrupts.recv().await;
        tracing::warn!("ended at once by a second signal");
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    Ok(token)
}
