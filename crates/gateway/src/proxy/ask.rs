//! The gateway's own question: which tools does this server have, and which only read?
//!
//! Asked with the caller's headers and session on the caller's path, because the server may answer only them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Either, Full};
use serde::Deserialize;

use super::call::Context;
use super::headers;
use crate::mcp::edit::ResultEditor;
use crate::mcp::message::Message;
use crate::redact::json::quoted;
use crate::redact::sse::{Edited, Editor, Stream};

/// For the whole list.
const TIME: Duration = Duration::from_secs(10);
/// Pages of the list, at most.
const PAGES: usize = 64;
/// The id of the question. Its own, so that no answer to a caller is taken for it.
const ID: &str = "outwork-gateway-tools";

/// Learns the server's tools, or says why that did not work.
pub async fn tools(context: &Context<'_>, caller_headers: &HeaderMap, call: &Message<'_>) -> Result<(), String> {
    let pages = async {
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES {
            cursor = page(context, caller_headers, call, cursor.as_deref()).await?;
            if cursor.is_none() {
                context.route.hints.complete(Instant::now());
                return Ok(());
            }
        }
        Err(format!("its list of tools has more than {PAGES} pages"))
    };
    tokio::time::timeout(TIME, pages)
        .await
        .map_err(|_| "no answer in time".to_owned())?
}

/// Asks for one page and returns the cursor of the next.
async fn page(
    context: &Context<'_>,
    caller_headers: &HeaderMap,
    call: &Message<'_>,
    cursor: Option<&str>,
) -> Result<Option<String>, String> {
    let route = context.route;
    let mut params = Vec::new();
    if let Some(meta) = call.params.meta {
        params.push(format!("\"_meta\":{}", meta.get()));
    }
    if let Some(cursor) = cursor {
        params.push(format!("\"cursor\":{}", quoted(cursor)));
    }
    let body = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":\"{ID}\",\"method\":\"tools/list\",\"params\":{{{}}}}}",
        params.join(",")
    );
    let mut headers = caller_headers.clone();
    headers::upstream(
        &mut headers,
        &route.route.rules,
        &route.authority,
        context.host,
        context.identity.clone(),
    );
    let of_the_call: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("mcp-param-"))
        .cloned()
        .collect();
    for name in of_the_call {
        headers.remove(name);
    }
    headers.remove("mcp-name");
    if headers.contains_key("mcp-method") {
        headers.insert(
            HeaderName::from_static("mcp-method"),
            HeaderValue::from_static("tools/list"),
        );
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut request = Request::new(Either::Left(Full::new(Bytes::from(body))));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = context.target.clone();
    *request.headers_mut() = headers;

    let response = route
        .pool
        .send(request, None)
        .await
        .map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("its answer has status {}", response.status()));
    }
    let rules = &route.route.rules;
    let mut listener = Listener {
        editor: ResultEditor::new(rules.clone(), route.hints.clone()),
        answered: None,
    };
    let events = super::answer::is_event_stream(response.headers());
    let mut body = response.into_body();
    if events {
        let mut stream = Stream::new(rules.response_max);
        let mut passed = Vec::new();
        while listener.answered.is_none() {
            let Some(frame) = body.frame().await else { break };
            if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
                passed.clear();
                stream
                    .push(&data, &mut listener, &mut passed)
                    .map_err(|_| "an event is longer than response_max")?;
            }
        }
    } else {
        let limited = http_body_util::Limited::new(&mut body, rules.response_max);
        let bytes = limited
            .collect()
            .await
            .map_err(|_| "the answer broke off or is too long")?
            .to_bytes();
        route.pool.keep(body);
        listener.data(&String::from_utf8_lossy(&bytes));
    }
    match listener.answered {
        Some(true) => Ok(listener.editor.cursor),
        Some(false) => Err("it answered with an error".to_owned()),
        None => Err("it did not answer the question".to_owned()),
    }
}

/// Waits for the answer to the question among whatever the server sends.
struct Listener {
    editor: ResultEditor,
    /// `Some(true)` for a list of tools.
    answered: Option<bool>,
}

#[derive(Deserialize)]
struct Answer {
    id: Option<serde_json::Value>,
    result: Option<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    tools: Option<Vec<serde::de::IgnoredAny>>,
}

impl Editor for Listener {
    fn data(&mut self, data: &str) -> Edited {
        let answer = serde_json::from_str::<Answer>(data);
        if answer
            .as_ref()
            .is_ok_and(|answer| answer.id.as_ref().is_some_and(|id| id == ID))
        {
            self.editor.message(data);
            self.answered = Some(answer.is_ok_and(|answer| answer.result.is_some_and(|list| list.tools.is_some())));
        }
        Edited::Same
    }

    fn line(&mut self, _: &str) -> bool {
        true
    }
}
