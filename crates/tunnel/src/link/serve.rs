//! An admitted connection at work: streams come in, the heartbeat goes on, draining ends it.
//!
//! On a drain the edge is told, new streams are rejected so that the edge takes another connection, and the edge closes
//! the connection once its callers have read everything; closing from here could cut what is still on the way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dial::{Carrier, Session};
use super::run::{Freed, Shared};
use super::state::Counts;
use super::{Inbound, LinkState, Origin};
use crate::control::{self, Activity, Told, WireError, read_frame, write_frame};
use crate::frame::{Frame, Open, Rejection, RejectionCode, StreamKind, is_host};
use crate::stream::Stream;
use crate::transport::{
    CLOSE_DEAD, CLOSE_DONE, CODE_HEADER, H2_FRAME, H2_SEND_BUFFER, Heartbeat, KIND_CONTROL, KIND_HEADER, MESSAGE_HEADER,
};

/// What the tasks of one connection have in common.
struct Connection {
    shared: Arc<Shared>,
    counts: Arc<Counts>,
    origin: Origin,
    activity: Arc<Activity>,
    heartbeat: Heartbeat,
    /// Cancelled when this connection takes no more streams, whoever decided it.
    draining: CancellationToken,
    /// Why the control stream ended.
    ended: watch::Sender<Option<String>>,
    streams: TaskTracker,
    free: mpsc::Sender<Freed>,
}

/// Serves a connection until it ends; `free` hears when the link is to dial another one.
pub(super) async fn serve(shared: Arc<Shared>, index: usize, session: Session, free: oneshot::Sender<Freed>) {
    let transport = session.transport();
    let (freed, mut frees) = mpsc::channel(4);
    let origin = Origin {
        link: index,
        connection_id: session.welcome.connection_id.as_str().into(),
        edge: session.remote,
    };
    // The edge may want to hear more often than this side would speak.
    let wanted = Duration::from_millis(session.welcome.heartbeat_ms.max(100).into());
    let heartbeat = shared.options.heartbeat;
    let connection = Arc::new(Connection {
        heartbeat: Heartbeat {
            interval: heartbeat.interval.min(wanted),
            ..heartbeat
        },
        counts: shared.counts[index].clone(),
        origin: origin.clone(),
        activity: session.activity,
        draining: shared.draining.child_token(),
        ended: watch::Sender::new(None),
        streams: TaskTracker::new(),
        free: freed,
        shared: shared.clone(),
    });
    let connected = || {
        shared.set(index, |status| {
            status.connects += 1;
            status.last_error = None;
            status.state = LinkState::Connected {
                transport,
                connection_id: origin.connection_id.clone(),
            };
        });
    };
    let work = async {
        match session.carrier {
            Carrier::Quic {
                connection: quic,
                send,
                receive,
            } => {
                connected();
                serve_quic(&connection, quic, send, receive).await
            }
            Carrier::Tcp(stream) => serve_tcp(&connection, *stream, connected).await,
        }
    };
    tokio::pin!(work);
    let mut free = Some(free);
    let lost = loop {
        tokio::select! {
            lost = &mut work => break lost,
            Some(freed) = frees.recv() => {
                if let Some(free) = free.take() {
                    // The link may have ended; the connection then only finishes its streams.
                    let _ = free.send(freed);
                }
            }
            () = shared.stopped.cancelled() => break "the gateway stops".to_owned(),
        }
    };
    connection.draining.cancel();
    if let Some(free) = free.take() {
        let _ = free.send(Freed::Lost(lost));
    }
    // Streams of a lost connection fail by themselves, and handlers with them.
    connection.streams.close();
    tokio::select! {
        () = connection.streams.wait() => {}
        () = shared.stopped.cancelled() => {}
    }
}

async fn serve_quic(
    connection: &Arc<Connection>,
    quic: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
) -> String {
    let heartbeat = connection.heartbeat;
    let control = connection.control(tokio::io::join(receive, send), heartbeat);
    let listening = control::listen(&quic, &connection.activity);
    tokio::pin!(control, listening);
    let lost = loop {
        tokio::select! {
            accepted = quic.accept_bi() => match accepted {
                Ok((send, receive)) => {
                    let task = quic_stream(connection.clone(), send, receive);
                    connection.streams.spawn(connection.shared.stopped.clone().run_until_cancelled_owned(task));
                }
                Err(error) => break error.to_string(),
            },
            ended = &mut control => break ended,
            never = &mut listening => match never {},
        }
    };
    let silent = connection.activity.idle() >= heartbeat.silence;
    quic.close(if silent { CLOSE_DEAD } else { CLOSE_DONE }, b"");
    lost
}

async fn quic_stream(connection: Arc<Connection>, mut send: quinn::SendStream, mut receive: quinn::RecvStream) {
    let head = tokio::time::timeout(connection.shared.options.open_timeout, read_frame(&mut receive)).await;
    let open = match head {
        Ok(Ok(Frame::Open(open))) => open,
        // A stream without a head was opened by no edge of ours, or its caller gave up.
        Ok(_) | Err(_) => return drop(Stream::quic(send, receive)),
    };
    match connection.admit(&open) {
        Ok(()) => {
            let answered = write_frame(&mut send, &Frame::Accepted).await;
            let stream = Stream::quic(send, receive);
            if answered.is_ok() {
                connection.handle(open, stream).await;
            }
        }
        Err(rejection) => {
            // The edge may have gone; then nobody waits for the answer.
            let _ = write_frame(&mut send, &Frame::Rejected(rejection)).await;
            let _ = send.finish();
        }
    }
}

async fn serve_tcp<S>(connection: &Arc<Connection>, stream: S, connected: impl FnOnce()) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let options = &connection.shared.options;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.windows.stream)
        .initial_connection_window_size(options.windows.connection)
        .max_concurrent_streams(options.max_streams.saturating_add(1))
        .max_frame_size(H2_FRAME)
        .max_send_buffer_size(H2_SEND_BUFFER)
        .max_header_list_size(4096);
    let handshake = tokio::time::timeout(options.attempt, builder.handshake::<_, Bytes>(stream)).await;
    let mut h2 = match handshake {
        Ok(Ok(h2)) => h2,
        Ok(Err(error)) => return format!("the edge does not speak HTTP/2: {error}"),
        Err(_) => return "the edge did not begin HTTP/2 in time".to_owned(),
    };
    let mut connected = Some(connected);
    let mut ended = connection.ended.subscribe();
    // The control stream comes first and within the time of an attempt; without it nothing notices a dead edge.
    let mut control_due = Some(Box::pin(tokio::time::sleep(options.attempt)));
    loop {
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(Ok((request, mut respond))) => {
                    let control = request.headers().get(KIND_HEADER).is_some_and(|kind| kind == KIND_CONTROL);
                    match (control, connected.take()) {
                        (true, Some(connected)) => {
                            control_due = None;
                            if let Err(error) = start_control(connection, request, &mut respond) {
                                return error.to_string();
                            }
                            connected();
                        }
                        (false, None) => h2_stream(connection, request, respond),
                        (_, first) => {
                            connected = first;
                            respond.send_reset(h2::Reason::PROTOCOL_ERROR);
                        }
                    }
                }
                Some(Err(error)) => return format!("the connection failed: {error}"),
                None => return "the edge closed the connection".to_owned(),
            },
            Ok(reason) = async { ended.wait_for(Option::is_some).await.map(|reason| reason.clone()) } => {
                // What the streams still have to say is flushed by the library only while it is polled.
                h2.abrupt_shutdown(h2::Reason::NO_ERROR);
                let _ = tokio::time::timeout(Duration::from_millis(100), h2.accept()).await;
                return reason.unwrap_or_default();
            }
            () = async { if let Some(due) = control_due.as_mut() { due.await } }, if control_due.is_some() => {
                return "the edge did not open the control stream in time".to_owned();
            }
        }
    }
}

fn start_control(
    connection: &Arc<Connection>,
    request: Request<h2::RecvStream>,
    respond: &mut h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let send = respond.send_response(Response::new(()), false)?;
    let stream = Stream::h2(send, request.into_body());
    let connection = connection.clone();
    let stopped = connection.shared.stopped.clone();
    let tracker = connection.streams.clone();
    tracker.spawn(stopped.run_until_cancelled_owned(async move {
        let reason = connection.control(stream, connection.heartbeat).await;
        connection.ended.send_replace(Some(reason));
    }));
    Ok(())
}

fn h2_stream(
    connection: &Arc<Connection>,
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let Some(open) = read_open(&request) else {
        return respond.send_reset(h2::Reason::PROTOCOL_ERROR);
    };
    match connection.admit(&open) {
        Ok(()) => {
            // It fails if the edge has reset the stream already.
            let Ok(send) = respond.send_response(Response::new(()), false) else {
                return;
            };
            let stream = Stream::h2(send, request.into_body());
            let connection = connection.clone();
            let stopped = connection.shared.stopped.clone();
            let tracker = connection.streams.clone();
            tracker.spawn(stopped.run_until_cancelled_owned(async move { connection.handle(open, stream).await }));
        }
        Err(rejection) => {
            let mut response = Response::new(());
            *response.status_mut() = match rejection.code {
                RejectionCode::UnknownHost => StatusCode::NOT_FOUND,
                RejectionCode::Refused => StatusCode::FORBIDDEN,
                RejectionCode::Overloaded | RejectionCode::Draining | RejectionCode::Unavailable => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
            response
                .headers_mut()
                .insert(CODE_HEADER, HeaderValue::from(u16::from(rejection.code.as_u8())));
            if let Ok(message) = HeaderValue::from_bytes(rejection.message.as_bytes()) {
                response.headers_mut().insert(MESSAGE_HEADER, message);
            }
            let _ = respond.send_response(response, true);
        }
    }
}

fn read_open(request: &Request<h2::RecvStream>) -> Option<Open> {
    let kind = match request.headers().get(KIND_HEADER)?.as_bytes() {
        b"request" => StreamKind::Request,
        b"probe" => StreamKind::Probe,
        _ => return None,
    };
    let host = request.uri().authority()?.as_str();
    (request.method() == Method::CONNECT && is_host(host)).then(|| Open {
        host: host.to_owned(),
        kind,
    })
}

impl Connection {
    fn admit(&self, open: &Open) -> Result<(), Rejection> {
        let decision = if self.draining.is_cancelled() {
            Err(Rejection::new(
                RejectionCode::Draining,
                "the gateway takes no more streams on this connection",
            ))
        } else {
            self.shared.accept.admit(open)
        };
        let count = if decision.is_ok() {
            &self.counts.admitted
        } else {
            &self.counts.rejected
        };
        count.fetch_add(1, Ordering::Relaxed);
        decision
    }

    async fn handle(&self, open: Open, stream: Stream) {
        if open.kind == StreamKind::Probe {
            self.counts.probed();
        }
        self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        let _leave = Leave(&self.counts);
        let inbound = Inbound {
            host: open.host,
            kind: open.kind,
            stream,
            origin: self.origin.clone(),
            draining: self.draining.clone(),
        };
        self.shared.accept.serve(inbound).await;
    }

    /// Runs the control stream to its end and says why it ended.
    async fn control<S>(&self, stream: S, heartbeat: Heartbeat) -> String
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite,
    {
        let (frames, mut outgoing) = mpsc::channel(2);
        let tell = |told| match told {
            Told::RoundTrip(time) => {
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
                self.counts.round_trip_micros.store(micros, Ordering::Relaxed);
            }
            Told::Drain => {
                // The channel holds more than ever comes.
                let _ = self.free.try_send(Freed::EdgeDrains);
                self.draining.cancel();
            }
        };
        let run = control::run(stream, heartbeat, &self.activity, &mut outgoing, tell);
        tokio::pin!(run);
        let error: WireError = tokio::select! {
            error = &mut run => error,
            () = self.shared.draining.cancelled() => {
                let _ = frames.try_send(Frame::Drain);
                run.await
            }
        };
        error.to_string()
    }
}

struct Leave<'a>(&'a Counts);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
