//! Connections to the server behind one connection of the sandbox.
//!
//! They go to the address that was decided on, and TLS on them is verified for the name that the client said. They
//! are kept for the requests that follow on the same connection of the sandbox, and for no other.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Outgoing;
use super::flow::Tasks;
use crate::shared::Shared;

/// Connections of HTTP/1 that are kept without a request.
const KEPT: usize = 16;

pub(super) struct Upstream {
    shared: Arc<Shared>,
    destination: SocketAddr,
    tls: Option<Option<Arc<str>>>,
    http2: bool,
    idle: Arc<Idle>,
    multiplexed: tokio::sync::Mutex<Multiplexed>,
}

type Idle = Mutex<Vec<http1::SendRequest<Outgoing>>>;

enum Multiplexed {
    /// Not known yet whether the server speaks HTTP/2.
    Unknown,
    Http2(http2::SendRequest<Outgoing>),
    Http1,
}

/// The use of a connection for one response.
pub(crate) struct Lease(Option<(http1::SendRequest<Outgoing>, Arc<Idle>)>);

impl Lease {
    /// The response was read to its end: the connection can be used again.
    pub(super) fn give_back(mut self) {
        let Some((sender, idle)) = self.0.take() else { return };
        if sender.is_closed() {
            return;
        }
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(sender);
        }
    }
}

enum Sender {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

impl Upstream {
    pub(super) fn new(
        shared: Arc<Shared>,
        destination: SocketAddr,
        tls: Option<Option<Arc<str>>>,
        http2: bool,
    ) -> Upstream {
        Upstream {
            shared,
            destination,
            tls,
            http2,
            idle: Arc::default(),
            multiplexed: tokio::sync::Mutex::new(if http2 {
                Multiplexed::Unknown
            } else {
                Multiplexed::Http1
            }),
        }
    }

    /// Sends a request and gives the head of its response. A connection that was kept and turns out to be closed is
    /// replaced, as long as nothing of the request was sent.
    pub(super) async fn send(
        &self,
        mut request: Request<Outgoing>,
        authority: &str,
    ) -> Result<(Response<Incoming>, Lease), String> {
        let mut fresh = false;
        loop {
            let sender = match if fresh { None } else { self.kept().await } {
                Some(sender) => sender,
                None => {
                    fresh = true;
                    self.open().await?
                }
            };
            let sent = match sender {
                Sender::Http1(mut sender) => {
                    for_http1(&mut request, authority)?;
                    let sent = sender.try_send_request(request).await;
                    sent.map(|response| (response, Lease(Some((sender, self.idle.clone())))))
                }
                Sender::Http2(mut sender) => {
                    for_http2(&mut request, authority, self.tls.is_some())?;
                    sender
                        .try_send_request(request)
                        .await
                        .map(|response| (response, Lease(None)))
                }
            };
            match sent {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => {
                        request = unsent;
                        fresh = true;
                        self.forget().await;
                    }
                    _ => return Err(because(&error.into_error())),
                },
            }
        }
    }

    async fn kept(&self) -> Option<Sender> {
        if self.http2
            && let Multiplexed::Http2(sender) = &*self.multiplexed.lock().await
            && !sender.is_closed()
        {
            return Some(Sender::Http2(sender.clone()));
        }
        loop {
            let mut sender = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Some(Sender::Http1(sender));
            }
        }
    }

    async fn forget(&self) {
        if self.http2 {
            let mut multiplexed = self.multiplexed.lock().await;
            if matches!(&*multiplexed, Multiplexed::Http2(sender) if sender.is_closed()) {
                *multiplexed = Multiplexed::Unknown;
            }
        }
    }

    async fn open(&self) -> Result<Sender, String> {
        if !self.http2 {
            return self.connect(false).await;
        }
        // Streams that begin together wait for one connection, until it is known that the server needs several.
        let mut multiplexed = self.multiplexed.lock().await;
        match &*multiplexed {
            Multiplexed::Http2(sender) if !sender.is_closed() => return Ok(Sender::Http2(sender.clone())),
            Multiplexed::Http1 => {
                drop(multiplexed);
                return self.connect(true).await;
            }
            Multiplexed::Http2(_) | Multiplexed::Unknown => {}
        }
        let sender = self.connect(true).await?;
        *multiplexed = match &sender {
            Sender::Http2(sender) => Multiplexed::Http2(sender.clone()),
            Sender::Http1(_) => Multiplexed::Http1,
        };
        Ok(sender)
    }

    async fn connect(&self, http2: bool) -> Result<Sender, String> {
        let shared = &self.shared;
        let stream = shared.connect(self.destination).await;
        let stream = stream.map_err(|reason| format!("could not connect to {}: {reason}", self.destination))?;
        let Some(name) = &self.tls else {
            return self.speak(stream, http2).await;
        };
        let (name, shown) = match name {
            Some(name) => (
                ServerName::try_from(name.to_string()).map_err(|error| error.to_string())?,
                name.to_string(),
            ),
            None => (
                ServerName::IpAddress(self.destination.ip().into()),
                self.destination.ip().to_string(),
            ),
        };
        let handshake = tokio::time::timeout(shared.limits.connect, shared.upstream.handshake(name, stream, http2));
        let (stream, agreed) = handshake
            .await
            .map_err(|_| format!("the TLS handshake with {shown} took too long"))?
            .map_err(|error| format!("the TLS handshake with {shown} failed: {error}"))?;
        self.speak(stream, agreed).await
    }

    async fn speak<S>(&self, stream: S, http2: bool) -> Result<Sender, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let tasks = Tasks::of(&self.shared);
        let patience = self.shared.limits.connect;
        let late = "the server did not begin to speak HTTP in time".to_owned();
        if http2 {
            let mut builder = http2::Builder::new(tasks.clone());
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .keep_alive_interval(Some(std::time::Duration::from_secs(60)))
                .keep_alive_timeout(std::time::Duration::from_secs(20));
            let (sender, connection) = tokio::time::timeout(patience, builder.handshake(io))
                .await
                .map_err(|_| late)?
                .map_err(|error| because(&error))?;
            hyper::rt::Executor::execute(&tasks, connection);
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = tokio::time::timeout(patience, http1::Builder::new().handshake(io))
            .await
            .map_err(|_| late)?
            .map_err(|error| because(&error))?;
        hyper::rt::Executor::execute(&tasks, connection.with_upgrades());
        Ok(Sender::Http1(sender))
    }
}

/// An error with what caused it.
fn because(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn for_http1(request: &mut Request<Outgoing>, authority: &str) -> Result<(), String> {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
    request.headers_mut().insert(HOST, host);
    Ok(())
}

fn for_http2(request: &mut Request<Outgoing>, authority: &str, secure: bool) -> Result<(), String> {
    *request.version_mut() = Version::HTTP_2;
    if request.uri().authority().is_none() {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder()
            .scheme(if secure { "https" } else { "http" })
            .authority(authority)
            .path_and_query(path)
            .build();
        *request.uri_mut() = uri.map_err(|error| error.to_string())?;
    }
    request.headers_mut().remove(HOST);
    Ok(())
}
