//! What a worker builds the boundary of a session from, as one document with a hash, and the wait for the next one.
//!
//! Only the token of the session's own work item gets it. It names credentials and holds no secret. Whatever changes in
//! it changes the hash, a new secret of a credential included, so a worker that keeps up with it keeps up with everything.

use std::time::Duration;

use futures_util::future::select_all;
use outwork_ledger::Hash;
use outwork_store::{ResourceSpec, SessionRow, SessionStatus};
use outwork_wire::Time;
use outwork_wire::agent::{EnvironmentKind, McpServer};
use outwork_wire::id::{
    AgentId, EnvironmentId, ResourceId, SessionId, VaultCredentialId, VaultId, WorkId, WorkspaceId,
};
use outwork_wire::work::WorkState;
use serde::Serialize;
use serde_json::Value;
use url::Url;

use super::App;
use super::environment_config::{self, Networking, Packages};
use super::environments::kind_name;
use super::sessions::find;
use crate::auth::{Access, Principal};
use crate::error::{ApiError, ErrorKind};
use crate::run::changes::Changed;
use crate::vault::auth::{self, InjectionLocation, PublicAuth};

/// The stop that a worker does not answer any more.
const FORCED: &str = "forced";

/// What the boundary of a session is built from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Boundary {
    #[serde(rename = "type")]
    kind: &'static str,
    workspace_id: WorkspaceId,
    session_id: SessionId,
    environment_id: EnvironmentId,
    environment: &'static str,
    agent: AgentView,
    /// Null in a self_hosted environment: the worker's own policy is all there is.
    networking: Option<Networking>,
    packages: Option<Packages>,
    mcp_servers: Vec<ServerView>,
    resources: Vec<ResourceView>,
    variables: Vec<VariableView>,
    /// Whether the worker is to let go of the session: `graceful`, `forced`, or null.
    stop: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AgentView {
    id: AgentId,
    version: u64,
}

/// Where an MCP server of the agent is.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ServerView {
    name: String,
    host: String,
    port: u16,
}

/// A resource by its names.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ResourceView {
    id: ResourceId,
    #[serde(rename = "type")]
    kind: &'static str,
    mount_path: String,
    updated_at: Time,
}

/// A variable by its names; its value is among the session's secrets.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct VariableView {
    vault_id: VaultId,
    credential_id: VaultCredentialId,
    name: String,
    networking: auth::Networking,
    injection_location: InjectionLocation,
    updated_at: Time,
}

impl Boundary {
    /// The document with its hash.
    pub(crate) fn hashed(&self) -> Result<(Hash, Value), ApiError> {
        let mut value = serde_json::to_value(self).map_err(ApiError::internal)?;
        let hash = Hash::of_json(&value);
        if let Some(fields) = value.as_object_mut() {
            fields.insert("hash".into(), Value::from(hash.to_string()));
        }
        Ok((hash, value))
    }
}

/// The document, or nothing if it was `after` until `wait` was over.
pub(crate) async fn of(
    app: &App,
    access: &Access,
    session: &SessionId,
    after: Option<Hash>,
    wait: Duration,
) -> Result<Option<Value>, ApiError> {
    let until = tokio::time::Instant::now() + wait;
    loop {
        let row = find(app, access, session).await?;
        // Listening begins before the look, so that what comes in between is not missed.
        let mut things = vec![
            Changed::Session(session.clone()),
            Changed::Environment(row.environment_id.clone()),
        ];
        things.extend(row.vault_ids.iter().cloned().map(Changed::Vault));
        let bells: Vec<_> = things.into_iter().map(|thing| app.changes.of(thing)).collect();
        let rung: Vec<_> = bells.iter().map(|bell| Box::pin(bell.notified())).collect();
        let (hash, document) = look(app, access, session).await?.hashed()?;
        if after != Some(hash) {
            return Ok(Some(document));
        }
        tokio::select! {
            _ = select_all(rung) => {}
            () = tokio::time::sleep_until(until) => return Ok(None),
            () = app.closing.cancelled() => return Ok(None),
        }
    }
}

async fn look(app: &App, access: &Access, session: &SessionId) -> Result<Boundary, ApiError> {
    let row = find(app, access, session).await?;
    let environment = app.store.environment(&row.workspace_id, &row.environment_id).await?;
    let (networking, packages) = match environment.kind {
        EnvironmentKind::SelfHosted => (None, None),
        EnvironmentKind::Cloud => {
            let parts = environment_config::parts(&environment.config);
            let (networking, packages) = parts.map_err(|fault| ApiError::internal(anyhow::anyhow!(fault)))?;
            (Some(networking), Some(packages))
        }
    };
    let mut variables = Vec::new();
    for held in app.store.variable_secrets(&row.workspace_id, &row.vault_ids).await? {
        if let PublicAuth::EnvironmentVariable {
            secret_name,
            networking,
            injection_location,
        } = PublicAuth::of(&held.row)?
        {
            variables.push(VariableView {
                vault_id: held.row.vault_id,
                credential_id: held.row.id,
                name: secret_name,
                networking,
                injection_location,
                updated_at: held.row.updated_at,
            });
        }
    }
    let stop = match access.principal() {
        Principal::Session { work, .. } => stop(app, &row, work).await?,
        _ => None,
    };
    Ok(Boundary {
        kind: "boundary",
        environment: kind_name(environment.kind),
        environment_id: environment.id,
        agent: AgentView {
            id: row.profile.agent.id.clone(),
            version: row.profile.agent.version,
        },
        networking,
        packages,
        mcp_servers: row.profile.agent.mcp_servers.iter().filter_map(server).collect(),
        resources: row
            .resources
            .iter()
            .map(|resource| ResourceView {
                id: resource.id.clone(),
                kind: match resource.spec {
                    ResourceSpec::File { .. } => "file",
                    ResourceSpec::GithubRepository { .. } => "github_repository",
                },
                mount_path: resource.mount_path.clone(),
                updated_at: resource.updated_at(),
            })
            .collect(),
        variables,
        stop,
        session_id: row.id,
        workspace_id: row.workspace_id,
    })
}

/// Refuses the token of a work item that is over. It lives on for a while so that results and evidence still come in;
/// nothing is given to it any more.
pub(super) async fn still_held(app: &App, access: &Access, row: &SessionRow) -> Result<(), ApiError> {
    if let Principal::Session { work, .. } = access.principal()
        && stop(app, row, work).await? == Some(FORCED)
    {
        return Err(ApiError::new(
            ErrorKind::Permission,
            "this work item is over: its token is given nothing any more",
        ));
    }
    Ok(())
}

/// Whether the holder of an item is to let go of it: a session that is over and an item that ended leave nothing to wait
/// for.
async fn stop(app: &App, row: &SessionRow, work: &WorkId) -> Result<Option<&'static str>, ApiError> {
    if row.status == SessionStatus::Terminated {
        return Ok(Some(FORCED));
    }
    let item = app.store.work(&row.workspace_id, &row.environment_id, work).await?;
    Ok(match item.state {
        WorkState::Stopped => Some(FORCED),
        WorkState::Stopping => Some("graceful"),
        WorkState::Queued | WorkState::Starting | WorkState::Active => None,
    })
}

/// Nothing for a server without a host that is one name: older agents may have such, and a worker would read `*` as a
/// pattern.
fn server(server: &McpServer) -> Option<ServerView> {
    let url = Url::parse(server.url()).ok()?;
    let host = url.host_str()?.trim_end_matches('.');
    if host.contains('*') {
        return None;
    }
    Some(ServerView {
        name: server.name().to_owned(),
        host: host.to_owned(),
        port: url.port_or_known_default()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        let of = |url: &str| {
            let view = server(&McpServer::Url {
                name: "wiki".into(),
                url: url.into(),
            });
            view.map(|view| (view.host, view.port))
        };
        assert_eq!(of("https://Wiki.example./mcp"), Some(("wiki.example".into(), 443)));
        assert_eq!(of("http://127.0.0.1:8080/"), Some(("127.0.0.1".into(), 8080)));
        assert_eq!(of("no url"), None);
        assert_eq!(of("https://*/mcp"), None);
        assert_eq!(of("https://*.com/"), None);
    }
}
