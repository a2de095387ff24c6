//! The sockets of names: datagrams from the sandbox's DNS socket, and streams to port 53.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::answer::answer;
use crate::shared::Shared;

/// Questions of one sandbox that are being answered at once; more are dropped, and asked again by their clients.
const AT_ONCE: usize = 64;
/// How long a question may take, all in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream may stay without a question.
const IDLE: Duration = Duration::from_secs(20);
/// Questions on one stream.
const ON_A_STREAM: usize = 1000;

/// Answers datagrams until the boundary is shut down.
pub(crate) async fn serve_udp(shared: Arc<Shared>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut buffer = vec![0; 4096];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = shared.stop.cancelled() => return,
        };
        let Ok((length, from)) = received else {
            // An error of an earlier datagram (its sender is gone); nothing is lost.
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            continue;
        };
        let question = buffer[..length].to_vec();
        let (shared, socket) = (shared.clone(), socket.clone());
        let stop = shared.stop.clone();
        shared.tasks.clone().spawn(async move {
            let work = tokio::time::timeout(PATIENCE, answer(&shared, &question, 1232));
            let reply = tokio::select! {
                reply = work => reply.ok().flatten(),
                () = stop.cancelled() => None,
            };
            if let Some(reply) = reply
                && let Err(error) = socket.send_to(&reply, from).await
            {
                tracing::debug!(%error, "an answer could not be sent to the sandbox");
            }
            drop(place);
        });
    }
}

/// Answers the questions of one stream.
pub(crate) async fn serve_stream<S>(shared: &Shared, mut stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for _ in 0..ON_A_STREAM {
        let Ok(Ok(length)) = tokio::time::timeout(IDLE, stream.read_u16()).await else {
            return;
        };
        let mut question = vec![0; usize::from(length)];
        let Ok(Ok(_)) = tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await else {
            return;
        };
        let reply = tokio::time::timeout(PATIENCE, answer(shared, &question, usize::from(u16::MAX))).await;
        let Ok(Some(reply)) = reply else { return };
        let Ok(length) = u16::try_from(reply.len()) else { return };
        let whole = [&length.to_be_bytes()[..], &reply].concat();
        let Ok(Ok(())) = tokio::time::timeout(IDLE, stream.write_all(&whole)).await else {
            return;
        };
    }
}
