//! `/v1/agents`: what clients send for agents and what they are shown.
//!
//! Refused by name, as this server does not do them yet: MCP servers, skills, several agents together, and other
//! identities than the service's own.

use outwork_engine::toolset;
use outwork_store::{AgentFilter, AgentRow, AgentSpec, Page, PageRequest};
use outwork_wire::Time;
use outwork_wire::agent::{AgentKind, ExecutionIdentity};
use outwork_wire::id::AgentId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::call::Call;
use super::render::Reply;
use super::shortened;
use crate::app::agents::{self, AgentChange};
use crate::app::fields::{check_length, checked_metadata, given, unsupported_list};
use crate::app::mcp_servers::{McpServerParams, resolve_mcp_servers};
use crate::app::model_params::{ModelParams, resolve_model};
use crate::app::tools::{ToolParams, resolve_tools};
use crate::error::ApiError;

const MAX_NAME: usize = 256;
const MAX_DESCRIPTION: usize = 2048;
const MAX_SYSTEM: usize = 100_000;

/// `POST /v1/agents`
pub(crate) async fn create(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let spec = call.json::<CreateParams>()?.resolve()?;
    Reply::json(&AgentView::new(&agents::create(&call.app, &call.access, spec).await?))
}

/// `GET /v1/agents`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let filter = AgentFilter {
        include_archived: call.query.flag("include_archived")?.unwrap_or(false),
        created_at_gte: call.query.time("created_at[gte]")?,
        created_at_lte: call.query.time("created_at[lte]")?,
    };
    let page = page_request(&mut call, 100)?;
    call.finish_query()?;
    let page = agents::list(&call.app, &call.access, filter, page).await?;
    list_page(page, AgentView::new)
}

/// `GET /v1/agents/{agent_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    let version = call.query.parsed::<u64>("version", "a version, from 1")?;
    call.finish_query()?;
    check_version(version)?;
    let id = call.id::<AgentId>("agent_id", "agent")?;
    Reply::json(&AgentView::new(
        &agents::retrieve(&call.app, &call.access, &id, version).await?,
    ))
}

/// `POST /v1/agents/{agent_id}`
pub(crate) async fn update(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = call.id::<AgentId>("agent_id", "agent")?;
    let change = call.json::<UpdateParams>()?.resolve()?;
    Reply::json(&AgentView::new(
        &agents::update(&call.app, &call.access, &id, change).await?,
    ))
}

/// `POST /v1/agents/{agent_id}/archive`
pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let id = call.id::<AgentId>("agent_id", "agent")?;
    Reply::json(&AgentView::new(&agents::archive(&call.app, &call.access, &id).await?))
}

/// `GET /v1/agents/{agent_id}/versions`
pub(crate) async fn versions(mut call: Call) -> Result<Reply, ApiError> {
    let page = page_request(&mut call, 100)?;
    call.finish_query()?;
    let id = call.id::<AgentId>("agent_id", "agent")?;
    let page = agents::versions(&call.app, &call.access, &id, page).await?;
    list_page(page, AgentView::new)
}

/// Takes `limit` (20 if it is absent) and `page`.
pub(super) fn page_request(call: &mut Call, max: usize) -> Result<PageRequest, ApiError> {
    Ok(PageRequest {
        limit: call.query.limit(20, max)?,
        cursor: call.query.text("page")?,
    })
}

/// A page of a list that is read forwards: `{data, next_page}`.
pub(super) fn list_page<R, V: Serialize>(page: Page<R>, view: impl Fn(&R) -> V) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Listed<V> {
        data: Vec<V>,
        next_page: Option<String>,
    }
    Reply::json(&Listed {
        data: page.rows.iter().map(view).collect(),
        next_page: page.next,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    name: String,
    model: ModelParams,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    system: Option<String>,
    #[serde(default)]
    execution_identity: Option<IdentityParams>,
    #[serde(default)]
    multiagent: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    mcp_servers: Option<Vec<McpServerParams>>,
    #[serde(default, deserialize_with = "given")]
    skills: Option<Vec<Value>>,
    #[serde(default, deserialize_with = "given")]
    tools: Option<Vec<ToolParams>>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Map<String, Value>>,
}

impl CreateParams {
    fn resolve(self) -> Result<AgentSpec, ApiError> {
        check_length("name", &self.name, 1..=MAX_NAME)?;
        check_unsupported(self.skills.as_ref(), self.multiagent.as_ref())?;
        let tools = resolve_tools(self.tools.as_deref().unwrap_or_default(), "tools")?;
        let mcp_servers = resolve_mcp_servers(self.mcp_servers.unwrap_or_default(), "mcp_servers")?;
        toolset::check_servers(&tools, &mcp_servers).map_err(ApiError::invalid)?;
        Ok(AgentSpec {
            model: resolve_model(&self.model, None, "model")?,
            tools,
            metadata: checked_metadata(self.metadata.unwrap_or_default()).map_err(ApiError::invalid)?,
            description: checked_text("description", self.description, MAX_DESCRIPTION)?,
            system: checked_text("system", self.system, MAX_SYSTEM)?,
            execution_identity: resolve_identity(self.execution_identity.as_ref())?,
            name: self.name,
            mcp_servers,
            skills: Vec::new(),
            multiagent: None,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    #[serde(default, deserialize_with = "given")]
    version: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    model: Option<ModelParams>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    system: Option<Option<String>>,
    // The default is the only value that these three may have, so keeping and restoring it are the same.
    #[serde(default)]
    execution_identity: Option<IdentityParams>,
    #[serde(default)]
    multiagent: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    mcp_servers: Option<Option<Vec<McpServerParams>>>,
    #[serde(default)]
    skills: Option<Vec<Value>>,
    #[serde(default, deserialize_with = "given")]
    tools: Option<Option<Vec<ToolParams>>>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Option<Map<String, Value>>>,
}

impl UpdateParams {
    fn resolve(self) -> Result<AgentChange, ApiError> {
        check_version(self.version)?;
        if let Some(name) = &self.name {
            check_length("name", name, 1..=MAX_NAME)?;
        }
        check_unsupported(self.skills.as_ref(), self.multiagent.as_ref())?;
        resolve_identity(self.execution_identity.as_ref())?;
        let text = |path, text: Option<Option<String>>, max| text.map(|text| checked_text(path, text, max)).transpose();
        Ok(AgentChange {
            version: self.version,
            name: self.name,
            description: text("description", self.description, MAX_DESCRIPTION)?,
            system: text("system", self.system, MAX_SYSTEM)?,
            model: self.model,
            tools: self
                .tools
                .map(|tools| resolve_tools(tools.as_deref().unwrap_or_default(), "tools"))
                .transpose()?,
            mcp_servers: self
                .mcp_servers
                .map(|servers| resolve_mcp_servers(servers.unwrap_or_default(), "mcp_servers"))
                .transpose()?,
            metadata: self.metadata,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityParams {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    role_arn: Option<Value>,
}

fn resolve_identity(params: Option<&IdentityParams>) -> Result<ExecutionIdentity, ApiError> {
    match params {
        None => {}
        Some(p) if p.kind == "service_account" && p.role_arn.is_none() => {}
        Some(p) if p.kind == "service_account" => {
            return Err(ApiError::invalid(
                "execution_identity.role_arn: is not a field of a service_account",
            ));
        }
        Some(p) => {
            return Err(ApiError::invalid(format!(
                "execution_identity.type: `{}` is not supported by this server; use service_account or leave the \
                 field out",
                shortened(&p.kind)
            )));
        }
    }
    Ok(ExecutionIdentity::ServiceAccount {})
}

fn check_unsupported(skills: Option<&Vec<Value>>, multiagent: Option<&Value>) -> Result<(), ApiError> {
    unsupported_list("skills", "skills", skills)?;
    match multiagent {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(ApiError::invalid(
            "multiagent: is not supported by this server; leave the field out or send null",
        )),
    }
}

/// A text that an empty one clears.
fn checked_text(path: &str, text: Option<String>, max: usize) -> Result<Option<String>, ApiError> {
    let text = text.filter(|t| !t.is_empty());
    if let Some(text) = &text {
        check_length(path, text, 1..=max)?;
    }
    Ok(text)
}

fn check_version(version: Option<u64>) -> Result<(), ApiError> {
    match version {
        Some(0) => Err(ApiError::invalid("version: must be at least 1")),
        _ => Ok(()),
    }
}

/// An agent as responses show it.
#[derive(Serialize)]
struct AgentView {
    id: AgentId,
    #[serde(rename = "type")]
    kind: AgentKind,
    version: u64,
    #[serde(flatten)]
    spec: AgentSpec,
    created_at: Time,
    updated_at: Time,
    archived_at: Option<Time>,
}

impl AgentView {
    fn new(row: &AgentRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: AgentKind::Agent,
            version: row.version,
            spec: row.spec.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            archived_at: row.archived_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use outwork_wire::id::WorkspaceId;
    use serde_json::json;

    use super::*;

    fn create(value: Value) -> Result<AgentSpec, String> {
        let params: CreateParams = serde_json::from_value(value).map_err(|e| e.to_string())?;
        params.resolve().map_err(|e| e.message)
    }

    fn update(value: Value) -> Result<AgentChange, String> {
        let params: UpdateParams = serde_json::from_value(value).map_err(|e| e.to_string())?;
        params.resolve().map_err(|e| e.message)
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({ "name": "n", "model": "m" });
        body[field] = value;
        body
    }

    #[test]
    fn the_plainest_agent_has_every_field_in_the_answer() {
        let row = AgentRow {
            id: AgentId::fresh(),
            workspace_id: WorkspaceId::fresh(),
            version: 1,
            spec: create(json!({ "name": "n", "model": "m" })).unwrap(),
            created_at: Time::from_micros(0),
            updated_at: Time::from_micros(0),
            archived_at: None,
        };
        assert_eq!(
            serde_json::to_value(AgentView::new(&row)).unwrap(),
            json!({
                "id": row.id, "type": "agent", "version": 1, "name": "n", "description": null, "system": null,
                "model": { "id": "m", "effort": null, "inference_geo": null, "speed": null },
                "tools": [], "mcp_servers": [], "skills": [], "metadata": {},
                "execution_identity": { "type": "service_account" }, "multiagent": null,
                "created_at": "1970-01-01T00:00:00.000000Z", "updated_at": "1970-01-01T00:00:00.000000Z",
                "archived_at": null,
            })
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (field, value) in [
            ("name", json!("")),
            ("name", json!("x".repeat(257))),
            ("description", json!("x".repeat(2049))),
            ("system", json!("x".repeat(100_001))),
            ("mcp_servers", json!([{ "type": "url" }])),
            ("skills", json!([{}])),
            ("multiagent", json!({ "type": "coordinator" })),
            ("execution_identity", json!({ "type": "aws_role", "role_arn": "a" })),
            (
                "execution_identity",
                json!({ "type": "service_account", "role_arn": "a" }),
            ),
            ("metadata", json!({ "a": 1 })),
        ] {
            let message = create(with(field, value)).err().unwrap();
            assert!(message.starts_with(field), "{message}");
        }
        for field in ["tools", "metadata", "skills", "mcp_servers", "name", "model"] {
            assert!(create(with(field, Value::Null)).is_err(), "{field}");
        }
        assert!(
            create(with("temperature", json!(1)))
                .err()
                .unwrap()
                .contains("`temperature`")
        );
        let empties = json!({
            "name": "n", "model": "m", "mcp_servers": [], "skills": [], "multiagent": null, "description": "",
            "execution_identity": { "type": "service_account" }, "system": null,
        });
        assert_eq!(create(empties).unwrap().description, None);
    }

    #[test]
    fn an_update_tells_absent_from_null() {
        let nothing = update(json!({})).unwrap();
        assert!(nothing.name.is_none() && nothing.description.is_none() && nothing.tools.is_none());
        assert!(nothing.metadata.is_none() && nothing.system.is_none() && nothing.version.is_none());
        let cleared = update(json!({
            "description": null, "system": "", "tools": null, "metadata": null, "skills": null, "mcp_servers": null,
            "multiagent": null, "execution_identity": null, "version": 3,
        }))
        .unwrap();
        assert_eq!((cleared.description, cleared.system), (Some(None), Some(None)));
        assert_eq!((cleared.tools, cleared.metadata), (Some(Vec::new()), Some(None)));
        assert_eq!(cleared.version, Some(3));
        for wrong in [
            json!({ "name": null }),
            json!({ "name": "" }),
            json!({ "model": null }),
            json!({ "version": 0 }),
            json!({ "version": null }),
            json!({ "skills": [1] }),
            json!({ "execution_identity": { "type": "aws_role" } }),
        ] {
            assert!(update(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
