//! The way of one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Rewind;
use super::sniff::{Kind, sniff};
use super::splice::{End, Tally, relay, reset};
use crate::http::{self, Flow, Why};
use crate::policy::{Decision, Protocol};
use crate::shared::{Carried, Claim, Judged, Shared};
use crate::tls::{Greeting, Hello, read};

/// The ports of DNS, and of DNS over TLS, which would hide names from the policy.
const DNS: u16 = 53;
const DNS_OVER_TLS: u16 = 853;

/// Accepts connections until the boundary is shut down.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(shared.limits.connections));
    loop {
        let place = tokio::select! {
            place = room.clone().acquire_owned() => place,
            () = shared.stop.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: others are freed in a moment.
                tracing::warn!(%error, "a connection of a sandbox could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        shared.stats.connection();
        let open = shared.stats.hold();
        let stop = shared.stop.clone();
        let work = handle(shared.clone(), stream);
        shared.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
            drop((open, place));
        });
    }
}

async fn handle(shared: Arc<Shared>, mut stream: TcpStream) {
    let destination = match shared.origin.of(&stream) {
        Ok(destination) => destination,
        Err(error) => {
            tracing::warn!(%error, "a connection has no original destination: it was not redirected");
            return reset(stream);
        }
    };
    let _ = stream.set_nodelay(true);
    let unchecked = shared.policy.load().is_unchecked();
    if destination.port() == DNS && !unchecked {
        return crate::dns::serve_stream(&shared, stream).await;
    }
    let mut claim = Claim {
        name: None,
        destination,
        protocol: Protocol::Opaque,
        http: None,
    };
    if destination.port() == DNS_OVER_TLS && !unchecked {
        let reason = "DNS over TLS would hide names from the policy; ask the sandbox's own resolver";
        let _ = shared.refuse(&claim.unnamed(), "dns-over-tls", reason).await;
        return reset(stream);
    }
    let mut first = BytesMut::with_capacity(2048);
    let kind = first_bytes(&shared, &mut stream, &mut first, destination).await;
    match kind {
        Kind::Tls => {
            claim.protocol = Protocol::Tls;
            tls(shared, stream, first, claim).await;
        }
        Kind::Http1 | Kind::Http2 => {
            let flow = Flow::new(shared, destination, None, kind == Kind::Http2);
            http::serve(flow, Rewind::new(first, stream)).await;
        }
        Kind::Opaque => opaque(&shared, stream, &first, destination).await,
        // It said nothing that could be understood, and was not told anything.
        Kind::Unclear => {
            if !first.is_empty() {
                let reason = "the connection did not say in time what it is";
                let _ = shared.refuse(&claim.unnamed(), "first-bytes", reason).await;
            }
            reset(stream);
        }
    }
}

/// Reads until it is clear what the connection is.
async fn first_bytes(shared: &Shared, stream: &mut TcpStream, first: &mut BytesMut, destination: SocketAddr) -> Kind {
    let deadline = tokio::time::Instant::now() + shared.limits.greeting;
    // Where something else than TLS and HTTP is allowed, the server may be the one who speaks first.
    let may_wait = !matches!(destination.port(), 80 | 443) && shared.judge_opaque(destination).decision.allowed;
    loop {
        let until = match first.is_empty() && may_wait {
            true => deadline.min(tokio::time::Instant::now() + shared.limits.server_first),
            false => deadline,
        };
        match tokio::time::timeout_at(until, stream.read_buf(first)).await {
            Err(_) if first.is_empty() && may_wait => return Kind::Opaque,
            Err(_) | Ok(Err(_)) => return Kind::Unclear,
            Ok(Ok(0)) if first.is_empty() => return Kind::Unclear,
            // What it sent is all there will be.
            Ok(Ok(0)) => return Kind::Opaque,
            Ok(Ok(_)) => match sniff(first) {
                Kind::Unclear => {}
                known => return known,
            },
        }
    }
}

async fn opaque(shared: &Shared, stream: TcpStream, first: &[u8], destination: SocketAddr) {
    let changes = shared.changed.subscribe();
    let judged = shared.judge_opaque(destination);
    let claim = Claim {
        name: judged.host.as_deref(),
        destination,
        protocol: Protocol::Opaque,
        http: None,
    };
    if !judged.decision.allowed {
        let _ = shared
            .refuse(&claim.named(), &judged.decision.rule, &judged.decision.reason)
            .await;
        return reset(stream);
    }
    pass(shared, stream, first, &claim, &judged, changes).await;
}

async fn tls(shared: Arc<Shared>, mut stream: TcpStream, first: BytesMut, mut claim: Claim<'_>) {
    let greeting = tokio::time::timeout(shared.limits.greeting, read(&mut stream, first)).await;
    let hello = match greeting {
        Ok(Greeting::Hello(hello)) => *hello,
        Ok(Greeting::Wrong(alert)) => {
            let _ = shared
                .refuse(&claim.unnamed(), "client-hello", "the TLS greeting is malformed")
                .await;
            return farewell(&shared, stream, &alert).await;
        }
        Ok(Greeting::Gone) => return,
        Err(_) => {
            let _ = shared
                .refuse(
                    &claim.unnamed(),
                    "client-hello",
                    "the TLS greeting did not come in time",
                )
                .await;
            return reset(stream);
        }
    };
    let name: Option<Arc<str>> = hello.name.as_deref().map(Arc::from);
    claim.name = name.as_deref();
    if hello.encrypted && !shared.policy.load().is_unchecked() {
        let reason = "the TLS greeting has an encrypted part (ECH), which would hide the name; turn it off";
        let _ = shared.refuse(&claim.unnamed(), "encrypted-hello", reason).await;
        return farewell(&shared, stream, &Hello::denied()).await;
    }
    // Before it is judged: what changes while that takes its time counts too.
    let changes = shared.changed.subscribe();
    let judged = shared.judge(&claim).await;
    if !judged.decision.allowed {
        return refuse_tls(&shared, stream, hello, &claim, &judged.decision).await;
    }
    let bound = judged
        .host
        .as_deref()
        .is_some_and(|host| shared.secrets.load().bound_to(host));
    if !judged.decision.inspect && !bound {
        return pass(&shared, stream, &hello.bytes, &claim, &judged, changes).await;
    }
    let request = match judged.host {
        Some(_) => claim.named(),
        None => claim.unnamed(),
    };
    if shared.allow(&request, &judged.decision, &[]).await.is_err() {
        return answer_tls(&shared, stream, hello, &claim, Why::Unrecorded).await;
    }
    let Some(opened) = handshake(&shared, stream, hello, claim.destination).await else {
        return shared
            .failed(
                &request,
                &judged.decision.rule,
                "the sandbox did not finish the TLS handshake",
            )
            .await;
    };
    let http2 = opened.get_ref().1.alpn_protocol() == Some(b"h2");
    let flow = Flow::new(shared.clone(), claim.destination, Some(name.clone()), http2);
    let began = Instant::now();
    let tally = flow.tally();
    http::serve(flow, opened).await;
    let carried = Carried {
        bytes_out: tally.0.load(Relaxed),
        bytes_in: tally.1.load(Relaxed),
        duration: began.elapsed(),
        end: "closed",
    };
    shared.ended(&request, &judged.decision.rule, carried).await;
}

type Opened = tokio_rustls::server::TlsStream<Rewind<TcpStream>>;

/// Ends the client's TLS here, with a certificate of the session's authority.
async fn handshake(shared: &Shared, stream: TcpStream, hello: Hello, destination: SocketAddr) -> Option<Opened> {
    let config = match shared.authority.server_config(hello.name.as_deref(), destination.ip()) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "a TLS connection of a sandbox could not be opened");
            return None;
        }
    };
    // The greeting was taken; what follows comes from the stream.
    let stream = Rewind::new(BytesMut::new(), stream);
    let start = tokio_rustls::server::StartHandshake::from_parts(hello.accepted, stream);
    let opened = tokio::time::timeout(shared.limits.greeting, start.into_stream(config)).await;
    opened.ok()?.ok()
}

/// Refuses in a way that the client understands: its TLS is ended here, and its request gets a 403 with the reason.
async fn refuse_tls(shared: &Shared, stream: TcpStream, hello: Hello, claim: &Claim<'_>, decision: &Decision) {
    let recorded = shared.refuse(&claim.unnamed(), &decision.rule, &decision.reason).await;
    if recorded.is_err() || hello.name.is_none() {
        return farewell(shared, stream, &Hello::denied()).await;
    }
    answer_tls(
        shared,
        stream,
        hello,
        claim,
        Why::Policy(&decision.rule, &decision.reason),
    )
    .await;
}

/// Ends the client's TLS here and answers its requests, of which nothing goes out.
async fn answer_tls(shared: &Shared, stream: TcpStream, hello: Hello, claim: &Claim<'_>, why: Why<'_>) {
    let Some(opened) = handshake(shared, stream, hello, claim.destination).await else {
        return;
    };
    let http2 = opened.get_ref().1.alpn_protocol() == Some(b"h2");
    http::serve_refusal(shared, opened, http2, why).await;
}

/// Says goodbye with an alert.
async fn farewell(shared: &Shared, mut stream: TcpStream, alert: &[u8]) {
    let say = async {
        stream.write_all(alert).await?;
        stream.shutdown().await?;
        // A reset would overtake the alert if the client's bytes were left unread.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1).min(shared.limits.greeting), say).await;
}

/// Passes a connection through as it is.
async fn pass(
    shared: &Shared,
    inside: TcpStream,
    first: &[u8],
    claim: &Claim<'_>,
    judged: &Judged,
    mut changes: tokio::sync::watch::Receiver<u64>,
) {
    let request = match judged.host {
        Some(_) => claim.named(),
        None => claim.unnamed(),
    };
    let rule = &judged.decision.rule;
    let meter = shared.usage.meter(&judged.decision.quotas);
    let tally = Tally::default();
    let counted = meter
        .begin()
        .and_then(|()| meter.count(crate::policy::Way::Out, first.len() as u64));
    if let Err(exhausted) = counted {
        let _ = shared.refuse(&request, &exhausted.rule, &exhausted.to_string()).await;
        return reset(inside);
    }
    if shared.allow(&request, &judged.decision, &[]).await.is_err() {
        return reset(inside);
    }
    let mut outside = match shared.connect(claim.destination).await {
        Ok(outside) => outside,
        Err(reason) => {
            shared
                .failed(&request, rule, &format!("could not connect: {reason}"))
                .await;
            return reset(inside);
        }
    };
    if outside.write_all(first).await.is_err() {
        shared.failed(&request, rule, "the server closed the connection").await;
        return reset(inside);
    }
    tally.bytes_out.fetch_add(first.len() as u64, Relaxed);
    shared.stats.bytes(crate::policy::Way::Out, first.len() as u64);
    shared.stats.passed();
    let began = Instant::now();
    let end = {
        let relayed = relay(shared, &inside, &outside, &meter, &tally);
        tokio::pin!(relayed);
        let mut moved = 0;
        loop {
            tokio::select! {
                end = &mut relayed => break match end {
                    End::Closed => "closed",
                    End::Exhausted(exhausted) => {
                        let _ = shared.refuse(&request, &exhausted.rule, &exhausted.to_string()).await;
                        "cut: a quota is used up"
                    }
                },
                Ok(()) = changes.changed() => if let Some(reason) = no_longer(shared, claim, judged) {
                    shared.stats.cut();
                    let _ = shared.refuse(&request, &reason.rule, &reason.reason).await;
                    break "cut: the policy changed";
                },
                () = tokio::time::sleep(shared.limits.idle) => {
                    let now = tally.bytes_out.load(Relaxed) + tally.bytes_in.load(Relaxed);
                    if now == moved {
                        break "cut: nothing moved for too long";
                    }
                    moved = now;
                }
            }
        }
    };
    let carried = Carried {
        bytes_out: tally.bytes_out.load(Relaxed),
        bytes_in: tally.bytes_in.load(Relaxed),
        duration: began.elapsed(),
        end,
    };
    shared.ended(&request, rule, carried).await;
    if end != "closed" {
        reset(outside);
        reset(inside);
    }
}

/// What the policy of now says against a connection that is passed through, if anything.
fn no_longer(shared: &Shared, claim: &Claim<'_>, judged: &Judged) -> Option<Decision> {
    let policy = shared.policy.load();
    let request = match judged.host {
        Some(_) => claim.named(),
        None => claim.unnamed(),
    };
    let decision = policy.decide(&request);
    if !decision.allowed {
        return Some(decision);
    }
    decision.inspect.then(|| {
        let reason = "the policy now wants to read the requests of this host; connect again".to_owned();
        Decision::deny(decision.rule, reason)
    })
}
