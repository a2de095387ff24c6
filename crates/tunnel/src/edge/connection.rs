//! A gateway's connection as the edge holds it: its streams, its heartbeat, its tests, its end.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use outwork_wire::Time;
use rand::RngCore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::LostReason;
use super::options::Options;
use crate::control::{Activity, WireError, read_frame};
use crate::frame::{Frame, Hello, Open, PROBE_HOST, Rejection, RejectionCode, StreamKind};
use crate::stream::Stream;
use crate::transport::{CODE_HEADER, KIND_HEADER, MESSAGE_HEADER, Transport};

/// What the API shows of a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// The edge's name of it.
    pub id: String,
    /// Where it comes from.
    pub remote: SocketAddr,
    /// How it is carried.
    pub transport: Transport,
    /// The gateway's software and version.
    pub software: String,
    /// The gateway process.
    pub instance: String,
    /// Which of the process's connections this is.
    pub index: u16,
    /// Which of the tunnel's tokens was shown.
    pub generation: u64,
    /// When it was admitted.
    pub since: Time,
    /// When the gateway was last heard.
    pub last_seen: Time,
    /// Streams that are open now.
    pub in_flight: usize,
    /// Whether it takes no new streams.
    pub draining: bool,
}

/// A connection that was admitted.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) id: Arc<str>,
    remote: SocketAddr,
    hello: Hello,
    generation: u64,
    since: Time,
    pub(super) activity: Arc<Activity>,
    in_flight: AtomicUsize,
    /// Set once streams can be opened.
    ready: AtomicBool,
    draining: AtomicBool,
    /// Told when the last stream of a draining connection ended.
    pub(super) idle: Notify,
    carrier: Carrier,
    killed: CancellationToken,
    why: Mutex<Option<(LostReason, String)>>,
}

#[derive(Debug)]
pub(super) enum Carrier {
    Quic(quinn::Connection),
    /// Given when the connection is admitted, and taken when it ends, so that the library flushes and closes it.
    H2(Mutex<Option<h2::client::SendRequest<Bytes>>>),
}

/// Why a connection gave no stream.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Rejected(Rejection),
    Lost(String),
}

impl From<WireError> for OpenFailure {
    fn from(error: WireError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<io::Error> for OpenFailure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<h2::Error> for OpenFailure {
    fn from(error: h2::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Carried {
    pub(super) fn new(
        id: Arc<str>,
        remote: SocketAddr,
        hello: Hello,
        generation: u64,
        activity: Arc<Activity>,
        carrier: Carrier,
    ) -> Self {
        Self {
            id,
            remote,
            // The token has done its work.
            hello: Hello {
                token: String::new().into(),
                ..hello
            },
            generation,
            since: Time::now(),
            activity,
            in_flight: AtomicUsize::new(0),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            idle: Notify::new(),
            carrier,
            killed: CancellationToken::new(),
            why: Mutex::new(None),
        }
    }

    pub(super) fn show(&self) -> Connection {
        let idle = i64::try_from(self.activity.idle().as_micros()).unwrap_or(i64::MAX);
        Connection {
            id: self.id.to_string(),
            remote: self.remote,
            transport: self.transport(),
            software: self.hello.software.clone(),
            instance: self.hello.instance.clone(),
            index: self.hello.index,
            generation: self.generation,
            since: self.since,
            last_seen: Time::now().plus_micros(idle.saturating_neg()),
            in_flight: self.in_flight(),
            draining: self.draining.load(Ordering::Relaxed),
        }
    }

    pub(super) fn transport(&self) -> Transport {
        match self.carrier {
            Carrier::Quic(_) => Transport::Quic,
            Carrier::H2(_) => Transport::Tcp,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it takes new streams.
    pub(super) fn is_open(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.draining.load(Ordering::Relaxed) && !self.killed.is_cancelled()
    }

    /// Streams can be opened from now on, over HTTP/2 with `sender`.
    pub(super) fn begin(&self, sender: Option<h2::client::SendRequest<Bytes>>) {
        if let Carrier::H2(slot) = &self.carrier {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = sender;
        }
        self.ready.store(true, Ordering::Release);
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.idle.notify_one();
    }

    /// Waits until it drains and its last stream has ended.
    pub(super) async fn drained(&self) {
        loop {
            let told = self.idle.notified();
            if self.draining.load(Ordering::SeqCst) && self.in_flight.load(Ordering::SeqCst) == 0 {
                return;
            }
            told.await;
        }
    }

    /// Ends it; the first reason counts.
    pub(super) fn kill(&self, reason: LostReason, detail: &str) {
        self.why
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| (reason, detail.to_owned()));
        self.killed.cancel();
    }

    pub(super) async fn killed(&self) -> (LostReason, String) {
        self.killed.cancelled().await;
        self.why()
    }

    /// Why it ended.
    pub(super) fn why(&self) -> (LostReason, String) {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        why.unwrap_or((LostReason::Closed, String::new()))
    }

    /// Lets the transport end: no new streams, and what was written is flushed where the transport can.
    pub(super) fn release(&self) {
        if let Carrier::H2(sender) = &self.carrier {
            drop(sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Asks the gateway for a stream and waits for its answer; `early` goes along, and the gateway looks at it only if it
    /// accepts. Dropping the future withdraws the question.
    pub(super) async fn open(&self, host: &str, kind: StreamKind, early: &Bytes) -> Result<Stream, OpenFailure> {
        match &self.carrier {
            Carrier::Quic(connection) => {
                let (send, receive) = connection.open_bi().await.map_err(io::Error::from)?;
                // In one piece, so that giving up resets both halves.
                let mut stream = Stream::quic(send, receive);
                let mut head = Vec::with_capacity(64 + host.len() + early.len());
                let host = host.to_owned();
                Frame::Open(Open { host, kind })
                    .encode(&mut head)
                    .map_err(WireError::from)?;
                head.extend_from_slice(early);
                stream.write_all(&head).await?;
                match read_frame(&mut stream).await? {
                    Frame::Accepted => Ok(stream),
                    Frame::Rejected(rejection) => Err(OpenFailure::Rejected(rejection)),
                    _ => {
                        self.kill(
                            LostReason::Protocol,
                            "the gateway answered a stream with an unexpected frame",
                        );
                        Err(WireError::Unexpected.into())
                    }
                }
            }
            Carrier::H2(sender) => {
                let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let sender = sender.ok_or_else(|| OpenFailure::Lost("the connection ends".to_owned()))?;
                connect(sender, host, kind.as_str(), early).await
            }
        }
    }

    /// Tests the data path twice before it gives up.
    pub(super) async fn test(&self, options: &Options, interval: Duration) -> (LostReason, String) {
        let mut failed = 0;
        loop {
            tokio::time::sleep(interval).await;
            match tokio::time::timeout(options.probe_timeout, self.probe(PROBE_HOST)).await {
                Ok(Ok(())) | Ok(Err(OpenFailure::Rejected(_))) => failed = 0,
                Ok(Err(OpenFailure::Lost(_))) | Err(_) => failed += 1,
            }
            if failed == 2 {
                return (
                    LostReason::Probe,
                    "two tests of the data path in a row had no answer".to_owned(),
                );
            }
        }
    }

    /// Sends bytes through the gateway's handler and wants them back.
    pub(super) async fn probe(&self, host: &str) -> Result<(), OpenFailure> {
        let mut nonce = [0u8; 32];
        rand::rng().fill_bytes(&mut nonce);
        let mut stream = self.open(host, StreamKind::Probe, &Bytes::new()).await?;
        stream.write_all(&nonce).await?;
        stream.shutdown().await?;
        let mut back = Vec::with_capacity(nonce.len());
        (&mut stream)
            .take(nonce.len() as u64 + 1)
            .read_to_end(&mut back)
            .await?;
        if back == nonce {
            Ok(())
        } else {
            Err(OpenFailure::Lost("the probe came back changed".to_owned()))
        }
    }
}

/// Opens a stream over HTTP/2.
async fn connect(
    sender: h2::client::SendRequest<Bytes>,
    host: &str,
    kind: &'static str,
    early: &Bytes,
) -> Result<Stream, OpenFailure> {
    Asked::send(sender, host, kind, early).await?.answer().await
}

/// A stream over HTTP/2 that was asked for.
pub(super) struct Asked {
    response: h2::client::ResponseFuture,
    send: h2::SendStream<Bytes>,
}

impl Asked {
    /// Asks for a stream. Those that are asked for later come later.
    pub(super) async fn send(
        mut sender: h2::client::SendRequest<Bytes>,
        host: &str,
        kind: &'static str,
        early: &Bytes,
    ) -> Result<Self, OpenFailure> {
        let lost = |_| OpenFailure::Lost("the host does not fit a request".to_owned());
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
        let uri = Uri::builder().authority(host).build().map_err(lost)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        request
            .headers_mut()
            .insert(KIND_HEADER, HeaderValue::from_static(kind));
        let (response, mut send) = sender.send_request(request, false)?;
        if !early.is_empty() {
            send.send_data(early.clone(), false)?;
        }
        Ok(Self { response, send })
    }

    /// The gateway's answer. Both handles go with the future if the caller gives up, which cancels the stream.
    pub(super) async fn answer(self) -> Result<Stream, OpenFailure> {
        let (head, body) = self.response.await?.into_parts();
        if head.status == StatusCode::OK {
            return Ok(Stream::h2(self.send, body));
        }
        let code = head
            .headers
            .get(CODE_HEADER)
            .and_then(|code| code.to_str().ok()?.parse().ok());
        match code.and_then(RejectionCode::from_u8) {
            Some(code) => {
                let message = head
                    .headers
                    .get(MESSAGE_HEADER)
                    .map(|text| String::from_utf8_lossy(text.as_bytes()));
                Err(OpenFailure::Rejected(Rejection::new(code, message.unwrap_or_default())))
            }
            None => Err(OpenFailure::Lost("the gateway answered without a reason".to_owned())),
        }
    }
}

/// A stream's place on a connection; counted while it is held.
#[derive(Debug)]
pub(super) struct Place(Arc<Carried>);

impl Place {
    pub(super) fn take(connection: &Arc<Carried>) -> Self {
        connection.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(connection.clone())
    }

    pub(super) fn connection(&self) -> &Arc<Carried> {
        &self.0
    }

    pub(super) fn connection_id(&self) -> &str {
        &self.0.id
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.draining.load(Ordering::SeqCst) {
            self.0.idle.notify_one();
        }
    }
}
