//! `/v1/vaults/{vault_id}/credentials`: what clients send for credentials and what they are shown.
//!
//! No answer holds a secret, an error neither: the parser's words are cut before the value that it saw.

use outwork_store::VaultCredentialRow;
use outwork_wire::Time;
use outwork_wire::id::{VaultCredentialId, VaultId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::agents::{list_page, page_request};
use super::call::Call;
use super::render::Reply;
use super::vault_auth::{create_auth, update_auth, without_values};
use super::vaults::vault_id;
use crate::app::fields::{check_length, checked_metadata, given};
use crate::app::vault_credentials::{self, CredentialChange, CredentialDraft};
use crate::error::ApiError;
use crate::vault::HttpExcerpt;
use crate::vault::validate::{ProbeFailure, RefreshOutcome};

const MAX_NAME: usize = 255;
const MAX_PAGE: usize = 100;

/// `POST /v1/vaults/{vault_id}/credentials`
pub(crate) async fn create(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let vault = vault_id(&call)?;
    let draft = call.json::<CreateParams>().map_err(without_values)?.resolve()?;
    let row = vault_credentials::create(&call.app, &call.access, &vault, draft).await?;
    Reply::json(&CredentialView::new(&row))
}

/// `GET /v1/vaults/{vault_id}/credentials`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let include_archived = call.query.flag("include_archived")?.unwrap_or(false);
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let vault = vault_id(&call)?;
    let page = vault_credentials::list(&call.app, &call.access, &vault, include_archived, page).await?;
    list_page(page, CredentialView::new)
}

/// `GET /v1/vaults/{vault_id}/credentials/{credential_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (vault, id) = ids(&call)?;
    let row = vault_credentials::retrieve(&call.app, &call.access, &vault, &id).await?;
    Reply::json(&CredentialView::new(&row))
}

/// `POST /v1/vaults/{vault_id}/credentials/{credential_id}`
pub(crate) async fn update(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (vault, id) = ids(&call)?;
    let change = call.json::<UpdateParams>().map_err(without_values)?.resolve()?;
    let row = vault_credentials::update(&call.app, &call.access, &vault, &id, change).await?;
    Reply::json(&CredentialView::new(&row))
}

/// `POST /v1/vaults/{vault_id}/credentials/{credential_id}/archive`
pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let (vault, id) = ids(&call)?;
    let row = vault_credentials::archive(&call.app, &call.access, &vault, &id).await?;
    Reply::json(&CredentialView::new(&row))
}

/// `DELETE /v1/vaults/{vault_id}/credentials/{credential_id}`
pub(crate) async fn delete(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (vault, id) = ids(&call)?;
    vault_credentials::delete(&call.app, &call.access, &vault, &id).await?;
    Reply::json(&json!({ "id": id, "type": "vault_credential_deleted" }))
}

/// `POST /v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate`
pub(crate) async fn validate(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let (vault, id) = ids(&call)?;
    let (has_refresh_token, validation) = vault_credentials::validate(&call.app, &call.access, &vault, &id).await?;
    Reply::json(&json!({
        "type": "vault_credential_validation",
        "credential_id": id,
        "vault_id": vault,
        "status": validation.status.as_str(),
        "has_refresh_token": has_refresh_token,
        "mcp_probe": validation.probe.map(probe_view),
        "refresh": validation.refresh.map(refresh_view),
        "validated_at": Time::now(),
    }))
}

fn ids(call: &Call) -> Result<(VaultId, VaultCredentialId), ApiError> {
    Ok((vault_id(call)?, call.id("credential_id", "vault credential")?))
}

fn probe_view(failure: ProbeFailure) -> Value {
    json!({ "method": failure.method, "http_response": failure.response.map(excerpt_view) })
}

fn refresh_view(outcome: RefreshOutcome) -> Value {
    let (status, response) = match outcome {
        RefreshOutcome::Succeeded => ("succeeded", None),
        RefreshOutcome::Failed(response) => ("failed", response),
        RefreshOutcome::ConnectError => ("connect_error", None),
        RefreshOutcome::NoRefreshToken => ("no_refresh_token", None),
    };
    json!({ "status": status, "http_response": response.map(excerpt_view) })
}

fn excerpt_view(excerpt: HttpExcerpt) -> Value {
    json!({
        "status_code": excerpt.status_code,
        "content_type": excerpt.content_type,
        "body": excerpt.body,
        "body_truncated": excerpt.body_truncated,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    auth: Value,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Map<String, Value>>,
}

impl CreateParams {
    fn resolve(self) -> Result<CredentialDraft, ApiError> {
        let name = self.display_name.filter(|name| !name.is_empty());
        check_length("display_name", name.as_deref().unwrap_or_default(), 0..=MAX_NAME)?;
        let (auth, secrets) = create_auth(self.auth, Time::now())?;
        Ok(CredentialDraft {
            auth,
            secrets,
            display_name: name,
            metadata: checked_metadata(self.metadata.unwrap_or_default()).map_err(ApiError::invalid)?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    // A null leaves each of them as it is.
    #[serde(default)]
    auth: Option<Value>,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

impl UpdateParams {
    fn resolve(self) -> Result<CredentialChange, ApiError> {
        if let Some(name) = &self.display_name {
            check_length("display_name", name, 1..=MAX_NAME)?;
        }
        Ok(CredentialChange {
            auth: self.auth.map(|auth| update_auth(auth, Time::now())).transpose()?,
            display_name: self.display_name,
            metadata: self.metadata,
        })
    }
}

/// A credential as responses show it.
#[derive(Serialize)]
struct CredentialView {
    id: VaultCredentialId,
    #[serde(rename = "type")]
    kind: &'static str,
    vault_id: VaultId,
    display_name: Option<String>,
    auth: Value,
    metadata: Map<String, Value>,
    created_at: Time,
    updated_at: Time,
    archived_at: Option<Time>,
}

impl CredentialView {
    fn new(row: &VaultCredentialRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: "vault_credential",
            vault_id: row.vault_id.clone(),
            display_name: row.display_name.clone(),
            auth: row.auth.clone(),
            metadata: row.metadata.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            archived_at: row.archived_at,
        }
    }
}
