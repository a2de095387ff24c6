//! Every operation with every kind of credential, over ids of the own workspace, of another one, and of none.
//!
//! What is expected stands in [`MATRIX`], written from the authorization matrix of the reference and not from the
//! server's own table: an operation that opens to somebody else, or that this matrix does not know, fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use outwork_plane::http::TABLE;
use outwork_store::{KeyHash, NewFederatedToken, Options as StoreOptions, Store};
use outwork_wire::Time;
use outwork_wire::id::{
    AgentId, ApiKeyId, EnvironmentId, EnvironmentKeyId, EventId, FileId, ResourceId, SessionId, ThreadId,
    TunnelCertificateId, TunnelId, VaultCredentialId, VaultId, WorkId, WorkspaceId,
};
use outwork_wire::work::WorkSecret;
use reqwest::Method;
use serde_json::{Value, json};

use crate::tunnels::authority_pem;
use crate::world::api::id;
use crate::world::{Answer, Api, MODEL_KEY, SCRIPT, SOON, Server, ServerOptions, World, message, rehearsal, until};

/// Method, path, and who may call: `*` anybody, `V` API keys from viewer on, `D` from developer on, `A` of admins,
/// `E` the key of the environment, `S` the token of the work item, `W` the key of the server's own workers, `T` the
/// token of a workload that may manage tunnels.
const MATRIX: &[(&str, &str, &str)] = &[
    ("GET", "/healthz", "*"),
    ("GET", "/readyz", "*"),
    ("GET", "/metrics", "*"),
    ("POST", "/v1/agents", "D"),
    ("GET", "/v1/agents", "V"),
    ("GET", "/v1/agents/{agent_id}", "V"),
    ("POST", "/v1/agents/{agent_id}", "D"),
    ("POST", "/v1/agents/{agent_id}/archive", "D"),
    ("GET", "/v1/agents/{agent_id}/versions", "V"),
    ("POST", "/v1/environments", "D"),
    ("GET", "/v1/environments", "V"),
    ("GET", "/v1/environments/{environment_id}", "V"),
    ("POST", "/v1/environments/{environment_id}", "D"),
    ("DELETE", "/v1/environments/{environment_id}", "D"),
    ("POST", "/v1/environments/{environment_id}/archive", "D"),
    ("GET", "/v1/environments/{environment_id}/work", "VE"),
    ("GET", "/v1/environments/{environment_id}/work/poll", "E"),
    ("GET", "/v1/environments/{environment_id}/work/stats", "VE"),
    ("GET", "/v1/environments/{environment_id}/work/{work_id}", "V"),
    ("POST", "/v1/environments/{environment_id}/work/{work_id}", "D"),
    ("POST", "/v1/environments/{environment_id}/work/{work_id}/ack", "E"),
    (
        "POST",
        "/v1/environments/{environment_id}/work/{work_id}/heartbeat",
        "ES",
    ),
    ("POST", "/v1/environments/{environment_id}/work/{work_id}/stop", "DES"),
    ("POST", "/v1/sessions", "D"),
    ("GET", "/v1/sessions", "V"),
    ("GET", "/v1/sessions/{session_id}", "VES"),
    ("POST", "/v1/sessions/{session_id}", "D"),
    ("DELETE", "/v1/sessions/{session_id}", "D"),
    ("POST", "/v1/sessions/{session_id}/archive", "D"),
    ("POST", "/v1/sessions/{session_id}/events", "DES"),
    ("GET", "/v1/sessions/{session_id}/events", "VES"),
    ("GET", "/v1/sessions/{session_id}/events/stream", "VES"),
    ("GET", "/v1/sessions/{session_id}/threads", "V"),
    ("GET", "/v1/sessions/{session_id}/threads/{thread_id}", "V"),
    ("POST", "/v1/sessions/{session_id}/threads/{thread_id}/archive", "D"),
    ("GET", "/v1/sessions/{session_id}/threads/{thread_id}/events", "V"),
    ("GET", "/v1/sessions/{session_id}/threads/{thread_id}/stream", "V"),
    ("GET", "/v1/sessions/{session_id}/resources", "VES"),
    ("POST", "/v1/sessions/{session_id}/resources", "D"),
    ("GET", "/v1/sessions/{session_id}/resources/{resource_id}", "V"),
    ("POST", "/v1/sessions/{session_id}/resources/{resource_id}", "D"),
    ("DELETE", "/v1/sessions/{session_id}/resources/{resource_id}", "D"),
    ("POST", "/v1/files", "D"),
    ("GET", "/v1/files", "V"),
    ("GET", "/v1/files/{file_id}", "V"),
    ("DELETE", "/v1/files/{file_id}", "D"),
    ("GET", "/v1/files/{file_id}/content", "VS"),
    ("POST", "/v1/vaults", "D"),
    ("GET", "/v1/vaults", "V"),
    ("GET", "/v1/vaults/{vault_id}", "V"),
    ("POST", "/v1/vaults/{vault_id}", "D"),
    ("DELETE", "/v1/vaults/{vault_id}", "D"),
    ("POST", "/v1/vaults/{vault_id}/archive", "D"),
    ("POST", "/v1/vaults/{vault_id}/credentials", "D"),
    ("GET", "/v1/vaults/{vault_id}/credentials", "V"),
    ("GET", "/v1/vaults/{vault_id}/credentials/{credential_id}", "V"),
    ("POST", "/v1/vaults/{vault_id}/credentials/{credential_id}", "D"),
    ("DELETE", "/v1/vaults/{vault_id}/credentials/{credential_id}", "D"),
    ("POST", "/v1/vaults/{vault_id}/credentials/{credential_id}/archive", "D"),
    (
        "POST",
        "/v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate",
        "D",
    ),
    ("GET", "/v1/models", "V"),
    ("GET", "/v1/models/{model_id}", "V"),
    ("POST", "/v1/api_keys", "A"),
    ("GET", "/v1/api_keys", "A"),
    ("POST", "/v1/api_keys/{api_key_id}/revoke", "A"),
    ("POST", "/v1/environments/{environment_id}/keys", "A"),
    ("GET", "/v1/environments/{environment_id}/keys", "A"),
    ("DELETE", "/v1/environments/{environment_id}/keys/{key_id}", "A"),
    ("POST", "/v1/workspaces", "A"),
    ("GET", "/v1/workspaces", "A"),
    ("POST", "/v1/tunnels", "DT"),
    ("GET", "/v1/tunnels", "VT"),
    ("GET", "/v1/tunnels/{tunnel_id}", "VT"),
    ("POST", "/v1/tunnels/{tunnel_id}/archive", "DT"),
    ("POST", "/v1/tunnels/{tunnel_id}/reveal_token", "DT"),
    ("POST", "/v1/tunnels/{tunnel_id}/rotate_token", "DT"),
    ("POST", "/v1/tunnels/{tunnel_id}/pause", "DT"),
    ("POST", "/v1/tunnels/{tunnel_id}/resume", "DT"),
    ("GET", "/v1/tunnels/{tunnel_id}/status", "VT"),
    ("GET", "/v1/tunnels/{tunnel_id}/connections", "VT"),
    ("GET", "/v1/tunnels/{tunnel_id}/usage", "VT"),
    ("POST", "/v1/tunnels/{tunnel_id}/certificates", "DT"),
    ("GET", "/v1/tunnels/{tunnel_id}/certificates", "VT"),
    ("GET", "/v1/tunnels/{tunnel_id}/certificates/{certificate_id}", "VT"),
    (
        "POST",
        "/v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive",
        "DT",
    ),
    ("POST", "/v1/oauth/token", "*"),
    ("GET", "/.well-known/openid-configuration", "*"),
    ("GET", "/.well-known/jwks.json", "*"),
    ("GET", "/v1/outwork/edge", "VT"),
    ("GET", "/v1/outwork/work/poll", "W"),
    ("POST", "/v1/outwork/work/{work_id}/ack", "W"),
    ("GET", "/v1/outwork/sessions/{session_id}/boundary", "S"),
    ("GET", "/v1/outwork/sessions/{session_id}/evidence", "A"),
    ("POST", "/v1/outwork/sessions/{session_id}/evidence", "S"),
    ("POST", "/v1/outwork/calls/{event_id}/halt", "D"),
    ("POST", "/v1/outwork/sessions/{session_id}/halt", "D"),
    ("POST", "/v1/outwork/environments/{environment_id}/halt", "D"),
    ("POST", "/v1/outwork/workspaces/{workspace_id}/halt", "A"),
    ("GET", "/v1/outwork/sessions/{session_id}/mounts", "S"),
    ("GET", "/v1/outwork/sessions/{session_id}/secrets", "S"),
    ("POST", "/v1/outwork/sessions/{session_id}/outputs", "S"),
    ("GET", "/v1/outwork/sessions/{session_id}/outputs", "VS"),
    ("POST", "/v1/outwork/sessions/{session_id}/outputs/refused", "S"),
    ("GET", "/v1/outwork/sessions/{session_id}/texts", "VS"),
    ("GET", "/v1/outwork/sessions/{session_id}/texts/{event_id}", "VS"),
];

/// The key of the server's own workers, which a test cannot learn, so it is put into the store before the start.
pub const WORKER_KEY: &str = "worker-key-of-the-tests-0123456789";

/// Tokens of workloads, which are put into the store for the same reason: of the own workspace, of a third one, and one
/// that has expired.
const WORKLOAD: &str = "outwork_fed_of-the-own-workspace";
const OTHER_WORKLOAD: &str = "outwork_fed_of-a-third-workspace";
const LATE_WORKLOAD: &str = "outwork_fed_that-has-expired";

/// Kinds of credentials, by what they open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// None that holds: none at all, made up, revoked, expired, of an item that is over.
    Invalid,
    Viewer,
    Developer,
    Admin,
    /// An admin's of another workspace.
    Stranger,
    EnvironmentKey,
    /// The key of another environment.
    OtherEnvironmentKey,
    Token,
    /// The token of another work item.
    OtherToken,
    Worker,
    Workload,
    /// A workload of another workspace.
    OtherWorkload,
}

/// What must come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It reaches the operation.
    Through,
    Status(u16),
}

fn expected(kind: Kind, who: &str, path: &str) -> Expected {
    let may = |letter: char| who.contains(letter);
    let api_key = |letters: &str| {
        if letters.chars().any(may) {
            Expected::Through
        } else {
            Expected::Status(403)
        }
    };
    if may('*') {
        return Expected::Through;
    }
    match kind {
        Kind::Invalid => Expected::Status(401),
        Kind::Viewer => api_key("V"),
        Kind::Developer => api_key("VD"),
        Kind::Admin => api_key("VDA"),
        Kind::Stranger if path == "/v1/workspaces" => Expected::Status(403),
        Kind::Stranger => match api_key("VDA") {
            Expected::Through if path.contains('{') && !path.contains("{model_id}") => Expected::Status(404),
            other => other,
        },
        Kind::EnvironmentKey | Kind::OtherEnvironmentKey if !may('E') => Expected::Status(401),
        Kind::EnvironmentKey => Expected::Through,
        Kind::OtherEnvironmentKey if path.contains("{environment_id}") => Expected::Status(403),
        Kind::OtherEnvironmentKey => Expected::Status(404),
        Kind::Token if may('S') => Expected::Through,
        // The path does not say whose the file is: it is not found in a session that does not have it.
        Kind::OtherToken if may('S') && path.contains("{file_id}") => Expected::Status(404),
        Kind::Token | Kind::OtherToken => Expected::Status(403),
        Kind::Worker if may('W') => Expected::Through,
        Kind::Worker => Expected::Status(403),
        Kind::Workload | Kind::OtherWorkload if !may('T') => Expected::Status(403),
        Kind::OtherWorkload if path.contains('{') => Expected::Status(404),
        Kind::Workload | Kind::OtherWorkload => Expected::Through,
    }
}

/// What a caller gets that was let through, by a request that changes nothing: a read is answered, a change falls
/// over a parameter that does not exist.
fn through(method: &str, path: &str) -> (u16, &'static str) {
    match (method, path) {
        ("GET", path) if path.ends_with("{event_id}") => (404, "text"),
        ("GET", _) => (200, ""),
        _ => (400, "no_such_parameter"),
    }
}

/// A request that would succeed for somebody who may make it.
fn body(path: &str, ids: &Ids) -> Value {
    match path {
        "/v1/agents" => json!({ "name": "x", "model": SCRIPT }),
        "/v1/environments" | "/v1/workspaces" | "/v1/api_keys" => json!({ "name": "x" }),
        "/v1/sessions" => json!({ "agent": ids["agent_id"], "environment_id": ids["environment_id"] }),
        "/v1/sessions/{session_id}/events" => json!({ "events": [message("x")] }),
        "/v1/sessions/{session_id}/resources" => {
            json!({ "type": "file", "file_id": ids["file_id"], "mount_path": "/x" })
        }
        "/v1/sessions/{session_id}/resources/{resource_id}" => json!({ "authorization_token": "x" }),
        "/v1/outwork/sessions/{session_id}/outputs/refused" => json!({ "path": "x", "reason": "x" }),
        "/v1/environments/{environment_id}/work/{work_id}" => json!({ "metadata": { "x": "y" } }),
        "/v1/environments/{environment_id}/keys" => json!({ "name": "x" }),
        "/v1/vaults" => json!({ "display_name": "x" }),
        "/v1/vaults/{vault_id}/credentials" => credential("https://another.example/mcp"),
        "/v1/tunnels/{tunnel_id}/certificates" => json!({ "ca_certificate_pem": authority() }),
        _ => json!({}),
    }
}

fn credential(url: &str) -> Value {
    json!({ "auth": { "type": "static_bearer", "token": "x", "mcp_server_url": url } })
}

/// A certificate authority that keeps every rule.
fn authority() -> String {
    static PEM: LazyLock<String> = LazyLock::new(|| authority_pem(|_| {}));
    PEM.clone()
}

type Ids = BTreeMap<&'static str, String>;

fn fill(path: &str, ids: &Ids) -> String {
    ids.iter().fold(path.to_owned(), |path, (name, id)| {
        path.replace(&format!("{{{name}}}"), id)
    })
}

struct Credential {
    name: &'static str,
    kind: Kind,
    api: Api,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_with_every_kind_of_credential() {
    let folder = tempfile::tempdir().unwrap();
    let model = rehearsal().await;
    let server = server_with_worker_key(&folder.path().join("data"), &model.base_url()).await;
    let admin = server.api();
    let own = Place::furnish(&admin).await;
    let strangers_key = strangers_key(&admin).await;
    let stranger = admin.with_key(&strangers_key);
    let other = Place::furnish(&stranger).await;
    let credentials = credentials(&admin, &own, &other, &stranger).await;
    let before = (own.snapshot(&admin).await, other.snapshot(&stranger).await);

    let mut faults = String::new();
    let mut count = 0;
    for (method, path, who) in MATRIX {
        for credential in &credentials {
            let wanted = expected(credential.kind, who, path);
            count += 3;
            if let Err(fault) = check(credential, method, path, wanted, &own.ids, &other.ids).await {
                writeln!(faults, "{method} {path} with {}: {fault}", credential.name).unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    assert_eq!(
        before,
        (own.snapshot(&admin).await, other.snapshot(&stranger).await),
        "something was changed"
    );
    println!(
        "{count} requests: {} operations, {} credentials, 3 places",
        MATRIX.len(),
        credentials.len()
    );
}

/// One operation with one credential: over the own ids, over those of the other workspace, and over none that are.
async fn check(
    credential: &Credential,
    method: &str,
    path: &str,
    wanted: Expected,
    own: &Ids,
    other: &Ids,
) -> Result<(), String> {
    let answer = call(&credential.api, method, path, own, wanted == Expected::Through).await;
    let (status, named) = match wanted {
        Expected::Through => through(method, path),
        Expected::Status(status) => (status, ""),
    };
    if answer.status != status || !answer.text.contains(named) {
        return Err(format!(
            "{status} {named} was expected: {} {}",
            answer.status, answer.text
        ));
    }
    if answer.status != 200 {
        answer.check_error();
    }
    if !path.contains('{') || path.contains("{model_id}") {
        return Ok(());
    }
    // The other workspace's things and things that do not exist look the same to everybody but the stranger.
    if credential.kind == Kind::Stranger {
        return Ok(());
    }
    let unknown = unknown_ids();
    let there = call(&credential.api, method, path, other, false).await;
    let nowhere = call(&credential.api, method, path, &unknown, false).await;
    let hidden = |answer: &Answer, ids: &Ids| {
        let text = ids
            .values()
            .fold(answer.message().to_owned(), |text, id| text.replace(id.as_str(), "…"));
        (answer.status, answer.kind().to_owned(), text)
    };
    if hidden(&there, other) != hidden(&nowhere, &unknown) {
        return Err(format!(
            "what exists can be told from what does not: {} and {}",
            there.text, nowhere.text
        ));
    }
    if !matches!(there.status, 401 | 403 | 404) {
        return Err(format!("another workspace answered: {} {}", there.status, there.text));
    }
    if wanted == Expected::Through
        && matches!(credential.kind, Kind::Viewer | Kind::Developer | Kind::Admin)
        && there.status != 404
    {
        return Err(format!(
            "404 was expected for another workspace: {} {}",
            there.status, there.text
        ));
    }
    Ok(())
}

async fn call(api: &Api, method: &str, path: &str, ids: &Ids, harmless: bool) -> Answer {
    let mut url = fill(path, ids);
    if harmless && method != "GET" {
        url.push_str("?no_such_parameter=1");
    }
    let request = api.request(method.parse::<Method>().unwrap(), &url);
    let request = if method == "POST" {
        request.json(&body(path, ids))
    } else {
        request
    };
    if !path.ends_with("/stream") {
        return Api::send(request).await;
    }
    // A stream that opens does not end.
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = if status == 200 {
        String::new()
    } else {
        response.text().await.unwrap()
    };
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer {
        status,
        headers,
        text,
        body,
    }
}

#[test]
fn the_matrix_knows_every_operation() {
    let ours: BTreeSet<String> = MATRIX
        .iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    let theirs: BTreeSet<String> = TABLE.iter().map(|row| format!("{} {}", row.method, row.path)).collect();
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), MATRIX.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_made_of_another_workspaces_parts() {
    let world = World::start().await;
    let own = Place::furnish(&world.api).await;
    let stranger = world.api.with_key(&strangers_key(&world.api).await);
    let other = Place::furnish(&stranger).await;
    let unknown = unknown_ids();
    for field in ["agent", "environment_id", "vault_ids"] {
        let key = match field {
            "agent" => "agent_id",
            "vault_ids" => "vault_id",
            other => other,
        };
        let mut answers = Vec::new();
        for ids in [&other.ids, &unknown] {
            let mut body = json!({ "agent": own.ids["agent_id"], "environment_id": own.ids["environment_id"] });
            body[field] = match field {
                "vault_ids" => json!([own.ids[key], ids[key]]),
                _ => json!(ids[key]),
            };
            let answer = world.api.post("/v1/sessions", body).await.refused(404, &[&ids[key]]);
            answers.push(answer.message().replace(&ids[key], "…"));
        }
        assert_eq!(answers[0], answers[1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_delivery_and_soon_after_its_item() {
    let world = World::start().await;
    let place = Place::furnish(&world.api).await;
    let (environment, session) = (&place.ids["environment_id"], &place.ids["session_id"]);
    let worker = world.api.with_bearer(&place.environment_key);
    let path = format!("/v1/sessions/{session}");

    // A second session's item is delivered twice; the first delivery's token is void at once.
    let second = world.api.session(&place.ids["agent_id"], environment).await;
    let (_, first) = claim(&worker, environment, "?reclaim_older_than_ms=0").await;
    let (work, again) = claim(&worker, environment, "?reclaim_older_than_ms=0").await;
    assert_ne!(first, again);
    let second = format!("/v1/sessions/{second}");
    world.api.with_bearer(&first).get(&second).await.refused(401, &[]);
    world.api.with_bearer(&again).get(&second).await.ok();
    worker
        .post(&format!("/v1/environments/{environment}/work/{work}/ack"), json!({}))
        .await
        .ok();

    // After a stop there is a moment to let go, in which the stop may be repeated. Then the token is void.
    let token = world.api.with_bearer(&place.token);
    let stop = format!("/v1/environments/{environment}/work/{}/stop", place.ids["work_id"]);
    token.get(&path).await.ok();
    for _ in 0..2 {
        assert_eq!(
            token.post(&stop, json!({ "force": true })).await.ok()["state"],
            "stopped"
        );
    }
    until("the token of a stopped item is void", 3 * SOON, || async {
        let answer = token.get(&path).await;
        assert!(matches!(answer.status, 200 | 401), "{}", answer.text);
        (answer.status == 401).then_some(())
    })
    .await;
    token.post(&stop, json!({ "force": true })).await.refused(401, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_not_act_for_a_person() {
    let world = World::start().await;
    let place = Place::furnish(&world.api).await;
    let path = format!("/v1/sessions/{}/events", place.ids["session_id"]);
    for worker in [
        world.api.with_bearer(&place.environment_key),
        world.api.with_bearer(&place.token),
    ] {
        let confirmation = json!({ "type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "allow" });
        worker
            .post(&path, json!({ "events": [confirmation] }))
            .await
            .refused(403, &["confirm"]);
        let system = json!({ "type": "system.message", "content": [{ "type": "text", "text": "x" }] });
        worker
            .post(&path, json!({ "events": [message("hello"), system] }))
            .await
            .refused(403, &["system.message"]);
    }
    assert!(world.api.events(&place.ids["session_id"]).await.is_empty());
}

/// What a workspace holds.
struct Place {
    ids: Ids,
    environment_key: String,
    token: String,
    other_token: String,
    other_environment_key: String,
}

impl Place {
    /// One of everything, made with an admin key.
    async fn furnish(api: &Api) -> Self {
        let agent = api.agent(SCRIPT, json!([])).await;
        let environment = api.environment("self_hosted").await;
        let environment_key = api.environment_key(&environment).await;
        let worker = api.with_bearer(&environment_key);
        let other_environment = api.environment("self_hosted").await;
        let other_environment_key = api.environment_key(&other_environment).await;
        let spare = api
            .post(
                &format!("/v1/environments/{environment}/keys"),
                json!({ "name": "spare" }),
            )
            .await
            .ok();
        let api_key = api.post("/v1/api_keys", json!({ "name": "spare" })).await.ok();
        let file = id(&api.upload("x", "x").await.ok());
        let body = json!({
            "agent": agent, "environment_id": environment, "resources": [{ "type": "file", "file_id": file }],
        });
        let session = api.post("/v1/sessions", body).await.ok();
        let (session, resource) = (id(&session), id(&session["resources"][0]));
        let (work, token) = claim_and_hold(&worker, &environment).await;
        api.session(&agent, &environment).await;
        let (_, other_token) = claim_and_hold(&worker, &environment).await;
        let tunnel = api.make("/v1/tunnels", json!({})).await;
        let certificates = format!("/v1/tunnels/{tunnel}/certificates");
        let registered = json!({ "ca_certificate_pem": authority_pem(|_| {}) });
        let certificate = api.make(&certificates, registered).await;
        let threads = api.get(&format!("/v1/sessions/{session}/threads")).await.ok();
        let vault = api.make("/v1/vaults", json!({ "display_name": "x" })).await;
        let credential = api
            .make(
                &format!("/v1/vaults/{vault}/credentials"),
                credential("https://a.example/mcp"),
            )
            .await;
        let ids = BTreeMap::from([
            ("vault_id", vault),
            ("credential_id", credential),
            ("agent_id", agent),
            ("environment_id", environment),
            ("work_id", work),
            ("session_id", session),
            ("thread_id", id(&threads["data"][0])),
            ("file_id", file),
            ("resource_id", resource),
            ("event_id", EventId::fresh().to_string()),
            ("api_key_id", id(&api_key)),
            ("key_id", id(&spare)),
            ("tunnel_id", tunnel),
            ("certificate_id", certificate),
            ("model_id", "rehearsal".to_owned()),
        ]);
        Self {
            ids,
            environment_key,
            token,
            other_token,
            other_environment_key,
        }
    }

    /// Everything that a request could have changed.
    async fn snapshot(&self, admin: &Api) -> Vec<Value> {
        let mut all = Vec::new();
        for path in [
            "/v1/agents?include_archived=true",
            "/v1/environments?include_archived=true",
            "/v1/environments/{environment_id}/work",
            "/v1/environments/{environment_id}/keys",
            "/v1/sessions?include_archived=true",
            "/v1/sessions/{session_id}/events",
            "/v1/sessions/{session_id}/resources",
            "/v1/outwork/sessions/{session_id}/outputs",
            "/v1/files",
            "/v1/api_keys",
            "/v1/vaults?include_archived=true",
            "/v1/vaults/{vault_id}/credentials?include_archived=true",
            "/v1/tunnels?include_archived=true",
            "/v1/tunnels/{tunnel_id}/certificates?include_archived=true",
            "/v1/tunnels/{tunnel_id}/status",
        ] {
            let mut answer = admin.get(&fill(path, &self.ids)).await.ok();
            for row in answer["data"].as_array_mut().into_iter().flatten() {
                // How long a session has been there and when a key was used is something else at each look.
                let row = row.as_object_mut().unwrap();
                row.remove("stats");
                row.remove("last_used_at");
            }
            all.push(answer);
        }
        all
    }
}

/// Ids that nothing has.
fn unknown_ids() -> Ids {
    BTreeMap::from([
        ("vault_id", VaultId::fresh().to_string()),
        ("credential_id", VaultCredentialId::fresh().to_string()),
        ("agent_id", AgentId::fresh().to_string()),
        ("environment_id", EnvironmentId::fresh().to_string()),
        ("work_id", WorkId::fresh().to_string()),
        ("session_id", SessionId::fresh().to_string()),
        ("thread_id", ThreadId::fresh().to_string()),
        ("file_id", FileId::fresh().to_string()),
        ("resource_id", ResourceId::fresh().to_string()),
        ("event_id", EventId::fresh().to_string()),
        ("api_key_id", ApiKeyId::fresh().to_string()),
        ("key_id", EnvironmentKeyId::fresh().to_string()),
        ("tunnel_id", TunnelId::fresh().to_string()),
        ("certificate_id", TunnelCertificateId::fresh().to_string()),
        ("model_id", "rehearsal".to_owned()),
    ])
}

/// Polls an item: its id and the token in its secret.
async fn claim(worker: &Api, environment: &str, query: &str) -> (String, String) {
    let work = worker
        .get(&format!("/v1/environments/{environment}/work/poll{query}"))
        .await
        .ok();
    (id(&work), token_of(&work))
}

/// The token in an item that was polled.
pub fn token_of(work: &Value) -> String {
    let secret = WorkSecret::unpack(work["secret"].as_str().expect("an item comes with its secret")).unwrap();
    secret.sessions_token
}

pub async fn claim_and_hold(worker: &Api, environment: &str) -> (String, String) {
    let (work, token) = claim(worker, environment, "").await;
    let path = format!("/v1/environments/{environment}/work/{work}");
    worker.post(&format!("{path}/ack"), json!({})).await.ok();
    worker
        .post(
            &format!("{path}/heartbeat?expected_last_heartbeat=NO_HEARTBEAT"),
            json!({}),
        )
        .await
        .ok();
    (work, token)
}

async fn strangers_key(admin: &Api) -> String {
    let workspace = admin.make("/v1/workspaces", json!({ "name": "another" })).await;
    let wish = json!({ "name": "stranger", "role": "admin", "workspace_id": workspace });
    admin.post("/v1/api_keys", wish).await.ok()["key"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn credentials(admin: &Api, own: &Place, other: &Place, stranger: &Api) -> Vec<Credential> {
    let key = async |role: &str| {
        let made = admin
            .post("/v1/api_keys", json!({ "name": role, "role": role }))
            .await
            .ok();
        (id(&made), made["key"].as_str().unwrap().to_owned())
    };
    let (viewer, developer, second_admin) = (key("viewer").await.1, key("developer").await.1, key("admin").await.1);
    let (revoked_id, revoked) = key("admin").await;
    admin
        .post(&format!("/v1/api_keys/{revoked_id}/revoke"), json!({}))
        .await
        .ok();
    let soon = Time::now().plus_seconds(2).to_string();
    let wish = json!({ "name": "short", "role": "admin", "expires_at": soon });
    let expired = admin.post("/v1/api_keys", wish).await.ok()["key"]
        .as_str()
        .unwrap()
        .to_owned();
    until("a key expires", SOON, || async {
        (admin.with_key(&expired).get("/v1/agents").await.status == 401).then_some(())
    })
    .await;
    let keys = format!("/v1/environments/{}/keys", own.ids["environment_id"]);
    let revoked_worker = admin.post(&keys, json!({ "name": "gone" })).await.ok();
    admin.delete(&format!("{keys}/{}", id(&revoked_worker))).await.ok();
    let revoked_worker = revoked_worker["key"].as_str().unwrap();

    let bearer = |name, kind, token: &str| Credential {
        name,
        kind,
        api: admin.with_bearer(token),
    };
    let mut all = vec![
        Credential {
            name: "no credential",
            kind: Kind::Invalid,
            api: admin.without_credential(),
        },
        Credential {
            name: "a made-up API key",
            kind: Kind::Invalid,
            api: admin.with_key("outwork_api_none"),
        },
        bearer("a made-up token", Kind::Invalid, "outwork_sess_none"),
        Credential {
            name: "a revoked API key",
            kind: Kind::Invalid,
            api: admin.with_key(&revoked),
        },
        Credential {
            name: "an expired API key",
            kind: Kind::Invalid,
            api: admin.with_key(&expired),
        },
        bearer("a revoked environment key", Kind::Invalid, revoked_worker),
        Credential {
            name: "a viewer's key",
            kind: Kind::Viewer,
            api: admin.with_key(&viewer),
        },
        Credential {
            name: "a developer's key",
            kind: Kind::Developer,
            api: admin.with_key(&developer),
        },
        Credential {
            name: "the first admin's key",
            kind: Kind::Admin,
            api: admin.clone(),
        },
        bearer("an admin's key as a bearer token", Kind::Admin, &second_admin),
        Credential {
            name: "a stranger's admin key",
            kind: Kind::Stranger,
            api: stranger.clone(),
        },
    ];
    all.extend([
        bearer("the environment's key", Kind::EnvironmentKey, &own.environment_key),
        bearer(
            "the key of another environment",
            Kind::OtherEnvironmentKey,
            &own.other_environment_key,
        ),
        bearer(
            "a stranger's environment key",
            Kind::OtherEnvironmentKey,
            &other.other_environment_key,
        ),
        bearer("the item's token", Kind::Token, &own.token),
        bearer("another item's token", Kind::OtherToken, &own.other_token),
        bearer("the worker key", Kind::Worker, WORKER_KEY),
        bearer("a workload's token", Kind::Workload, WORKLOAD),
        bearer(
            "a token of another workspace's workload",
            Kind::OtherWorkload,
            OTHER_WORKLOAD,
        ),
        bearer("a workload's token that has expired", Kind::Invalid, LATE_WORKLOAD),
    ]);
    all
}

pub async fn server_with_worker_key(data_dir: &Path, model: &str) -> Server {
    let dir = data_dir.to_owned();
    let store = tokio::task::spawn_blocking(|| Store::open(StoreOptions::new(dir)).unwrap())
        .await
        .unwrap();
    store
        .set_worker_key("test", KeyHash::of(WORKER_KEY), Time::now())
        .await
        .unwrap();
    let third = store.create_workspace("third", Time::now()).await.unwrap().id;
    let own = store.default_workspace().clone();
    for (token, rule, workspace, seconds) in [
        (WORKLOAD, "fdrl_own", &own, 3600),
        (OTHER_WORKLOAD, "fdrl_third", &third, 3600),
        (LATE_WORKLOAD, "fdrl_own", &own, -1),
    ] {
        let new = NewFederatedToken {
            hash: KeyHash::of(token),
            workspace_id: workspace.clone(),
            rule_id: rule.parse().unwrap(),
            subject: "repo:a/b".into(),
            scope: "workspace:manage_tunnels".into(),
            expires_at: Time::now().plus_seconds(seconds),
        };
        store.add_federated_token(new, Time::now()).await.unwrap();
    }
    store.close().await;
    drop(store);
    let options = ServerOptions {
        data_dir: Some(data_dir.to_owned()),
        flags: vec!["--tunnel-listen=127.0.0.1:0".into()],
        ..ServerOptions::default()
    };
    let settings =
        "[files]\ndownloadable_uploads = true\n".to_owned() + &rule("fdrl_own", &own) + &rule("fdrl_third", &third);
    Server::start(options.model(model, MODEL_KEY).settings(&settings)).await
}

/// A rule in the settings; its issuer is never asked here.
fn rule(id: &str, workspace: &WorkspaceId) -> String {
    format!(
        "[[federation.rules]]\nid = \"{id}\"\nissuer = \"http://127.0.0.1:9\"\naudience = \"a\"\n\
         subject = \"repo:a/*\"\nscope = \"workspace:manage_tunnels\"\nworkspace = \"{workspace}\"\n"
    )
}
