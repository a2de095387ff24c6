//! The part of the server that only this project's has: what a session's boundary is made from, and its results.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Seen, Shared, fail, ok};

/// What this server says of its one session.
#[derive(Default)]
pub struct Own {
    /// Without its hash.
    pub boundary: Value,
    pub mounts: Vec<Value>,
    pub secrets: Value,
    pub files: HashMap<String, Vec<u8>>,
    /// Path and bytes.
    pub outputs: Vec<(String, Vec<u8>)>,
    /// Path and reason.
    pub refused: Vec<(String, String)>,
    /// Part and bytes.
    pub evidence: Vec<(String, Vec<u8>)>,
    /// Statuses for the next questions for the boundary, and for the next results.
    pub boundary_status: VecDeque<u16>,
    pub output_status: VecDeque<u16>,
}

#[allow(dead_code, reason = "the tests of the worker play another server")]
impl Own {
    /// A session of an environment of this kind.
    pub fn of(environment: &str, networking: Value) -> Self {
        Self {
            boundary: json!({
                "type": "boundary", "workspace_id": "wrkspc_1", "session_id": "sesn_1", "environment_id": "env_1",
                "environment": environment, "agent": {"id": "agent_1", "version": 3}, "networking": networking,
                "packages": null, "mcp_servers": [], "resources": [], "variables": [], "stop": null,
            }),
            secrets: json!({"repositories": [], "variables": []}),
            ..Self::default()
        }
    }

    /// Changes with everything that it says.
    fn hash(&self) -> String {
        outwork_ledger::Hash::of_json(&json!([self.boundary, self.mounts, self.secrets])).to_string()
    }
}

pub async fn answer(script: &Shared, changed: &watch::Sender<u64>, seen: &Seen, body: &Bytes) -> Response {
    let path: Vec<&str> = seen.path.trim_start_matches('/').split('/').collect();
    if let ("GET", ["v1", "outwork", "sessions", _, "boundary"]) = (seen.method.as_str(), &path[..]) {
        return boundary(script, changed, seen).await;
    }
    let mut script = script.lock().unwrap();
    let Some(own) = &mut script.own else {
        return fail(404, "no such path");
    };
    match (seen.method.as_str(), &path[..]) {
        ("GET", [.., "mounts"]) => ok(&json!({"data": own.mounts, "next_page": null})),
        ("GET", [.., "secrets"]) => ok(&own.secrets),
        ("GET", [.., "texts"]) => ok(&json!({"data": [], "next_page": null})),
        ("GET", ["v1", "files", id, "content"]) => match own.files.get(*id) {
            Some(bytes) => bytes.clone().into_response(),
            None => fail(404, "no such file"),
        },
        ("POST", [.., "evidence"]) => {
            own.evidence.push((seen.query["part"].clone(), body.to_vec()));
            ok(&json!({"type": "evidence_part"}))
        }
        ("POST", [.., "outputs"]) => {
            if let Some(status) = own.output_status.pop_front() {
                return fail(status, "not now");
            }
            let (path, bytes) = form(body);
            own.outputs.push((path, bytes));
            ok(&json!({"type": "output", "file_id": "file_1"}))
        }
        ("POST", [.., "outputs", "refused"]) => {
            let text = |name: &str| seen.body[name].as_str().unwrap_or_default().to_owned();
            own.refused.push((text("path"), text("reason")));
            ok(&json!({"type": "output"}))
        }
        _ => fail(404, "no such path"),
    }
}

async fn boundary(script: &Shared, changed: &watch::Sender<u64>, seen: &Seen) -> Response {
    let mut changed = changed.subscribe();
    let wait = seen.query.get("wait").map_or(0, |wait| wait.parse().unwrap());
    let until = tokio::time::Instant::now() + Duration::from_secs(wait);
    loop {
        {
            let mut script = script.lock().unwrap();
            let Some(own) = &mut script.own else {
                return fail(404, "no such path");
            };
            let hash = own.hash();
            if seen.query.get("after") != Some(&hash) {
                if let Some(status) = own.boundary_status.pop_front() {
                    return fail(status, "not now");
                }
                let mut document = own.boundary.clone();
                document["hash"] = json!(hash);
                return ok(&document);
            }
        }
        if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
            return StatusCode::NO_CONTENT.into_response();
        }
    }
}

/// The parts `path` and `file` of a form.
fn form(body: &Bytes) -> (String, Vec<u8>) {
    let find = |from: usize, what: &[u8]| {
        let rest = &body[from..];
        from + rest.windows(what.len()).position(|window| window == what).unwrap()
    };
    let boundary = body[..find(0, b"\r\n")].to_vec();
    let part = |name: &str| {
        let head = find(0, format!("name=\"{name}\"").as_bytes());
        let start = find(head, b"\r\n\r\n") + 4;
        let end = find(start, &[b"\r\n", &boundary[..]].concat());
        body[start..end].to_vec()
    };
    (String::from_utf8(part("path")).unwrap(), part("file"))
}
