//! What follows an upgrade to WebSocket: frames in both directions, with secrets put in and taken out.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use bytes::{Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::flow::Flow;
use crate::policy::{Meter, Way};
use crate::secret::{Destination, SecretSet};
use crate::shared::{Claim, Judged};

/// What is read at once.
const STEP: usize = 32 * 1024;

/// A WebSocket that was agreed on.
pub(super) struct Upgraded {
    pub(super) flow: Arc<Flow>,
    pub(super) inside: OnUpgrade,
    pub(super) outside: OnUpgrade,
    pub(super) secrets: Arc<SecretSet>,
    pub(super) to: Destination,
    pub(super) judged: Judged,
    pub(super) meter: Meter,
    pub(super) name: Option<String>,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
}

impl Upgraded {
    /// Carries it until it ends, in a task of its own.
    pub(super) fn spawn(self) {
        let shared = self.flow.shared.clone();
        self.flow.upgraded.store(true, Release);
        let stop = shared.stop.clone();
        shared.tasks.spawn(async move {
            tokio::select! {
                () = self.carry() => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn carry(self) {
        let shared = self.flow.shared.clone();
        let both = async { tokio::try_join!(self.inside, self.outside) };
        let Ok(Ok((inside, outside))) = tokio::time::timeout(shared.limits.connect, both).await else {
            return;
        };
        let (inside_read, inside_write) = tokio::io::split(TokioIo::new(inside));
        let (outside_read, outside_write) = tokio::io::split(TokioIo::new(outside));
        let claim = Claim {
            name: self.name.as_deref(),
            destination: self.flow.destination,
            protocol: self.flow.protocol(),
            http: Some(crate::policy::HttpRequest {
                method: &self.method,
                path: &self.path,
                query: self.query.as_deref(),
            }),
        };
        let request = match self.judged.host {
            Some(_) => claim.named(),
            None => claim.unnamed(),
        };
        let limits = &shared.limits.secrets;
        let (mut to_server, mut to_client) = match self.secrets.is_empty() {
            true => (None, None),
            false => {
                let (client, server) = self.secrets.web_socket(&self.to, limits);
                (Some(client), Some(server))
            }
        };
        let counted = |way: Way, bytes: usize| -> Result<(), String> {
            self.meter
                .count(way, bytes as u64)
                .map_err(|exhausted| exhausted.to_string())?;
            shared.stats.bytes(way, bytes as u64);
            Ok(())
        };
        let there = copy(inside_read, outside_write, |data: Option<&[u8]>| {
            match (data, &mut to_server) {
                (Some(data), frames) => {
                    counted(Way::Out, data.len())?;
                    match frames {
                        Some(frames) => frames.push(data).map_err(|blocked| blocked.to_string()),
                        None => Ok(Bytes::copy_from_slice(data)),
                    }
                }
                (None, Some(frames)) => frames.finish().map_err(|blocked| blocked.to_string()),
                (None, None) => Ok(Bytes::new()),
            }
        });
        let back = copy(outside_read, inside_write, |data: Option<&[u8]>| {
            match (data, &mut to_client) {
                (Some(data), frames) => {
                    counted(Way::In, data.len())?;
                    match frames {
                        Some(frames) => frames.push(data).map_err(|error| error.to_string()),
                        None => Ok(Bytes::copy_from_slice(data)),
                    }
                }
                (None, Some(frames)) => frames.finish().map_err(|error| error.to_string()),
                (None, None) => Ok(Bytes::new()),
            }
        });
        let mut changes = shared.changed.subscribe();
        // The server may have taken long to agree: what changed since the request was let through counts.
        changes.mark_changed();
        let refused = {
            tokio::pin!(there, back);
            let (mut there_done, mut back_done) = (false, false);
            loop {
                let ended = tokio::select! {
                    ended = &mut there, if !there_done => { there_done = true; ended }
                    ended = &mut back, if !back_done => { back_done = true; ended }
                    Ok(()) = changes.changed() => {
                        let decision = shared.policy.load().decide(&request);
                        if decision.allowed {
                            continue;
                        }
                        shared.stats.cut();
                        break Some((decision.rule.to_string(), decision.reason));
                    }
                };
                match ended {
                    Ok(()) if there_done && back_done => break None,
                    Ok(()) => {}
                    Err(Some(reason)) => break Some(("websocket".to_owned(), reason)),
                    Err(None) => break None,
                }
            }
        };
        if let Some(frames) = &to_server {
            shared.used(&request, &self.judged.decision.rule, frames.uses()).await;
        }
        if let Some((rule, reason)) = refused {
            let _ = shared.refuse(&request, &rule, &reason).await;
        }
    }
}

/// Copies until the end. An error with a reason was a refusal, one without a broken connection.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut change: impl FnMut(Option<&[u8]>) -> Result<Bytes, String>,
) -> Result<(), Option<String>> {
    let mut buffer = BytesMut::with_capacity(STEP);
    loop {
        buffer.clear();
        let read = from.read_buf(&mut buffer).await.map_err(|_| None)?;
        let out = change((read > 0).then_some(&buffer[..])).map_err(Some)?;
        if !out.is_empty() {
            to.write_all(&out).await.map_err(|_| None)?;
            to.flush().await.map_err(|_| None)?;
        }
        if read == 0 {
            return to.shutdown().await.map_err(|_| None);
        }
    }
}
