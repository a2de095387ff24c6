//! `/v1/api_keys`, `/v1/environments/{id}/keys` and `/v1/workspaces`, which the hosted service has in its console
//! only. The text of a key is shown by the answer that makes it, and never again.

use outwork_store::{ApiKeyRow, EnvironmentKeyRow, Page, WorkspaceRow};
use outwork_wire::Time;
use outwork_wire::id::{ApiKeyId, EnvironmentId, EnvironmentKeyId, WorkspaceId};
use serde::{Deserialize, Serialize};

use super::agents::{list_page, page_request};
use super::call::Call;
use super::environments::environment_id;
use super::query::Query;
use super::render::Reply;
use crate::app::fields::{check_length, given};
use crate::app::keys::{self, ApiKeyWish};
use crate::auth::{Role, SecretText};
use crate::error::ApiError;

const MAX_NAME: usize = 255;
const MAX_PAGE: usize = 1000;

/// `POST /v1/api_keys`
pub(crate) async fn create_api_key(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let wish = call.json::<ApiKeyParams>()?.resolve()?;
    let (row, secret) = keys::create_api_key(&call.app, &call.access, wish).await?;
    Reply::json(&ApiKeyView::new(&row, Some(&secret)))
}

/// `GET /v1/api_keys`
pub(crate) async fn list_api_keys(mut call: Call) -> Result<Reply, ApiError> {
    let workspace = workspace(&mut call.query)?;
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let page = keys::list_api_keys(&call.app, &call.access, workspace, page).await?;
    Reply::json(&ListedKeys {
        data: page
            .rows
            .iter()
            .map(|row| ApiKeyView::new(row, None))
            .collect::<Vec<_>>(),
        next_page: page.next,
    })
}

/// `POST /v1/api_keys/{api_key_id}/revoke`
pub(crate) async fn revoke_api_key(mut call: Call) -> Result<Reply, ApiError> {
    let workspace = workspace(&mut call.query)?;
    call.finish_query()?;
    call.no_body()?;
    let id = call.id::<ApiKeyId>("api_key_id", "API key")?;
    let row = keys::revoke_api_key(&call.app, &call.access, workspace, &id).await?;
    Reply::json(&ApiKeyView::new(&row, None))
}

/// `POST /v1/environments/{environment_id}/keys`
pub(crate) async fn create_environment_key(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let environment = environment_id(&call)?;
    let params = call.json::<EnvironmentKeyParams>()?;
    check_length("name", &params.name, 1..=MAX_NAME)?;
    let (row, secret) =
        keys::create_environment_key(&call.app, &call.access, &environment, params.name, params.expires_at).await?;
    Reply::json(&EnvironmentKeyView::new(&row, Some(&secret)))
}

/// `GET /v1/environments/{environment_id}/keys`
pub(crate) async fn list_environment_keys(mut call: Call) -> Result<Reply, ApiError> {
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let page = keys::list_environment_keys(&call.app, &call.access, &environment_id(&call)?, page).await?;
    Reply::json(&ListedKeys {
        data: page
            .rows
            .iter()
            .map(|row| EnvironmentKeyView::new(row, None))
            .collect::<Vec<_>>(),
        next_page: page.next,
    })
}

/// `DELETE /v1/environments/{environment_id}/keys/{key_id}`
pub(crate) async fn revoke_environment_key(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let environment = environment_id(&call)?;
    let id = call.id::<EnvironmentKeyId>("key_id", "environment key")?;
    let row = keys::revoke_environment_key(&call.app, &call.access, &environment, &id).await?;
    Reply::json(&EnvironmentKeyView::new(&row, None))
}

/// `POST /v1/workspaces`
pub(crate) async fn create_workspace(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let name = call.json::<WorkspaceParams>()?.name;
    check_length("name", &name, 1..=MAX_NAME)?;
    let row = keys::create_workspace(&call.app, &call.access, &name).await?;
    Reply::json(&WorkspaceView::new(&row))
}

/// `GET /v1/workspaces`; all of them are one page.
pub(crate) async fn list_workspaces(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let rows = keys::list_workspaces(&call.app, &call.access).await?;
    let page = Page {
        rows,
        next: None,
        prev: None,
    };
    list_page(page, WorkspaceView::new)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKeyParams {
    name: String,
    #[serde(default, deserialize_with = "given")]
    role: Option<Role>,
    #[serde(default)]
    workspace_id: Option<WorkspaceId>,
    #[serde(default)]
    expires_at: Option<Time>,
}

impl ApiKeyParams {
    fn resolve(self) -> Result<ApiKeyWish, ApiError> {
        check_length("name", &self.name, 1..=MAX_NAME)?;
        Ok(ApiKeyWish {
            name: self.name,
            role: self.role.unwrap_or(Role::Developer),
            workspace: self.workspace_id,
            expires_at: self.expires_at,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvironmentKeyParams {
    name: String,
    #[serde(default)]
    expires_at: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkspaceParams {
    name: String,
}

fn workspace(query: &mut Query) -> Result<Option<WorkspaceId>, ApiError> {
    query.parsed("workspace_id", "the id of a workspace, which begins with `wrkspc_`")
}

#[derive(Serialize)]
struct ListedKeys<V> {
    data: Vec<V>,
    next_page: Option<String>,
}

#[derive(Serialize)]
struct ApiKeyView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a ApiKeyId,
    name: &'a str,
    role: &'a str,
    workspace_id: &'a WorkspaceId,
    created_at: Time,
    expires_at: Option<Time>,
    revoked_at: Option<Time>,
    last_used_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

impl<'a> ApiKeyView<'a> {
    fn new(row: &'a ApiKeyRow, secret: Option<&'a SecretText>) -> Self {
        Self {
            kind: "api_key",
            id: &row.id,
            name: &row.name,
            role: &row.role,
            workspace_id: &row.workspace_id,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
            key: secret.map(SecretText::expose),
        }
    }
}

#[derive(Serialize)]
struct EnvironmentKeyView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a EnvironmentKeyId,
    environment_id: &'a EnvironmentId,
    name: &'a str,
    created_at: Time,
    expires_at: Option<Time>,
    revoked_at: Option<Time>,
    last_used_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

impl<'a> EnvironmentKeyView<'a> {
    fn new(row: &'a EnvironmentKeyRow, secret: Option<&'a SecretText>) -> Self {
        Self {
            kind: "environment_key",
            id: &row.id,
            environment_id: &row.environment_id,
            name: &row.name,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
            key: secret.map(SecretText::expose),
        }
    }
}

#[derive(Serialize)]
struct WorkspaceView {
    #[serde(rename = "type")]
    kind: &'static str,
    id: WorkspaceId,
    name: String,
    created_at: Time,
}

impl WorkspaceView {
    fn new(row: &WorkspaceRow) -> Self {
        Self {
            kind: "workspace",
            id: row.id.clone(),
            name: row.name.clone(),
            created_at: row.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn api_key(value: Value) -> Result<ApiKeyWish, String> {
        let params: ApiKeyParams = serde_json::from_value(value).map_err(|e| e.to_string())?;
        params.resolve().map_err(|e| e.message)
    }

    #[test]
    fn a_key_is_a_developers_unless_it_says_more() {
        assert_eq!(api_key(json!({ "name": "ci" })).unwrap().role, Role::Developer);
        let full = json!({ "name": "ci", "role": "admin", "workspace_id": null, "expires_at": "2030-01-01T00:00:00Z" });
        let wish = api_key(full).unwrap();
        assert_eq!(wish.role, Role::Admin);
        assert!(wish.expires_at.is_some() && wish.workspace.is_none());
        for wrong in [
            json!({}),
            json!({ "name": "" }),
            json!({ "name": "x".repeat(256) }),
            json!({ "name": "ci", "role": "owner" }),
            json!({ "name": "ci", "role": null }),
            json!({ "name": "ci", "expires_at": "tomorrow" }),
            json!({ "name": "ci", "workspace_id": "agent_1" }),
            json!({ "name": "ci", "key": "chosen" }),
        ] {
            assert!(api_key(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_keys_text_is_in_the_first_answer_only() {
        let row = ApiKeyRow {
            id: ApiKeyId::fresh(),
            workspace_id: WorkspaceId::fresh(),
            name: "ci".into(),
            role: "viewer".into(),
            created_at: Time::from_micros(0),
            expires_at: None,
            revoked_at: None,
            last_used_at: Some(Time::from_micros(1)),
        };
        let secret = SecretText::new("outwork_api_x".into());
        let first = serde_json::to_value(ApiKeyView::new(&row, Some(&secret))).unwrap();
        assert_eq!(first["key"], "outwork_api_x");
        let later = serde_json::to_value(ApiKeyView::new(&row, None)).unwrap();
        assert_eq!(
            later,
            json!({
                "type": "api_key", "id": row.id, "name": "ci", "role": "viewer", "workspace_id": row.workspace_id,
                "created_at": "1970-01-01T00:00:00.000000Z", "expires_at": null, "revoked_at": null,
                "last_used_at": "1970-01-01T00:00:00.000001Z",
            })
        );
    }
}
