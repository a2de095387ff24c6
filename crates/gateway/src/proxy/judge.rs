//! The one place where a call of MCP is let through or refused.
//!
//! In order: the message, its headers, the caller's tool, the rates, the tool's name, its hints, its approval, and last
//! what must not be in its arguments. The first no is the answer.

use std::borrow::Cow;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::ask;
use super::call::Context;
use crate::caller::Caller;
use crate::mcp::agreement;
use crate::mcp::approval::Arguments;
use crate::mcp::hints::Hint;
use crate::mcp::message::{Message, NotAMessage};
use crate::mcp::refusal::{HEADER_MISMATCH, INVALID, PARSE, Refusal};
use crate::redact::json;

/// What a body is, as far as rules care.
pub enum Reading<'a> {
    /// A message of MCP.
    Message(Box<Message<'a>>),
    /// Something else that may pass: a form, a registration of a client.
    Other,
}

/// Reads the body of a POST.
pub fn read<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Reading<'a>, Refusal> {
    let media = |message: &str| {
        Refusal::request(
            "http.content_type",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            INVALID,
            message,
        )
    };
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if encodings.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(media("The request's body is encoded, and this route reads bodies."));
    }
    let json = is_json(headers);
    if json && !is_utf8(headers) {
        return Err(media("The request's body is not in UTF-8."));
    }
    match Message::parse(body) {
        Ok(message) => Ok(Reading::Message(Box::new(message))),
        Err(NotAMessage::NotJsonRpc) => Ok(Reading::Other),
        Err(NotAMessage::NotJson) if is_form(headers) => Ok(Reading::Other),
        Err(why @ NotAMessage::NotJson) if json => Err(Refusal::request(
            "mcp.parse",
            StatusCode::BAD_REQUEST,
            PARSE,
            format!("Parse error: {why}."),
        )),
        Err(NotAMessage::NotJson) => Err(media("This route takes JSON-RPC messages and forms.")),
        Err(why) => Err(Refusal::request(
            "mcp.invalid",
            StatusCode::BAD_REQUEST,
            INVALID,
            format!("Invalid request: {why}."),
        )),
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Whether a body says that it is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let essence = content_type(headers).map(|value| value.split(';').next().unwrap_or_default().trim());
    essence.is_some_and(|essence| {
        essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
    })
}

fn is_form(headers: &HeaderMap) -> bool {
    let essence = content_type(headers).map(|value| value.split(';').next().unwrap_or_default().trim());
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

fn is_utf8(headers: &HeaderMap) -> bool {
    let parameters = content_type(headers)
        .into_iter()
        .flat_map(|value| value.split(';').skip(1));
    parameters
        .filter_map(|parameter| parameter.split_once('='))
        .all(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset") || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}

/// A call that may go on.
pub struct Passed {
    /// The body to send.
    pub body: Bytes,
    /// The approval that it needed: its name and who gave it.
    pub approval: Option<(String, String)>,
}

/// Decides about a message. Headers change where arguments do, because some repeat them.
pub async fn message(
    context: &Context<'_>,
    caller: Option<&Caller>,
    headers: &mut HeaderMap,
    body: &Bytes,
    message: &Message<'_>,
) -> Result<Passed, Refusal> {
    agreement::check(headers, message).map_err(|why| {
        Refusal::request(
            "mcp.headers",
            StatusCode::BAD_REQUEST,
            HEADER_MISMATCH,
            format!("Header mismatch: {why}."),
        )
    })?;
    let route = context.route;
    let rules = &route.route.rules;
    let tool = message.tool();
    if let (Some(tool), Some(caller)) = (tool, caller)
        && caller.tool.as_deref() != Some(tool)
    {
        return Err(Refusal::rule(
            "identity.tool",
            "The caller's identity is for another tool than the one it calls.",
        ));
    }
    let mut approval = None;
    if let Some(tool) = tool {
        if let Some(rules) = &rules.tools {
            if let Some(rule) = rules.refusing(tool) {
                return Err(Refusal::rule(
                    rule,
                    format!("The tool {} may not be called on this route.", shown(tool)),
                ));
            }
            if rules.read_only {
                read_only(context, headers, message, tool).await?;
            }
        }
        if rules.approvals.iter().any(|rule| rule.tool.is_match(tool)) {
            approval = approved(context, tool, message)?;
        }
    }
    let body = match &rules.arguments {
        Some(redactor) => redact(redactor, headers, body, message)?,
        None => body.clone(),
    };
    Ok(Passed { body, approval })
}

async fn read_only(
    context: &Context<'_>,
    headers: &HeaderMap,
    message: &Message<'_>,
    tool: &str,
) -> Result<(), Refusal> {
    let hints = &context.route.hints;
    let mut hint = hints.of(tool, Instant::now());
    if hint == Hint::Unknown {
        let _one_at_a_time = hints.asking.lock().await;
        hint = hints.of(tool, Instant::now());
        if hint == Hint::Unknown {
            if let Err(why) = ask::tools(context, headers, message).await {
                tracing::warn!(route = context.route.route.name, %why, "the upstream's list of tools could not be read");
                return Err(Refusal::rule(
                    "tools.read_only",
                    "Only tools that the server marks as read-only may be called on this route, and the server's list \
                     of tools could not be read.",
                ));
            }
            hint = hints.of(tool, Instant::now());
        }
    }
    match hint {
        Hint::ReadOnly => Ok(()),
        Hint::Writes | Hint::Absent | Hint::Unknown => Err(Refusal::rule(
            "tools.read_only",
            format!(
                "Only tools that the server marks as read-only may be called on this route, and {} is not marked so.",
                shown(tool)
            ),
        )),
    }
}

fn approved(context: &Context<'_>, tool: &str, message: &Message<'_>) -> Result<Option<(String, String)>, Refusal> {
    let route = context.route;
    let arguments = Arguments::parse(message.params.arguments)
        .map_err(|why| Refusal::rule("approvals", format!("The call needs an approval, and {why}.")))?;
    if !route
        .route
        .rules
        .approvals
        .iter()
        .any(|rule| rule.applies(tool, &arguments))
    {
        return Ok(None);
    }
    let approvals = context.live.approvals.load();
    match approvals.covering(&route.route.name, tool, &arguments, jiff::Timestamp::now()) {
        Some(approval) => Ok(Some((approval.name.clone(), approval.approver.clone()))),
        None => {
            let tool = shown(tool);
            let message = format!(
                "This call of {tool} needs a named approval. The owner of the gateway gives it by adding to the \
                 approvals file an entry with name, approver, tool: {tool}, expires, and arguments_sha256: {} (or \
                 patterns under arguments). Then repeat the call unchanged.",
                arguments.hash
            );
            Err(Refusal {
                private: true,
                ..Refusal::rule("approvals", message)
            })
        }
    }
}

/// The body with what the redactor left of its arguments.
fn redact(
    redactor: &crate::redact::Redactor,
    headers: &mut HeaderMap,
    body: &Bytes,
    message: &Message<'_>,
) -> Result<Bytes, Refusal> {
    let blocked = |blocked: crate::redact::Blocked| {
        Refusal::rule(
            format!("redact.{}", blocked.rule),
            "The call's arguments hold something that must not be sent.",
        )
    };
    let params = &message.params;
    let parts = [params.arguments, params.argument, params.inputs, message.result];
    let mut changes = Vec::new();
    for raw in parts.into_iter().flatten() {
        if let Some(changed) = json::redact(redactor, raw.get()).map_err(blocked)? {
            // The part is borrowed from the body, so its place in it is known.
            let start = raw.get().as_ptr().addr() - body.as_ptr().addr();
            changes.push((start..start + raw.get().len(), changed));
        }
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("mcp-param-"))
        .cloned()
        .collect();
    for name in names {
        let values: Vec<HeaderValue> = headers
            .get_all(&name)
            .iter()
            .map(|value| {
                let text = value
                    .to_str()
                    .ok()
                    .and_then(agreement::decode)
                    .unwrap_or(Cow::Borrowed(""));
                match redactor.text(&text).map_err(blocked)? {
                    None => Ok(value.clone()),
                    Some(changed) => {
                        Ok(HeaderValue::from_str(&agreement::encode(&changed)).unwrap_or(HeaderValue::from_static("")))
                    }
                }
            })
            .collect::<Result<_, Refusal>>()?;
        headers.remove(&name);
        for value in values {
            headers.append(&name, value);
        }
    }
    if changes.is_empty() {
        return Ok(body.clone());
    }
    changes.sort_by_key(|(range, _)| range.start);
    let mut out = Vec::with_capacity(body.len());
    let mut from = 0;
    for (range, changed) in changes {
        out.extend_from_slice(&body[from..range.start]);
        out.extend_from_slice(changed.as_bytes());
        from = range.end;
    }
    out.extend_from_slice(&body[from..]);
    Ok(Bytes::from(out))
}

/// A tool's name as it may stand in a message or log: names of MCP are letters, digits and `_-./`, up to 128.
pub fn shown(tool: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    if !tool.is_empty() && tool.len() <= 128 && tool.bytes().all(plain) {
        tool
    } else {
        "(a name outside the protocol)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

    #[test]
    fn a_message_is_one_whatever_it_calls_itself() {
        for content_type in [
            "application/json",
            "APPLICATION/JSON; charset=\"UTF-8\"",
            "text/plain",
            "application/x-www-form-urlencoded",
        ] {
            assert!(
                matches!(read(&headers(content_type), PING.as_bytes()), Ok(Reading::Message(_))),
                "{content_type}"
            );
        }
        assert!(matches!(
            read(&HeaderMap::new(), PING.as_bytes()),
            Ok(Reading::Message(_))
        ));
    }

    #[test]
    fn what_is_none_passes_only_as_a_form_or_a_registration() {
        let form = headers("application/x-www-form-urlencoded");
        assert!(matches!(read(&form, b"grant_type=x"), Ok(Reading::Other)));
        assert!(matches!(
            read(&headers("application/json"), b"{\"client_name\":\"x\"}"),
            Ok(Reading::Other)
        ));
        for (content_type, body, rule) in [
            ("application/json", "{", "mcp.parse"),
            ("application/json", "", "mcp.parse"),
            ("application/json", "[]", "mcp.invalid"),
            ("application/json; charset=utf-16", PING, "http.content_type"),
            ("text/plain", "hello", "http.content_type"),
            ("multipart/form-data; boundary=x", "--x", "http.content_type"),
        ] {
            assert_eq!(
                read(&headers(content_type), body.as_bytes())
                    .err()
                    .map(|r| r.rule)
                    .as_deref(),
                Some(rule),
                "{body}"
            );
        }
        let mut encoded = headers("application/json");
        encoded.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(read(&encoded, PING.as_bytes()).is_err());
    }

    #[test]
    fn names_outside_the_protocol_are_not_shown() {
        assert_eq!(shown("fs/read_file-v1.2"), "fs/read_file-v1.2");
        assert_eq!(shown("a b"), "(a name outside the protocol)");
        assert_eq!(shown("x\ny"), "(a name outside the protocol)");
    }
}
