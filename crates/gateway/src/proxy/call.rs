//! One request of HTTP, from its head to the head of its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::body::{self, Download, Upload};
use super::trace::Trace;
use super::{answer, exchange, headers, judge};
use crate::caller::{Caller, IDENTITY, Unverified};
use crate::gateway::Gateway;
use crate::generation::{Generation, RouteState};
use crate::mcp::refusal::{INVALID, Refusal, UNAVAILABLE};
use crate::record::{Call, Decision};
use crate::upstream::pool::RequestBody;

/// What a call runs under. It keeps its generation to its end, so a reload does not change the rules half-way.
pub struct Context<'a> {
    /// The gateway.
    pub gateway: &'a Arc<Gateway>,
    /// The configuration in force when the call came.
    pub live: &'a Generation,
    /// The route.
    pub route: &'a Arc<RouteState>,
    /// The host that was called.
    pub host: &'a str,
    /// Path and query, unchanged.
    pub target: Uri,
    /// The identity to pass upstream.
    pub identity: Option<HeaderValue>,
    /// Cancelled when the route is killed.
    pub cut: CancellationToken,
}

/// A refusal and the id of the request that it answers.
struct Refused {
    refusal: Refusal,
    id: Option<String>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, id: None }
    }
}

/// Answers a request that came in on a stream for `host`.
pub async fn handle(gateway: &Arc<Gateway>, host: &str, request: Request<Incoming>) -> Response<Download> {
    let live = gateway.live();
    let no_route = |refusal: Refusal| {
        gateway.metrics.streams_refused.fetch_add(1, Relaxed);
        tracing::warn!(host, rule = refusal.rule, "refused: {}", refusal.logged());
        refuse(&refusal, None, None)
    };
    if let Err(refusal) = headers::check_host(&request, host) {
        return no_route(refusal);
    }
    let Some(route) = live.table.find(host) else {
        return no_route(Refusal::path(
            "route",
            StatusCode::BAD_GATEWAY,
            "no route for host: the gateway has no route with this name.",
        ));
    };
    let Some(place) = gateway.journal.place().await else {
        return no_route(Refusal::path(
            "ledger",
            StatusCode::SERVICE_UNAVAILABLE,
            "The call cannot be put on record now, so it is refused. Try again later.",
        ));
    };
    let call = Call {
        at: jiff::Timestamp::now(),
        tunnel: gateway.tunnel_id.clone(),
        hostname: host.to_owned(),
        route: route.route.name.clone(),
        http_method: Some(request.method().as_str().to_owned()),
        mcp_method: None,
        tool: None,
        workspace: None,
        agent: None,
        agent_version: None,
        session: None,
        decision: Decision::Cut,
        rule: Some("caller.left".to_owned()),
        approval: None,
        approver: None,
        status: None,
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
        arguments: None,
        result: None,
    };
    let mut trace = Trace::begin(call, place, route.metrics.clone(), gateway.journal.wants_payloads());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let context = Context {
        gateway,
        live: &live,
        route,
        host,
        target: path.parse().unwrap_or_else(|_| Uri::from_static("/")),
        identity: None,
        cut: gateway.kill.cut(&route.route.name),
    };
    match forward(context, request, &mut trace).await {
        Ok(Answer::Live(head, live)) => {
            let mut response = Response::new(Download::live(live, trace));
            take_head(&mut response, head);
            response
        }
        Ok(Answer::Whole(head, bytes)) => {
            let mut response = Response::new(Download::whole(bytes, Some(trace)));
            take_head(&mut response, head);
            response
        }
        Err(Refused { refusal, id }) => {
            let call = trace.call();
            tracing::warn!(
                route = call.route,
                method = call.mcp_method,
                tool = call.tool,
                rule = refusal.rule,
                "refused: {}",
                refusal.logged()
            );
            refuse(&refusal, id.as_deref(), Some(trace))
        }
    }
}

fn take_head(response: &mut Response<Download>, head: http::response::Parts) {
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
}

/// The answer to a call that does not go on.
fn refuse(refusal: &Refusal, id: Option<&str>, trace: Option<Trace>) -> Response<Download> {
    let status = refusal.status_for(id.is_some());
    let trace = trace.map(|mut trace| {
        let decision = match (refusal.code, &*refusal.rule) {
            (UNAVAILABLE, "kill") => Decision::Refused,
            (UNAVAILABLE, _) => Decision::Failed,
            _ => Decision::Refused,
        };
        trace.end(decision, Some(&refusal.rule));
        trace.call().status = Some(status.as_u16());
        trace
    });
    let mut response = Response::new(Download::whole(refusal.body(id), trace));
    *response.status_mut() = status;
    refusal.headers(response.headers_mut());
    response
}

/// The refusal of a route that is killed.
pub fn killed() -> Refusal {
    Refusal::path(
        "kill",
        StatusCode::SERVICE_UNAVAILABLE,
        "This route has been switched off by the gateway's owner.",
    )
}

async fn forward(mut context: Context<'_>, request: Request<Incoming>, trace: &mut Trace) -> Result<Answer, Refused> {
    if context.cut.is_cancelled() {
        return Err(killed().into());
    }
    let (mut parts, body) = request.into_parts();
    check_method(&parts, &body)?;
    let rules = context.route.route.rules.clone();
    let caller = identify(&context, &parts.headers, trace).await?;
    if rules.pass_identity && caller.is_some() {
        context.identity = parts.headers.get(IDENTITY).cloned();
    }
    let timeouts = context.live.config.timeouts;

    let mut id = None;
    let mut repeatable = parts.method != Method::POST;
    let upload = Arc::new(AtomicU64::new(0));
    let body: RequestBody = if parts.method != Method::POST {
        count(&context, trace, None)?;
        Either::Left(Full::new(Bytes::new()))
    } else if !rules.reads_requests() && !judge::is_json(&parts.headers) {
        count(&context, trace, None)?;
        Either::Right(Upload::new(body, rules.request_max, timeouts.body, upload.clone()))
    } else {
        let bytes = body::read(body, rules.request_max, timeouts.body).await?;
        trace.call().bytes_in = bytes.len() as u64;
        match judge::read(&parts.headers, &bytes)? {
            judge::Reading::Other => {
                count(&context, trace, None)?;
                Either::Left(Full::new(bytes))
            }
            judge::Reading::Message(message) => {
                id = message
                    .id
                    .map(|id| id.get().to_owned())
                    .filter(|_| !message.method.is_empty());
                let refused = |refusal| Refused {
                    refusal,
                    id: id.clone(),
                };
                let call = trace.call();
                call.mcp_method = (!message.method.is_empty()).then(|| method_shown(&message.method));
                call.tool = message.tool().map(|tool| judge::shown(tool).to_owned());
                count(&context, trace, message.tool()).map_err(refused)?;
                let judged = tokio::select! {
                    judged = judge::message(&context, caller.as_deref(), &mut parts.headers, &bytes, &message) => judged,
                    () = context.cut.cancelled() => Err(killed()),
                };
                let passed = judged.map_err(refused)?;
                repeatable = message.repeatable();
                let wanted = trace.payloads();
                let call = trace.call();
                (call.approval, call.approver) = passed.approval.unzip();
                if wanted {
                    call.arguments = message.params.arguments.map(|raw| raw.get().as_bytes().to_vec());
                }
                Either::Left(Full::new(passed.body))
            }
        }
    };

    let is_head = parts.method == Method::HEAD;
    let response = exchange::send(&context, parts, body, repeatable, trace)
        .await
        .map_err(|refusal| {
            let late = trace.call();
            late.bytes_in = late.bytes_in.max(upload.load(Relaxed));
            Refused {
                refusal,
                id: id.clone(),
            }
        })?;
    let call = trace.call();
    call.bytes_in = call.bytes_in.max(upload.load(Relaxed));
    call.status = Some(response.status().as_u16());
    answer::read(&context, id.as_deref(), response, is_head, trace)
        .await
        .map_err(|refusal| Refused { refusal, id })
}

/// A method of MCP as it may stand in a record: the protocol's are short and plain.
fn method_shown(method: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'$' | b'.');
    if method.len() <= 128 && method.bytes().all(plain) {
        method.to_owned()
    } else {
        "(outside the protocol)".to_owned()
    }
}

fn check_method(parts: &http::request::Parts, body: &Incoming) -> Result<(), Refusal> {
    let upgrade = parts.headers.contains_key(header::UPGRADE)
        || parts.headers.get_all(header::CONNECTION).iter().any(|value| {
            value.to_str().is_ok_and(|value| {
                value
                    .split(',')
                    .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
            })
        });
    if upgrade || parts.method == Method::CONNECT {
        return Err(Refusal::request(
            "http.upgrade",
            StatusCode::NOT_IMPLEMENTED,
            INVALID,
            "WebSocket and other upgrades do not pass this gateway; MCP over HTTP needs none.",
        ));
    }
    match parts.method {
        Method::POST => Ok(()),
        Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS if body.is_end_stream() => Ok(()),
        Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS => {
            let message = "A request with this method has no body.";
            Err(Refusal::request("http.body", StatusCode::BAD_REQUEST, INVALID, message))
        }
        _ => {
            let message = "This method does not pass: MCP uses POST, GET and DELETE.";
            Err(Refusal::request(
                "http.method",
                StatusCode::METHOD_NOT_ALLOWED,
                INVALID,
                message,
            ))
        }
    }
}

/// Who calls, checked against the route's callers.
async fn identify(
    context: &Context<'_>,
    headers: &HeaderMap,
    trace: &mut Trace,
) -> Result<Option<Arc<Caller>>, Refusal> {
    let session = headers.get("mcp-session-id").map(|id| {
        // The id itself opens the session, so a record gets a digest.
        let digest = Sha256::digest(id.as_bytes());
        format!(
            "mcp:{}",
            digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        )
    });
    trace.call().session = session;
    let Some(verifier) = &context.live.verifier else {
        return Ok(None);
    };
    let refused = |why: Unverified| {
        let mut refusal = Refusal::rule(why.rule(), format!("The caller is not known: {why}."));
        refusal.whole = true;
        if why == Unverified::Unreachable {
            refusal.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        refusal
    };
    let callers = &context.route.route.rules.callers;
    let required = callers.is_some()
        || context
            .live
            .config
            .identity
            .as_ref()
            .is_some_and(|identity| identity.required);
    let mut values = headers.get_all(IDENTITY).iter();
    let token = match (values.next(), values.next()) {
        (None, _) if required => return Err(refused(Unverified::Missing)),
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().map_err(|_| refused(Unverified::Malformed))?,
        (Some(_), Some(_)) => return Err(refused(Unverified::Malformed)),
    };
    let caller = verifier.verify(token, context.host).await.map_err(refused)?;
    let call = trace.call();
    call.workspace = Some(caller.workspace.clone());
    call.agent = Some(caller.agent.clone());
    call.agent_version = caller.agent_version.clone();
    call.session = Some(caller.session.clone());
    if let Some(rule) = callers.as_ref().and_then(|callers| callers.refusing(&caller)) {
        let mut refusal = Refusal::rule(rule, "The caller may not use this route.");
        refusal.whole = true;
        return Err(refusal);
    }
    Ok(Some(caller))
}

fn count(context: &Context<'_>, trace: &mut Trace, tool: Option<&str>) -> Result<(), Refusal> {
    let session = trace.call().session.clone();
    context.route.rates.count(tool, session.as_deref()).map_err(|exceeded| {
        let wait = exceeded.wait;
        let message = format!(
            "Too many calls for now ({}). Try again in {:.1} s.",
            exceeded.rule,
            wait.as_secs_f64()
        );
        let mut refusal = Refusal::rule(exceeded.rule, message);
        refusal.status = StatusCode::TOO_MANY_REQUESTS;
        refusal.retry_after = Some(wait);
        refusal
    })
}
