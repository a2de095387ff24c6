//! One request and its response.

use std::sync::Arc;

use bytes::BytesMut;
use http::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use super::answer::{Answer, Refusal};
use super::body::{Counting, Fault, Outgoing, Reply, Report, Upload};
use super::flow::Flow;
use super::kept::Kept;
use super::target::{self, Host, Target};
use super::upgrade::Upgraded;
use crate::policy::{HttpRequest, Meter, Way};
use crate::secret::{BodyPlan, BodyRewriter, Destination, Use};
use crate::shared::{Claim, Judged};

/// Answers a request.
pub(super) async fn exchange(flow: Arc<Flow>, request: Request<Incoming>) -> Response<Answer> {
    match attempt(&flow, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.answer(),
    }
}

/// A request's line, kept for its records.
struct Line {
    method: Method,
    path: String,
    query: Option<String>,
}

impl Line {
    fn http(&self) -> HttpRequest<'_> {
        HttpRequest {
            method: self.method.as_str(),
            path: &self.path,
            query: self.query.as_deref(),
        }
    }
}

async fn attempt(flow: &Arc<Flow>, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let shared = &flow.shared;
    let (mut head, body) = request.into_parts();
    let body = Kept::new(body, flow.draining());
    let line = Line {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
    };
    let mut claim = Claim {
        name: None,
        destination: flow.destination,
        protocol: flow.protocol(),
        http: Some(line.http()),
    };
    let target = match target::of(&head, flow.tls.is_some()).and_then(|target| agrees(flow, target)) {
        Ok(target) => target,
        Err(refusal) => return Err(recorded(flow, &claim, None, refusal).await),
    };
    let name = match &target.host {
        Host::Name(name) => Some(name.clone()),
        Host::Address(_) => None,
    };
    claim.name = name.as_deref();
    let judged = shared.judge(&claim).await;
    if !judged.decision.allowed {
        let refusal = Refusal::policy(&judged.decision.rule, &judged.decision.reason);
        return Err(recorded(flow, &claim, Some(&judged), refusal).await);
    }
    let meter = shared.usage.meter(&judged.decision.quotas);
    if let Err(exhausted) = meter.begin() {
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, &exhausted.rule, &exhausted.to_string());
        return Err(recorded(flow, &claim, Some(&judged), refusal).await);
    }

    let upgrade = prepare(&mut head);
    let authority = authority(&target, flow.destination.port(), flow.tls.is_some());
    if let Ok(host) = HeaderValue::from_str(&authority) {
        head.headers.insert(HOST, host);
    }
    let secrets = shared.secrets.load_full();
    let to = destination(flow, &judged);
    let fault = Fault::default();
    let counting = || Counting {
        shared: shared.clone(),
        meter: meter.clone(),
        tally: flow.tally(),
    };
    let mut upload = Upload::new(body, counting(), fault.clone());
    let mut uses = Vec::new();
    let outgoing = if secrets.is_empty() {
        if upload.incoming.is_end_stream() {
            Outgoing::Held(None, None)
        } else {
            Outgoing::Stream(Box::new(upload))
        }
    } else {
        let rewritten = secrets.rewrite_head(&to, &mut head, &shared.limits.secrets);
        let blocked = match rewritten {
            Ok(outcome) => {
                uses = outcome.uses;
                match (outcome.body, upload.incoming.is_end_stream()) {
                    (BodyPlan::Pass, true) => Ok(Outgoing::Held(None, None)),
                    (BodyPlan::Pass, false) => Ok(Outgoing::Stream(Box::new(upload))),
                    (BodyPlan::Stream | BodyPlan::Buffer { .. }, _) => {
                        let rule = judged.decision.rule.clone();
                        upload.report = Some(report(flow, &line, &claim, &judged, rule));
                        hold(upload, outcome.rewriter, &mut head, &mut uses, &meter).await
                    }
                }
            }
            Err(blocked) => Err(Refusal::new(blocked.status, "secret", &blocked.to_string())),
        };
        match blocked {
            Ok(outgoing) => outgoing,
            Err(refusal) => return Err(recorded(flow, &claim, Some(&judged), refusal).await),
        }
    };

    let named = match judged.host {
        Some(_) => claim.named(),
        None => claim.unnamed(),
    };
    if shared.allow(&named, &judged.decision, &uses).await.is_err() {
        return Err(Refusal::unrecorded());
    }
    shared.stats.request();
    let inside: Option<OnUpgrade> = head.extensions.remove();
    head.extensions.clear();
    let sent = flow.upstream.send(Request::from_parts(head, outgoing), &authority);
    let (response, lease) = match tokio::time::timeout(shared.limits.response, sent).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(reason)) => {
            // A body that was refused on its way breaks the request; the reason is the body's.
            if let Some(refusal) = fault.get() {
                return Err(recorded(flow, &claim, Some(&judged), refusal.clone()).await);
            }
            shared.failed(&named, &judged.decision.rule, &reason).await;
            return Err(Refusal::failed(StatusCode::BAD_GATEWAY, &reason));
        }
        Err(_) => {
            let reason = "the server did not answer in time";
            shared.failed(&named, &judged.decision.rule, reason).await;
            return Err(Refusal::failed(StatusCode::GATEWAY_TIMEOUT, reason));
        }
    };

    let (mut head, incoming) = response.into_parts();
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if upgraded && !upgrade {
        let reason = "the server changed the protocol without being asked";
        shared.failed(&named, &judged.decision.rule, reason).await;
        return Err(Refusal::failed(StatusCode::BAD_GATEWAY, reason));
    }
    let outside: Option<OnUpgrade> = head.extensions.remove();
    head.extensions.clear();
    hop_by_hop(&mut head.headers, upgraded);
    head.version = Version::HTTP_11;
    if upgraded {
        secrets.scrub_headers(&mut head.headers);
        let (Some(inside), Some(outside)) = (inside, outside) else {
            return Err(Refusal::failed(
                StatusCode::BAD_GATEWAY,
                "the connection cannot be upgraded",
            ));
        };
        Upgraded {
            flow: flow.clone(),
            inside,
            outside,
            secrets,
            to,
            meter,
            name: name.clone(),
            method: line.method.to_string(),
            path: line.path.clone(),
            query: line.query.clone(),
            judged: judged.clone(),
        }
        .spawn();
        return Ok(Response::from_parts(head, Answer::Own(None)));
    }
    let mut scrubber = None;
    if !secrets.is_empty() {
        match secrets.scrub_response(&mut head, &shared.limits.secrets) {
            Ok((hits, found)) => {
                for _ in 0..hits {
                    shared.stats.scrubbed();
                }
                // A response without a body has nothing to search.
                scrubber = (!incoming.is_end_stream()).then_some(found);
            }
            Err(error) => {
                // Not one byte of it is read.
                drop((incoming, lease));
                shared.failed(&named, &judged.decision.rule, &error.to_string()).await;
                return Err(Refusal::failed(StatusCode::BAD_GATEWAY, &error.to_string()));
            }
        }
    }
    let reply = Reply::new(incoming, scrubber, secrets, counting(), lease);
    Ok(Response::from_parts(head, Answer::Reply(Box::new(reply))))
}

/// Whether the request's target is what the connection is for.
fn agrees(flow: &Flow, target: Target) -> Result<Target, Refusal> {
    if flow.shared.policy.load().is_unchecked() {
        return Ok(target);
    }
    let wrong = |reason: String| Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "http-host", &reason));
    if let Some(port) = target.port
        && port != flow.destination.port()
    {
        return wrong(format!("the request is for port {port}, the connection is not"));
    }
    match (&target.host, &flow.tls) {
        (Host::Name(name), Some(Some(said))) if **said != **name => wrong(format!(
            "the request is for {name}, the connection's TLS name is {said}"
        )),
        (Host::Address(address), Some(Some(said))) => wrong(format!(
            "the request is for {address}, the connection's TLS name is {said}"
        )),
        (Host::Address(address), _) if *address != flow.destination.ip().to_canonical() => wrong(format!(
            "the request is for {address}, the connection is to {}",
            flow.destination.ip()
        )),
        _ => Ok(target),
    }
}

/// Records a refusal; if that fails, the client hears of it no less.
async fn recorded(flow: &Flow, claim: &Claim<'_>, judged: Option<&Judged>, refusal: Refusal) -> Refusal {
    let request = match judged.and_then(|judged| judged.host.as_ref()) {
        Some(_) => claim.named(),
        None => claim.unnamed(),
    };
    let _ = flow.shared.refuse(&request, &refusal.rule, &refusal.reason).await;
    refusal
}

fn destination(flow: &Flow, judged: &Judged) -> Destination {
    let host = match &judged.host {
        Some(host) => host.to_string(),
        // No secret of a name goes where the name is not certain.
        None => flow.destination.ip().to_string(),
    };
    match flow.tls {
        Some(_) => Destination::https(host, flow.destination.port()),
        None => Destination::http(host, flow.destination.port()),
    }
}

fn authority(target: &Target, port: u16, secure: bool) -> String {
    let host = match &target.host {
        Host::Name(name) => name.clone(),
        Host::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        Host::Address(address) => address.to_string(),
    };
    match (port, secure) {
        (443, true) | (80, false) => host,
        _ => format!("{host}:{port}"),
    }
}

/// Takes away what belongs to the connection and not to the request. Whether it asks for a WebSocket.
fn prepare(head: &mut Parts) -> bool {
    let asks = |name: HeaderName, word: &str| {
        let mut words = head.headers.get_all(name).iter().flat_map(words);
        words.any(|one| one.eq_ignore_ascii_case(word))
    };
    let upgrade = head.version == Version::HTTP_11
        && head.method == Method::GET
        && asks(UPGRADE, "websocket")
        && asks(CONNECTION, "upgrade");
    let trailers = asks(TE, "trailers");
    hop_by_hop(&mut head.headers, false);
    head.headers.remove(EXPECT);
    if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if upgrade {
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    upgrade
}

fn words(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or("").split(',').map(str::trim)
}

fn hop_by_hop(headers: &mut HeaderMap, upgraded: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(words)
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named {
        if name != HOST && !(upgraded && name == UPGRADE) {
            headers.remove(name);
        }
    }
    for name in [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    if !upgraded {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
}

/// Holds a body back as long as its head must wait for it.
async fn hold(
    mut upload: Upload,
    mut rewriter: BodyRewriter,
    head: &mut Parts,
    uses: &mut Vec<Use>,
    meter: &Meter,
) -> Result<Outgoing, Refusal> {
    let blocked = |blocked: crate::secret::Blocked| Refusal::new(blocked.status, "secret", &blocked.to_string());
    let mut out = BytesMut::new();
    let patience = upload.counting.shared.limits.greeting;
    while rewriter.holds_head() {
        let Ok(frame) = tokio::time::timeout(patience, upload.incoming.frame()).await else {
            // The client may wait for an answer before it goes on.
            out.extend_from_slice(&rewriter.release().map_err(blocked)?);
            if rewriter.holds_head() {
                let reason = "the body, which must be read before the request can be sent, did not come in time";
                return Err(Refusal::failed(StatusCode::REQUEST_TIMEOUT, reason));
            }
            break;
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    meter.count(Way::Out, data.len() as u64).map_err(|exhausted| {
                        Refusal::new(StatusCode::TOO_MANY_REQUESTS, &exhausted.rule, &exhausted.to_string())
                    })?;
                    upload.counting.shared.stats.bytes(Way::Out, data.len() as u64);
                    out.extend_from_slice(&rewriter.push(&data).map_err(blocked)?);
                }
                Err(frame) => upload.trailers = frame.into_trailers().ok(),
            },
            Some(Err(_)) => {
                return Err(Refusal::failed(StatusCode::BAD_REQUEST, "the request's body broke off"));
            }
            None => {
                out.extend_from_slice(&rewriter.finish(head).map_err(blocked)?);
                add(uses, rewriter.uses());
                return Ok(Outgoing::Held(Some(out.freeze()), upload.trailers.take()));
            }
        }
    }
    upload.first = out.freeze();
    upload.rewriter = Some(rewriter);
    Ok(Outgoing::Stream(Box::new(upload)))
}

fn add(uses: &mut Vec<Use>, more: &[Use]) {
    for one in more {
        if !uses.contains(one) {
            uses.push(one.clone());
        }
    }
}

/// Records what a body used while it streamed.
fn report(flow: &Arc<Flow>, line: &Line, claim: &Claim<'_>, judged: &Judged, rule: Arc<str>) -> Report {
    let flow = flow.clone();
    let line = Line {
        method: line.method.clone(),
        path: line.path.clone(),
        query: line.query.clone(),
    };
    let name = claim.name.map(str::to_owned);
    let proven = judged.host.is_some();
    Box::new(move |uses| {
        if uses.is_empty() {
            return;
        }
        let uses = uses.to_vec();
        let tasks = flow.shared.tasks.clone();
        tasks.spawn(async move {
            let claim = Claim {
                name: name.as_deref(),
                destination: flow.destination,
                protocol: flow.protocol(),
                http: Some(line.http()),
            };
            let request = if proven { claim.named() } else { claim.unnamed() };
            flow.shared.used(&request, &rule, &uses).await;
        });
    })
}
