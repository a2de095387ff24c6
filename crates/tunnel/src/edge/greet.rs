//! From a socket to an admitted connection, and its life from there.
//!
//! TLS, the hello and the authenticator share one deadline and a bounded number of places; an admitted connection gives
//! its place back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use outwork_wire::Time;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Asked, Carried, Carrier, OpenFailure};
use super::handle::Shared;
use super::tunnel::Tunnel;
use super::{Authenticator, Credentials, Event, LostReason};
use crate::control::{self, Activity, Told, WireError, read_frame, write_frame};
use crate::frame::{Frame, Hello, PROTOCOL, Refused, RefusedCode, Welcome};
use crate::socket::Socket;
use crate::transport::{
    ALPN_TCP, CLOSE_DEAD, CLOSE_DONE, CLOSE_REFUSED, CONTROL_HOST, H2_FRAME, H2_SEND_BUFFER, Heartbeat, KIND_CONTROL,
    Transport,
};

/// What it takes to admit a connection.
#[derive(Clone)]
pub(super) struct Greeter {
    pub(super) shared: Arc<Shared>,
    pub(super) authenticator: Arc<dyn Authenticator>,
    pub(super) tasks: TaskTracker,
    /// Cancelled when everything is to end now.
    pub(super) killed: CancellationToken,
}

/// An admitted connection and its tunnel.
struct Admitted {
    tunnel: Arc<Tunnel>,
    carried: Arc<Carried>,
}

/// Why a connection was not admitted.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error("refused: {}", .0.as_str())]
    Refused(RefusedCode),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("it did not say hello in time")]
    TimedOut,
}

impl From<std::io::Error> for GreetError {
    fn from(error: std::io::Error) -> Self {
        Self::Wire(error.into())
    }
}

impl Greeter {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.killed.clone().run_until_cancelled_owned(async {
            task.await;
        }));
    }

    async fn in_time<T>(&self, greeting: impl Future<Output = Result<T, GreetError>>) -> Result<T, GreetError> {
        let limit = self.shared.options.handshake_timeout;
        tokio::time::timeout(limit, greeting)
            .await
            .unwrap_or(Err(GreetError::TimedOut))
    }

    /// Judges a hello; who passes is among the tunnel's connections and has still to be welcomed.
    async fn judge(
        &self,
        hello: Hello,
        remote: SocketAddr,
        activity: &Arc<Activity>,
        carrier: Carrier,
    ) -> Result<Admitted, RefusedCode> {
        let transport = if matches!(carrier, Carrier::Quic(_)) {
            Transport::Quic
        } else {
            Transport::Tcp
        };
        let claimed = hello.tunnel_id.clone();
        let verdict = async {
            if hello.protocol != PROTOCOL {
                return Err(RefusedCode::UnsupportedVersion);
            }
            if self.shared.draining.is_cancelled() {
                return Err(RefusedCode::Draining);
            }
            let credentials = Credentials {
                tunnel_id: &hello.tunnel_id,
                token: &hello.token,
                remote,
                transport,
            };
            let admission = self.authenticator.authenticate(credentials).await?;
            let tunnel = self.shared.tunnels.get_or_add(&admission.tunnel_id);
            let id = format!("tcon_{}", outwork_wire::id::fresh_suffix(Time::now(), &mut rand::rng()));
            let carried = Carried::new(
                id.into(),
                remote,
                hello,
                admission.generation,
                activity.clone(),
                carrier,
            );
            let carried = Arc::new(carried);
            tunnel.join(carried.clone(), self.shared.options.max_connections)?;
            Ok(Admitted { tunnel, carried })
        };
        let verdict = verdict.await;
        if let Err(code) = &verdict {
            tracing::warn!(%remote, %transport, code = code.as_str(), "a gateway was refused");
            self.shared.tell(Event::Refused {
                tunnel_id: claimed,
                remote,
                transport,
                code: *code,
            });
        }
        verdict
    }

    fn welcome(&self, admitted: &Admitted) -> Frame {
        let interval = self.shared.options.heartbeat.interval;
        Frame::Welcome(Welcome {
            connection_id: admitted.carried.id.to_string(),
            heartbeat_ms: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
        })
    }
}

fn refused(code: RefusedCode) -> Frame {
    let message = match code {
        RefusedCode::BadToken => {
            "the token is not valid for this tunnel; if it was rotated, give the gateway the new one"
        }
        RefusedCode::Archived => "the tunnel is archived; it can not be used again",
        RefusedCode::UnsupportedVersion => {
            "the edge does not speak this gateway's protocol version; update the older one"
        }
        RefusedCode::TooManyConnections => "the tunnel has as many connections as it may",
        RefusedCode::Draining => "the edge is shutting down; another one may be ready",
        RefusedCode::Unavailable => "the edge could not check the token now",
    };
    Frame::Refused(Refused {
        code,
        message: message.to_owned(),
    })
}

async fn read_hello(from: &mut (impl AsyncRead + Unpin)) -> Result<Hello, GreetError> {
    match read_frame(from).await? {
        Frame::Hello(hello) => Ok(hello),
        _ => Err(WireError::Unexpected.into()),
    }
}

/// Greets a TCP connection and runs it.
pub(super) async fn tcp(
    greeter: Greeter,
    stream: TcpStream,
    remote: SocketAddr,
    tls: TlsAcceptor,
    permit: OwnedSemaphorePermit,
) {
    let activity = Arc::new(Activity::new());
    let greeting = async {
        let mut stream = tls.accept(Socket::new(stream, activity.clone())?).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_TCP) {
            return Err(WireError::Unexpected.into());
        }
        let hello = read_hello(&mut stream).await?;
        match greeter
            .judge(hello, remote, &activity, Carrier::H2(Mutex::new(None)))
            .await
        {
            Ok(admitted) => Ok((stream, admitted)),
            Err(code) => {
                write_frame(&mut stream, &refused(code)).await?;
                tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
                Err(GreetError::Refused(code))
            }
        }
    };
    match greeter.in_time(greeting).await {
        Ok((stream, admitted)) => {
            drop(permit);
            let member = Member::new(&greeter, admitted);
            let (reason, detail) = live_tcp(&greeter, &member.0, stream, &activity).await;
            member.0.carried.kill(reason, &detail);
        }
        Err(error) => tracing::debug!(%remote, %error, "a TCP connection was not admitted"),
    }
}

/// Greets a QUIC connection and runs it.
pub(super) async fn quic(greeter: Greeter, incoming: quinn::Incoming, permit: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let activity = Arc::new(Activity::new());
    let mut opened = None;
    let greeting = async {
        let connection = incoming.await.map_err(std::io::Error::from)?;
        opened = Some(connection.clone());
        let (mut send, mut receive) = connection.accept_bi().await.map_err(std::io::Error::from)?;
        // Control goes before payload.
        send.set_priority(1).map_err(std::io::Error::other)?;
        let hello = read_hello(&mut receive).await?;
        match greeter
            .judge(hello, remote, &activity, Carrier::Quic(connection.clone()))
            .await
        {
            Ok(admitted) => Ok((connection, send, receive, admitted)),
            Err(code) => {
                write_frame(&mut send, &refused(code)).await?;
                send.finish().map_err(std::io::Error::other)?;
                // The gateway closes when it has read the answer; closing from here could overtake it.
                connection.closed().await;
                Err(GreetError::Refused(code))
            }
        }
    };
    match greeter.in_time(greeting).await {
        Ok((connection, send, receive, admitted)) => {
            drop(permit);
            connection.set_receive_window(greeter.shared.options.windows.connection.into());
            let member = Member::new(&greeter, admitted);
            let (reason, detail) = live_quic(&greeter, &member.0, &connection, send, receive, &activity).await;
            member.0.carried.kill(reason, &detail);
            let code = match reason {
                LostReason::Silent | LostReason::Probe => CLOSE_DEAD,
                LostReason::Archived | LostReason::Protocol => CLOSE_REFUSED,
                LostReason::Closed | LostReason::Drained | LostReason::Stopped => CLOSE_DONE,
            };
            connection.close(code, reason.as_str().as_bytes());
        }
        Err(error) => {
            tracing::debug!(%remote, %error, "a QUIC connection was not admitted");
            if let Some(connection) = opened {
                connection.close(CLOSE_REFUSED, b"");
            }
        }
    }
}

/// A connection's membership in its tunnel: it ends with the value, whatever ends the task.
struct Member(Admitted, Arc<Shared>);

impl Member {
    fn new(greeter: &Greeter, admitted: Admitted) -> Self {
        Self(admitted, greeter.shared.clone())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Admitted { tunnel, carried } = &self.0;
        tunnel.part(&carried.id);
        carried.kill(LostReason::Stopped, "the edge stopped");
        carried.release();
        let (reason, detail) = carried.why();
        tracing::info!(connection = %carried.id, tunnel = %tunnel.id, reason = reason.as_str(), %detail, "a gateway is gone");
        self.1.tell(Event::Lost {
            tunnel_id: tunnel.id.to_string(),
            connection_id: carried.id.to_string(),
            reason,
            detail,
        });
    }
}

async fn live_tcp(
    greeter: &Greeter,
    admitted: &Admitted,
    mut stream: TlsStream<Socket>,
    activity: &Activity,
) -> (LostReason, String) {
    let options = &greeter.shared.options;
    let began = async {
        write_frame(&mut stream, &greeter.welcome(admitted)).await?;
        h2::client::Builder::new()
            .initial_window_size(options.windows.stream)
            .initial_connection_window_size(options.windows.connection)
            .max_frame_size(H2_FRAME)
            .max_send_buffer_size(H2_SEND_BUFFER)
            .max_header_list_size(16 << 10)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| WireError::Io(std::io::Error::other(error.to_string())))
    };
    let (sender, driver) = match began.await {
        Ok(began) => began,
        Err(error) => return lost(error),
    };
    // In a task of its own, so that input and output wake nothing else.
    let (finished, driven) = tokio::sync::oneshot::channel::<String>();
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    greeter.spawn(async move {
        let end = cut.run_until_cancelled_owned(driver).await;
        let detail = match end {
            Some(Err(error)) => format!("the connection failed: {error}"),
            Some(Ok(())) | None => "the gateway closed the connection".to_owned(),
        };
        // The receiver is gone if this end was asked for.
        let _ = finished.send(detail);
    });
    tokio::pin!(driven);
    let nothing = Bytes::new();
    let ask = async {
        let asked = Asked::send(sender.clone(), CONTROL_HOST, KIND_CONTROL, &nothing).await?;
        // Not before: a gateway takes no other stream first.
        admitted.carried.begin(Some(sender));
        announce(greeter, admitted);
        asked.answer().await
    };
    let opened = tokio::time::timeout(options.handshake_timeout, ask).await;
    let control = match opened {
        Ok(Ok(control)) => control,
        Ok(Err(OpenFailure::Lost(detail))) => return (LostReason::Closed, detail),
        Ok(Err(OpenFailure::Rejected(rejection))) => return (LostReason::Protocol, rejection.to_string()),
        Err(_) => {
            return (
                LostReason::Protocol,
                "the gateway did not take the control stream in time".to_owned(),
            );
        }
    };
    let end = tokio::select! {
        end = work(greeter, admitted, control, options.heartbeat, activity) => end,
        detail = &mut driven => (LostReason::Closed, detail.unwrap_or_default()),
    };
    if end.0 == LostReason::Drained {
        // Without senders and streams the library flushes and says goodbye.
        admitted.carried.release();
        let _ = tokio::time::timeout(Duration::from_secs(1), driven).await;
    }
    end
}

async fn live_quic(
    greeter: &Greeter,
    admitted: &Admitted,
    connection: &quinn::Connection,
    mut send: quinn::SendStream,
    receive: quinn::RecvStream,
    activity: &Activity,
) -> (LostReason, String) {
    admitted.carried.begin(None);
    announce(greeter, admitted);
    if let Err(error) = write_frame(&mut send, &greeter.welcome(admitted)).await {
        return lost(error);
    }
    let heartbeat = greeter.shared.options.heartbeat;
    let control = tokio::io::join(receive, send);
    let end = tokio::select! {
        // The connection knows better why its streams fail.
        biased;
        error = connection.closed() => quic_end(&error),
        never = control::listen(connection, activity) => match never {},
        end = work(greeter, admitted, control, heartbeat, activity) => end,
    };
    match (end.0, connection.close_reason()) {
        (LostReason::Closed, Some(error)) => quic_end(&error),
        _ => end,
    }
}

fn quic_end(error: &quinn::ConnectionError) -> (LostReason, String) {
    let reason = match error {
        quinn::ConnectionError::TimedOut => LostReason::Silent,
        quinn::ConnectionError::TransportError(_) | quinn::ConnectionError::VersionMismatch => LostReason::Protocol,
        quinn::ConnectionError::ConnectionClosed(_)
        | quinn::ConnectionError::ApplicationClosed(_)
        | quinn::ConnectionError::Reset
        | quinn::ConnectionError::LocallyClosed
        | quinn::ConnectionError::CidsExhausted => LostReason::Closed,
    };
    (reason, error.to_string())
}

fn announce(greeter: &Greeter, admitted: &Admitted) {
    admitted.tunnel.changed.notify_waiters();
    let connection = admitted.carried.show();
    tracing::info!(
        connection = %connection.id, tunnel = %admitted.tunnel.id, remote = %connection.remote,
        transport = %connection.transport, "a gateway is connected"
    );
    greeter.shared.tell(Event::Connected {
        tunnel_id: admitted.tunnel.id.to_string(),
        connection,
    });
}

/// Runs an admitted connection until there is a reason to end it.
async fn work<S: AsyncRead + AsyncWrite>(
    greeter: &Greeter,
    admitted: &Admitted,
    control: S,
    heartbeat: Heartbeat,
    activity: &Activity,
) -> (LostReason, String) {
    let carried = &admitted.carried;
    let options = &greeter.shared.options;
    let (frames, mut outgoing) = mpsc::channel(2);
    let tell = |told| match told {
        Told::Drain => carried.drain(),
        Told::RoundTrip(_) => {}
    };
    let control = control::run(control, heartbeat, activity, &mut outgoing, tell);
    let test = async {
        match options.probe_interval {
            Some(interval) => carried.test(options, interval).await,
            None => std::future::pending().await,
        }
    };
    let drain = async {
        greeter.shared.draining.cancelled().await;
        // The channel holds more than ever comes.
        let _ = frames.try_send(Frame::Drain);
        carried.drain();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        error = control => lost(error),
        why = carried.killed() => why,
        () = carried.drained() => (LostReason::Drained, "its streams have ended".to_owned()),
        why = test => why,
        () = drain => (LostReason::Stopped, String::new()),
    }
}

fn lost(error: WireError) -> (LostReason, String) {
    let reason = match error {
        WireError::Closed | WireError::Io(_) => LostReason::Closed,
        WireError::Silent(_) => LostReason::Silent,
        WireError::Frame(_) | WireError::Unexpected => LostReason::Protocol,
    };
    (reason, error.to_string())
}
